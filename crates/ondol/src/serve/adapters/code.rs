//! Code, specifications and secrets for the pipeline; images and secrets for the deploy room.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ondol_auth::{Ctx, Secrets};
use ondol_deploy::ImageConfig;
use ondol_git::{CheckoutLimits, Git};
use ondol_pipeline::{ResolvedSpec, Sources, Specs, StepSecrets};
use ondol_registry::{RegistryService, Repository};
use ondol_spec::Tree;
use ondol_types::{
    Clock, CommitId, Digest, EnvironmentName, ErrorKind, Problem, ProjectName, RefName, Secret,
    SecretName,
};

use crate::serve::tree::DirectoryTree;

/// Repositories as the source of runs.
pub(in crate::serve) struct GitSources(pub(in crate::serve) Git);

#[async_trait]
impl Sources for GitSources {
    async fn head(&self, project: &ProjectName) -> Result<Option<CommitId>, Problem> {
        Ok(self.0.head(project).await?)
    }

    async fn default_branch(&self, project: &ProjectName) -> Result<RefName, Problem> {
        let branch = self.0.default_branch(project).await?;
        RefName::of_branch(&branch)
            .map_err(|error| Problem::internal("the default branch is not a ref", error))
    }

    async fn checkout(
        &self,
        project: &ProjectName,
        commit: &CommitId,
        dest: &Path,
    ) -> Result<(), Problem> {
        // The room that has the code makes the folder itself, complete or not at all.
        match std::fs::remove_dir(dest) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Problem::internal(
                    format!("cannot clear {}", dest.display()),
                    error,
                ));
            }
            _ => {}
        }
        self.0
            .checkout(project, commit, dest, &CheckoutLimits::default())
            .await?;
        Ok(())
    }
}

/// Specifications of checked out files.
pub(in crate::serve) struct FileSpecs;

#[async_trait]
impl Specs for FileSpecs {
    async fn resolve(&self, project: &ProjectName, source: &Path) -> Result<ResolvedSpec, Problem> {
        let (project, source) = (project.clone(), source.to_owned());
        let resolving = move || -> Result<ResolvedSpec, Problem> {
            let tree = DirectoryTree::open(&source)
                .map_err(|error| Problem::internal("cannot read the checkout", error))?;
            let sources = ondol_spec::Sources {
                project: Some(&project),
                ..ondol_spec::Sources::of(&tree as &dyn Tree)
            };
            let effective = ondol_spec::resolve(&sources)?;
            // The pipeline says on every run that there are no tests.
            let notes = effective
                .notes
                .iter()
                .filter(|note| note.code != "spec.note.no-tests");
            let notes = notes.map(|note| match &note.hint {
                Some(hint) => format!("{} ({hint})", note.message),
                None => note.message.clone(),
            });
            Ok(ResolvedSpec {
                explain: serde_json::to_value(effective.explain()).unwrap_or_default(),
                notes: notes.collect(),
                spec: effective.spec,
            })
        };
        tokio::task::spawn_blocking(resolving)
            .await
            .map_err(|error| Problem::internal("reading the specification panicked", error))?
    }
}

/// The current values of secrets that are set, by name.
async fn current(
    secrets: &Secrets,
    clock: &Arc<dyn Clock>,
    project: &ProjectName,
    names: &[SecretName],
) -> Result<BTreeMap<SecretName, i64>, Problem> {
    let set = secrets.list(&Ctx::system(clock.clone()), project).await?;
    let wanted: BTreeSet<&SecretName> = names.iter().collect();
    Ok(set
        .into_iter()
        .filter(|info| wanted.contains(&info.name))
        .map(|info| (info.name, info.version))
        .collect())
}

/// Secrets of steps and of releases.
pub(in crate::serve) struct StoredSecrets {
    pub(in crate::serve) secrets: Secrets,
    pub(in crate::serve) clock: Arc<dyn Clock>,
}

#[async_trait]
impl StepSecrets for StoredSecrets {
    async fn values(
        &self,
        project: &ProjectName,
        names: &[SecretName],
    ) -> Result<BTreeMap<SecretName, Secret>, Problem> {
        let versions = current(&self.secrets, &self.clock, project, names).await?;
        Ok(self
            .secrets
            .values(&Ctx::system(self.clock.clone()), project, &versions)
            .await?)
    }
}

#[async_trait]
impl ondol_deploy::SecretValues for StoredSecrets {
    async fn current(
        &self,
        project: &ProjectName,
        _: &EnvironmentName,
        names: &[SecretName],
    ) -> Result<BTreeMap<SecretName, i64>, Problem> {
        current(&self.secrets, &self.clock, project, names).await
    }

    async fn values(
        &self,
        project: &ProjectName,
        _: &EnvironmentName,
        versions: &BTreeMap<SecretName, i64>,
    ) -> Result<BTreeMap<SecretName, Secret>, Problem> {
        Ok(self
            .secrets
            .values(&Ctx::system(self.clock.clone()), project, versions)
            .await?)
    }
}

/// Images of the embedded registry.
pub(in crate::serve) struct RegistryImages {
    pub(in crate::serve) registry: RegistryService,
    pub(in crate::serve) clock: Arc<dyn Clock>,
}

/// Written beside the files when all of them stand, so that an interrupted unpacking shows.
const COMPLETE: &str = ".ondol-complete.json";

impl RegistryImages {
    async fn repository(&self, image: &Digest) -> Result<Repository, Problem> {
        self.registry.locate(image).await?.ok_or_else(|| {
            Problem::new(
                ErrorKind::NotFound,
                "registry.image.unknown",
                format!("no repository has the image {image}"),
            )
        })
    }
}

#[async_trait]
impl ondol_deploy::Images for RegistryImages {
    async fn describe(&self, image: &Digest) -> Result<ImageConfig, Problem> {
        let repository = self.repository(image).await?;
        let ctx = Ctx::system(self.clock.clone());
        let said = self.registry.describe(&ctx, &repository, image).await?;
        Ok(ImageConfig {
            env: said.env.into_iter().collect(),
            cmd: said.command,
            workdir: said.work_dir,
            labels: said.labels.into_iter().collect(),
            ports: said.ports,
            own_root: said.own_root,
        })
    }

    async fn materialise(&self, image: &Digest, dest: &Path) -> Result<ImageConfig, Problem> {
        let marker = dest.join(COMPLETE);
        if let Ok(bytes) = std::fs::read(&marker)
            && let Ok(unpacked) = serde_json::from_slice::<Marker>(&bytes)
        {
            return Ok(unpacked.into());
        }
        let repository = self.repository(image).await?;
        if dest.exists() {
            std::fs::remove_dir_all(dest).map_err(|error| {
                Problem::internal(format!("cannot clear {}", dest.display()), error)
            })?;
        }
        let files = dest.join("app");
        let unpacked = self
            .registry
            .unpack(&Ctx::system(self.clock.clone()), &repository, image, &files)
            .await?;
        let marked = Marker {
            command: unpacked.command,
            env: unpacked.env,
            labels: unpacked.labels,
        };
        let bytes = serde_json::to_vec(&marked).unwrap_or_default();
        let write = || -> std::io::Result<()> {
            let temporary = dest.join(".marker.tmp");
            std::fs::write(&temporary, &bytes)?;
            std::fs::rename(&temporary, &marker)
        };
        write().map_err(|error| {
            Problem::internal(format!("cannot write {}", marker.display()), error)
        })?;
        Ok(marked.into())
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Marker {
    command: Vec<String>,
    env: Vec<(String, String)>,
    labels: Vec<(String, String)>,
}

impl From<Marker> for ImageConfig {
    fn from(marker: Marker) -> Self {
        // `PATH` of the image names places inside it; the host has places of its own.
        let env = marker
            .env
            .into_iter()
            .filter(|(name, _)| name != "PATH")
            .collect();
        Self {
            env,
            cmd: marker.command,
            workdir: "/app".to_owned(),
            labels: marker.labels.into_iter().collect(),
            ..Self::default()
        }
    }
}
