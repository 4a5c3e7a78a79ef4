//! What a release asks of the container engine, where that differs from a process of the host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ondol_types::{EnvironmentName, VolumeName};
use ondol_workload::container::{Entrypoint, ImageRef, NamedVolume, SharedDir};
use ondol_workload::{ContainerSpec, PortRequest, WorkDir};

use super::launch::{Role, Surroundings};
use crate::model::Release;
use crate::ports::ImageConfig;

/// Where the model of a release appears.
const MODEL_DIR: &str = "/run/ondol/model";

/// A container of the release's image in the network of its environment.
pub(super) fn surroundings(release: &Release, said: &ImageConfig, role: &Role<'_>) -> Surroundings {
    let service = &release.config.service;
    let mut container = ContainerSpec::new(ImageRef::Stored(release.image.clone()));
    let run = match role {
        Role::Replica(_) => &service.run,
        Role::Command(command) => &command.run,
    };
    if run.trim().is_empty() {
        container.entrypoint = Entrypoint::OfImage;
    }
    container.user = service.user.clone();
    container.read_only_root = service.read_only;
    container.capabilities = service
        .capabilities
        .iter()
        .map(|capability| capability.as_str().to_owned())
        .collect();
    container.network = Some(release.environment.to_string());
    if matches!(role, Role::Replica(_)) {
        container.names = vec![release.project.to_string()];
    }
    // An image that names one port listens there, whatever `PORT` says.
    let port = match (service.port, said.ports.as_slice()) {
        (Some(port), _) => PortRequest::Fixed(port),
        (None, [port]) if *port > 0 => PortRequest::Fixed(*port),
        _ => PortRequest::Auto,
    };
    Surroundings {
        work_dir: WorkDir::Fresh,
        container: Some(container),
        env: BTreeMap::new(),
        image_command: Vec::new(),
        port,
        listen: "0.0.0.0",
    }
}

/// Shows the model's files to the container. Returns where.
pub(super) fn share_model(container: &mut ContainerSpec, dir: PathBuf) -> String {
    container.shared.push(SharedDir {
        source: dir,
        target: MODEL_DIR.to_owned(),
        read_only: true,
    });
    MODEL_DIR.to_owned()
}

/// Adds a volume. The engine keeps it, with what the image has at its place as the beginning. What
/// the service wrote while it was a process of the host is shared instead of left behind.
pub(super) fn volume(
    container: &mut ContainerSpec,
    (environment, name): (&EnvironmentName, &VolumeName),
    on_host: &Path,
    target: &str,
) {
    let written = std::fs::read_dir(on_host).is_ok_and(|mut entries| entries.next().is_some());
    if written {
        container.shared.push(SharedDir {
            source: on_host.to_owned(),
            target: target.to_owned(),
            read_only: false,
        });
    } else {
        container.volumes.push(NamedVolume {
            name: format!("{environment}.{name}"),
            target: target.to_owned(),
            read_only: false,
        });
    }
}
