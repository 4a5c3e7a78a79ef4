//! Everything that reconcilers look at, in one consistent reading.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use ondol_store::{StoreError, Tx};
use ondol_types::{EnvironmentName, ProjectName, ReleaseId, RolloutId};

use super::{
    Generations, command, environments, generations, live_replicas, open_rollouts, release,
};
use crate::model::{Command, Environment, Release, Replica, Rollout, RolloutState};
use crate::routes::Set;

/// Releases by id. They are immutable apart from two moments at their end that no plan reads, so
/// each is read and parsed once.
#[derive(Default)]
pub(crate) struct ReleaseCache(Mutex<HashMap<ReleaseId, Arc<Release>>>);

impl ReleaseCache {
    fn get(&self, id: ReleaseId) -> Option<Arc<Release>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    fn keep(&self, releases: &BTreeMap<ReleaseId, Arc<Release>>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *all = releases
            .iter()
            .map(|(id, release)| (*id, release.clone()))
            .collect();
    }
}

/// All environments with what is alive in them.
#[derive(Default)]
pub(crate) struct Fleet {
    pub(crate) environments: Vec<Environment>,
    pub(crate) rollouts: Vec<Rollout>,
    pub(crate) commands: BTreeMap<RolloutId, Command>,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) releases: BTreeMap<ReleaseId, Arc<Release>>,
    pub(crate) generations: Generations,
}

pub(crate) async fn load_fleet(tx: &mut Tx<'_>, cache: &ReleaseCache) -> Result<Fleet, StoreError> {
    let mut fleet = Fleet {
        environments: environments(tx, None).await?,
        rollouts: open_rollouts(tx, None).await?,
        replicas: live_replicas(tx, None).await?,
        generations: generations(tx).await?,
        ..Fleet::default()
    };
    for rollout in &fleet.rollouts {
        if rollout.state == RolloutState::ReleaseCommand
            && let Some(found) = command(tx, rollout.id).await?
        {
            fleet.commands.insert(rollout.id, found);
        }
    }
    let mut wanted: BTreeSet<ReleaseId> = fleet
        .replicas
        .iter()
        .map(|replica| replica.release)
        .collect();
    wanted.extend(
        fleet
            .environments
            .iter()
            .filter_map(|environment| environment.current),
    );
    wanted.extend(fleet.rollouts.iter().filter_map(|rollout| rollout.to));
    for id in wanted {
        let found = match cache.get(id) {
            Some(found) => Some(found),
            None => release(tx, id).await?.map(Arc::new),
        };
        if let Some(found) = found {
            fleet.releases.insert(id, found);
        }
    }
    cache.keep(&fleet.releases);
    Ok(fleet)
}

impl Fleet {
    /// The rows that decide routes, per environment.
    pub(crate) fn sets(&self) -> Vec<Set<'_>> {
        type Place<'a> = (&'a ProjectName, &'a EnvironmentName);
        let mut replicas: HashMap<Place<'_>, Vec<&Replica>> = HashMap::new();
        for replica in &self.replicas {
            replicas
                .entry((&replica.project, &replica.environment))
                .or_default()
                .push(replica);
        }
        let mut running: HashMap<Place<'_>, &Rollout> = HashMap::new();
        for rollout in self
            .rollouts
            .iter()
            .filter(|rollout| rollout.state.is_running())
        {
            running.insert((&rollout.project, &rollout.environment), rollout);
        }
        self.environments
            .iter()
            .map(|environment| {
                let place = (&environment.project, &environment.name);
                let find = |id: ReleaseId| self.releases.get(&id).map(|release| &**release);
                Set {
                    environment,
                    current: environment.current.and_then(find),
                    rollout: running
                        .get(&place)
                        .and_then(|rollout| Some((*rollout, rollout.to.and_then(find)?))),
                    replicas: replicas.remove(&place).unwrap_or_default(),
                    releases: &self.releases,
                }
            })
            .collect()
    }
}
