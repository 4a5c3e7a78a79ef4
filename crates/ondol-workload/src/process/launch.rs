//! Starting an incarnation: at most once, whatever dies in between.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ondol_types::WorkloadId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Inner, Netns, NetnsWay, blocking, lock, prepare};
use crate::error::EngineError;
use crate::home::{SpecFile, VERSION};
use crate::model::{PortRequest, Started, WorkloadSpec, WorkloadState};
use crate::ports::is_free;
use crate::wire::{LaunchOrder, LaunchReply, Secrets};

/// How long a shim may take to take over.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(60);

/// The longest reply of a shim.
const MAX_REPLY_BYTES: u64 = 64 << 10;

impl Inner {
    pub(super) async fn start(self: Arc<Self>, spec: WorkloadSpec) -> Result<Started, EngineError> {
        let id = spec.id;
        prepare::check(&spec)?;
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
        let host_port = self.host_port(&spec).await?;
        let launched = self.launch(spec, host_port).await;
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
        tracing::info!(workload.id = %id, workload.incarnation = observation.incarnation, "workload started");
        Ok(Started {
            newly: true,
            address: observation.address,
            observation,
        })
    }

    /// The port of the host at which the workload is reached.
    async fn host_port(&self, spec: &WorkloadSpec) -> Result<Option<u16>, EngineError> {
        match spec.port {
            PortRequest::None => Ok(None),
            PortRequest::Auto => lock(&self.ports).allocate(&spec.id).map(Some),
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
            PortRequest::Fixed(port) => {
                if let Err(reason) = &self.netns().await.way {
                    return Err(EngineError::NetnsForbidden {
                        port,
                        reason: reason.clone(),
                    });
                }
                lock(&self.ports).allocate(&spec.id).map(Some)
            }
        }
    }

    async fn launch(&self, spec: WorkloadSpec, host_port: Option<u16>) -> Result<(), EngineError> {
        let id = spec.id;
        let home = self.home(&id);
        let (spec, work_dir) = blocking(move || {
            let work_dir = prepare::directories(&home, &spec)?;
            Ok::<_, EngineError>((spec, work_dir))
        })
        .await?;
        self.crash.reached("workload.start.prepared");
        let mut notices = Vec::new();
        let mut outbound = None;
        let mut user_namespace = false;
        if let PortRequest::Fixed(_) = spec.port {
            let netns = self.netns().await;
            user_namespace = netns.way == Ok(NetnsWay::UserNamespace);
            outbound = netns.outbound.clone();
            if outbound.is_none() {
                notices.push("service.port is fixed, so it has a network of its own, and here that has no way out".to_owned());
            }
        }
        let needs_memory = spec.limits.memory_bytes.is_some() || spec.limits.cpu_cores.is_some();
        if needs_memory && self.cgroups.dirs.is_none() {
            notices.push("its limits on memory and processor are not enforced: this host has no control groups for it".to_owned());
        }
        let secrets = Secrets {
            env: spec.secret_env,
            files: spec.secret_files,
            masks: spec.masks,
        };
        let stored = SpecFile {
            v: VERSION,
            id,
            incarnation: spec.incarnation,
            project: spec.project,
            kind: spec.kind,
            labels: spec.labels,
            command: spec.command,
            env: spec.env,
            secret_env: secrets.env.keys().cloned().collect(),
            secret_files: secrets.files.keys().cloned().collect(),
            work_dir,
            volumes: spec.volumes,
            port: spec.port,
            host_port,
            limits: spec.limits,
            stop: spec.stop,
            timeout: spec.timeout,
            log: spec.log,
        };
        let order = LaunchOrder::new(
            stored,
            &secrets,
            self.config.path.clone(),
            self.config.base_env.clone(),
            self.config.tool_dir.clone(),
            self.config.shim_command.clone(),
            self.cgroups.dirs.clone(),
            user_namespace,
            outbound,
            notices,
        );
        self.hand_over(id, &order).await
    }

    /// Starts a shim and gives it its order.
    async fn hand_over(&self, id: WorkloadId, order: &LaunchOrder) -> Result<(), EngineError> {
        let failed = |reason: String| EngineError::Shim { id, reason };
        let dir = self.home(&id).dir().to_owned();
        let errors = dir.join("shim.err");
        let stderr = std::fs::File::create(&errors).map_err(EngineError::io("make", &errors))?;
        let mut command = shim(&self.config.shim_command);
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

    /// What the host allows for network namespaces, tried once.
    pub(super) async fn netns(&self) -> &Netns {
        self.netns
            .get_or_init(|| async {
                let privileged = self.probe("root").await;
                let way = match privileged {
                    Ok(()) => Ok(NetnsWay::Privileged),
                    Err(_) => self.probe("user").await.map(|()| NetnsWay::UserNamespace),
                };
                let candidates = [
                    "/usr/bin/slirp4netns",
                    "/usr/local/bin/slirp4netns",
                    "/bin/slirp4netns",
                ];
                let has_tun = std::fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open("/dev/net/tun")
                    .is_ok();
                let outbound = candidates
                    .iter()
                    .map(PathBuf::from)
                    .find(|path| has_tun && path.is_file());
                Netns { way, outbound }
            })
            .await
    }

    async fn probe(&self, kind: &str) -> Result<(), String> {
        let mut command = shim(&self.config.shim_command);
        command
            .args(["probe", kind])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        match tokio::time::timeout(Duration::from_secs(10), command.kill_on_drop(true).output())
            .await
        {
            Ok(Ok(output)) => match String::from_utf8_lossy(&output.stdout).trim() {
                "ready" => Ok(()),
                "" => Err("the probe did not answer".to_owned()),
                said => Err(said.to_owned()),
            },
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the probe did not end".to_owned()),
        }
    }
}

/// A shim with nothing of this process's environment, in a directory that is always there.
fn shim(command: &[std::ffi::OsString]) -> tokio::process::Command {
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
