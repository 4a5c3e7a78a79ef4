//! Decisions, pure: what the rows and the world say → what to record and what to do.
//!
//! One environment at a time. Records come first: while there are any, effects wait for the next
//! reading. Nothing here may stop a replica that a gateway still knows, repeat a release
//! command, or leave the current release without its replicas; the property tests hold it to
//! that.

mod canary;
mod engine;
mod replicas;
mod rollout;
mod scale;
mod shift;
mod standing;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ondol_types::{ReleaseId, ReplicaId, RolloutId, Timestamp, WorkloadId};
use ondol_workload::Exit;
use ondol_workload::backoff::Backoff;

use crate::model::{
    Command, Environment, Phase, Probe, Probes, Release, Replica, ReplicaState, Rollout,
    RolloutState, Scale,
};
use crate::routes::Counters;
use crate::store::Ended;

pub(crate) use canary::{Decision, Stand, decide};
pub(crate) use engine::choose;
pub use engine::{EngineKind, Offer};
pub(crate) use scale::{Load, Sample, bounds, judge, wanted};
pub(crate) use standing::standing;
pub use standing::{Standing, Wanted};

/// How long things may take when nobody said so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Unpacking and starting of one replica.
    pub(crate) prepare: Duration,
    /// From the decision to swap to the last gateway's acknowledgement.
    pub(crate) swap: Duration,
    /// Ends of new replicas in a row after which a rollout gives up.
    pub(crate) tries: u32,
    /// Between two probes of a replica that is ready.
    pub(crate) watch: Duration,
    /// Failed probes in a row after which a ready replica counts as unhealthy.
    pub(crate) unhealthy: u32,
    /// An unhealthy replica is started anew after this.
    pub(crate) recycle: Duration,
    /// Between two looks at what still drains, and at a canary.
    pub(crate) look: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            prepare: Duration::from_secs(600),
            swap: Duration::from_secs(120),
            tries: 5,
            watch: Duration::from_secs(5),
            unhealthy: 3,
            recycle: Duration::from_secs(300),
            look: Duration::from_millis(200),
        }
    }
}

/// The rows of one environment.
pub(crate) struct World<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) running: Option<&'a Rollout>,
    pub(crate) pending: Option<&'a Rollout>,
    pub(crate) held: Option<&'a Rollout>,
    pub(crate) command: Option<&'a Command>,
    /// Not stopped.
    pub(crate) replicas: Vec<&'a Replica>,
    pub(crate) releases: &'a BTreeMap<ReleaseId, std::sync::Arc<Release>>,
    /// The newest generation that every live gateway had.
    pub(crate) acked: i64,
}

/// What the engine says about an incarnation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Seen {
    /// It runs, or is about to.
    Up,
    /// It has ended.
    Exited(Exit),
    /// The engine knows nothing of it, or only of an older one.
    Missing,
}

/// The world as it was seen after the rows were read.
pub(crate) struct Sight<'a> {
    pub(crate) now: Timestamp,
    /// When this process began: what waited for a dead process gets its time anew.
    pub(crate) boot: Timestamp,
    /// By workload and incarnation.
    pub(crate) workloads: &'a BTreeMap<(WorkloadId, u64), Seen>,
    pub(crate) probes: &'a BTreeMap<ReplicaId, Probes>,
    /// `None` when the gateway could not be asked.
    pub(crate) counters: Option<&'a Counters>,
    /// The load of releases that are to be scaled by it.
    pub(crate) samples: &'a BTreeMap<ReleaseId, Vec<Sample>>,
    /// Effects under way.
    pub(crate) busy: &'a BTreeSet<Effect>,
    pub(crate) limits: &'a Limits,
    pub(crate) backoff: &'a Backoff,
}

impl Sight<'_> {
    fn seen(&self, replica: &Replica) -> Seen {
        self.workloads
            .get(&(replica.workload, replica.incarnation))
            .cloned()
            .unwrap_or(Seen::Missing)
    }

    /// Since when something waits, as far as this process could have moved it.
    fn since(&self, moment: Timestamp) -> Timestamp {
        moment.max(self.boot)
    }
}

/// A change of rows. Each is one transaction that checks again what it assumes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    /// A rollout moves on.
    Move {
        rollout: RolloutId,
        from: RolloutState,
        to: RolloutState,
        step: u32,
        message: String,
    },
    /// A newer rollout takes the place of one that has not swapped.
    Supersede {
        rollout: RolloutId,
        from: RolloutState,
        by: RolloutId,
    },
    /// The step is measured from now on.
    Measure {
        rollout: RolloutId,
        state: RolloutState,
        phase: Phase,
    },
    /// The new release is current.
    Finish { rollout: RolloutId },
    /// Replicas of a rollout, up to `want`.
    Add {
        rollout: RolloutId,
        release: ReleaseId,
        want: u32,
    },
    /// A replica answers.
    Ready {
        replica: ReplicaId,
        incarnation: u64,
        probes: Vec<Probe>,
    },
    /// A replica no longer answers.
    Unhealthy {
        replica: ReplicaId,
        incarnation: u64,
        probes: Vec<Probe>,
        detail: String,
    },
    /// A replica's program has ended.
    Failed {
        replica: ReplicaId,
        incarnation: u64,
        from: ReplicaState,
        ended: Ended,
    },
    /// A replica is to be started once more.
    Restart {
        replica: ReplicaId,
        incarnation: u64,
    },
    /// A replica is to leave.
    Drain {
        replica: ReplicaId,
        incarnation: u64,
        from: ReplicaState,
    },
    /// A replica has ended for good.
    Stopped {
        replica: ReplicaId,
        incarnation: u64,
    },
    /// The load was judged.
    Scale {
        /// When it was judged before.
        before: Option<Timestamp>,
        /// What is to be kept.
        scale: Scale,
        /// The number of replicas is another one.
        changes: bool,
    },
    /// Nothing of an environment on its way out is left.
    Removed,
}

/// Something to do outside the database. Each is idempotent, and known by what it is: the same
/// one is never under way twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effect {
    /// Compose the release of a pending rollout.
    Compose(RolloutId),
    /// Intend and start the release command.
    Command(RolloutId),
    /// Find out what became of a release command that another process intended.
    Resolve(RolloutId),
    /// Wait for the end of the release command.
    Await(RolloutId),
    /// Unpack and start an incarnation of a replica.
    Start(ReplicaId, u64),
    /// Ask an incarnation whether it is ready.
    Probe(ReplicaId, u64),
    /// End an incarnation that does not answer, so that another one is started.
    Recycle(ReplicaId, u64),
    /// Stop a replica for good.
    Stop(ReplicaId),
    /// Gather what is known about a failure, and record it.
    Fail(RolloutId, Cause),
}

/// Why a rollout fails.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cause {
    /// In words.
    pub(crate) message: String,
    /// The replica that shows it.
    pub(crate) replica: Option<ReplicaId>,
    /// The release command shows it.
    pub(crate) command: bool,
}

/// What to record, what to do, and when to look again at the latest.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) records: Vec<Record>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) next: Option<Timestamp>,
}

impl Plan {
    fn record(&mut self, record: Record) {
        self.records.push(record);
    }

    fn effect(&mut self, sight: &Sight<'_>, effect: Effect) {
        if !sight.busy.contains(&effect) {
            self.effects.push(effect);
        }
    }

    fn look_at(&mut self, moment: Timestamp) {
        self.next = Some(self.next.map_or(moment, |next| next.min(moment)));
    }
}

/// Decides for one environment.
pub(crate) fn plan(world: &World<'_>, sight: &Sight<'_>) -> Plan {
    let mut plan = Plan::default();
    if world.environment.removing {
        replicas::plan_removal(world, sight, &mut plan);
    } else {
        rollout::plan_rollout(world, sight, &mut plan);
        replicas::plan_replicas(world, sight, &mut plan);
        scale::plan_scale(world, sight, &mut plan);
    }
    if !plan.records.is_empty() {
        // What is recorded changes what is to be done.
        plan.effects.clear();
    }
    plan
}

impl World<'_> {
    fn release(&self, id: Option<ReleaseId>) -> Option<&Release> {
        self.releases.get(&id?).map(|release| &**release)
    }

    /// How many replicas a release is to have.
    fn wanted(&self, release: &Release) -> u32 {
        self.environment
            .replicas
            .unwrap_or_else(|| {
                scale::wanted(&release.config.service, self.environment.scale.as_ref())
            })
            .min(crate::MAX_REPLICAS)
    }

    /// Replicas that count among those a rollout wants.
    fn of(&self, rollout: RolloutId) -> impl Iterator<Item = &Replica> {
        self.replicas
            .iter()
            .copied()
            .filter(move |replica| replica.rollout == rollout && replica.state.is_wanted())
    }
}

#[cfg(test)]
mod tests;
