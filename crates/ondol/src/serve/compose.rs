//! Every room built and wired.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use ondol_api::{Places, Rooms};
use ondol_auth::{Authenticator, HostPolicy, Secrets, Tokens};
use ondol_background::{Activator, Background, Reconciler, Report};
use ondol_data::{Collector, DataService, DatasetOwner, ExpiredPushes};
use ondol_deploy::Deploy;
use ondol_gateway::{GatewayControl, KeeperClient, KeeperSpawn};
use ondol_git::{DeletionReconciler, Git, HookServer, MaintenanceReconciler, RefsReconciler};
use ondol_ml::tracking::{Tracking, TrackingConfig, TrackingHousekeeping};
use ondol_ml::{Models, ModelsConfig};
use ondol_pipeline::Pipeline;
use ondol_registry::{RegistryService, Retention};
use ondol_store::blobs::{BlobOwner, Blobs};
use ondol_store::events::{EventArchive, EventLog};
use ondol_store::{ForgetProject, Migration, Store};
use ondol_telemetry::{EngineLogs, Logs, Metrics};
use ondol_types::Problem;
use ondol_workload::{Engine, Engines, ProcessEngine};
use tokio_util::sync::CancellationToken;

use super::adapters::{
    actions, code, containers, doors, image, log, models, progress, retention, scraping, tracking,
    traffic,
};
use super::series::Series;
use super::{Settings, http, metrics};
use crate::error::Outcome;

/// What `context.source` of every event is.
const SOURCE: &str = "/ondol";
const COLLECT_EVERY: Duration = Duration::from_secs(3_600);
const COLLECT_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// The migrations of every room; the store puts them in order.
fn migrations() -> Vec<Migration> {
    [
        ondol_store::MIGRATIONS,
        ondol_auth::MIGRATIONS,
        ondol_background::MIGRATIONS,
        ondol_git::MIGRATIONS,
        ondol_pipeline::MIGRATIONS,
        ondol_registry::MIGRATIONS,
        ondol_deploy::MIGRATIONS,
        ondol_data::MIGRATIONS,
        ondol_ml::MIGRATIONS,
    ]
    .concat()
}

/// The built platform.
pub(super) struct Platform {
    pub(super) store: Store,
    /// The database of tracking; on PostgreSQL the same one.
    pub(super) runs: Store,
    pub(super) tokens: Tokens,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) places: Arc<Places>,
    pub(super) stopping: CancellationToken,
    pub(super) series: Series,
    background: Background,
    loops: Vec<(Arc<dyn Reconciler>, Activator)>,
    deploy: Deploy,
    pipeline: Pipeline,
    door: Router,
    _hooks: HookServer,
}

impl Platform {
    /// Starts every loop.
    pub(super) fn start(&self) {
        for (reconciler, activator) in &self.loops {
            self.background.spawn(reconciler.clone(), activator.clone());
        }
        for (reconciler, activator) in self.pipeline.reconcilers() {
            self.background.spawn(reconciler, activator);
        }
        self.deploy.spawn(&self.background);
        self.series.start();
        let (pipeline, stop) = (self.pipeline.clone(), self.stopping.clone());
        tokio::spawn(async move { pipeline.listen(stop).await });
    }

    /// The whole door.
    pub(super) fn router(&self) -> Router {
        self.door.clone()
    }

    /// Stops every loop; what runs in workloads goes on.
    pub(super) async fn stop(&self, patience: Duration) {
        self.pipeline.stop().await;
        self.background.stop(patience).await;
    }
}

/// Builds every room of an installation that answers at `control`.
pub(super) async fn build(settings: &Settings, control: &str) -> Outcome<Platform> {
    let (data, clock, crash) = (
        &settings.data,
        settings.clock.clone(),
        settings.crash.clone(),
    );
    let run = data.folder("run");
    let mut spawn = KeeperSpawn {
        run_dir: run.clone(),
        exe: settings.program.clone(),
        args: crate::roles::keeper_arguments(data.root(), settings.gateway_listen),
        listen: settings.gateway_listen,
        log: run.join("gateway.log"),
    };
    let keeper = KeeperClient::connect_or_spawn(spawn.clone());
    let opening = async {
        let store = match &settings.database {
            Some(url) => Store::open_postgres(url, SOURCE, clock.clone()).await?,
            None => {
                Store::open_sqlite(&data.root().join("ondol.db"), SOURCE, clock.clone()).await?
            }
        };
        // Metrics come by the thousand: on SQLite they have a file, and so a writer, of their own.
        let (mut numbered, own) = (migrations(), ondol_ml::tracking::MIGRATIONS);
        let runs = match &settings.database {
            Some(_) => {
                numbered.extend(own);
                store.clone()
            }
            None => {
                let file = data.root().join("tracking.db");
                let runs = Store::open_sqlite(&file, SOURCE, clock.clone()).await?;
                runs.migrate(own).await?;
                runs
            }
        };
        store.migrate(&numbered).await?;
        Ok::<_, crate::error::Failure>((store, runs))
    };
    let engine_config = ondol_workload::Config {
        path: settings.program_path.clone(),
        base_env: settings.tool_variables.clone(),
        ports: super::engines::PROCESS_PORTS,
        ..ondol_workload::Config::new(data.folder("workloads"), &settings.program)
    };
    let engine = ProcessEngine::open(engine_config, clock.clone(), crash.clone());
    let folder = data.folder("telemetry");
    let series = Series::open(folder, settings.series, clock.clone(), crash.clone());
    let (keeper, store, processes, series) = tokio::join!(keeper, opening, engine, series);
    let (keeper, (store, runs), series) = (keeper?, store?, series?);
    // One that is started later takes the address that this one has.
    spawn.listen = keeper.address();
    spawn.args = crate::roles::keeper_arguments(data.root(), spawn.listen);
    let processes = processes?;
    let places = Arc::new(Places {
        control: control.to_owned(),
        gateway: super::url_of(keeper.address()),
    });
    let gateways = GatewayControl::new(&run)?;
    let background = Background::new(clock.clone());
    let stopping = CancellationToken::new();

    let tokens = Tokens::open(store.clone(), &data.folder("keys"))?;
    let secrets = Secrets::open(store.clone(), &data.folder("keys"))?;
    let authenticator = Authenticator::new(tokens.clone());
    let blobs = Blobs::open_with(&data.folder("blobs"), clock.clone(), crash.clone())?;
    let registry = RegistryService::new(store.clone(), blobs.clone(), settings.registry.clone());
    let stored_images = Arc::new(containers::StoredImages {
        registry: registry.clone(),
        clock: clock.clone(),
    });
    let containers = settings
        .engines
        .open(
            data,
            &settings.program,
            stored_images,
            clock.clone(),
            crash.clone(),
        )
        .await?;
    let engine: Arc<dyn Engine> = Arc::new(Engines::new(processes, containers.clone()));

    let shown = Arc::new(progress::RunProgress::default());
    let git_config = ondol_git::Config::new(data.root(), settings.program.clone(), control);
    let git_deps = ondol_git::Deps {
        store: store.clone(),
        auth: authenticator.clone(),
        progress: shown.clone(),
        crash: crash.clone(),
    };
    let git = Git::open(git_config, git_deps).await?;
    let hooks = HookServer::start(&git)?;

    let scratch = data.folder("cache").join("data");
    std::fs::create_dir_all(&scratch)
        .map_err(crate::error::Failure::io("make the scratch folder"))?;
    let data_deps = ondol_data::Deps {
        store: store.clone(),
        blobs: blobs.clone(),
        clock: clock.clone(),
        crash: crash.clone(),
        projects: Arc::new(models::GitProjects(git.clone())),
        scratch,
    };
    let datasets = DataService::new(data_deps, ondol_data::Config::default());
    let model_registry = Models::new(
        store.clone(),
        blobs.clone(),
        crash.clone(),
        ModelsConfig::default(),
    );
    let experiments = Tracking::new(
        runs.clone(),
        blobs.clone(),
        Arc::new(models::GitProjects(git.clone())),
        TrackingConfig::default(),
    );

    let known = Arc::new(models::Known {
        data: datasets.clone(),
        models: model_registry.clone(),
        clock: clock.clone(),
    });
    let stored_secrets = Arc::new(code::StoredSecrets {
        secrets: secrets.clone(),
        clock: clock.clone(),
    });
    let deploy_deps = ondol_deploy::Deps {
        store: store.clone(),
        clock: clock.clone(),
        crash: crash.clone(),
        engine: engine.clone(),
        images: Arc::new(code::RegistryImages {
            registry: registry.clone(),
            clock: clock.clone(),
        }),
        models: known.clone(),
        secrets: stored_secrets.clone(),
        routes: Arc::new(traffic::GatewayRoutes {
            control: gateways.clone(),
            own: traffic::own_names(keeper.address(), &settings.hosts),
        }),
    };
    let mut deploy_config = ondol_deploy::Config::new(data.folder("cache"), data.folder("volumes"));
    deploy_config.engines = settings.engines.offer();
    let deploy = Deploy::build(deploy_deps, deploy_config);

    let workspaces = data.folder("cache").join("runs");
    let logs = data.folder("telemetry").join("steps");
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let mut pipeline_config = ondol_pipeline::Config::new(
        workspaces,
        data.folder("cache").join("projects"),
        logs,
        cores,
    );
    pipeline_config.public_url = Some(control.to_owned());
    let pipeline_deps = ondol_pipeline::Deps {
        store: store.clone(),
        blobs: blobs.clone(),
        engine: engine.clone(),
        clock: clock.clone(),
        crash: crash.clone(),
        sources: Arc::new(code::GitSources(git.clone())),
        specs: Arc::new(code::FileSpecs),
        training: known,
        secrets: stored_secrets,
        tracking: Arc::new(tracking::TrackedSteps {
            tokens: tokens.clone(),
            control: control.to_owned(),
        }),
        arguments: Arc::new(models::OwnPrograms(settings.program.clone())),
        actions: actions::all(
            datasets.clone(),
            model_registry.clone(),
            image::Image {
                registry: registry.clone(),
                engine: containers
                    .clone()
                    .filter(|_| settings.engines.offer().container),
                secrets: secrets.clone(),
                deploy: deploy.service(),
                clock: clock.clone(),
            },
            deploy.service(),
            clock.clone(),
        ),
    };
    let pipeline = Pipeline::new(pipeline_config, pipeline_deps);
    shown.connect(
        pipeline.clone(),
        deploy.service(),
        places.clone(),
        clock.clone(),
    );

    let releases = Arc::new(retention::Releases {
        deploy: deploy.service(),
        clock: clock.clone(),
    });
    let archive = EventArchive::new(
        store.clone(),
        blobs.clone(),
        log::followers(pipeline.clone(), deploy.service()),
        crash,
        settings.events,
    );
    let owners: Vec<Arc<dyn BlobOwner>> = vec![
        Arc::new(archive.clone()),
        Arc::new(registry.clone()),
        Arc::new(DatasetOwner::new(store.clone(), blobs.clone())),
        Arc::new(model_registry.clone()),
        Arc::new(experiments.clone()),
        Arc::new(pipeline.clone()),
    ];
    // What runs first, what it made afterwards, who may do what last.
    let housekeeping = ondol_auth::Housekeeping::new(tokens.clone(), secrets.clone());
    let mut forgetting: Vec<Arc<dyn ForgetProject>> = vec![
        Arc::new(pipeline.clone()),
        Arc::new(deploy.service()),
        Arc::new(model_registry.clone()),
        Arc::new(experiments.clone()),
        Arc::new(datasets.clone()),
        Arc::new(registry.clone()),
        Arc::new(housekeeping.clone()),
    ];
    if let Some(engine) = &containers {
        // Behind the rooms whose workloads use them.
        forgetting.insert(2, Arc::new(containers::Forgetting(engine.clone())));
    }
    let mut loops: Vec<(Arc<dyn Reconciler>, Activator)> = vec![
        (Arc::new(RefsReconciler::new(git.clone())), git.activator()),
        (
            Arc::new(MaintenanceReconciler::new(git.clone())),
            Activator::new(),
        ),
        (
            Arc::new(Retention::new(registry.clone(), releases.clone())),
            Activator::new(),
        ),
        (Arc::new(KeeperAlive(spawn)), Activator::new()),
        (
            Arc::new(DeletionReconciler::new(git.clone(), forgetting)),
            git.deletions(),
        ),
        (Arc::new(log::Archiving(archive.clone())), Activator::new()),
        (Arc::new(log::Verification(archive)), Activator::new()),
        (
            Arc::new(ExpiredPushes::new(store.clone())),
            Activator::new(),
        ),
        (
            Arc::new(Collector::new(
                blobs.clone(),
                owners,
                COLLECT_EVERY,
                COLLECT_AFTER,
            )),
            Activator::new(),
        ),
        (
            Arc::new(ondol_ml::Housekeeping::new(
                model_registry.clone(),
                releases.clone(),
            )),
            Activator::new(),
        ),
        (
            Arc::new(TrackingHousekeeping::new(experiments.clone())),
            Activator::new(),
        ),
        (Arc::new(Sweep(housekeeping)), Activator::new()),
    ];

    if let Some(engine) = containers {
        let swept = containers::Swept {
            engine,
            deploy: deploy.service(),
        };
        loops.push((Arc::new(swept), Activator::new()));
    }
    let counted = Metrics::default();
    counted.register(Arc::new(metrics::Platform {
        background: background.clone(),
        pipeline: pipeline.clone(),
    }));
    counted.register(Arc::new(metrics::Gateways(gateways)));
    let scraped = scraping::Workloads::new(deploy.service());
    let series = series.scraping(counted.clone(), control, Arc::new(scraped));
    let rooms = Rooms {
        clock: clock.clone(),
        store: store.clone(),
        events: EventLog::new(store.clone(), blobs),
        authenticator: authenticator.clone(),
        tokens: tokens.clone(),
        secrets,
        background: background.clone(),
        git: git.clone(),
        pipeline: pipeline.clone(),
        deploy: deploy.service(),
        data: datasets,
        models: model_registry,
        logs: Logs::new(Arc::new(EngineLogs::new(engine.clone()))),
        engine: engine.clone(),
        places: places.clone(),
        stopping: stopping.clone(),
    };
    let registry_door = ondol_registry::http::Door {
        registry,
        authenticate: Arc::new(doors::RegistryDoor(authenticator.clone())),
        projects: Arc::new(models::GitProjects(git.clone())),
        retained: releases,
        clock: clock.clone(),
    };
    let tracking_door = ondol_ml::tracking::http::Door {
        tracking: experiments,
        authenticate: Arc::new(doors::TrackingDoor(authenticator.clone())),
        clock: clock.clone(),
    };
    let metrics_door = series.door(Arc::new(doors::MetricsDoor(authenticator.clone())));
    let routers = ondol_api::router(rooms)
        .merge(ondol_git::router(git))
        .merge(ondol_registry::http::router(registry_door))
        .merge(ondol_ml::tracking::http::router(tracking_door))
        .merge(ondol_telemetry::http::router(metrics_door));
    let door = http::Door {
        authenticator,
        metrics: counted,
        hosts: HostPolicy::new(&settings.hosts),
        clock,
    };
    Ok(Platform {
        store,
        runs,
        tokens,
        engine,
        places,
        stopping,
        series,
        background,
        loops,
        deploy,
        pipeline,
        door: http::router(door, routers),
        _hooks: hooks,
    })
}

/// Keeps a keeper alive while the control plane is: the keeper restarts the gateway, and this
/// restarts the keeper.
struct KeeperAlive(KeeperSpawn);

#[async_trait::async_trait]
impl Reconciler for KeeperAlive {
    fn name(&self) -> &'static str {
        "gateway.keeper"
    }

    fn period(&self) -> Duration {
        Duration::from_millis(500)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        if KeeperClient::connect(&self.0.run_dir).await?.is_some() {
            return Ok(Report {
                seen: 1,
                ..Report::default()
            });
        }
        KeeperClient::connect_or_spawn(self.0.clone()).await?;
        Ok(Report {
            seen: 1,
            changed: 1,
            note: Some("the keeper had died and was started again".to_owned()),
            more: false,
        })
    }
}

/// The sweep over tokens and secrets as a loop.
struct Sweep(ondol_auth::Housekeeping);

#[async_trait::async_trait]
impl Reconciler for Sweep {
    fn name(&self) -> &'static str {
        "auth.housekeeping"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let swept = self.0.sweep().await?;
        Ok(Report {
            changed: swept.pruned + swept.rewrapped,
            more: swept.more,
            ..Report::default()
        })
    }
}
