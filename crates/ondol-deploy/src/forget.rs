//! The end of a project in this room: its environments drain and go, then its workloads with
//! their logs, its volumes, its unpacked models, and whatever rows are left.
//!
//! It must never remove what another project has: workloads are told apart by the project they
//! were started for, folders by names that no other project can have.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use ondol_store::{ForgetProject, Forgotten, ProjectHold};
use ondol_types::{Problem, ProjectName};
use ondol_workload::EngineError;

use crate::crash;
use crate::error::DeployError;
use crate::execute::{ROLE, ROLE_COMMAND, ROLE_REPLICA};
use crate::follow;
use crate::room::Room;
use crate::service::{DeployService, remove_all};
use crate::store;

#[async_trait]
impl ForgetProject for DeployService {
    fn name(&self) -> &'static str {
        "deploy"
    }

    async fn forget(&self, hold: &ProjectHold) -> Result<Forgotten, Problem> {
        Ok(forget(self.room(), hold).await?)
    }
}

async fn forget(room: &Room, hold: &ProjectHold) -> Result<Forgotten, DeployError> {
    let project = &hold.name;
    let (behind, left) = room
        .store
        .write::<_, DeployError, _>(|tx| {
            Box::pin(async move {
                remove_all(tx, project).await?;
                let left = store::environments(tx, Some(project)).await?;
                Ok((store::cursor(tx, follow::CURSOR).await? < hold.seq, left))
            })
        })
        .await?;
    if !left.is_empty() {
        room.wake_environments();
        room.wake_routes();
        let names: Vec<&str> = left.iter().map(|found| found.name.as_str()).collect();
        return Ok(Forgotten::Remains(format!(
            "replicas of {} are ending",
            names.join(", ")
        )));
    }
    if behind {
        return Ok(Forgotten::Remains(
            "the log is not read up to the deletion".to_owned(),
        ));
    }
    room.crash.reached(crash::FORGET_DRAINED);
    workloads(room, project).await?;
    volumes(&room.config.volumes, project).await?;
    unpacked(room, project).await?;
    room.crash.reached(crash::FORGET_REMOVED);
    room.store
        .write::<_, DeployError, _>(|tx| {
            Box::pin(async move { Ok(store::forget_project(tx, project).await?) })
        })
        .await?;
    Ok(Forgotten::Entirely)
}

/// Ends and removes what the engine still has, logs of stopped replicas included.
async fn workloads(room: &Room, project: &ProjectName) -> Result<(), DeployError> {
    for found in room.engine.list().await? {
        let role = found.labels.get(ROLE).map(String::as_str);
        if found.project != *project || !matches!(role, Some(ROLE_REPLICA | ROLE_COMMAND)) {
            continue;
        }
        let gone = |outcome: Result<(), EngineError>| match outcome {
            Ok(()) | Err(EngineError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        };
        if found.state.exit().is_none() {
            gone(room.engine.kill(&found.id).await.map(drop))?;
        }
        gone(room.engine.remove(&found.id).await)?;
    }
    Ok(())
}

/// Removes the volumes of every environment of a project.
async fn volumes(root: &Path, project: &ProjectName) -> Result<(), DeployError> {
    let below = format!("{project}.");
    let mut entries = match tokio::fs::read_dir(root).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(DeployError::io("list", root)(error)),
    };
    loop {
        let entry = entries
            .next_entry()
            .await
            .map_err(DeployError::io("list", root))?;
        let Some(entry) = entry else {
            return Ok(());
        };
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == project.as_str() || name.starts_with(&below) {
            remove(&entry.path()).await?;
        }
    }
}

/// Removes the unpacked models of a project. Starters are kept out while they lose their place.
async fn unpacked(room: &Room, project: &ProjectName) -> Result<(), DeployError> {
    let models = room.config.cache.join("models").join(project.as_str());
    let trash = room.config.cache.join("trash");
    let grave: PathBuf = trash.join(format!("{project}.forgotten"));
    {
        let _alone = room.unpacked.write().await;
        remove(&grave).await?;
        tokio::fs::create_dir_all(&trash)
            .await
            .map_err(DeployError::io("make", &trash))?;
        match tokio::fs::rename(&models, &grave).await {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(DeployError::io("remove", &models)(error)),
        }
    }
    remove(&grave).await
}

async fn remove(path: &Path) -> Result<(), DeployError> {
    match tokio::fs::remove_dir_all(path).await {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DeployError::io("remove", path)(error)),
    }
}
