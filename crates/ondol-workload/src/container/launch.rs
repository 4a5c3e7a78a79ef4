//! Making a container for an incarnation and handing it to a shim, and ending one whose shim is
//! gone.
//!
//! The engine is asked in this order: image, network, volumes, container, files. A death in
//! between leaves things that carry our labels and belong to no living workload; the next attempt
//! or the sweep removes them. The container is started by the shim alone, after it has written
//! down that it may run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, RemoveContainerOptions,
    UploadToContainerOptions,
};
use ondol_types::WorkloadId;
use rustix::process::{Resource, Signal, getrlimit};

use super::body::{self, HARMLESS, Plan};
use super::client::{connect, failed, is_missing};
use super::image::Image;
use super::spec::ContainerSpec;
use super::{Host, archive, surroundings};
use crate::cgroup::Dirs;
use crate::error::EngineError;
use crate::fleet::{Backend, Fleet, Settled, blocking};
use crate::home::{Home, IdentityFile, SpecFile, VERSION, make_private_dir, remove_tree};
use crate::model::{Usage, WorkDir, WorkloadSpec};
use crate::procfs;
use crate::wire::{ContainerOrder, LaunchOrder, Secrets};

/// How long a container that was killed may take to be gone, and its engine to remove it.
const GONE_PATIENCE: Duration = Duration::from_secs(20);

fn wanted(spec: &WorkloadSpec) -> Result<&ContainerSpec, EngineError> {
    spec.container.as_deref().ok_or_else(|| EngineError::Spec {
        id: spec.id,
        problem: "it names no image, and the container engine runs nothing without".to_owned(),
    })
}

#[async_trait::async_trait]
impl Backend for Host {
    async fn admit(&self, spec: &WorkloadSpec) -> Result<(), EngineError> {
        let container = wanted(spec)?;
        for capability in &container.capabilities {
            let allowed = HARMLESS.contains(&capability.as_str())
                || self.allowed_capabilities.contains(capability);
            if !allowed {
                return Err(EngineError::Forbidden {
                    id: spec.id,
                    problem: format!(
                        "the capability {} reaches beyond the container and is not allowed here",
                        capability.escape_debug()
                    ),
                });
            }
        }
        self.shared(spec)?;
        self.finder.client().await.map(drop)
    }

    async fn launch(
        &self,
        fleet: &Fleet,
        spec: WorkloadSpec,
        host_port: Option<u16>,
    ) -> Result<(), EngineError> {
        let (address, docker) = self.finder.client().await?;
        let used = fleet.dir().join(super::USED_FILE);
        if !used.exists() {
            std::fs::write(&used, "").map_err(EngineError::io("write", &used))?;
        }
        let made = {
            // Networks that nothing uses yet must not be taken for networks that nothing needs.
            let _using = self.surroundings.read().await;
            self.make(fleet, &docker, &spec, host_port).await?
        };
        fleet.reached("workload.start.prepared");
        let id = spec.id;
        let order = self.order(
            fleet,
            spec,
            host_port,
            made.order(address.to_string()),
            made.work_dir,
            made.notices,
        );
        let handed_over = fleet.hand_over(id, &order).await;
        if handed_over.is_err() {
            let _ = remove_container(&docker, &made.container).await;
        }
        handed_over
    }

    async fn settle(
        &self,
        _: &Home,
        _: &SpecFile,
        identity: &IdentityFile,
    ) -> Result<Settled, EngineError> {
        let same_boot = procfs::boot_id().as_ref() == Some(&identity.shim.boot_id);
        let mut settled = Settled::default();
        let first = identity.child.clone().filter(|first| first.is_alive());
        if let Some(first) = &first {
            if let Some(group) = Dirs::of_process(first.pid) {
                settled.usage = Usage {
                    cpu_seconds: group.usage().0.unwrap_or(0.0),
                    memory_bytes: group.peak_memory().unwrap_or(0),
                    pids: 0,
                };
                settled.oom = group.oom_killed();
            }
            // Its end is the end of every process of the container.
            procfs::signal_all(&[first.pid].into(), Signal::KILL);
        }
        let deadline = std::time::Instant::now() + GONE_PATIENCE;
        loop {
            let error = match remove_recorded(identity).await {
                Ok(()) => return Ok(settled),
                // What is left of it in the engine is no longer running, and the sweep removes it.
                Err(_) if !same_boot => return Ok(settled),
                Err(error) => error,
            };
            // An engine that is itself cleaning up behind the container refuses to remove it for
            // a moment; one that does not answer is not waited for once the container is gone.
            let gone = identity
                .child
                .as_ref()
                .is_some_and(|first| !first.is_alive());
            let patient = std::time::Instant::now() < deadline;
            match error {
                EngineError::Unreachable { .. } if gone => return Ok(settled),
                EngineError::Refused { .. } if patient => {}
                _ if gone => return Ok(settled),
                _ if first.is_some() && patient => {}
                error => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Removes the container that an identity names, if it names one.
async fn remove_recorded(identity: &IdentityFile) -> Result<(), EngineError> {
    let Some(container) = &identity.container else {
        return Ok(());
    };
    let address = container
        .address
        .parse()
        .map_err(|error: super::AddressError| EngineError::Unreachable {
            engine: "container",
            reason: error.to_string(),
        })?;
    remove_container(&connect(&address)?, &container.id).await
}

/// What was made for an incarnation.
struct Made {
    container: String,
    work_dir: PathBuf,
    init: bool,
    owner: Option<(u32, u32)>,
    program: String,
    notices: Vec<String>,
}

impl Made {
    fn order(&self, address: String) -> ContainerOrder {
        ContainerOrder {
            address,
            id: self.container.clone(),
            init: self.init,
            owner: self.owner,
            program: self.program.clone(),
        }
    }
}

impl Host {
    /// A directory of the host, resolved, if it lies below those that the engine may share.
    fn allowed(&self, spec: &WorkloadSpec, dir: &Path) -> Result<PathBuf, EngineError> {
        let resolved = dir.canonicalize().map_err(|_| EngineError::Spec {
            id: spec.id,
            problem: format!("there is no directory {}", dir.display()),
        })?;
        let allowed = self
            .shared_dirs
            .iter()
            .any(|shared| resolved.starts_with(shared));
        if allowed && resolved.is_dir() {
            return Ok(resolved);
        }
        Err(EngineError::Forbidden {
            id: spec.id,
            problem: format!(
                "{} is a directory of the host that containers may not see",
                dir.display()
            ),
        })
    }

    /// Directories of the host that appear in the work directory.
    fn shared(&self, spec: &WorkloadSpec) -> Result<Vec<(PathBuf, String)>, EngineError> {
        match &spec.work_dir {
            WorkDir::Fresh => {}
            WorkDir::CopyOf(dir) | WorkDir::Existing(dir) if !dir.is_dir() => {
                return Err(EngineError::Spec {
                    id: spec.id,
                    problem: format!("there is no directory {}", dir.display()),
                });
            }
            WorkDir::CopyOf(_) => {}
            WorkDir::Existing(dir) => drop(self.allowed(spec, dir)?),
        }
        let mut shared = Vec::new();
        for (dir, inside) in &spec.volumes {
            if !dir.exists()
                && self
                    .shared_dirs
                    .iter()
                    .any(|shared| dir.starts_with(shared))
            {
                std::fs::create_dir_all(dir).map_err(EngineError::io("make", dir))?;
            }
            shared.push((self.allowed(spec, dir)?, inside.as_str().to_owned()));
        }
        Ok(shared)
    }

    async fn make(
        &self,
        fleet: &Fleet,
        docker: &Docker,
        spec: &WorkloadSpec,
        host_port: Option<u16>,
    ) -> Result<Made, EngineError> {
        let container = wanted(spec)?;
        let facts = self.facts().await;
        let mut notices = facts.notices_for_workloads.clone();
        let image = self
            .images
            .ensure(docker, &self.names, &container.image)
            .await?;
        let network = surroundings::network(
            docker,
            &self.names,
            &spec.project,
            container.network.as_deref(),
        )
        .await?;
        if let Err(why) = self.keep_apart(&facts).await {
            notices.push(format!(
                "its network is not kept apart from those of other projects: {why}"
            ));
        }
        let mut volumes = Vec::new();
        for wanted in &container.volumes {
            let name =
                surroundings::volume(docker, &self.names, &spec.project, &wanted.name).await?;
            volumes.push((name, wanted.target.clone(), wanted.read_only));
        }
        let work_dir = body::work_dir(spec, container, &image);
        let mut shared = Vec::new();
        for (dir, inside) in self.shared(spec)? {
            let target = Path::new(&work_dir).join(inside);
            shared.push((dir, target.to_string_lossy().into_owned(), false));
        }
        for wanted in &container.shared {
            let source = self.allowed(spec, &wanted.source)?;
            shared.push((source, wanted.target.clone(), wanted.read_only));
        }
        let home = fleet.home(&spec.id);
        let secrets = (!spec.secret_files.is_empty()).then(|| home.path("secrets"));
        let (dir, secrets_dir) = (home.dir().to_owned(), home.path("secrets"));
        let with_secrets = secrets.is_some();
        blocking(move || {
            make_private_dir(&dir).map_err(EngineError::io("make", &dir))?;
            remove_tree(&secrets_dir).map_err(EngineError::io("remove", &secrets_dir))?;
            if with_secrets {
                make_private_dir(&secrets_dir).map_err(EngineError::io("make", &secrets_dir))?;
            }
            Ok::<_, EngineError>(())
        })
        .await?;
        let owner = owner(container, &image);
        let most = |resource| getrlimit(resource).maximum;
        let plan = Plan {
            spec,
            container,
            image: &image,
            labels: self
                .names
                .workload_labels(&spec.project, &spec.id, spec.incarnation),
            network: &network,
            host_port,
            init: facts.init,
            secrets,
            volumes,
            shared,
            open_files: most(Resource::Nofile),
            // An engine itself may have no more than there are ids.
            processes: most(Resource::Nproc).map(|most| most.min(procfs::pid_max())),
        };
        let program = body::program(&plan);
        let body = body::body(plan);
        let name = self.names.container(&spec.id, spec.incarnation);
        self.clear_name(docker, &name).await?;
        let options = CreateContainerOptions {
            name: Some(name.clone()),
            ..CreateContainerOptions::default()
        };
        let created = docker.create_container(Some(options), body).await;
        let made = created.map_err(failed(format!("make the container {name}")))?;
        let made = Made {
            container: made.id,
            work_dir: work_dir.clone().into(),
            init: facts.init,
            owner,
            program,
            notices,
        };
        if let WorkDir::CopyOf(dir) = &spec.work_dir {
            let options = UploadToContainerOptions {
                path: work_dir,
                ..UploadToContainerOptions::default()
            };
            let files = archive::directory(dir.clone(), owner.unwrap_or((0, 0)));
            let uploaded = docker
                .upload_to_container(
                    &made.container,
                    Some(options),
                    bollard::body_try_stream(files),
                )
                .await;
            if let Err(error) = uploaded {
                let _ = remove_container(docker, &made.container).await;
                return Err(failed("take the files of the work directory")(error));
            }
        }
        Ok(made)
    }

    /// Removes what a start that was cut short has left under a name. Its container never ran, or
    /// the directory of the workload would tell. What is not ours stays.
    async fn clear_name(&self, docker: &Docker, name: &str) -> Result<(), EngineError> {
        let found = docker
            .inspect_container(name, None::<InspectContainerOptions>)
            .await;
        match found {
            Ok(found) => {
                let labels = found.config.and_then(|config| config.labels);
                if !self.names.own(labels.as_ref()) {
                    return Err(EngineError::Foreign {
                        what: "the container",
                        name: name.to_owned(),
                    });
                }
                remove_container(docker, name).await
            }
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(failed(format!("look at the container {name}"))(error)),
        }
    }

    fn order(
        &self,
        fleet: &Fleet,
        spec: WorkloadSpec,
        host_port: Option<u16>,
        container: ContainerOrder,
        work_dir: PathBuf,
        notices: Vec<String>,
    ) -> LaunchOrder {
        let secrets = Secrets {
            env: spec.secret_env,
            files: spec.secret_files,
            masks: spec.masks,
        };
        let stored = SpecFile {
            v: VERSION,
            id: spec.id,
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
            container: spec.container,
        };
        let shim_command = fleet.shim_command().to_vec();
        LaunchOrder::contained(stored, &secrets, shim_command, container, notices)
    }
}

/// The user and group of the program, where they are numbers or nobody is named.
fn owner(container: &ContainerSpec, image: &Image) -> Option<(u32, u32)> {
    let Some(user) = container.user.as_ref().or(image.user.as_ref()) else {
        return Some((0, 0));
    };
    let (user, group) = user.split_once(':').unwrap_or((user, ""));
    if user == "root" {
        return Some((0, 0));
    }
    let user = user.parse().ok()?;
    Some((user, group.parse().unwrap_or(0)))
}

/// Removes a container with its unnamed volumes, running or not.
pub(crate) async fn remove_container(docker: &Docker, id: &str) -> Result<(), EngineError> {
    let options = RemoveContainerOptions {
        v: true,
        force: true,
        ..RemoveContainerOptions::default()
    };
    match docker.remove_container(id, Some(options)).await {
        Err(error) if !is_missing(&error) => {
            Err(failed(format!("remove the container {id}"))(error))
        }
        _ => Ok(()),
    }
}

/// Removes containers of ours that belong to no living workload. Returns how many.
pub(super) async fn sweep(
    host: &Host,
    fleet: &Arc<Fleet>,
    docker: &Docker,
) -> Result<usize, EngineError> {
    use bollard::query_parameters::ListContainersOptions;
    let label = format!(
        "{}={}",
        super::names::INSTALLATION,
        host.names.installation()
    );
    let options = ListContainersOptions {
        all: true,
        filters: Some([("label".to_owned(), vec![label])].into()),
        ..ListContainersOptions::default()
    };
    let all = docker.list_containers(Some(options)).await;
    let all = all.map_err(failed("list its containers"))?;
    let mut removed = 0;
    for container in all {
        let (Some(id), Some(labels)) = (container.id, container.labels) else {
            continue;
        };
        if !host.names.own(Some(&labels)) {
            continue;
        }
        let needed = match super::Names::workload(&labels) {
            Some((workload, incarnation)) => needed(fleet, &workload, incarnation).await,
            None => false,
        };
        if !needed {
            remove_container(docker, &id).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Whether a workload that lives, or is just being started, has this incarnation.
async fn needed(fleet: &Arc<Fleet>, id: &WorkloadId, incarnation: u64) -> bool {
    let Some(_gate) = fleet.try_gate(id) else {
        return true;
    };
    let home = fleet.home(id);
    let living = blocking(move || {
        let spec = home.spec()?;
        let current = spec.is_some_and(|spec| spec.incarnation == incarnation);
        Ok::<_, EngineError>(current && (home.exit(incarnation)?.is_none() || home.is_locked()))
    });
    // A directory that cannot be read may belong to a living one.
    living.await.unwrap_or(true)
}
