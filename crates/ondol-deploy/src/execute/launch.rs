//! What a release asks of the engine: files, model, volumes, secrets, variables, port.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ondol_spec::model::{Limits as SpecLimits, SecretForm};
use ondol_types::{EnvironmentName, RelPath, WorkloadId};
use ondol_workload::{
    Command, Limits, PortRequest, StopPolicy, StopSignal, WorkDir, WorkloadKind, WorkloadSpec,
};

use crate::error::DeployError;
use crate::model::Release;
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
    let image = image(room, release).await?;
    let service = &release.config.service;
    let run = match &role {
        Role::Replica(_) => service.run.clone(),
        Role::Command(command) => command.run.clone(),
    };
    let command = if run.trim().is_empty() {
        Command::Argv(image.cmd.clone())
    } else {
        Command::Shell(run)
    };
    let kind = match role {
        Role::Replica(_) => WorkloadKind::KeepAlive,
        Role::Command(_) => WorkloadKind::Once,
    };
    let mut spec = WorkloadSpec::new(id, incarnation, release.project.clone(), kind, command);
    spec.work_dir = WorkDir::CopyOf(image.root);
    spec.env = image.env;
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
            (spec.port, spec.env) = port(service.port, spec.env);
            ROLE_REPLICA
        }
        Role::Command(command) => {
            spec.env.extend(command.env.clone());
            spec.timeout = Some(command.timeout.duration());
            ROLE_COMMAND
        }
    };
    model(room, release, &mut spec).await?;
    volumes(room, release, &mut spec).await?;
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

fn port(
    fixed: Option<u16>,
    mut env: BTreeMap<String, String>,
) -> (PortRequest, BTreeMap<String, String>) {
    // In a network namespace of its own a program is reached by its outer address.
    let (request, host) = match fixed {
        Some(port) => (PortRequest::Fixed(port), "0.0.0.0"),
        None => (PortRequest::Auto, "127.0.0.1"),
    };
    env.insert("HOST".to_owned(), host.to_owned());
    (request, env)
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
    if release.config.service.run.trim().is_empty() && config.cmd.is_empty() {
        return Err(DeployError::Invalid {
            key: "service.run".to_owned(),
            problem: "neither the specification nor the image says what to run".to_owned(),
        });
    }
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
    let variables = [
        ("ONDOL_MODEL_DIR", dir.to_string_lossy().into_owned()),
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
) -> Result<(), DeployError> {
    for (name, inside) in &release.config.volumes {
        let environment: &EnvironmentName = &release.environment;
        let dir = room.volume_dir(&release.project, environment, name.as_str());
        make_dir(&dir).await?;
        spec.volumes.push((dir, inside.clone()));
    }
    Ok(())
}

async fn make_dir(dir: &std::path::Path) -> Result<(), DeployError> {
    tokio::fs::create_dir_all(dir)
        .await
        .map_err(ondol_store::StoreError::io("make the folder", dir))
        .map_err(DeployError::from)
}
