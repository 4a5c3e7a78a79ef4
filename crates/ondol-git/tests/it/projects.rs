use ondol_auth::{Ctx, Grant, Principal, PrincipalKind, Role};
use ondol_background::Reconciler;
use ondol_git::GitError;
use ondol_types::{Classified, TokenId, event};

use crate::client::{Work, git};
use crate::server::{name, start, stores};

#[tokio::test(flavor = "multi_thread")]
async fn projects_are_made_listed_and_deleted_by_those_who_may() {
    for backend in stores().await {
        let here = start(&backend).await;
        let system = here.system();
        let somebody = |grant: Grant| {
            let principal = Principal {
                kind: PrincipalKind::Token(TokenId::derived("s")),
                name: "somebody".to_owned(),
                grant,
                expires_at: None,
            };
            Ctx::new(principal, here.clock.clone())
        };
        for project in ["a1", "b2", "c3"] {
            let made = here
                .git
                .create_project(&system, &name(project))
                .await
                .unwrap();
            assert!(made.head.is_none());
            assert_eq!(
                made.clone_url,
                format!("http://{}/git/{project}.git", here.address)
            );
        }
        let again = here.git.create_project(&system, &name("a1")).await;
        assert!(matches!(again, Err(GitError::ProjectExists(_))));
        let list = async |ctx: &Ctx, after: Option<&str>, limit| -> Vec<String> {
            let after = after.map(name);
            let found = here.git.list(ctx, after.as_ref(), limit).await.unwrap();
            found
                .into_iter()
                .map(|project| project.name.to_string())
                .collect()
        };
        assert_eq!(list(&system, None, 10).await, ["a1", "b2", "c3"]);
        assert_eq!(list(&system, Some("a1"), 1).await, ["b2"]);
        let scoped = somebody(Grant::on(&name("b2"), Role::Viewer));
        assert_eq!(list(&scoped, None, 10).await, ["b2"]);
        assert_eq!(list(&scoped, Some("b2"), 10).await, [""; 0]);
        assert!(here.git.show(&scoped, &name("a1")).await.is_err());
        assert!(here.git.delete_project(&scoped, &name("b2")).await.is_err());
        assert!(here.git.create_project(&scoped, &name("d4")).await.is_err());
        let maintainer = somebody(Grant::on(&name("b2"), Role::Maintainer));
        assert!(
            here.git
                .delete_project(&maintainer, &name("b2"))
                .await
                .is_err()
        );

        let url = here.url(&here.developer().await, "b2");
        let work = Work::new().await;
        work.commit("secret", "of the first b2").await;
        work.git(&["push", &url, "main"]).await.well();
        here.git.delete_project(&system, &name("b2")).await.unwrap();
        git(work.path(), &["ls-remote", &url], &[]).await.badly();
        here.git.delete_project(&system, &name("b2")).await.unwrap();
        let held = here.git.create_project(&system, &name("b2")).await;
        let held = held.unwrap_err();
        assert_eq!(held.code(), "store.project.deleting");
        assert!(held.hint().unwrap().contains("projects delete b2"));
        here.deletions(Vec::new()).tick().await.unwrap();
        let gone = here.git.delete_project(&system, &name("b2")).await;
        assert!(matches!(gone, Err(GitError::NoProject(_))));
        assert_eq!(here.events(event::REPOSITORY_DELETED).await.len(), 1);
        assert_eq!(here.events(event::PROJECT_FORGOTTEN).await.len(), 1);
        git(work.path(), &["ls-remote", &url], &[]).await.badly();
        here.git.create_project(&system, &name("b2")).await.unwrap();
        let said = git(work.path(), &["ls-remote", &url], &[]).await.well();
        assert_eq!(said.out, "", "a namesake starts empty");
        assert!(here.git.head(&name("b2")).await.unwrap().is_none());
    }
}
