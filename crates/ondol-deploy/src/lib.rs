#![doc = include_str!("../README.md")]

mod crash;
mod error;
mod execute;
mod follow;
mod forget;
mod model;
mod plan;
mod ports;
mod reconcile;
mod record;
mod retain;
mod room;
mod routes;
mod sample;
mod service;
mod store;

use std::sync::Arc;

use ondol_background::{Activator, Background, Reconciler};

pub use crash::CRASH_POINTS;
pub use error::DeployError;
pub use model::{
    Command, CommandState, Environment, Failure, Hold, Kind, ModelRef, Peak, Phase, Preview, Probe,
    Reason, Release, ReleaseConfig, Replica, ReplicaState, Rollout, RolloutState, Scale,
};
pub use plan::{EngineKind, Offer, Standing, Wanted};
pub use ports::{ImageConfig, Images, Models, Routes, SecretValues};
pub use room::{Config, Deps};
pub use routes::{
    Applied, Backend, Counters, Drain, Endpoint, Histogram, Hosts, ReleaseTraffic, ReplicaTraffic,
    Route, RouteTable, path_of,
};
pub use service::{
    DeployRequest, DeployService, EnvironmentStatus, Followed, Page, ReplicaStatus, Requested,
    RolloutView, Scaling, Traffic,
};
pub use store::MIGRATIONS;

/// The most replicas that an environment may have.
pub const MAX_REPLICAS: u32 = 100;

/// The room, built: its operations and its loops.
pub struct Deploy {
    service: DeployService,
    loops: Vec<(Arc<dyn Reconciler>, Activator)>,
    follow: Activator,
    room: Arc<room::Room>,
}

impl Deploy {
    /// Builds the room. Nothing runs before [`Deploy::spawn`].
    pub fn build(deps: Deps, config: Config) -> Self {
        Self::assemble(Arc::new(room::Room::new(deps, config)))
    }

    fn assemble(room: Arc<room::Room>) -> Self {
        let follow = Activator::new();
        let loops: Vec<(Arc<dyn Reconciler>, Activator)> = vec![
            (
                Arc::new(reconcile::EnvironmentsLoop::new(room.clone())),
                room.environments.clone(),
            ),
            (
                Arc::new(routes::RoutesLoop::new(room.clone())),
                room.route.clone(),
            ),
            (
                Arc::new(follow::FollowLoop { room: room.clone() }),
                follow.clone(),
            ),
            (
                Arc::new(retain::RetainLoop { room: room.clone() }),
                Activator::new(),
            ),
            (
                Arc::new(sample::SampleLoop { room: room.clone() }),
                Activator::new(),
            ),
        ];
        Self {
            service: DeployService::new(room.clone()),
            loops,
            follow,
            room,
        }
    }

    /// The operations.
    pub fn service(&self) -> DeployService {
        self.service.clone()
    }

    /// The loops, each with what wakes it.
    pub fn reconcilers(&self) -> &[(Arc<dyn Reconciler>, Activator)] {
        &self.loops
    }

    /// Starts the loops, and wakes them whenever the engine or the log has news.
    pub fn spawn(&self, background: &Background) {
        for (reconciler, activator) in &self.loops {
            background.spawn(reconciler.clone(), activator.clone());
        }
        let stopping = background.stopping();
        let (mut changes, room) = (self.room.engine.changes(), self.room.clone());
        tokio::spawn(stopping.clone().run_until_cancelled_owned(async move {
            while changes.changed().await.is_ok() {
                room.wake_environments();
            }
        }));
        let (mut appended, follow) = (self.room.store.appended(), self.follow.clone());
        tokio::spawn(stopping.run_until_cancelled_owned(async move {
            while appended.changed().await.is_ok() {
                follow.wake();
            }
        }));
    }

    /// Asks the routes to be applied again, for example when a gateway came up.
    pub fn wake_routes(&self) {
        self.room.wake_routes();
    }
}

#[cfg(test)]
mod tests;
