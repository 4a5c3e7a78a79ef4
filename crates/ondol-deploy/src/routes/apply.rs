//! The loop that makes the data plane show what the rows say.
//!
//! The generation is persisted before it is applied and grows by one with every change, so that
//! a gateway can refuse an older one. It must never apply a table that is not the stored one:
//! who left, and with which generation, is known only of stored tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_types::{ErrorKind, Problem, Timestamp};

use super::{RouteTable, plan_routes};
use crate::crash;
use crate::error::DeployError;
use crate::room::Room;
use crate::store;

/// How often the same table is applied again, for a gateway that came up in between.
const REPEAT: Duration = Duration::from_secs(30);

/// Keeps the data plane's routes as the rows say.
pub(crate) struct RoutesLoop {
    room: Arc<Room>,
    /// When a table was applied last, in microseconds; none before the first time.
    applied_at: AtomicI64,
    /// A gateway has had more generations than the rows know: the next one is above this.
    floor: AtomicI64,
}

impl RoutesLoop {
    pub(crate) fn new(room: Arc<Room>) -> Self {
        Self {
            room,
            applied_at: AtomicI64::new(i64::MIN),
            floor: AtomicI64::new(0),
        }
    }

    /// The table that is to be shown, and whether it must be applied.
    async fn persist(&self) -> Result<Option<(RouteTable, bool)>, DeployError> {
        let cache = &self.room.releases;
        let (stored, wanted, generations, unstamped) = self
            .room
            .store
            .read::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    let fleet = store::load_fleet(tx, cache).await?;
                    let unstamped = fleet.rollouts.iter().any(|rollout| {
                        rollout.state.is_routed() && rollout.phase.generation.is_none()
                    });
                    let wanted = plan_routes(&fleet.sets());
                    Ok((
                        store::stored_table(tx).await?,
                        wanted,
                        fleet.generations,
                        unstamped,
                    ))
                })
            })
            .await?;
        if stored.is_none() && wanted.routes.is_empty() {
            return Ok(None);
        }
        let floor = self.floor.load(Ordering::Relaxed);
        let same = generations.newest > floor
            && stored
                .as_ref()
                .is_some_and(|stored| same_content(stored, &wanted));
        if let Some(stored) = stored.filter(|_| same && !unstamped) {
            return Ok(Some((stored, generations.acked < generations.newest)));
        }
        let table = self
            .room
            .store
            .write::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    let fleet = store::load_fleet(tx, cache).await?;
                    let mut table = plan_routes(&fleet.sets());
                    let stored = store::stored_table(tx).await?;
                    let newest = fleet.generations.newest;
                    let same = newest > floor
                        && stored
                            .as_ref()
                            .is_some_and(|stored| same_content(stored, &table));
                    table.generation = if same { newest } else { newest.max(floor) + 1 };
                    if !same {
                        store::store_table(tx, &table).await?;
                    }
                    store::stamp_phases(tx, table.generation).await?;
                    Ok(table)
                })
            })
            .await?;
        self.room.crash.reached(crash::ROUTES_PERSISTED);
        let pending = table.generation > generations.acked;
        Ok(Some((table, pending)))
    }
}

impl RoutesLoop {
    /// Rows that were restored from a backup know fewer generations than the gateways have seen,
    /// and a gateway never goes back.
    async fn catch_up(&self, generation: i64) -> Result<(), Problem> {
        let known = self.room.routes.generation().await?;
        if known > generation {
            self.floor.store(known, Ordering::Relaxed);
            return Err(Problem::new(
                ErrorKind::Conflict,
                "deploy.routes.ahead",
                format!(
                    "a gateway has generation {known}, the database {generation}: numbering goes on from there"
                ),
            ));
        }
        Ok(())
    }
}

fn same_content(one: &RouteTable, other: &RouteTable) -> bool {
    one.routes == other.routes && one.drain == other.drain
}

#[async_trait]
impl Reconciler for RoutesLoop {
    fn name(&self) -> &'static str {
        "deploy.routes"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(5)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let Some((table, pending)) = self.persist().await? else {
            return Ok(Report {
                note: Some("nothing is routed yet".to_owned()),
                ..Report::default()
            });
        };
        let now = self.room.clock.now();
        let last = self.applied_at.load(Ordering::Relaxed);
        let seen = table.routes.len() as u64;
        if !pending && last != i64::MIN && now.since(Timestamp::from_micros(last)) < REPEAT {
            return Ok(Report {
                seen,
                ..Report::default()
            });
        }
        let generation = table.generation;
        if last == i64::MIN {
            self.catch_up(generation).await?;
        }
        let applied = match self.room.routes.apply(table).await {
            Ok(applied) => applied,
            Err(problem) => {
                if problem.kind == ErrorKind::Conflict {
                    self.floor.store(generation, Ordering::Relaxed);
                }
                return Err(problem);
            }
        };
        self.room.crash.reached(crash::ROUTES_APPLIED);
        if applied.generation < generation {
            return Err(Problem::new(
                ErrorKind::Unavailable,
                "deploy.routes.behind",
                format!(
                    "the gateway has generation {}, not {generation}",
                    applied.generation
                ),
            ));
        }
        self.room
            .store
            .write::<_, DeployError, _>(|tx| {
                Box::pin(async move { Ok(store::acknowledge(tx, generation).await?) })
            })
            .await?;
        self.applied_at.store(now.as_micros(), Ordering::Relaxed);
        self.room.crash.reached(crash::ROUTES_ACKNOWLEDGED);
        self.room.wake_environments();
        tracing::debug!(
            routes.generation = generation,
            routes.count = seen,
            gateways.count = applied.gateways,
            "routes applied"
        );
        Ok(Report {
            seen,
            changed: u64::from(pending),
            note: Some(format!(
                "generation {generation} at {} gateways",
                applied.gateways
            )),
            more: false,
        })
    }
}
