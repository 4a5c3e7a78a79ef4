//! Drives the loops step by step, on a clock that stands still in between.

use std::sync::Arc;
use std::time::Duration;

use ondol_auth::Ctx;
use ondol_background::{Reconciler, Report};
use ondol_spec::model::{Period, Replicas, Service, Spec, Target};
use ondol_store::Store;
use ondol_store::events::{EventFilter, NewEvent};
use ondol_store::testing::TestStore;
use ondol_types::{Clock, Digest, EnvironmentName, ManualClock, ProjectName, RolloutId, Timestamp};

use super::fakes::{Outside, image};
use crate::execute::probe::Ask;
use crate::follow::FollowLoop;
use crate::model::{Environment, Reason, Release, Replica, Rollout, RolloutState};
use crate::plan::{Effect, Standing, Wanted};
use crate::reconcile::EnvironmentsLoop;
use crate::retain::RetainLoop;
use crate::room::{Config, Deps, Room};
use crate::routes::RoutesLoop;
use crate::sample::SampleLoop;
use crate::service::{DeployRequest, DeployService};
use crate::store;

pub(super) struct Process {
    pub(super) room: Arc<Room>,
    environments: Arc<EnvironmentsLoop>,
    routes: Arc<RoutesLoop>,
    follow: Arc<FollowLoop>,
    pub(super) retain: Arc<RetainLoop>,
    sample: Arc<SampleLoop>,
    pub(super) service: DeployService,
}

/// A process with its database and the world outside.
pub(super) struct Sim {
    pub(super) outside: Arc<Outside>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) process: Process,
    pub(super) crashes: u32,
    config: Config,
    store: Store,
    served: bool,
    _dir: tempfile::TempDir,
}

pub(super) fn production() -> EnvironmentName {
    EnvironmentName::production()
}

pub(super) fn web() -> ProjectName {
    "web".parse().unwrap()
}

pub(super) fn spec(change: impl FnOnce(&mut Spec)) -> Arc<Spec> {
    let mut spec = Spec {
        service: Some(Service::new("serve")),
        ..Spec::default()
    };
    change(&mut spec);
    Arc::new(spec)
}

pub(super) fn plain() -> Arc<Spec> {
    spec(|_| {})
}

pub(super) fn with_command(spec: &mut Spec) {
    spec.release.command = Some(ondol_spec::model::Command::new("migrate"));
}

/// From `min` to `max` replicas, each for ten requests per second.
pub(super) fn scaled(spec: &mut Spec, min: u32, max: u32) {
    spec.service.as_mut().unwrap().replicas = Replicas {
        min,
        max,
        target: Some(Target {
            rps: Some(10.0),
            ..Target::default()
        }),
    };
}

pub(super) fn canary(spec: &mut Spec) {
    spec.release.strategy = ondol_spec::model::Strategy::Canary;
    spec.release.interval = Period::from_secs(2);
}

/// Stores of every engine here, and the clock they are dated by.
pub(super) async fn sims() -> Vec<Sim> {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(
        1_800_000_000_000_000,
    )));
    let stores = ondol_store::testing::backends_at(store::MIGRATIONS, clock.clone()).await;
    stores
        .into_iter()
        .map(|store| Sim::new(store, clock.clone()))
        .collect()
}

/// SQLite alone, for the many runs.
pub(super) async fn sim() -> Sim {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(
        1_800_000_000_000_000,
    )));
    let mut all = ondol_store::MIGRATIONS.to_vec();
    all.extend(store::MIGRATIONS);
    let store = ondol_store::testing::sqlite(&all, clock.clone()).await;
    Sim::new(store, clock)
}

impl Sim {
    fn new(store: TestStore, clock: Arc<ManualClock>) -> Self {
        let outside = Outside::new(clock.clone());
        let config = Config::new(
            store.dir.path().join("cache"),
            store.dir.path().join("volumes"),
        );
        let process = Self::boot(&outside, &store.store, &clock, &config);
        Self {
            outside,
            clock,
            process,
            crashes: 0,
            config,
            store: store.store,
            served: false,
            _dir: store.dir,
        }
    }

    fn boot(
        outside: &Arc<Outside>,
        store: &Store,
        clock: &Arc<ManualClock>,
        config: &Config,
    ) -> Process {
        let deps = Deps {
            store: store.clone(),
            clock: clock.clone(),
            crash: outside.crash.clone(),
            engine: outside.clone(),
            images: outside.clone(),
            models: outside.clone(),
            secrets: outside.clone(),
            routes: outside.clone(),
        };
        let mut room = Room::new(deps, config.clone());
        room.ask = outside.clone() as Arc<dyn Ask>;
        let room = Arc::new(room);
        Process {
            room: room.clone(),
            environments: Arc::new(EnvironmentsLoop::new(room.clone())),
            routes: Arc::new(RoutesLoop::new(room.clone())),
            follow: Arc::new(FollowLoop { room: room.clone() }),
            retain: Arc::new(RetainLoop { room: room.clone() }),
            sample: Arc::new(SampleLoop { room: room.clone() }),
            service: DeployService::new(room),
        }
    }

    /// The process is gone and another one begins: all that is left is rows and the world.
    pub(super) fn restart(&mut self) {
        self.outside.crash.revive();
        self.process = Self::boot(&self.outside, &self.store, &self.clock, &self.config);
        self.crashes += 1;
    }

    pub(super) fn ctx(&self) -> Ctx {
        Ctx::system(self.clock.clone())
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Runs something of the process until it ends or the process dies.
    async fn mortal<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let task = tokio::spawn(work);
        let end = task.abort_handle();
        let death = async {
            while !self.outside.crash.is_dead() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            done = task => match done {
                Ok(value) => Some(value),
                Err(error) if self.outside.crash.is_dead() => { drop(error); None }
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            () = death => { end.abort(); None }
        }
    }

    async fn tick(&self, reconciler: Arc<dyn Reconciler>) -> Report {
        // A tick that fails is told and tried again; simulated outages make them fail.
        let ticked = self.mortal(async move { reconciler.tick().await }).await;
        ticked.and_then(Result::ok).unwrap_or_default()
    }

    /// Lets everything happen that can without time.
    pub(super) async fn settle(&mut self) {
        for _ in 0..60 {
            if self.outside.crash.is_dead() {
                self.restart();
            }
            let mut changed = self.tick(self.process.environments.clone()).await.changed;
            changed += self.tick(self.process.follow.clone()).await.changed;
            changed += self.tick(self.process.routes.clone()).await.changed;
            while !self.outside.crash.is_dead()
                && self
                    .process
                    .environments
                    .under_way()
                    .iter()
                    .any(|effect| !matches!(effect, Effect::Await(_)))
            {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            self.check().await;
            if changed == 0 && !self.outside.crash.is_dead() {
                return;
            }
        }
        panic!(
            "it does not come to rest: {:?}",
            self.process.environments.under_way()
        );
    }

    /// Time passes.
    pub(super) async fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        self.settle().await;
    }

    /// The current release gets so many requests per second for some time.
    pub(super) async fn load(&mut self, rps: u64, time: Duration) {
        for _ in 0..time.as_secs() / 5 {
            self.clock.advance(Duration::from_secs(5));
            if let Some(current) = self.current().await {
                let mut outside = self.outside.lock();
                outside.traffic.entry(current.id).or_default().requests += rps * 5;
            }
            self.tick(self.process.sample.clone()).await;
            self.settle().await;
        }
    }

    /// Time passes in steps until something holds.
    pub(super) async fn until(
        &mut self,
        what: &str,
        step: Duration,
        steps: u32,
        holds: impl AsyncFn(&Sim) -> bool,
    ) {
        self.settle().await;
        for _ in 0..steps {
            if holds(self).await {
                return;
            }
            self.pass(step).await;
        }
        panic!(
            "{what} did not come about; {:#?}\n{:#?}",
            self.open().await,
            self.replicas().await
        );
    }

    /// The rules that hold at every moment.
    async fn check(&mut self) {
        assert_eq!(self.outside.violations(), Vec::<String>::new());
        let Some(environment) = self.environment().await else {
            return;
        };
        let current = self.current().await;
        assert_eq!(
            environment.current,
            current.as_ref().map(|release| release.id),
            "the current release is there"
        );
        assert!(
            !self.served || environment.removing || current.is_some(),
            "a current release never goes away"
        );
        self.served |= current.is_some();
        let running = self
            .open()
            .await
            .into_iter()
            .filter(|rollout| rollout.state.is_running())
            .count();
        assert!(running <= 1, "{running} rollouts run");
    }

    pub(super) async fn environment(&self) -> Option<Environment> {
        let read = self.store.read::<_, crate::DeployError, _>(|tx| {
            Box::pin(async move { Ok(store::environment(tx, &web(), &production()).await?) })
        });
        read.await.unwrap()
    }

    pub(super) async fn current(&self) -> Option<Release> {
        let id = self.environment().await?.current?;
        let read = self.store.read::<_, crate::DeployError, _>(|tx| {
            Box::pin(async move { Ok(store::release(tx, id).await?) })
        });
        read.await.unwrap()
    }

    pub(super) async fn open(&self) -> Vec<Rollout> {
        let read = self.store.read::<_, crate::DeployError, _>(|tx| {
            Box::pin(async move { Ok(store::open_rollouts(tx, None).await?) })
        });
        read.await.unwrap()
    }

    pub(super) async fn replicas(&self) -> Vec<Replica> {
        let read = self.store.read::<_, crate::DeployError, _>(|tx| {
            Box::pin(async move { Ok(store::live_replicas(tx, None).await?) })
        });
        read.await.unwrap()
    }

    pub(super) async fn rollout(&self, id: RolloutId) -> Rollout {
        self.process
            .service
            .rollout(&self.ctx(), id)
            .await
            .unwrap()
            .rollout
    }

    pub(super) async fn events(&self) -> Vec<ondol_store::events::Event> {
        let read = self.store.read::<_, ondol_store::StoreError, _>(|tx| {
            Box::pin(async move { tx.events_after(0, &EventFilter::default(), 10_000).await })
        });
        read.await.unwrap()
    }

    pub(super) async fn append(&self, event: NewEvent) {
        let event = &event;
        self.store
            .write::<_, ondol_store::StoreError, _>(|tx| {
                Box::pin(async move { tx.append(event.clone()).await })
            })
            .await
            .unwrap();
    }

    pub(super) fn request_of(&self, key: &str, number: u8, spec: Arc<Spec>) -> DeployRequest {
        DeployRequest {
            key: key.to_owned(),
            project: web(),
            environment: production(),
            preview: None,
            reason: Reason::Push,
            image: image(number),
            spec,
            model: None,
            run: None,
            commit: None,
            chain: None,
            author: Some("mina".into()),
        }
    }

    /// What somebody who pushed an image wants to see.
    pub(super) fn wanted(&self, number: u8) -> Wanted {
        Wanted {
            image: image(number),
            commit: None,
            model: None,
        }
    }

    /// What became of an image that was asked for by a rollout, without waiting.
    pub(super) async fn standing(&self, id: RolloutId, number: u8) -> Standing {
        let followed = self
            .process
            .service
            .follow(&self.ctx(), id, &self.wanted(number), Duration::ZERO)
            .await;
        followed.unwrap().standing
    }

    /// The newest rollouts of production.
    pub(super) async fn rollouts(&self) -> Vec<Rollout> {
        let read = self.store.read::<_, crate::DeployError, _>(|tx| {
            Box::pin(async move {
                Ok(store::rollouts_before(tx, &web(), &production(), i64::MAX, 100).await?)
            })
        });
        read.await.unwrap()
    }

    /// The image that was accepted last.
    pub(super) async fn accepted(&self) -> Option<Digest> {
        let read = self.store.read::<_, crate::DeployError, _>(|tx| {
            Box::pin(async move { Ok(store::accepted(tx, &web(), &production()).await?) })
        });
        read.await.unwrap().image.map(|image| image.image)
    }

    /// Requests until the answer comes, over deaths: that is what a client with a key does.
    pub(super) async fn request(&mut self, request: DeployRequest) -> RolloutId {
        loop {
            let (service, ctx, again) = (self.process.service.clone(), self.ctx(), request.clone());
            let answer = self
                .mortal(async move { service.request(&ctx, again).await })
                .await;
            match answer {
                Some(answer) => return answer.unwrap().rollout,
                None => self.restart(),
            }
        }
    }

    pub(super) async fn push(&mut self, key: &str, number: u8, spec: Arc<Spec>) -> RolloutId {
        let request = self.request_of(key, number, spec);
        self.request(request).await
    }

    /// Until a rollout has ended or waits for a person.
    pub(super) async fn finish(&mut self, id: RolloutId) -> Rollout {
        self.until(
            "the end of the rollout",
            Duration::from_secs(1),
            100,
            async |sim: &Sim| {
                let state = sim.rollout(id).await.state;
                state.is_final() || state.waits_for_person()
            },
        )
        .await;
        self.rollout(id).await
    }

    /// A push that goes live.
    pub(super) async fn live(&mut self, key: &str, number: u8, spec: Arc<Spec>) -> Rollout {
        let id = self.push(key, number, spec).await;
        let rollout = self.finish(id).await;
        assert_eq!(rollout.state, RolloutState::Done, "{rollout:#?}");
        rollout
    }

    /// Until only what serves is left.
    pub(super) async fn calm(&mut self) {
        self.until("calm", Duration::from_secs(1), 200, async |sim: &Sim| {
            let serving = sim
                .environment()
                .await
                .and_then(|environment| environment.serving);
            sim.open().await.is_empty()
                && sim.replicas().await.iter().all(|replica| {
                    Some(replica.rollout) == serving
                        && replica.state == crate::model::ReplicaState::Ready
                })
        })
        .await;
    }
}

impl Sim {
    /// The project is gone; the next one has not served yet.
    pub(super) fn forgotten(&mut self) {
        self.served = false;
    }

    /// Which engines there are from now on.
    pub(super) fn offer(&mut self, engines: crate::Offer) {
        self.config.engines = engines;
        self.restart();
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn set_config(&mut self, config: Config) {
        self.config = config;
        self.restart();
    }

    pub(super) async fn retain(&mut self) {
        let retain = self.process.retain.clone();
        retain.tick().await.unwrap();
    }

    /// How much time the simulation has taken.
    pub(super) fn clock_seconds(&self) -> f64 {
        self.clock
            .now()
            .since(Timestamp::from_micros(1_800_000_000_000_000))
            .as_secs_f64()
    }
}
