//! The end of a project over rooms that take their time, fail, and die.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ondol_auth::{Grant, Principal, PrincipalKind, Role};
use ondol_background::Reconciler;
use ondol_git::GitError;
use ondol_store::{ForgetProject, Forgotten, ProjectHold, StoreError};
use ondol_types::{Classified, CrashPoints, ErrorKind, Problem, TokenId, event};

use crate::client::{Work, git};
use crate::server::{files, name, one_store, small, start, start_with, stores};

/// Things by the name of their project, in a room that needs a few looks to be rid of them.
#[derive(Default)]
struct Things {
    of: Mutex<BTreeMap<String, u32>>,
    /// How often it fails before it does anything.
    failures: Mutex<u32>,
    asked: Mutex<u32>,
}

struct Room(&'static str, Arc<Things>);

impl Things {
    fn put(&self, project: &str, count: u32) {
        self.of.lock().unwrap().insert(project.to_owned(), count);
    }

    fn has(&self, project: &str) -> bool {
        self.of.lock().unwrap().contains_key(project)
    }
}

#[async_trait]
impl ForgetProject for Room {
    fn name(&self) -> &'static str {
        self.0
    }

    async fn forget(&self, hold: &ProjectHold) -> Result<Forgotten, Problem> {
        *self.1.asked.lock().unwrap() += 1;
        {
            let mut failures = self.1.failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Err(Problem::new(ErrorKind::Unavailable, "test", "not now"));
            }
        }
        let mut of = self.1.of.lock().unwrap();
        match of.get_mut(hold.name.as_str()) {
            None => Ok(Forgotten::Entirely),
            Some(1) => {
                of.remove(hold.name.as_str());
                Ok(Forgotten::Entirely)
            }
            Some(left) => {
                *left -= 1;
                Ok(Forgotten::Remains(format!("{left} things")))
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_held_until_every_room_has_forgotten() {
    for backend in stores().await {
        let here = start(&backend).await;
        let (first, second) = (Arc::new(Things::default()), Arc::new(Things::default()));
        let rooms: Vec<Arc<dyn ForgetProject>> = vec![
            Arc::new(Room("first", first.clone())),
            Arc::new(Room("second", second.clone())),
        ];
        let loop_ = here.deletions(rooms);
        let (system, web) = (here.system(), name("web"));
        here.git.create_project(&system, &web).await.unwrap();
        here.git
            .create_project(&system, &name("other"))
            .await
            .unwrap();
        first.put("web", 2);
        first.put("other", 1);
        second.put("web", 1);
        *second.failures.lock().unwrap() = 2;
        let begun = here.git.delete_project(&system, &web).await.unwrap();
        assert!(begun.remains.is_empty());
        assert!(matches!(
            here.git.show(&system, &web).await,
            Err(GitError::NoProject(_))
        ));
        for expected in [
            &["first: 1 things", "second: not now"][..],
            &["second: not now"][..],
        ] {
            let report = loop_.tick().await.unwrap();
            assert_eq!(report.changed, 0);
            assert!(report.note.unwrap().starts_with("web waits for"));
            let deletion = here.git.deletion(&system, &web).await.unwrap();
            assert_eq!(deletion.remains, expected);
            let refused = here.git.ensure_project(&system, &web).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Conflict);
            assert_eq!(refused.code(), "store.project.deleting");
            // It was deleted already, and whoever says so again changes nothing.
            here.git.delete_project(&system, &web).await.unwrap();
        }
        // The first push to a name that is held is refused in words.
        let work = Work::new().await;
        work.commit("a", "1").await;
        let url = here.url(&here.developer().await, "web");
        let said = work.git(&["push", &url, "main"]).await.badly();
        assert!(said.err.contains("is being deleted"), "{}", said.err);

        assert_eq!(loop_.tick().await.unwrap().changed, 1);
        assert!(!first.has("web") && !second.has("web"));
        assert!(first.has("other"), "another project keeps what it has");
        assert!(matches!(
            here.git.deletion(&system, &web).await,
            Err(GitError::NoProject(_))
        ));
        assert_eq!(loop_.tick().await.unwrap().seen, 0);
        assert_eq!(here.events(event::PROJECT_FORGOTTEN).await.len(), 1);
        work.git(&["push", &url, "main"]).await.well();
        assert_eq!(here.events(event::REPOSITORY_CREATED).await.len(), 3);
    }
}

struct DieAt(&'static str);

impl CrashPoints for DieAt {
    fn reached(&self, point: &'static str) {
        assert_ne!(point, self.0, "the test ends the task here");
    }
}

/// A death at each place, and then what it interrupted is asked for a second time as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_any_place_only_delays_the_end() {
    let backend = one_store().await;
    for (round, point) in [
        "git.project.before-trash",
        "git.project.after-trash",
        "git.project.between-rooms",
        "git.project.before-release",
        "git.project.after-release",
    ]
    .into_iter()
    .enumerate()
    {
        let things = Arc::new(Things::default());
        things.put("web", 1);
        let rooms = || -> Vec<Arc<dyn ForgetProject>> {
            vec![
                Arc::new(Room("first", things.clone())),
                Arc::new(Room("second", things.clone())),
            ]
        };
        let dying = start_with(&backend, small(), Arc::new(DieAt(point))).await;
        let web = name("web");
        let before = dying.events(event::PROJECT_FORGOTTEN).await.len();
        let work = Work::new().await;
        work.commit("a", &round.to_string()).await;
        let url = dying.url(&dying.developer().await, "web");
        work.git(&["push", &url, "main"]).await.well();
        dying
            .git
            .delete_project(&dying.system(), &web)
            .await
            .unwrap();
        let loop_ = dying.deletions(rooms());
        let ticking = tokio::spawn(async move { loop_.tick().await });
        assert!(ticking.await.is_err(), "{point}: it died");
        let released = point == "git.project.after-release";
        let held = dying.git.deletion(&dying.system(), &web).await.is_ok();
        assert_eq!(held, !released, "{point}");
        drop(dying);

        let here = start(&backend).await;
        let loop_ = here.deletions(rooms());
        let asked = *things.asked.lock().unwrap();
        loop_.tick().await.unwrap();
        loop_.tick().await.unwrap();
        let again = *things.asked.lock().unwrap() - asked;
        assert_eq!(again, if released { 0 } else { 2 }, "{point}: every room");
        assert!(!here.repository("web").exists(), "{point}");
        assert!(files(&here.dir.join("git/.trash")).is_empty(), "{point}");
        assert!(!things.has("web"));
        assert_eq!(
            here.events(event::PROJECT_FORGOTTEN).await.len(),
            before + 1,
            "{point}: said once"
        );
        // The next of the name begins with nothing, and is nobody's to take away.
        let url = here.url(&here.developer().await, "web");
        work.git(&["push", &url, "main"]).await.well();
        loop_.tick().await.unwrap();
        let said = git(work.path(), &["ls-remote", &url], &[]).await.well();
        assert!(said.out.contains("refs/heads/main"));
        here.git.delete_project(&here.system(), &web).await.unwrap();
        loop_.tick().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_delete_deletes_and_only_who_may_read_sees_it() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let (system, web) = (here.system(), name("web"));
    let as_ = |project: &str, role: Role| {
        let principal = Principal {
            kind: PrincipalKind::Token(TokenId::derived("s")),
            name: "somebody".to_owned(),
            grant: Grant::on(&name(project), role),
            expires_at: None,
        };
        ondol_auth::Ctx::new(principal, here.clock.clone())
    };
    here.git.create_project(&system, &web).await.unwrap();
    let maintainer = as_("web", Role::Maintainer);
    assert!(here.git.delete_project(&maintainer, &web).await.is_err());
    let admin = as_("web", Role::Admin);
    here.git.delete_project(&admin, &web).await.unwrap();
    assert!(here.git.deletion(&maintainer, &web).await.is_ok());
    let stranger = as_("other", Role::Admin);
    assert!(here.git.deletion(&stranger, &web).await.is_err());
}

/// What an older version deleted without asking every room is found and forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_forgets_what_older_versions_left() {
    for backend in ondol_store::testing::backends(&[]).await {
        let store = &backend.store;
        let older: Vec<_> = [
            ondol_store::MIGRATIONS,
            ondol_auth::MIGRATIONS,
            &ondol_git::MIGRATIONS[..1],
        ]
        .concat();
        store.migrate(&older).await.unwrap();
        store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    for project in ["gone", "back"] {
                        let project = name(project);
                        tx.append(
                            ondol_store::events::NewEvent::new(
                                event::REPOSITORY_DELETED,
                                &project,
                            )
                            .project(&project),
                        )
                        .await?;
                    }
                    tx.execute(
                        "INSERT INTO git_project (name, default_branch, allow_force, made, size_bytes, created_at, created_by, maintained_at, looked_at)
                         VALUES ('back', 'main', 0, 0, 0, 1, 'kim', 1, 0)",
                        vec![],
                    )
                    .await
                })
            })
            .await
            .unwrap();
        let all: Vec<_> = [
            ondol_store::MIGRATIONS,
            ondol_auth::MIGRATIONS,
            ondol_git::MIGRATIONS,
        ]
        .concat();
        store.migrate(&all).await.unwrap();
        let holds = store
            .read::<_, StoreError, _>(|tx| Box::pin(tx.project_holds("", 10)))
            .await
            .unwrap();
        let held: Vec<(&str, i64)> = holds
            .iter()
            .map(|hold| (hold.name.as_str(), hold.seq))
            .collect();
        assert_eq!(held, [("gone", 1)]);
    }
}
