use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use ondol_auth::{
    Action, AuthError, Authenticator, Credential, Ctx, FirstToken, Grant, Housekeeping, NewToken,
    Resource, Role, TokenText, Tokens, decide,
};
use ondol_store::events::EventFilter;
use ondol_store::{ForgetProject, Forgotten, StoreError};
use ondol_types::{Classified, Clock, ProjectName, Timestamp, WorkloadId, event};

use crate::{Room, rooms};

fn wanted(grant: Grant, expires_at: Option<Timestamp>) -> NewToken {
    NewToken {
        name: "ci".to_owned(),
        grant,
        expires_at,
    }
}

fn web() -> ProjectName {
    "web".parse().unwrap()
}

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        AUTHORIZATION,
        HeaderValue::from_str(&format!("Bearer {token}")).unwrap(),
    );
    headers
}

fn basic(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let pair = STANDARD.encode(format!("whoever:{token}"));
    headers.insert(
        AUTHORIZATION,
        HeaderValue::from_str(&format!("Basic {pair}")).unwrap(),
    );
    headers
}

async fn events(room: &Room, prefix: &str) -> Vec<ondol_store::events::Event> {
    let filter = &EventFilter {
        type_prefix: Some(prefix.to_owned()),
        ..EventFilter::default()
    };
    room.backend
        .store
        .read::<_, StoreError, _>(|tx| {
            Box::pin(async move { tx.events_after(0, filter, 100).await })
        })
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scoped_token_decides_equally_through_every_form() {
    for room in rooms().await {
        let door = Authenticator::new(room.tokens.clone());
        for role in Role::ALL {
            let grant = Grant::on(&web(), *role);
            let (token, text) = room
                .tokens
                .create(&room.system(), wanted(grant, None))
                .await
                .unwrap();
            let direct = room.tokens.verify(text.expose()).await.unwrap();
            assert_eq!(direct.name, "ci");
            let (derived, _) = room
                .tokens
                .mint_scoped(&direct, None, Duration::from_secs(300))
                .unwrap();
            let forms = [
                bearer(text.expose()),
                basic(text.expose()),
                bearer(derived.expose()),
                basic(derived.expose()),
            ];
            for headers in forms {
                let shown = door.authenticate(&headers, None).await.unwrap();
                for action in Action::ALL {
                    for project in ["web", "other"] {
                        let resource = Resource::Project(project.parse().unwrap());
                        assert_eq!(
                            decide(&shown, *action, &resource, room.clock.now()),
                            decide(&direct, *action, &resource, room.clock.now()),
                            "{action:?} on {project} as {role}"
                        );
                    }
                }
            }
            room.tokens.revoke(&room.system(), token.id).await.unwrap();
            for headers in [bearer(text.expose()), bearer(derived.expose())] {
                let refused = door.authenticate(&headers, None).await;
                assert!(matches!(refused, Err(AuthError::BadCredentials(_))));
            }
        }
        assert_eq!(
            events(&room, event::TOKEN_CREATED).await.len(),
            Role::ALL.len()
        );
        assert_eq!(
            events(&room, event::TOKEN_REVOKED).await.len(),
            Role::ALL.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_refused_and_nobody_is_nobody() {
    for room in rooms().await {
        let door = Authenticator::new(room.tokens.clone());
        assert!(
            !door
                .authenticate(&HeaderMap::new(), None)
                .await
                .unwrap()
                .is_authenticated()
        );
        let stranger = TokenText::generate(&*room.clock).reveal();
        let (_, own) = room
            .tokens
            .create(
                &room.system(),
                wanted(Grant::everywhere(Role::Viewer), None),
            )
            .await
            .unwrap();
        let mut cut = own.expose().clone();
        cut.pop();
        for text in ["nothing", stranger.expose(), &cut, "ondold_e30.e30", ""] {
            let refused = door.authenticate(&bearer(text), None).await;
            assert!(
                matches!(refused, Err(AuthError::BadCredentials(_))),
                "{text}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_told_to_wait_and_locks_out_nobody_with_a_token() {
    for room in rooms().await {
        let here: Option<IpAddr> = Some("127.0.0.1".parse().unwrap());
        let (_, made_before) = room
            .tokens
            .create(
                &room.system(),
                wanted(Grant::everywhere(Role::Viewer), None),
            )
            .await
            .unwrap();
        // Nothing uses this token before the guesses, as after a restart.
        let door = Authenticator::new(room.tokens.clone());
        let guess = TokenText::generate(&*room.clock).reveal();
        let mut last = None;
        for _ in 0..40 {
            last = Some(
                door.authenticate(&bearer(guess.expose()), here)
                    .await
                    .unwrap_err(),
            );
        }
        assert!(matches!(
            last,
            Some(AuthError::TooManyFailures { seconds: 1..=61 })
        ));
        let principal = door
            .authenticate(&bearer(made_before.expose()), here)
            .await
            .unwrap();
        let (derived, _) = room
            .tokens
            .mint_scoped(&principal, None, Duration::from_secs(60))
            .unwrap();
        let (_, fresh) = room
            .tokens
            .create(
                &room.system(),
                wanted(Grant::everywhere(Role::Viewer), None),
            )
            .await
            .unwrap();
        for text in [made_before.expose(), fresh.expose(), derived.expose()] {
            door.authenticate(&bearer(text), here).await.unwrap();
        }
        door.authenticate(&HeaderMap::new(), here).await.unwrap();
        // A broken header counts as a wrong token.
        let refused = door.authenticate(&bearer("mistyped"), here).await;
        assert!(matches!(refused, Err(AuthError::TooManyFailures { .. })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_expire_and_their_use_is_noted_coarsely() {
    for room in rooms().await {
        let end = room.clock.now().plus(Duration::from_secs(3_600));
        let (token, text) = room
            .tokens
            .create(
                &room.system(),
                wanted(Grant::everywhere(Role::Admin), Some(end)),
            )
            .await
            .unwrap();
        let maker = Ctx::new(
            room.tokens.verify(text.expose()).await.unwrap(),
            room.clock.clone(),
        );
        let noted = room.tokens.list(&room.system()).await.unwrap()[0].last_used_at;
        assert_eq!(noted, Some(room.clock.now()));
        room.clock.advance(Duration::from_secs(60));
        room.tokens.verify(text.expose()).await.unwrap();
        assert_eq!(
            room.tokens.list(&room.system()).await.unwrap()[0].last_used_at,
            noted
        );
        for too_long in [None, Some(end.plus(Duration::from_secs(1)))] {
            let refused = room
                .tokens
                .create(&maker, wanted(Grant::everywhere(Role::Viewer), too_long))
                .await;
            assert!(matches!(refused, Err(AuthError::InvalidToken(_))));
        }
        let principal = room.tokens.verify(text.expose()).await.unwrap();
        let (derived, until) = room
            .tokens
            .mint_scoped(&principal, None, Duration::from_secs(999_999))
            .unwrap();
        assert_eq!(
            until, end,
            "a derived token does not outlive what it comes from"
        );
        room.clock.advance(Duration::from_secs(3_600));
        for text in [text.expose(), derived.expose()] {
            let refused = room.tokens.verify(text).await;
            assert!(matches!(refused, Err(AuthError::Expired(at)) if at == end));
        }
        let sweep = Housekeeping::new(room.tokens.clone(), room.secrets.clone());
        sweep.sweep().await.unwrap();
        assert_eq!(room.tokens.list(&room.system()).await.unwrap().len(), 1);
        room.clock.advance(Duration::from_secs(91 * 24 * 3_600));
        sweep.sweep().await.unwrap();
        assert!(
            room.tokens.list(&room.system()).await.unwrap().is_empty(),
            "{}",
            token.id
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_grants_or_sees_more_than_they_manage() {
    for room in rooms().await {
        let owner = room.somebody(Grant::on(&web(), Role::Admin));
        let other: ProjectName = "other".parse().unwrap();
        let mut two = Grant::on(&web(), Role::Viewer);
        two.projects.insert(other, Role::Viewer);
        for beyond in [
            Grant::everywhere(Role::Viewer),
            two.clone(),
            Grant::default(),
        ] {
            assert!(
                room.tokens
                    .create(&owner, wanted(beyond, None))
                    .await
                    .is_err()
            );
        }
        let developer = room.somebody(Grant::on(&web(), Role::Developer));
        let refused = room
            .tokens
            .create(&developer, wanted(Grant::on(&web(), Role::Viewer), None))
            .await;
        assert!(matches!(refused, Err(AuthError::Denied(_))));
        let (mine, _) = room
            .tokens
            .create(&owner, wanted(Grant::on(&web(), Role::Admin), None))
            .await
            .unwrap();
        let (foreign, text) = room
            .tokens
            .create(&room.system(), wanted(two, None))
            .await
            .unwrap();
        let listed = room.tokens.list(&owner).await.unwrap();
        assert_eq!(
            listed.iter().map(|token| token.id).collect::<Vec<_>>(),
            [mine.id]
        );
        let refused = room.tokens.revoke(&owner, foreign.id).await;
        assert!(matches!(refused, Err(AuthError::NoToken(_))));
        let holder = Ctx::new(
            room.tokens.verify(text.expose()).await.unwrap(),
            room.clock.clone(),
        );
        room.tokens.revoke(&holder, foreign.id).await.unwrap();
        room.tokens
            .revoke(&room.system(), foreign.id)
            .await
            .unwrap();
        assert_eq!(
            events(&room, event::TOKEN_REVOKED).await.len(),
            1,
            "revoking twice is one fact"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_agrees_with_its_file_whatever_happened() {
    for room in rooms().await {
        let path = room.backend.dir.path().join("admin.token");
        let FirstToken::Made(id) = room.tokens.ensure_admin(&path).await.unwrap() else {
            panic!("it is made at first start");
        };
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        let principal = room.tokens.verify(text.trim()).await.unwrap();
        assert_eq!(principal.grant, Grant::everywhere(Role::Admin));
        assert_eq!(
            room.tokens.ensure_admin(&path).await.unwrap(),
            FirstToken::Present(id)
        );

        // A crash after the file and before the row: the row is made from the file.
        room.backend
            .store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move { tx.execute("DELETE FROM auth_token", vec![]).await })
            })
            .await
            .unwrap();
        let reopened = Tokens::open(
            room.backend.store.clone(),
            &room.backend.dir.path().join("keys"),
        )
        .unwrap();
        assert_eq!(
            reopened.ensure_admin(&path).await.unwrap(),
            FirstToken::RowRestored(id)
        );
        reopened.verify(text.trim()).await.unwrap();

        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            reopened.ensure_admin(&path).await.unwrap(),
            FirstToken::FileMissing
        );
        assert!(!path.exists());
        let second = reopened.reissue_admin(&path).await.unwrap();
        assert_eq!(
            reopened.ensure_admin(&path).await.unwrap(),
            FirstToken::Present(second)
        );

        reopened.revoke(&room.system(), second).await.unwrap();
        assert_eq!(
            reopened.ensure_admin(&path).await.unwrap(),
            FirstToken::Ended(second)
        );
        let revoked = std::fs::read_to_string(&path).unwrap();
        assert!(reopened.verify(revoked.trim()).await.is_err());

        std::fs::write(&path, "something else\n").unwrap();
        let error = reopened.ensure_admin(&path).await.unwrap_err();
        assert!(error.to_string().contains("admin.token"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_project_leaves_no_access_to_its_namesake() {
    for room in rooms().await {
        let make = async |grant: Grant| {
            let made = room
                .tokens
                .create(&room.system(), wanted(grant, None))
                .await;
            made.map(|(token, text)| (token.id, text))
        };
        let other: ProjectName = "other".parse().unwrap();
        let (only, only_text) = make(Grant::on(&web(), Role::Developer)).await.unwrap();
        let mut both = Grant::on(&web(), Role::Admin);
        both.projects.insert(other.clone(), Role::Viewer);
        let (_, both_text) = make(both).await.unwrap();
        let identity = |name: &str| {
            room.tokens.mint_workload(
                WorkloadId::derived(name),
                name,
                Grant::on(&web(), Role::Viewer),
                Duration::from_secs(3_600),
            )
        };
        let workload = identity("old");
        let name: ondol_types::SecretName = "KEY".parse().unwrap();
        room.secrets
            .set(
                &room.system(),
                &web(),
                &name,
                &ondol_types::Secret::new("a value of the first".to_owned()),
            )
            .await
            .unwrap();
        let project = &web();
        let hold = room
            .backend
            .store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.hold_project(project, 1, "kim").await?;
                    Ok(tx.project_hold(project).await?.unwrap())
                })
            })
            .await
            .unwrap();
        let late = make(Grant::on(&web(), Role::Viewer)).await.unwrap_err();
        assert_eq!(late.code(), "store.project.deleting");
        let late = room
            .secrets
            .set(
                &room.system(),
                &web(),
                &name,
                &ondol_types::Secret::new("late".to_owned()),
            )
            .await
            .unwrap_err();
        assert_eq!(late.code(), "store.project.deleting");
        let sweep = Housekeeping::new(room.tokens.clone(), room.secrets.clone());
        for _ in 0..2 {
            assert_eq!(sweep.forget(&hold).await.unwrap(), Forgotten::Entirely);
        }
        let revoked = events(&room, event::TOKEN_REVOKED).await;
        assert_eq!(revoked.len(), 1, "said once");
        assert_eq!(revoked[0].subject, only.to_string());
        room.backend
            .store
            .write::<_, StoreError, _>(|tx| Box::pin(tx.release_project(&hold)))
            .await
            .unwrap();
        room.clock.advance(Duration::from_secs(1));
        // The next project of the name has nothing, and nobody who came from the first.
        let refused = room.tokens.verify(only_text.expose()).await;
        assert!(matches!(refused, Err(AuthError::BadCredentials(_))));
        let left = room.tokens.verify(both_text.expose()).await.unwrap();
        assert_eq!(left.grant, Grant::on(&other, Role::Viewer));
        let left = room.tokens.verify(workload.expose()).await.unwrap();
        assert!(left.grant.is_empty(), "an identity of the first one");
        assert!(
            room.secrets
                .list(&room.system(), &web())
                .await
                .unwrap()
                .is_empty()
        );
        let fresh = identity("new");
        let new = room.tokens.verify(fresh.expose()).await.unwrap();
        assert_eq!(new.grant, Grant::on(&web(), Role::Viewer));
        let (_, text) = make(Grant::on(&web(), Role::Viewer)).await.unwrap();
        sweep.sweep().await.unwrap();
        let kept = room.tokens.verify(text.expose()).await.unwrap();
        assert_eq!(kept.grant, Grant::on(&web(), Role::Viewer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn narrowed_and_workload_tokens_open_only_what_they_say() {
    for room in rooms().await {
        let (_, text) = room
            .tokens
            .create(
                &room.system(),
                wanted(Grant::everywhere(Role::Developer), None),
            )
            .await
            .unwrap();
        let principal = room.tokens.verify(text.expose()).await.unwrap();
        let life = Duration::from_secs(60);
        let wide = Grant::on(&web(), Role::Admin);
        let (narrow, _) = room
            .tokens
            .mint_scoped(&principal, Some(wide), life)
            .unwrap();
        let narrow = room.tokens.verify(narrow.expose()).await.unwrap();
        assert_eq!(narrow.grant, Grant::on(&web(), Role::Developer));
        let (again, _) = room.tokens.mint_scoped(&narrow, None, life).unwrap();
        assert_eq!(
            room.tokens.verify(again.expose()).await.unwrap().grant,
            narrow.grant
        );
        let id = WorkloadId::derived("training");
        let identity = room.tokens.mint_workload(
            id,
            "training of iris",
            Grant::on(&web(), Role::Viewer),
            life,
        );
        let workload = room.tokens.verify(identity.expose()).await.unwrap();
        assert_eq!(workload.grant, Grant::on(&web(), Role::Viewer));
        assert_eq!(workload.name, "training of iris");
        room.clock.advance(life);
        assert!(room.tokens.verify(identity.expose()).await.is_err());
        assert!(
            Credential::from_headers(&bearer(identity.expose()))
                .unwrap()
                .is_some()
        );
    }
}
