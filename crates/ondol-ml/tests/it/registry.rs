//! The registry on every database engine.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ondol_auth::{Ctx, Grant, Principal, PrincipalKind, Role};
use ondol_background::Reconciler;
use ondol_ml::{
    Housekeeping, Judgement, Lineage, MIGRATIONS, MlError, Models, ModelsConfig, NewVersion,
    VersionState, VersionsInUse,
};
use ondol_store::blobs::{BlobOwner, Blobs};
use ondol_store::events::EventFilter;
use ondol_store::testing::{TestStore, backends_at};
use ondol_store::{ForgetProject, Forgotten};
use ondol_types::{
    Classified, Clock, ErrorKind, ManualClock, ModelName, NoCrash, Problem, ProjectName, RunId,
    Timestamp, TokenId,
};

struct Fixture {
    test: TestStore,
    models: Models,
    clock: Arc<ManualClock>,
    ctx: Ctx,
    project: ProjectName,
    model: ModelName,
}

async fn fixtures(config: ModelsConfig) -> Vec<Fixture> {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(
        1_700_000_000_000_000,
    )));
    let stores = backends_at(MIGRATIONS, clock.clone()).await;
    stores
        .into_iter()
        .map(|test| {
            let blobs = Blobs::open_with(
                &test.dir.path().join("blobs"),
                clock.clone(),
                Arc::new(NoCrash),
            )
            .unwrap();
            Fixture {
                models: Models::new(test.store.clone(), blobs, Arc::new(NoCrash), config),
                clock: clock.clone(),
                ctx: Ctx::system(clock.clone()),
                project: "iris".parse().unwrap(),
                model: "iris".parse().unwrap(),
                test,
            }
        })
        .collect()
}

impl Fixture {
    fn new_version(&self, run: Option<&str>, metrics: &[(&str, f64)]) -> NewVersion {
        NewVersion {
            project: self.project.clone(),
            model: self.model.clone(),
            lineage: Lineage {
                dataset: Some("iris".parse().unwrap()),
                data_number: Some(4),
                run: run.map(RunId::derived),
                ..Lineage::default()
            },
            metrics: metrics
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
            primary_metric: None,
            params: BTreeMap::from([("seed".to_owned(), "42".to_owned())]),
            chain: Some("chain-1".to_owned()),
        }
    }

    fn folder(&self, name: &str, files: &[(&str, &str)]) -> std::path::PathBuf {
        let dir = self.test.dir.path().join(name);
        for (path, text) in files {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    async fn register(&self, run: &str, accuracy: f64) -> i64 {
        let dir = self.folder(run, &[("model.json", run)]);
        let new = self.new_version(Some(run), &[("accuracy", accuracy)]);
        self.models
            .register(&self.ctx, new, &dir)
            .await
            .unwrap()
            .version
    }

    async fn judge(&self, version: i64) -> ondol_ml::ModelVersion {
        let accept = "accuracy >= 0.93 && accuracy >= champion.accuracy - 0.01"
            .parse()
            .unwrap();
        let judgement = Judgement {
            accept: Some(accept),
            champion_on_new_data: None,
        };
        self.models
            .judge(&self.ctx, &self.project, &self.model, version, &judgement)
            .await
            .unwrap()
    }

    async fn champion(&self) -> Option<i64> {
        self.models
            .champion(&self.ctx, &self.project, &self.model)
            .await
            .unwrap()
            .map(|version| version.version)
    }

    async fn events(&self) -> Vec<String> {
        let events = self
            .test
            .store
            .read::<_, ondol_store::StoreError, _>(|tx| {
                Box::pin(async move { tx.events_after(0, &EventFilter::default(), 100).await })
            })
            .await
            .unwrap();
        events
            .iter()
            .map(|event| event.event_type.split('.').nth(3).unwrap().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn candidates_are_promoted_or_refused() {
    for fixture in fixtures(ModelsConfig::default()).await {
        let name = fixture.test.name;
        let first = fixture.register("run-1", 0.96).await;
        assert_eq!((first, fixture.champion().await), (1, None), "{name}");
        let judged = fixture.judge(first).await;
        assert_eq!(judged.state, VersionState::Champion);
        let shuffled = fixture.register("run-2", 0.41).await;
        let judged = fixture.judge(shuffled).await;
        assert_eq!(judged.state, VersionState::Refused);
        assert!(
            judged.reason.as_deref().unwrap().contains("0.41"),
            "{:?}",
            judged.reason
        );
        assert_eq!(
            fixture.champion().await,
            Some(1),
            "the old model keeps serving"
        );
        let better = fixture.register("run-3", 0.97).await;
        fixture.judge(better).await;
        assert_eq!(fixture.champion().await, Some(3));
        // Judging again changes nothing, whatever the rule says now.
        let again = fixture
            .models
            .judge(
                &fixture.ctx,
                &fixture.project,
                &fixture.model,
                2,
                &Judgement::default(),
            )
            .await
            .unwrap();
        assert_eq!(again.state, VersionState::Refused);
        assert_eq!(
            fixture.events().await,
            [
                "created", "promoted", "created", "refused", "created", "promoted"
            ],
            "{name}"
        );
        let listed = fixture
            .models
            .versions(&fixture.ctx, &fixture.project, &fixture.model, i64::MAX, 2)
            .await
            .unwrap();
        let states: Vec<_> = listed
            .iter()
            .map(|version| (version.version, version.state))
            .collect();
        assert_eq!(
            states,
            [(3, VersionState::Champion), (2, VersionState::Refused)]
        );
        let first = fixture
            .models
            .version(&fixture.ctx, &fixture.project, &fixture.model, 1)
            .await
            .unwrap();
        assert_eq!(
            (first.state, first.lineage.data_number),
            (VersionState::Archived, Some(4))
        );
    }
}

#[tokio::test]
async fn registering_again_for_a_run_gives_the_same_version() {
    for fixture in fixtures(ModelsConfig::default()).await {
        let first = fixture.register("run-1", 0.96).await;
        let dir = fixture.folder("other", &[("model.json", "other bytes")]);
        let again = fixture
            .models
            .register(&fixture.ctx, fixture.new_version(Some("run-1"), &[]), &dir)
            .await
            .unwrap();
        assert_eq!((again.version, again.metrics["accuracy"]), (first, 0.96));
        let many = (0..4).map(|_| {
            fixture
                .models
                .register(&fixture.ctx, fixture.new_version(Some("run-2"), &[]), &dir)
        });
        let versions: Vec<i64> = futures_util::future::join_all(many)
            .await
            .into_iter()
            .map(|v| v.unwrap().version)
            .collect();
        assert_eq!(versions, [2; 4], "{}", fixture.test.name);
        let found = fixture
            .models
            .version_of_run(
                &fixture.ctx,
                &fixture.project,
                &fixture.model,
                RunId::derived("run-2"),
            )
            .await;
        assert_eq!(found.unwrap().map(|version| version.version), Some(2));
    }
}

#[tokio::test]
async fn not_a_number_is_kept_and_refused() {
    for fixture in fixtures(ModelsConfig::default()).await {
        let dir = fixture.folder("nan", &[("m", "x")]);
        let new = fixture.new_version(None, &[("accuracy", f64::NAN), ("loss", f64::INFINITY)]);
        let version = fixture
            .models
            .register(&fixture.ctx, new, &dir)
            .await
            .unwrap()
            .version;
        let judged = fixture.judge(version).await;
        assert_eq!(judged.state, VersionState::Refused);
        assert!(judged.metrics["accuracy"].is_nan() && judged.metrics["loss"].is_infinite());
        let json = serde_json::to_value(&judged).unwrap();
        assert_eq!(json["metrics"]["accuracy"], "NaN");
        let back: ondol_ml::ModelVersion = serde_json::from_value(json).unwrap();
        assert!(back.metrics["accuracy"].is_nan());
    }
}

#[tokio::test]
async fn an_older_run_does_not_undo_a_newer_one() {
    for fixture in fixtures(ModelsConfig::default()).await {
        let (older, newer) = (
            fixture.register("run-1", 0.99).await,
            fixture.register("run-2", 0.95).await,
        );
        fixture.judge(newer).await;
        let judged = fixture.judge(older).await;
        assert_eq!(judged.state, VersionState::Refused);
        assert!(judged.reason.unwrap().contains("version 2 became champion"));
        assert_eq!(fixture.champion().await, Some(2));
    }
}

#[tokio::test]
async fn people_promote_and_roll_back() {
    for fixture in fixtures(ModelsConfig::default()).await {
        let (project, model, ctx) = (&fixture.project, &fixture.model, &fixture.ctx);
        for run in ["run-1", "run-2", "run-3"] {
            let version = fixture.register(run, 0.96).await;
            fixture.judge(version).await;
        }
        let back = fixture
            .models
            .rollback(ctx, project, model, None, "wrong units")
            .await
            .unwrap();
        assert_eq!(
            (back.version, back.reason.as_deref()),
            (2, Some("rolled back by ondol: wrong units"))
        );
        let refused = fixture.register("run-4", 0.2).await;
        fixture.judge(refused).await;
        assert_eq!(fixture.champion().await, Some(2));
        let forced = fixture
            .models
            .promote(ctx, project, model, refused, "the world changed")
            .await
            .unwrap();
        assert_eq!(forced.state, VersionState::Champion);
        let before = fixture.events().await.len();
        fixture
            .models
            .promote(ctx, project, model, refused, "again")
            .await
            .unwrap();
        assert_eq!(
            fixture.events().await.len(),
            before,
            "a repeated promotion is no event"
        );
        fixture
            .models
            .rollback(ctx, project, model, Some(1), "")
            .await
            .unwrap();
        assert_eq!(fixture.champion().await, Some(1));
        let history = fixture
            .models
            .promotions(ctx, project, model, 3)
            .await
            .unwrap();
        assert_eq!(
            history
                .iter()
                .map(|promotion| promotion.version)
                .collect::<Vec<_>>(),
            [1, 4, 2]
        );
        let error = fixture
            .models
            .promote(ctx, project, model, 99, "")
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

fn read_all(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                let name = entry
                    .strip_prefix(dir)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                found.push((name, std::fs::read_to_string(entry).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn files_come_back_as_they_were() {
    for fixture in fixtures(ModelsConfig::default()).await {
        let (project, model, ctx) = (&fixture.project, &fixture.model, &fixture.ctx);
        let dir = fixture.folder(
            "m",
            &[
                ("model.json", "{}"),
                ("weights/a.bin", "aaa"),
                ("weights/b.bin", "aaa"),
                ("empty", ""),
            ],
        );
        let version = fixture
            .models
            .register(ctx, fixture.new_version(None, &[]), &dir)
            .await
            .unwrap();
        assert_eq!(version.size, 8);
        let target = fixture.test.dir.path().join("release/model");
        std::fs::create_dir(target.parent().unwrap()).unwrap();
        // A crash left half of an earlier attempt.
        std::fs::create_dir(fixture.test.dir.path().join("release/model.partial")).unwrap();
        fixture
            .models
            .materialise(ctx, project, model, 1, &target)
            .await
            .unwrap();
        assert_eq!(read_all(&target), read_all(&dir));
        assert_eq!(
            fixture
                .models
                .materialise(ctx, project, model, 1, &target)
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::Conflict
        );
        let again = fixture
            .models
            .register(ctx, fixture.new_version(None, &[]), &target)
            .await
            .unwrap();
        assert_eq!(
            again.digest, version.digest,
            "the digest is that of the content"
        );

        let files = fixture.models.files(ctx, project, model, 1).await.unwrap();
        let entry = files
            .iter()
            .find(|file| file.path.as_str() == "weights/a.bin")
            .unwrap();
        let blob = fixture
            .test
            .dir
            .path()
            .join("blobs/blake3")
            .join(&entry.digest.hex()[..2])
            .join(entry.digest.hex());
        std::fs::write(blob, "aab").unwrap();
        let target = fixture.test.dir.path().join("release/rotten");
        let error = fixture
            .models
            .materialise(ctx, project, model, 1, &target)
            .await
            .unwrap_err();
        assert!(
            matches!(error, MlError::Corrupted(_)) && !target.exists(),
            "{error}"
        );
        assert!(
            !fixture
                .test
                .dir
                .path()
                .join("release/rotten.partial")
                .exists()
        );
    }
}

#[tokio::test]
async fn folders_that_are_no_model_are_refused() {
    let config = ModelsConfig {
        max_files: 3,
        max_bytes: 10,
        ..ModelsConfig::default()
    };
    for fixture in fixtures(config).await {
        let refuse = async |dir: &Path| {
            fixture
                .models
                .register(&fixture.ctx, fixture.new_version(None, &[]), dir)
                .await
                .unwrap_err()
        };
        let empty = fixture.test.dir.path().join("none");
        std::fs::create_dir(&empty).unwrap();
        assert!(
            refuse(&empty)
                .await
                .to_string()
                .contains("the output folder is empty")
        );
        let link = fixture.folder("link", &[("a", "x")]);
        std::os::unix::fs::symlink("/etc/passwd", link.join("b")).unwrap();
        assert!(
            refuse(&link)
                .await
                .to_string()
                .contains("`b` of the model is not a regular file")
        );
        let many = fixture.folder("many", &[("a", ""), ("b", ""), ("c", ""), ("d", "")]);
        assert_eq!(refuse(&many).await.kind(), ErrorKind::TooLarge);
        let large = fixture.folder("large", &[("a", "123456"), ("b", "123456")]);
        assert_eq!(refuse(&large).await.kind(), ErrorKind::TooLarge);
    }
}

#[tokio::test]
async fn permission_is_asked_of_every_operation() {
    for fixture in fixtures(ModelsConfig::default()).await {
        fixture.register("run-1", 0.96).await;
        let (project, model) = (&fixture.project, &fixture.model);
        let with = |role: Option<Role>| {
            let grant = Grant {
                everywhere: None,
                projects: role
                    .map(|role| (project.clone(), role))
                    .into_iter()
                    .collect(),
            };
            let kind = PrincipalKind::Token(TokenId::derived("t"));
            Ctx::new(
                Principal {
                    kind,
                    name: "sam".into(),
                    grant,
                    expires_at: None,
                },
                fixture.clock.clone(),
            )
        };
        let (stranger, viewer, developer) = (
            with(None),
            with(Some(Role::Viewer)),
            with(Some(Role::Developer)),
        );
        let models = &fixture.models;
        let kind = |error: MlError| error.kind();
        assert_eq!(
            kind(models.model(&stranger, project, model).await.unwrap_err()),
            ErrorKind::NotFound
        );
        assert!(models.model(&viewer, project, model).await.is_ok());
        let judgement = Judgement::default();
        assert_eq!(
            kind(
                models
                    .judge(&viewer, project, model, 1, &judgement)
                    .await
                    .unwrap_err()
            ),
            ErrorKind::Forbidden
        );
        assert!(
            models
                .judge(&developer, project, model, 1, &judgement)
                .await
                .is_ok()
        );
        assert_eq!(
            kind(
                models
                    .promote(&developer, project, model, 1, "")
                    .await
                    .unwrap_err()
            ),
            ErrorKind::Forbidden
        );
        assert_eq!(
            kind(
                models
                    .rollback(&developer, project, model, None, "")
                    .await
                    .unwrap_err()
            ),
            ErrorKind::Forbidden
        );
        assert!(
            models
                .promote(&with(Some(Role::Maintainer)), project, model, 1, "")
                .await
                .is_ok()
        );
        let dir = fixture.folder("x", &[("a", "x")]);
        let refused = models
            .register(&viewer, fixture.new_version(None, &[]), &dir)
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Forbidden);
    }
}

#[derive(Default)]
struct InUse(Mutex<Vec<(ModelName, i64)>>);

#[async_trait]
impl VersionsInUse for InUse {
    async fn in_use(&self, _project: &ProjectName) -> Result<Vec<(ModelName, i64)>, Problem> {
        Ok(self.0.lock().unwrap().clone())
    }
}

#[tokio::test]
async fn retention_spares_what_is_needed() {
    let config = ModelsConfig {
        keep_versions: 2,
        ..ModelsConfig::default()
    };
    for fixture in fixtures(config).await {
        // 1 is champion; 2 to 6 are refused; 3 is used by a release.
        let first = fixture.register("run-1", 0.96).await;
        fixture.judge(first).await;
        for number in 2..=6 {
            let version = fixture.register(&format!("run-{number}"), 0.1).await;
            fixture.judge(version).await;
        }
        let in_use = Arc::new(InUse(Mutex::new(vec![(fixture.model.clone(), 3)])));
        let housekeeping = Housekeeping::new(fixture.models.clone(), in_use);
        let report = housekeeping.tick().await.unwrap();
        assert_eq!(report.changed, 2, "{report:?}");
        let left = fixture
            .models
            .versions(&fixture.ctx, &fixture.project, &fixture.model, i64::MAX, 10)
            .await
            .unwrap();
        assert_eq!(
            left.iter()
                .map(|version| version.version)
                .collect::<Vec<_>>(),
            [6, 5, 3, 1]
        );
        assert_eq!(housekeeping.tick().await.unwrap().changed, 0);
    }
}

#[tokio::test]
async fn models_go_with_their_project_and_their_bytes_with_them() {
    for fixture in fixtures(ModelsConfig::default()).await {
        let first = fixture.register("run-1", 0.96).await;
        fixture.judge(first).await;
        let blobs = Blobs::open_with(
            &fixture.test.dir.path().join("blobs"),
            fixture.clock.clone(),
            Arc::new(NoCrash),
        )
        .unwrap();
        let owners: Vec<Arc<dyn BlobOwner>> = vec![Arc::new(fixture.models.clone())];
        let far = Duration::from_secs(400_000);
        fixture.clock.advance(far);
        let report = blobs.gc(&owners, Duration::from_secs(3_600)).await.unwrap();
        assert_eq!((report.marked, report.removed), (1, 0), "owned bytes stay");
        let project = &fixture.project;
        let store = &fixture.test.store;
        let hold = store
            .write::<_, ondol_store::StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.hold_project(project, 1, "kim").await?;
                    Ok(tx.project_hold(project).await?.unwrap())
                })
            })
            .await
            .unwrap();
        let dir = fixture.folder("later", &[("m", "later")]);
        let new = || NewVersion {
            model: "second".parse().unwrap(),
            ..fixture.new_version(None, &[])
        };
        let late = fixture.models.register(&fixture.ctx, new(), &dir).await;
        assert_eq!(late.unwrap_err().code(), "store.project.deleting");
        for _ in 0..2 {
            let forgotten = fixture.models.forget(&hold).await.unwrap();
            assert_eq!(forgotten, Forgotten::Entirely);
        }
        let list = async || {
            let found = fixture
                .models
                .models(&fixture.ctx, &fixture.project, "", 10)
                .await
                .unwrap();
            found
                .iter()
                .map(|model| model.name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(list().await, [""; 0], "{}", fixture.test.name);
        store
            .write::<_, ondol_store::StoreError, _>(|tx| Box::pin(tx.release_project(&hold)))
            .await
            .unwrap();
        // A project of the same name begins with version 1 and keeps its own.
        let second = fixture
            .models
            .register(&fixture.ctx, new(), &dir)
            .await
            .unwrap();
        assert_eq!(second.version, 1);
        let housekeeping = Housekeeping::new(fixture.models.clone(), Arc::new(InUse::default()));
        assert_eq!(housekeeping.tick().await.unwrap().changed, 0);
        assert_eq!(list().await, ["second"]);
        fixture.clock.advance(far);
        let report = blobs.gc(&owners, Duration::from_secs(3_600)).await.unwrap();
        assert_eq!((report.marked, report.removed), (1, 1), "unowned bytes go");
        assert!(fixture.clock.now() > Timestamp::from_micros(0));
    }
}
