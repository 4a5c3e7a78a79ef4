//! A service with a transport that calls it, and small files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use ondol_auth::{Ctx, Grant, Principal, PrincipalKind, Role};
use ondol_data::client::{self, PushOptions, Transport};
use ondol_data::model::{PushSession, Pushed, UploadReceipt};
use ondol_data::{Config, DataService, Deps, Key, MIGRATIONS, Projects};
use ondol_store::blobs::Blobs;
use ondol_store::testing::{TestStore, backends};
use ondol_types::{CrashPoints, DatasetName, NoCrash, Problem, ProjectName, SystemClock, UploadId};

struct Known;

#[async_trait]
impl Projects for Known {
    async fn exists(&self, project: &ProjectName) -> Result<bool, Problem> {
        Ok(project.as_str() != "absent")
    }
}

pub(crate) struct World {
    pub(crate) backend: TestStore,
    pub(crate) blobs: Blobs,
    pub(crate) service: DataService,
    pub(crate) project: ProjectName,
    pub(crate) dataset: DatasetName,
}

pub(crate) async fn worlds() -> Vec<World> {
    backends(MIGRATIONS)
        .await
        .into_iter()
        .map(|backend| world(backend, Arc::new(NoCrash)))
        .collect()
}

pub(crate) fn world(backend: TestStore, crash: Arc<dyn CrashPoints>) -> World {
    let root = backend.dir.path().join("blobs");
    world_at(backend, &root, crash)
}

pub(crate) fn world_at(backend: TestStore, root: &Path, crash: Arc<dyn CrashPoints>) -> World {
    world_with(backend, root, crash, Config::default())
}

pub(crate) fn world_with(
    backend: TestStore,
    root: &Path,
    crash: Arc<dyn CrashPoints>,
    config: Config,
) -> World {
    let blobs = Blobs::open_with(root, Arc::new(SystemClock), crash.clone()).unwrap();
    let service = DataService::new(
        Deps {
            store: backend.store.clone(),
            blobs: blobs.clone(),
            clock: Arc::new(SystemClock),
            crash,
            projects: Arc::new(Known),
            scratch: backend.dir.path().to_owned(),
        },
        config,
    );
    World {
        backend,
        blobs,
        service,
        project: "iris".parse().unwrap(),
        dataset: "flowers".parse().unwrap(),
    }
}

pub(crate) fn somebody(name: &str, role: Role) -> Ctx {
    Ctx::new(
        Principal {
            kind: PrincipalKind::System,
            name: name.to_owned(),
            grant: Grant {
                everywhere: Some(role),
                projects: BTreeMap::new(),
            },
            expires_at: None,
        },
        Arc::new(SystemClock),
    )
}

impl World {
    pub(crate) fn ctx(&self) -> Ctx {
        somebody("ada", Role::Maintainer)
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let folder = self.backend.dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    pub(crate) async fn push(&self, path: &Path) -> Result<Pushed, Problem> {
        self.push_with(path, &PushOptions::default()).await
    }

    pub(crate) async fn push_with(
        &self,
        path: &Path,
        options: &PushOptions,
    ) -> Result<Pushed, Problem> {
        let direct = Direct {
            world: self,
            ctx: self.ctx(),
        };
        client::push(&direct, path, options, Arc::new(|_| {})).await
    }

    /// Pushes these files as the whole dataset.
    pub(crate) async fn push_files(&self, files: &[(&str, &str)]) -> Result<Pushed, Problem> {
        let folder = tempfile::tempdir_in(self.backend.dir.path()).unwrap();
        write(folder.path(), files);
        self.push(folder.path()).await
    }

    /// Every file of a version, by a checkout.
    pub(crate) async fn checkout(&self, which: &str) -> BTreeMap<String, Vec<u8>> {
        let dest = tempfile::tempdir_in(self.backend.dir.path()).unwrap();
        let dest = dest.path().join("out");
        self.service
            .materialise(&self.ctx(), &self.project, &self.dataset, which, &dest)
            .await
            .unwrap();
        contents(&dest)
    }
}

pub(crate) fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

pub(crate) fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = client::walk(folder, 100_000).unwrap();
    files
        .into_iter()
        .map(|file| {
            (
                file.path.as_str().to_owned(),
                std::fs::read(file.local).unwrap(),
            )
        })
        .collect()
}

/// Bytes that do not repeat.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

pub(crate) fn body(
    bytes: Bytes,
) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Unpin {
    let parts: Vec<_> = bytes
        .chunks(100_000)
        .map(|part| Ok(Bytes::copy_from_slice(part)))
        .collect();
    stream::iter(parts)
}

pub(crate) struct Direct<'a> {
    pub(crate) world: &'a World,
    pub(crate) ctx: Ctx,
}

#[async_trait]
impl Transport for Direct<'_> {
    async fn begin(&self) -> Result<PushSession, Problem> {
        let World {
            service,
            project,
            dataset,
            ..
        } = self.world;
        Ok(service.begin(&self.ctx, project, dataset).await?)
    }

    async fn missing(&self, session: UploadId, keys: &[Key]) -> Result<Vec<Key>, Problem> {
        Ok(self.world.service.missing(&self.ctx, session, keys).await?)
    }

    async fn upload(&self, session: UploadId, bytes: Bytes) -> Result<UploadReceipt, Problem> {
        Ok(self
            .world
            .service
            .upload(&self.ctx, session, body(bytes))
            .await?)
    }

    async fn commit(&self, session: UploadId, bytes: Bytes) -> Result<Pushed, Problem> {
        Ok(self
            .world
            .service
            .commit_body(&self.ctx, session, body(bytes))
            .await?)
    }
}
