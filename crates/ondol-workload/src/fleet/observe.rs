//! What is true about a workload, read from its directory; and the care for those whose shim is
//! gone.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ondol_types::WorkloadId;

use super::{Fleet, Settled, blocking, lock};
use crate::error::EngineError;
use crate::home::{Home, IdentityFile, SpecFile, remove_tree};
use crate::model::{Exit, Observation, WorkloadState};
use crate::procfs::ProcessIdentity;

/// What a directory says.
enum Seen {
    /// Nothing has run that is not superseded: no workload.
    Nothing,
    /// It has a shim, or an exit.
    Known(Box<Observation>),
    /// It may have run, and there is neither shim nor exit.
    Lost(Box<SpecFile>, Box<IdentityFile>),
}

fn look(home: &Home) -> Result<Seen, EngineError> {
    let Some(spec) = home.spec()? else {
        return Ok(Seen::Nothing);
    };
    let identity = home
        .identity()?
        .filter(|identity| identity.incarnation == spec.incarnation);
    let known = |state: WorkloadState, identity: Option<&IdentityFile>| {
        let notices = identity
            .map(|identity| identity.notices.clone())
            .unwrap_or_default();
        Ok(Seen::Known(Box::new(observation(&spec, state, notices))))
    };
    if let Some(exit) = home.exit(spec.incarnation)? {
        return known(WorkloadState::Exited(exit), identity.as_ref());
    }
    let alive = home.is_locked();
    match identity {
        Some(identity) if alive => {
            if let Some(unknown) = home.unknown(spec.incarnation)? {
                return known(unknown, Some(&identity));
            }
            let state = match (&identity.child, identity.started_at) {
                (Some(child), Some(started_at)) => WorkloadState::Running {
                    pid: child.pid,
                    started_at,
                },
                _ => WorkloadState::Starting,
            };
            known(state, Some(&identity))
        }
        None if alive => known(WorkloadState::Starting, None),
        // It may have written its exit and left since that was looked for.
        Some(identity) => match home.exit(spec.incarnation)? {
            Some(exit) => known(WorkloadState::Exited(exit), Some(&identity)),
            None => Ok(Seen::Lost(Box::new(spec), Box::new(identity))),
        },
        // The shim died before the program could have been started.
        None => Ok(Seen::Nothing),
    }
}

fn observation(spec: &SpecFile, state: WorkloadState, notices: Vec<String>) -> Observation {
    Observation {
        id: spec.id,
        incarnation: spec.incarnation,
        project: spec.project.clone(),
        kind: spec.kind,
        labels: spec.labels.clone(),
        state,
        address: spec
            .host_port
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        work_dir: spec.work_dir.clone(),
        notices,
    }
}

impl Fleet {
    /// The workload as it is; a lost one is ended and given its exit first.
    pub(crate) async fn observe(
        &self,
        id: &WorkloadId,
    ) -> Result<Option<Observation>, EngineError> {
        let home = self.home(id);
        match blocking(move || look(&home)).await? {
            Seen::Nothing => Ok(None),
            Seen::Known(observation) => Ok(Some(*observation)),
            Seen::Lost(..) => {
                let gate = self.gate(id);
                let _gate = gate.lock().await;
                self.observe_gated(id).await
            }
        }
    }

    /// The same for a caller that holds the workload's gate.
    pub(super) async fn observe_gated(
        &self,
        id: &WorkloadId,
    ) -> Result<Option<Observation>, EngineError> {
        let home = self.home(id);
        match blocking(move || look(&home)).await? {
            Seen::Nothing => Ok(None),
            Seen::Known(observation) => Ok(Some(*observation)),
            Seen::Lost(spec, identity) => {
                self.crash.reached("workload.settle.before");
                let home = self.home(id);
                let settled = match self.backend.settle(&home, &spec, &identity).await {
                    Ok(settled) => settled,
                    Err(EngineError::Unreachable { reason, .. }) => {
                        let state = WorkloadState::Unknown {
                            since: self.clock.now(),
                            reason,
                        };
                        let notices = identity.notices.clone();
                        return Ok(Some(observation(&spec, state, notices)));
                    }
                    Err(error) => return Err(error),
                };
                let now = self.clock.now();
                let settled =
                    blocking(move || close(&home, &spec, &identity, settled, now)).await?;
                self.crash.reached("workload.settle.after");
                tracing::warn!(workload.id = %id, workload.incarnation = settled.incarnation, "workload lost its shim and was ended");
                self.ended(id);
                Ok(Some(settled))
            }
        }
    }

    fn ended(&self, id: &WorkloadId) {
        lock(&self.ports).release(id);
        self.changed();
    }

    /// Notices the end of a workload's shim, in a task of its own.
    pub(super) fn watch(self: Arc<Self>, id: WorkloadId) {
        tokio::spawn(async move {
            let home = self.home(&id);
            let shim =
                blocking(move || home.identity().ok().flatten().map(|identity| identity.shim))
                    .await;
            if let Some(shim) = shim {
                until_gone(&shim).await;
            }
            // The lock outlives the process by nothing, but a pid is not proof of a lock.
            loop {
                match self.observe(&id).await {
                    Ok(Some(seen)) if matches!(seen.state, WorkloadState::Unknown { .. }) => {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    Ok(Some(seen)) if seen.state.exit().is_none() => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    Ok(_) => break,
                    Err(error) => {
                        tracing::error!(workload.id = %id, error = %error, "workload not observed");
                        break;
                    }
                }
            }
            self.ended(&id);
        });
    }
}

/// Returns when a process has ended, whoever its parent is.
async fn until_gone(process: &ProcessIdentity) {
    let watched = async {
        if !process.is_alive() {
            return Ok(());
        }
        process.watch()?.readable().await.map(drop)
    };
    let result: io::Result<()> = watched.await;
    if result.is_err() {
        // Kernels before 5.3 have no such descriptors.
        while process.is_alive() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Writes the exit of a workload that was ended without its shim.
fn close(
    home: &Home,
    spec: &SpecFile,
    identity: &IdentityFile,
    settled: Settled,
    now: ondol_types::Timestamp,
) -> Result<Observation, EngineError> {
    let secrets = home.path("secrets");
    remove_tree(&secrets).map_err(EngineError::io("remove", &secrets))?;
    let exit = Exit {
        code: None,
        signal: None,
        oom: settled.oom,
        timed_out: false,
        stopped: false,
        lost: true,
        at: now,
        usage: settled.usage,
    };
    home.write_exit(spec.incarnation, &exit)
        .map_err(EngineError::io("write", home.path("exit.json")))?;
    let _ = std::fs::remove_file(home.path("sock"));
    let _ = std::fs::remove_file(home.path("unknown.json"));
    Ok(observation(
        spec,
        WorkloadState::Exited(exit),
        identity.notices.clone(),
    ))
}
