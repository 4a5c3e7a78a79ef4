//! Handing an incarnation to a shim, and ending what is left when the shim is gone.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Host, Netns, NetnsWay, blocking, prepare};
use crate::error::EngineError;
use crate::fleet::{Backend, Fleet, Settled, shim};
use crate::home::{Home, IdentityFile, SpecFile, VERSION, marker};
use crate::model::{PortRequest, Usage, WorkloadSpec};
use crate::procfs;
use crate::wire::{LaunchOrder, Secrets};

/// How long the rest of a lost workload is killed for.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

#[async_trait::async_trait]
impl Backend for Host {
    async fn admit(&self, spec: &WorkloadSpec) -> Result<(), EngineError> {
        if spec.container.is_some() {
            return Err(EngineError::Spec {
                id: spec.id,
                problem: "it needs a root filesystem of its own, which the process engine does not have; the container engine does".to_owned(),
            });
        }
        if let PortRequest::Fixed(port) = spec.port
            && let Err(reason) = &self.netns().await.way
        {
            return Err(EngineError::NetnsForbidden {
                port,
                reason: reason.clone(),
            });
        }
        Ok(())
    }

    async fn launch(
        &self,
        fleet: &Fleet,
        spec: WorkloadSpec,
        host_port: Option<u16>,
    ) -> Result<(), EngineError> {
        let id = spec.id;
        let home = fleet.home(&id);
        let (spec, work_dir) = blocking(move || {
            let work_dir = prepare::directories(&home, &spec)?;
            Ok::<_, EngineError>((spec, work_dir))
        })
        .await?;
        fleet.reached("workload.start.prepared");
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
            container: None,
        };
        let order = LaunchOrder::new(
            stored,
            &secrets,
            self.path.clone(),
            self.base_env.clone(),
            self.tool_dir.clone(),
            self.shim_command.clone(),
            self.cgroups.dirs.clone(),
            user_namespace,
            outbound,
            notices,
        );
        fleet.hand_over(id, &order).await
    }

    async fn settle(
        &self,
        home: &Home,
        spec: &SpecFile,
        identity: &IdentityFile,
    ) -> Result<Settled, EngineError> {
        let _ = home;
        let (id, identity) = (spec.id, identity.clone());
        Ok(blocking(move || end_rest(&marker(&id), &identity)).await)
    }
}

/// Ends everything that a workload without a shim has left.
fn end_rest(marker: &str, identity: &IdentityFile) -> Settled {
    let mut usage = Usage::default();
    let mut oom = false;
    if let Some(group) = identity.cgroup.as_ref().filter(|_| same_boot(identity)) {
        group.kill_all(KILL_PATIENCE);
        usage.cpu_seconds = group.usage().0.unwrap_or(0.0);
        usage.memory_bytes = group.peak_memory().unwrap_or(0);
        oom = group.oom_killed();
        group.remove();
    }
    if same_boot(identity) {
        let rest = || procfs::left_behind(marker, identity.child.as_ref());
        let deadline = Instant::now() + KILL_PATIENCE;
        while !rest().is_empty() && Instant::now() < deadline {
            procfs::kill_round(rest);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Settled { oom, usage }
}

/// After a restart of the machine nothing of a workload can live, and pids mean others.
fn same_boot(identity: &IdentityFile) -> bool {
    procfs::boot_id().as_ref() == Some(&identity.shim.boot_id)
}

impl Host {
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
        let mut command = shim(&self.shim_command);
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
