//! The network and the volumes of a project, made when they are first needed. What exists under
//! their names and is not ours is left alone, and named.

use bollard::Docker;
use bollard::models::{NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::{
    InspectNetworkOptions, ListNetworksOptions, ListVolumesOptions, RemoveVolumeOptions,
};
use ondol_types::ProjectName;

use super::client::{failed, is_missing, status};
use super::names::{INSTALLATION, Names, PROJECT};
use crate::error::EngineError;

/// The network of a project or a part of it.
pub(crate) async fn network(
    docker: &Docker,
    names: &Names,
    project: &ProjectName,
    scope: Option<&str>,
) -> Result<String, EngineError> {
    let name = names.network(project, scope);
    if known_network(docker, names, &name).await? {
        return Ok(name);
    }
    let request = NetworkCreateRequest {
        name: name.clone(),
        driver: Some("bridge".to_owned()),
        labels: Some(names.project_labels(project)),
        options: Some(
            [
                // Docker keeps its networks apart anyway; Podman is asked to.
                ("isolate".to_owned(), "true".to_owned()),
                (
                    "com.docker.network.bridge.name".to_owned(),
                    Names::interface(&name),
                ),
            ]
            .into(),
        ),
        ..NetworkCreateRequest::default()
    };
    match docker.create_network(request).await {
        Ok(_) => Ok(name),
        // Somebody else may have made it meanwhile.
        Err(error) => match known_network(docker, names, &name).await {
            Ok(true) => Ok(name),
            Err(foreign @ EngineError::Foreign { .. }) => Err(foreign),
            _ => Err(failed(format!("make the network {name}"))(error)),
        },
    }
}

async fn known_network(docker: &Docker, names: &Names, name: &str) -> Result<bool, EngineError> {
    match docker
        .inspect_network(name, None::<InspectNetworkOptions>)
        .await
    {
        Ok(found) if names.own(found.labels.as_ref()) => Ok(true),
        Ok(_) => Err(EngineError::Foreign {
            what: "the network",
            name: name.to_owned(),
        }),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(failed(format!("look at the network {name}"))(error)),
    }
}

/// Removes our networks that nothing uses or is about to. Returns how many.
pub(crate) async fn remove_unused_networks(
    docker: &Docker,
    names: &Names,
    about_to_be_used: &[String],
) -> Result<usize, EngineError> {
    let label = format!("{INSTALLATION}={}", names.installation());
    let options = ListNetworksOptions {
        filters: Some([("label".to_owned(), vec![label])].into()),
    };
    let all = docker.list_networks(Some(options)).await;
    let all = all.map_err(failed("list its networks"))?;
    let mut removed = 0;
    for network in all {
        let (Some(name), true) = (network.name, names.own(network.labels.as_ref())) else {
            continue;
        };
        if about_to_be_used.contains(&name) {
            continue;
        }
        match docker.remove_network(&name).await {
            Ok(()) => removed += 1,
            // In use: every engine refuses, each with a number of its own.
            Err(error) if status(&error).is_some() => {}
            Err(error) => return Err(failed(format!("remove the network {name}"))(error)),
        }
    }
    Ok(removed)
}

/// A volume of a project.
pub(crate) async fn volume(
    docker: &Docker,
    names: &Names,
    project: &ProjectName,
    volume: &str,
) -> Result<String, EngineError> {
    let name = names.volume(project, volume);
    match docker.inspect_volume(&name).await {
        Ok(found) if names.own(Some(&found.labels)) => return Ok(name),
        Ok(_) => {
            return Err(EngineError::Foreign {
                what: "the volume",
                name,
            });
        }
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(failed(format!("look at the volume {name}"))(error)),
    }
    let request = VolumeCreateRequest {
        name: Some(name.clone()),
        driver: Some("local".to_owned()),
        labels: Some(names.project_labels(project)),
        ..VolumeCreateRequest::default()
    };
    let made = docker.create_volume(request).await;
    made.map_err(failed(format!("make the volume {name}")))?;
    Ok(name)
}

/// Removes a volume of a project with everything in it. One that is not there is no error.
pub(crate) async fn remove_volume(
    docker: &Docker,
    names: &Names,
    project: &ProjectName,
    volume: &str,
) -> Result<(), EngineError> {
    let name = names.volume(project, volume);
    match docker.inspect_volume(&name).await {
        Ok(found) if names.own(Some(&found.labels)) => {}
        Ok(_) => {
            return Err(EngineError::Foreign {
                what: "the volume",
                name,
            });
        }
        Err(error) if is_missing(&error) => return Ok(()),
        Err(error) => return Err(failed(format!("look at the volume {name}"))(error)),
    }
    let removed = docker
        .remove_volume(&name, None::<RemoveVolumeOptions>)
        .await;
    match removed {
        Err(error) if !is_missing(&error) => {
            Err(failed(format!("remove the volume {name}"))(error))
        }
        _ => Ok(()),
    }
}

/// Removes the volumes and networks of a project.
pub(crate) async fn forget(
    docker: &Docker,
    names: &Names,
    project: &ProjectName,
) -> Result<(), EngineError> {
    let filters = || {
        let labels = vec![
            format!("{INSTALLATION}={}", names.installation()),
            format!("{PROJECT}={project}"),
        ];
        Some([("label".to_owned(), labels)].into())
    };
    let of_project = |labels: Option<&std::collections::HashMap<String, String>>| {
        names.own(labels)
            && labels.and_then(|labels| labels.get(PROJECT)) == Some(&project.to_string())
    };
    let volumes = docker.list_volumes(Some(ListVolumesOptions { filters: filters() }));
    let volumes = volumes.await.map_err(failed("list its volumes"))?;
    for volume in volumes.volumes.unwrap_or_default() {
        if !of_project(Some(&volume.labels)) {
            continue;
        }
        match docker
            .remove_volume(&volume.name, None::<RemoveVolumeOptions>)
            .await
        {
            Err(error) if !is_missing(&error) => {
                return Err(failed(format!("remove the volume {}", volume.name))(error));
            }
            _ => {}
        }
    }
    let networks = docker.list_networks(Some(ListNetworksOptions { filters: filters() }));
    for network in networks.await.map_err(failed("list its networks"))? {
        let (Some(name), true) = (network.name, of_project(network.labels.as_ref())) else {
            continue;
        };
        match docker.remove_network(&name).await {
            Err(error) if !is_missing(&error) => {
                return Err(failed(format!("remove the network {name}"))(error));
            }
            _ => {}
        }
    }
    Ok(())
}
