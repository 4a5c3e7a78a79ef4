//! What an engine can do, asked once per engine that answers, and told to people.

use std::path::Path;
use std::sync::PoisonError;

use bollard::Docker;
use bollard::models::SystemInfoCgroupDriverEnum;

use super::Host;
use super::firewall;
use crate::fleet::blocking;
use crate::model::{Capabilities, CgroupVersion, ContainerCapabilities};

/// Where Podman looks for a first process, as distributions place it.
const INIT_PLACES: [&str; 5] = [
    "/usr/libexec/podman/catatonit",
    "/usr/lib/podman/catatonit",
    "/usr/bin/catatonit",
    "/usr/bin/tini",
    "/usr/bin/dumb-init",
];

/// Where Podman's name servers for networks are.
const NAME_SERVER_PLACES: [&str; 4] = [
    "/usr/lib/podman/aardvark-dns",
    "/usr/libexec/podman/aardvark-dns",
    "/usr/local/libexec/podman/aardvark-dns",
    "/usr/lib/cni/dnsname",
];

/// What is known of the engine.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) engine: String,
    address: String,
    pub(super) podman: bool,
    /// Its version, of Podman; of one that does not say it, the lowest.
    pub(super) podman_version: Option<(u32, u32)>,
    rootless: bool,
    /// All that containers can have; 0 when it is not known.
    pub(super) memory_bytes: u64,
    /// Whether control groups are made where this host shows them, by path.
    pub(super) groups_here: bool,
    pub(super) init: bool,
    service_names: bool,
    cgroups: CgroupVersion,
    memory: bool,
    cpu: bool,
    pids: bool,
    /// What every workload should know.
    pub(super) notices_for_workloads: Vec<String>,
}

impl Facts {
    /// What a usual engine can do, while none answers.
    fn assumed() -> Self {
        Self {
            engine: String::new(),
            address: String::new(),
            podman: false,
            podman_version: None,
            rootless: false,
            memory_bytes: 0,
            groups_here: false,
            init: true,
            service_names: true,
            cgroups: CgroupVersion::V2,
            memory: true,
            cpu: true,
            pids: true,
            notices_for_workloads: Vec::new(),
        }
    }

    async fn ask(address: String, docker: &Docker) -> Result<Self, bollard::errors::Error> {
        let version = docker.version().await?;
        let info = docker.info().await?;
        let product = version
            .components
            .as_ref()
            .and_then(|components| components.first())
            .map_or_else(
                || "Docker Engine".to_owned(),
                |component| component.name.clone(),
            );
        let podman = product.to_lowercase().contains("podman");
        let rootless = info
            .security_options
            .iter()
            .flatten()
            .any(|option| option.contains("rootless"));
        let any = |places: &[&str]| places.iter().any(|place| Path::new(place).is_file());
        let init = if podman {
            any(&INIT_PLACES)
        } else {
            info.init_binary
                .as_deref()
                .is_some_and(|init| !init.is_empty())
        };
        let mut notices_for_workloads = Vec::new();
        if !init {
            notices_for_workloads.push(
                "the container engine has no small first process (package catatonit), so the program must handle the stop signal itself"
                    .to_owned(),
            );
        }
        let cgroups = match info.cgroup_version {
            Some(bollard::models::SystemInfoCgroupVersionEnum::_1) => CgroupVersion::V1,
            _ => CgroupVersion::V2,
        };
        let podman_version = podman.then(|| {
            let text = version.version.as_deref().unwrap_or_default();
            let mut numbers = text.split('.').map_while(|part| part.parse().ok());
            let mut next = || numbers.next().unwrap_or(0);
            (next(), next())
        });
        let by_path = info.cgroup_driver == Some(SystemInfoCgroupDriverEnum::CGROUPFS);
        let groups_here = by_path && !rootless && address.starts_with("unix:");
        Ok(Self {
            engine: format!("{product} {}", version.version.unwrap_or_default()),
            address,
            podman,
            podman_version,
            rootless,
            memory_bytes: info
                .mem_total
                .and_then(|bytes| u64::try_from(bytes).ok())
                .unwrap_or(0),
            groups_here,
            init,
            service_names: !podman || any(&NAME_SERVER_PLACES),
            cgroups,
            memory: info.memory_limit.unwrap_or(true),
            cpu: info.cpu_cfs_quota.unwrap_or(true),
            pids: info.pids_limit.unwrap_or(true),
            notices_for_workloads,
        })
    }
}

impl Host {
    /// What is known, or assumed while the engine does not answer.
    pub(super) async fn facts(&self) -> Facts {
        let Ok((address, docker)) = self.finder.client().await else {
            return self.known().unwrap_or_else(Facts::assumed);
        };
        let address = address.to_string();
        if let Some(facts) = self.known().filter(|facts| facts.address == address) {
            return facts;
        }
        match Facts::ask(address, &docker).await {
            Ok(facts) => {
                *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = Some(facts.clone());
                facts
            }
            Err(error) => {
                tracing::warn!(workload.engine = "container", error = %error, "the engine does not say what it can do");
                Facts::assumed()
            }
        }
    }

    fn known(&self) -> Option<Facts> {
        self.facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Keeps the networks of projects apart, where the engine does not.
    pub(super) async fn keep_apart(&self, facts: &Facts) -> Result<(), String> {
        if !facts.podman {
            return Ok(());
        }
        if facts.rootless {
            return Err("Podman without root's rights keeps them apart only as far as its network helper does".to_owned());
        }
        blocking(firewall::keep_apart).await
    }

    pub(super) async fn capabilities(&self) -> Capabilities {
        let reached = self.finder.client().await;
        let facts = self.facts().await;
        let mut notices = facts.notices_for_workloads.clone();
        if let Err(error) = &reached {
            notices.push(error.to_string());
        }
        let apart = self.keep_apart(&facts).await;
        if let Err(why) = &apart {
            notices.push(format!(
                "the networks of projects are not kept apart: {why}"
            ));
        }
        if !facts.service_names {
            notices.push(
                "workloads do not find each other by name: that needs the package aardvark-dns"
                    .to_owned(),
            );
        }
        Capabilities {
            cgroups: facts.cgroups,
            memory_limit: facts.memory,
            cpu_limit: facts.cpu,
            pids_limit: facts.pids,
            netns: true,
            netns_outbound: true,
            container: Some(ContainerCapabilities {
                reachable: reached.is_ok(),
                engine: facts.engine,
                address: facts.address,
                rootless: facts.rootless,
                init: facts.init,
                isolated_networks: apart.is_ok(),
                service_names: facts.service_names,
            }),
            notices,
        }
    }
}
