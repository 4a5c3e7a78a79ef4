//! What a release asks of the engine: files, model, volumes, secrets, variables, port.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ondol_spec::model::{Limits as SpecLimits, SecretForm};
use ondol_types::{EnvironmentName, RelPath, WorkloadId};
use ondol_workload::{
    Command, ContainerSpec, Limits, PortRequest, StopPolicy, StopSignal, WorkDir, WorkloadKind,
    WorkloadSpec,
};

use super::contained;
use crate::error::DeployError;
use crate::model::Release;
use crate::plan::{EngineKind, choose};
use crate::ports::ImageConfig;
use crate::room::Room;

/// What is run of a release.
pub(super) enum Role<'a> {
    /// A replica, by its id.
    Replica(String),
    /// Its release command.
    Command(&'a ondol_spec::model::Command),
}

/// The label that says what a workload of this room is.
pub(crate) const ROLE: &str = "ondol.role";
pub(crate) const ROLE_REPLICA: &str = "replica";
pub(crate) const ROLE_COMMAND: &str = "release-command";

/// Makes everything stand that the workload needs, and says what to run.
pub(super) async fn workload(
    room: &Arc<Room>,
    release: &Release,
    id: WorkloadId,
    incarnation: u64,
    rollout: &str,
    role: Role<'_>,
) -> Result<WorkloadSpec, DeployError> {
    let said = room.images.describe(&release.image).await;
    let said = said.map_err(DeployError::room(format!(
        "the image of release {} is not there",
        release.number
    )))?;
    let service = &release.config.service;
    let run = match &role {
        Role::Replica(_) => service.run.trim(),
        Role::Command(command) => command.run.trim(),
    };
    if run.is_empty() && said.cmd.is_empty() {
        return Err(DeployError::Invalid {
            key: "service.run".to_owned(),
            problem: "neither the specification nor the image says what to run".to_owned(),
        });
    }
    let kind = match role {
        Role::Replica(_) => WorkloadKind::KeepAlive,
        Role::Command(_) => WorkloadKind::Once,
    };
    let surroundings = match engine(room, release, &said)? {
        EngineKind::Process => on_host(room, release).await?,
        EngineKind::Container => contained::surroundings(release, &said, &role),
    };
    let command = match run {
        "" => Command::Argv(surroundings.image_command.clone()),
        run => Command::Shell(run.to_owned()),
    };
    let mut spec = WorkloadSpec::new(id, incarnation, release.project.clone(), kind, command);
    spec.work_dir = surroundings.work_dir;
    spec.container = surroundings.container.map(Box::new);
    spec.env = surroundings.env;
    spec.env.extend(release.config.service_env());
    spec.limits = limits(&service.limits);
    spec.stop = StopPolicy {
        signal: StopSignal::Term,
        grace: service.stop.duration(),
    };
    let place = [
        ("ONDOL_PROJECT", release.project.to_string()),
        ("ONDOL_ENVIRONMENT", release.environment.to_string()),
        ("ONDOL_RELEASE", release.number.to_string()),
    ];
    spec.env
        .extend(place.map(|(name, value)| (name.to_owned(), value)));
    let role = match role {
        Role::Replica(replica) => {
            spec.env.insert("ONDOL_REPLICA".to_owned(), replica.clone());
            spec.labels.insert("replica".to_owned(), replica);
            spec.port = surroundings.port;
            let host = surroundings.listen.to_owned();
            spec.env.insert("HOST".to_owned(), host);
            ROLE_REPLICA
        }
        Role::Command(command) => {
            spec.env.extend(command.env.clone());
            spec.timeout = Some(command.timeout.duration());
            ROLE_COMMAND
        }
    };
    model(room, release, &mut spec).await?;
    volumes(room, release, &mut spec, &said.workdir).await?;
    let secrets = room
        .secrets
        .values(&release.project, &release.environment, &release.secrets)
        .await
        .map_err(DeployError::room(format!(
            "the secrets of release {} cannot be read",
            release.number
        )))?;
    for (name, value) in secrets {
        let as_file = release
            .config
            .secrets
            .iter()
            .any(|secret| secret.name == name && secret.form == SecretForm::File);
        if as_file {
            let file: RelPath =
                name.as_str()
                    .parse()
                    .map_err(|error: ondol_types::PathError| DeployError::Invalid {
                        key: format!("secret `{name}`"),
                        problem: error.to_string(),
                    })?;
            spec.secret_files.insert(file, value);
        } else {
            spec.secret_env.insert(name.to_string(), value);
        }
    }
    let labels = [
        (ROLE, role.to_owned()),
        ("environment", release.environment.to_string()),
        ("release", release.number.to_string()),
        ("releaseId", release.id.to_string()),
        ("rollout", rollout.to_owned()),
    ];
    spec.labels
        .extend(labels.map(|(name, value)| (name.to_owned(), value)));
    Ok(spec)
}

/// What depends on where it runs.
pub(super) struct Surroundings {
    pub(super) work_dir: WorkDir,
    pub(super) container: Option<ContainerSpec>,
    /// Variables that the image brings and the engine does not.
    pub(super) env: BTreeMap<String, String>,
    /// What runs when the specification has no command.
    pub(super) image_command: Vec<String>,
    pub(super) port: PortRequest,
    /// The address that the program is to listen on.
    pub(super) listen: &'static str,
}

/// Where the release runs now. It was decided when the release was accepted; the installation may
/// have changed since.
fn engine(room: &Room, release: &Release, said: &ImageConfig) -> Result<EngineKind, DeployError> {
    let own_root = said
        .own_root
        .then_some(("image", "the image has a root filesystem of its own"));
    let asked = release.config.asked_engine(said.own_root);
    choose(asked, own_root, room.config.engines).map_err(|refusal| DeployError::Unsupported {
        key: refusal.key.to_owned(),
        problem: refusal.problem,
    })
}

/// Files of the image copied beside those of the host.
async fn on_host(room: &Arc<Room>, release: &Release) -> Result<Surroundings, DeployError> {
    let image = image(room, release).await?;
    // In a network namespace of its own a program is reached by its outer address.
    let (port, listen) = match release.config.service.port {
        Some(port) => (PortRequest::Fixed(port), "0.0.0.0"),
        None => (PortRequest::Auto, "127.0.0.1"),
    };
    Ok(Surroundings {
        work_dir: WorkDir::CopyOf(image.root),
        container: None,
        env: image.env,
        image_command: image.cmd,
        port,
        listen,
    })
}

fn limits(spec: &SpecLimits) -> Limits {
    let default = Limits::default();
    Limits {
        cpu_cores: spec.cpu.or(default.cpu_cores),
        memory_bytes: spec
            .memory
            .map(|size| size.bytes())
            .or(default.memory_bytes),
        pids: spec.pids.or(default.pids),
    }
}

struct Unpacked {
    root: PathBuf,
    env: BTreeMap<String, String>,
    cmd: Vec<String>,
}

async fn image(room: &Arc<Room>, release: &Release) -> Result<Unpacked, DeployError> {
    let dir = room.image_dir(&release.image);
    make_dir(&dir).await?;
    let lock = room.unpacking(&dir);
    let one = lock.lock().await;
    let config = room
        .images
        .materialise(&release.image, &dir)
        .await
        .map_err(DeployError::room(format!(
            "the image of release {} cannot be unpacked",
            release.number
        )))?;
    drop(one);
    let inner = config.workdir.trim_matches('/');
    let root = if inner.is_empty() {
        dir
    } else {
        let path: RelPath =
            inner
                .parse()
                .map_err(|error: ondol_types::PathError| DeployError::Invalid {
                    key: "the image's work directory".to_owned(),
                    problem: error.to_string(),
                })?;
        path.below(&dir)
    };
    Ok(Unpacked {
        root,
        env: config.env,
        cmd: config.cmd,
    })
}

async fn model(
    room: &Arc<Room>,
    release: &Release,
    spec: &mut WorkloadSpec,
) -> Result<(), DeployError> {
    let Some(model) = &release.model else {
        return Ok(());
    };
    let dir = room.model_dir(&release.project, model);
    make_dir(&dir).await?;
    let lock = room.unpacking(&dir);
    let one = lock.lock().await;
    room.models
        .materialise(&release.project, &model.name, model.version, &dir)
        .await
        .map_err(DeployError::room(format!(
            "version {} of model `{}` cannot be unpacked",
            model.version, model.name
        )))?;
    drop(one);
    let seen = match &mut spec.container {
        Some(container) => contained::share_model(container, dir),
        None => dir.to_string_lossy().into_owned(),
    };
    let variables = [
        ("ONDOL_MODEL_DIR", seen),
        ("ONDOL_MODEL_NAME", model.name.to_string()),
        ("ONDOL_MODEL_VERSION", model.version.to_string()),
    ];
    spec.env
        .extend(variables.map(|(name, value)| (name.to_owned(), value)));
    Ok(())
}

async fn volumes(
    room: &Arc<Room>,
    release: &Release,
    spec: &mut WorkloadSpec,
    image_dir: &str,
) -> Result<(), DeployError> {
    for (name, path) in &release.config.volumes {
        let environment: &EnvironmentName = &release.environment;
        let dir = room.volume_dir(&release.project, environment, name.as_str());
        match (&mut spec.container, path.inside()) {
            (Some(container), _) => {
                contained::volume(container, (environment, name), &dir, &path.at(image_dir));
            }
            (None, Some(inside)) => {
                make_dir(&dir).await?;
                spec.volumes.push((dir, inside.clone()));
            }
            (None, None) => {
                return Err(DeployError::Unsupported {
                    key: format!("volumes.{name}"),
                    problem: format!(
                        "`{path}` is an absolute path, which the engine `process` does not have"
                    ),
                });
            }
        }
    }
    Ok(())
}

async fn make_dir(dir: &std::path::Path) -> Result<(), DeployError> {
    tokio::fs::create_dir_all(dir)
        .await
        .map_err(ondol_store::StoreError::io("make the folder", dir))
        .map_err(DeployError::from)
}
