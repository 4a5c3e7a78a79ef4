use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ondol_auth::{AuthError, Grant, Housekeeping, Role, Secrets};
use ondol_store::StoreError;
use ondol_store::events::EventFilter;
use ondol_types::{ProjectName, Secret, SecretName, event};

use crate::{Room, rooms};

fn web() -> ProjectName {
    "web".parse().unwrap()
}

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

fn value(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

async fn read(room: &Room, secret: &str, version: i64) -> Result<String, AuthError> {
    let wanted = BTreeMap::from([(name(secret), version)]);
    let values = room.secrets.values(&room.system(), &web(), &wanted).await?;
    Ok(values[&name(secret)].expose().clone())
}

/// Every text and byte of the tables, to search for values in.
async fn dump(room: &Room) -> String {
    room.backend
        .store
        .read::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                let mut all = String::new();
                for sql in [
                    "SELECT * FROM secret",
                    "SELECT * FROM secret_version",
                    "SELECT * FROM event",
                ] {
                    for row in tx.fetch_all(sql, vec![]).await? {
                        all.push_str(&format!("{row:?}"));
                    }
                }
                Ok(all)
            })
        })
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_kept_and_values_are_not_shown() {
    for room in rooms().await {
        let ctx = room.somebody(Grant::on(&web(), Role::Maintainer));
        let url = name("DATABASE_URL");
        let first = room
            .secrets
            .set(&ctx, &web(), &url, &value("planted-canary-1"))
            .await
            .unwrap();
        assert_eq!((first.version, first.changed), (1, true));
        let same = room
            .secrets
            .set(&ctx, &web(), &url, &value("planted-canary-1"))
            .await
            .unwrap();
        assert_eq!((same.version, same.changed), (1, false));
        let second = room
            .secrets
            .set(&ctx, &web(), &url, &value("planted-canary-2"))
            .await
            .unwrap();
        assert_eq!((second.version, second.changed), (2, true));
        let listed = room.secrets.list(&ctx, &web()).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(
            (listed[0].version, listed[0].updated_by.as_str()),
            (2, "somebody")
        );
        assert_eq!(
            read(&room, "DATABASE_URL", 1).await.unwrap(),
            "planted-canary-1"
        );
        assert_eq!(
            read(&room, "DATABASE_URL", 2).await.unwrap(),
            "planted-canary-2"
        );
        let names = BTreeSet::from([url.clone()]);
        let current = room.secrets.current_versions(&web(), &names).await.unwrap();
        assert_eq!(current[&url], 2);
        let missing = BTreeSet::from([url.clone(), name("NOT_SET")]);
        let error = room
            .secrets
            .current_versions(&web(), &missing)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("NOT_SET"), "{error}");
        assert!(!dump(&room).await.contains("planted"));

        room.secrets.remove(&ctx, &web(), &url).await.unwrap();
        let again = room.secrets.remove(&ctx, &web(), &url).await;
        assert!(matches!(again, Err(AuthError::NoSecret { .. })));
        assert!(room.secrets.list(&ctx, &web()).await.unwrap().is_empty());
        assert_eq!(
            read(&room, "DATABASE_URL", 2).await.unwrap(),
            "planted-canary-2"
        );
        let back = room
            .secrets
            .set(&ctx, &web(), &url, &value("planted-canary-2"))
            .await
            .unwrap();
        assert_eq!((back.version, back.changed), (3, true));
        let filter = &EventFilter {
            type_prefix: Some("dev.cdeventsx.ondol-secret".to_owned()),
            ..EventFilter::default()
        };
        let events = room
            .backend
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move { tx.events_after(0, filter, 10).await })
            })
            .await
            .unwrap();
        let types: Vec<_> = events
            .iter()
            .map(|event| event.event_type.as_str())
            .collect();
        assert_eq!(
            types,
            [
                event::SECRET_SET,
                event::SECRET_SET,
                event::SECRET_REMOVED,
                event::SECRET_SET
            ]
        );
        assert_eq!(events[0].document["subject"]["content"]["version"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_ondol_reads_values_and_only_maintainers_set_them() {
    for room in rooms().await {
        let developer = room.somebody(Grant::on(&web(), Role::Developer));
        let refused = room
            .secrets
            .set(&developer, &web(), &name("KEY_A"), &value("long enough"))
            .await;
        assert!(matches!(refused, Err(AuthError::Denied(_))));
        assert!(room.secrets.list(&developer, &web()).await.is_err());
        let admin = room.somebody(Grant::everywhere(Role::Admin));
        room.secrets
            .set(&admin, &web(), &name("KEY_A"), &value("long enough"))
            .await
            .unwrap();
        let wanted = BTreeMap::from([(name("KEY_A"), 1)]);
        let refused = room.secrets.values(&admin, &web(), &wanted).await;
        assert!(matches!(refused, Err(AuthError::Denied(_))));
        let unfit = room
            .secrets
            .set(&admin, &web(), &name("KEY_A"), &value("password"))
            .await
            .unwrap_err();
        assert!(matches!(unfit, AuthError::UnfitSecret { .. }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_end_and_those_a_release_may_name_stay() {
    for room in rooms().await {
        let ctx = room.system();
        for n in 1..=30 {
            room.secrets
                .set(
                    &ctx,
                    &web(),
                    &name("KEY_A"),
                    &value(&format!("value number {n}")),
                )
                .await
                .unwrap();
        }
        room.secrets
            .set(&ctx, &web(), &name("KEY_B"), &value("going away"))
            .await
            .unwrap();
        room.secrets
            .remove(&ctx, &web(), &name("KEY_B"))
            .await
            .unwrap();
        let sweep = Housekeeping::new(room.tokens.clone(), room.secrets.clone());
        room.clock.advance(Duration::from_secs(29 * 24 * 3_600));
        assert_eq!(sweep.sweep().await.unwrap().pruned, 0);
        assert!(read(&room, "KEY_A", 1).await.is_ok());
        assert!(read(&room, "KEY_B", 1).await.is_ok());
        room.clock.advance(Duration::from_secs(2 * 24 * 3_600));
        assert!(sweep.sweep().await.unwrap().pruned > 0);
        assert!(matches!(
            read(&room, "KEY_A", 10).await,
            Err(AuthError::NoSecretVersion { .. })
        ));
        assert_eq!(read(&room, "KEY_A", 11).await.unwrap(), "value number 11");
        assert_eq!(read(&room, "KEY_A", 30).await.unwrap(), "value number 30");
        assert!(read(&room, "KEY_B", 1).await.is_err());
        assert_eq!(sweep.sweep().await.unwrap().pruned, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_key_rotates_under_the_values() {
    for room in rooms().await {
        let ctx = room.system();
        for n in 0..5 {
            room.secrets
                .set(
                    &ctx,
                    &web(),
                    &name(&format!("KEY_{n}")),
                    &value(&format!("the value {n}")),
                )
                .await
                .unwrap();
        }
        let file = room.backend.dir.path().join("keys/root.key");
        let before = std::fs::read_to_string(&file).unwrap();
        room.secrets.rotate_root(&ctx).unwrap();
        let both = std::fs::read_to_string(&file).unwrap();
        assert!(both.ends_with(&before) && both.len() == 2 * before.len());
        assert_eq!(read(&room, "KEY_3", 1).await.unwrap(), "the value 3");

        // A crash here: what reopens goes on with the rotation.
        let keys = room.backend.dir.path().join("keys");
        let reopened = Secrets::open(room.backend.store.clone(), &keys).unwrap();
        let sweep = Housekeeping::new(room.tokens.clone(), reopened.clone());
        assert_eq!(sweep.sweep().await.unwrap().rewrapped, 5);
        assert_eq!(sweep.sweep().await.unwrap().rewrapped, 0);
        let after = std::fs::read_to_string(&file).unwrap();
        assert!(after.len() == before.len() && after != before);
        let wanted = (0..5).map(|n| (name(&format!("KEY_{n}")), 1)).collect();
        let values = reopened.values(&ctx, &web(), &wanted).await.unwrap();
        assert_eq!(values[&name("KEY_4")].expose(), "the value 4");

        // Another installation's key opens nothing, and says which file is at fault.
        std::fs::remove_file(&file).unwrap();
        let stranger = Secrets::open(room.backend.store.clone(), &keys).unwrap();
        let error = stranger.values(&ctx, &web(), &wanted).await.unwrap_err();
        assert!(matches!(error, AuthError::ForeignKey { .. }), "{error}");
        assert!(error.to_string().contains("root.key"));
    }
}
