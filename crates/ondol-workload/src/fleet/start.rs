//! Starting an incarnation: at most once, whatever dies in between.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ondol_types::WorkloadId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Fleet, lock};
use crate::error::EngineError;
use crate::model::{PortRequest, Started, WorkloadSpec, WorkloadState};
use crate::ports::is_free;
use crate::wire::{LaunchOrder, LaunchReply};

/// How long a shim may take to take over.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(60);

/// The longest reply of a shim.
const MAX_REPLY_BYTES: u64 = 64 << 10;

impl Fleet {
    /// Starts an incarnation, or observes it when it has been started before. The work goes on
    /// when the caller goes away: a shim must not be left that nobody watches.
    pub(crate) async fn start(
        self: &Arc<Self>,
        spec: WorkloadSpec,
    ) -> Result<Started, EngineError> {
        let this = self.clone();
        let id = spec.id;
        let started = tokio::spawn(async move { this.start_here(spec).await }).await;
        started.unwrap_or_else(|error| {
            Err(EngineError::Shim {
                id,
                reason: error.to_string(),
            })
        })
    }

    async fn start_here(self: Arc<Self>, spec: WorkloadSpec) -> Result<Started, EngineError> {
        let id = spec.id;
        spec.check()?;
        let gate = self.gate(&id);
        let _gate = gate.lock().await;
        if let Some(observation) = self.observe_gated(&id).await? {
            if observation.incarnation == spec.incarnation {
                return Ok(Started {
                    newly: false,
                    address: observation.address,
                    observation,
                });
            }
            if observation.state.exit().is_none() {
                return Err(EngineError::Running {
                    id,
                    incarnation: observation.incarnation,
                });
            }
            if observation.incarnation > spec.incarnation {
                return Err(EngineError::Stale {
                    id,
                    asked: spec.incarnation,
                    known: observation.incarnation,
                });
            }
        }
        self.backend.admit(&spec).await?;
        let host_port = self.host_port(&spec)?;
        let backend = self.backend.clone();
        let launched = backend.launch(&self, spec, host_port).await;
        if launched.is_err() {
            lock(&self.ports).release(&id);
        }
        launched?;
        self.crash.reached("workload.start.launched");
        let observation = self
            .observe_gated(&id)
            .await?
            .ok_or_else(|| EngineError::Shim {
                id,
                reason: "it has left nothing behind".to_owned(),
            })?;
        if matches!(observation.state, WorkloadState::Exited(_)) {
            lock(&self.ports).release(&id);
        } else {
            self.clone().watch(id);
        }
        self.changed();
        tracing::info!(workload.id = %id, workload.incarnation = observation.incarnation, workload.engine = self.engine, "workload started");
        Ok(Started {
            newly: true,
            address: observation.address,
            observation,
        })
    }

    /// The port of the host at which the workload is reached.
    fn host_port(&self, spec: &WorkloadSpec) -> Result<Option<u16>, EngineError> {
        match spec.port {
            PortRequest::None => Ok(None),
            PortRequest::Auto | PortRequest::Fixed(_) => {
                lock(&self.ports).allocate(&spec.id).map(Some)
            }
            PortRequest::Assigned(port) => {
                lock(&self.ports).reserve(port, &spec.id)?;
                if !is_free(port) {
                    lock(&self.ports).release(&spec.id);
                    return Err(EngineError::PortTaken {
                        port,
                        owner: "another program of this host".to_owned(),
                    });
                }
                Ok(Some(port))
            }
        }
    }

    /// Starts a shim and gives it its order.
    pub(crate) async fn hand_over(
        &self,
        id: WorkloadId,
        order: &LaunchOrder,
    ) -> Result<(), EngineError> {
        let failed = |reason: String| EngineError::Shim { id, reason };
        let dir = self.home(&id).dir().to_owned();
        let errors = dir.join("shim.err");
        let stderr = std::fs::File::create(&errors).map_err(EngineError::io("make", &errors))?;
        let mut command = shim(&self.shim_command);
        command
            .arg("run")
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        // Reaped whenever it ends, which may be long after this engine.
        let reaped = tokio::spawn(async move { child.wait().await });
        let talk = async {
            let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
                return Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
            };
            let bytes = order.encode()?;
            stdin.write_all(bytes.expose()).await?;
            drop(stdin);
            let mut reply = Vec::new();
            stdout.take(MAX_REPLY_BYTES).read_to_end(&mut reply).await?;
            Ok(reply)
        };
        let reply = match tokio::time::timeout(LAUNCH_PATIENCE, talk).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => return Err(failed(with_errors(&errors, &error.to_string()))),
            Err(_) => {
                // It may yet take over; then the next look at the directory finds it running.
                reaped.abort();
                return Err(failed("it did not answer in time".to_owned()));
            }
        };
        match serde_json::from_slice(&reply) {
            Ok(LaunchReply::Started) => Ok(()),
            Ok(LaunchReply::Failed(reason)) => Err(failed(reason)),
            Err(_) => Err(failed(with_errors(&errors, "it ended without an answer"))),
        }
    }
}

/// A shim with nothing of this process's environment, in a directory that is always there.
pub(crate) fn shim(command: &[std::ffi::OsString]) -> tokio::process::Command {
    let program = command.first().cloned().unwrap_or_default();
    let mut shim = tokio::process::Command::new(program);
    shim.args(command.iter().skip(1))
        .env_clear()
        .current_dir("/");
    shim
}

fn with_errors(path: &Path, reason: &str) -> String {
    let said = std::fs::read(path).unwrap_or_default();
    let said = String::from_utf8_lossy(&said[..said.len().min(2_000)])
        .trim()
        .to_owned();
    if said.is_empty() {
        reason.to_owned()
    } else {
        format!("{reason}: {said}")
    }
}
