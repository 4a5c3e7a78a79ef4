//! What the registry does, whoever asks: clients through `/v2/`, the image step, the deploy room.

mod blobs;
mod lists;
mod manifests;
mod mirror;
mod retention;
mod uploads;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ondol_auth::{Action, Ctx, Denied};
use ondol_store::blobs::Blobs;
use ondol_store::events::NewEvent;
use ondol_store::{Store, StoreError};
use ondol_types::{Digest, Timestamp};

use crate::Config;
use crate::error::RegistryError;
use crate::model::{Descriptor, Manifest, Owner, Repository, media};
use crate::store;
use crate::uploads::Uploads;

pub(crate) use blobs::Content;
pub use manifests::Put;
pub(crate) use mirror::manifest_types;
pub use uploads::Chunk;

/// What is asked for is dated again after this long, and no retention takes what was dated within
/// [`LEAST`]: whoever was told that something is here has that time to refer to it.
const DATED_AGAIN: Duration = Duration::from_secs(150);
/// The shortest time that something stays without being held.
const LEAST: Duration = Duration::from_secs(600);
/// Manifests that somebody is about to make a release of, at most.
const MAX_CLAIMS: usize = 4_096;

/// Which images must never be collected: those of releases that can be rolled back to.
#[async_trait::async_trait]
pub trait Retained: Send + Sync {
    /// The manifest digests that are in use.
    async fn images(&self) -> Result<Vec<Digest>, ondol_types::Problem>;
}

/// A manifest with its bytes.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Its digest.
    pub digest: Digest,
    /// The media type it was pushed with.
    pub media_type: String,
    /// The bytes exactly as pushed.
    pub bytes: Bytes,
}

/// The registry. Cheap to clone.
#[derive(Clone)]
pub struct RegistryService {
    store: Store,
    blobs: Blobs,
    uploads: Arc<Uploads>,
    config: Arc<Config>,
    claims: Arc<Mutex<HashMap<Digest, Timestamp>>>,
    mirror: Arc<mirror::Mirror>,
}

impl RegistryService {
    /// A registry over these stores.
    pub fn new(store: Store, blobs: Blobs, config: Config) -> Self {
        Self {
            store,
            blobs,
            uploads: Arc::default(),
            config: Arc::new(config),
            claims: Arc::default(),
            mirror: Arc::default(),
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Asks the one permission function; what another registry owns, everybody with a token may
    /// read, nobody may push to, and an administrator may delete from the cache.
    fn authorize(
        &self,
        ctx: &Ctx,
        action: Action,
        repository: &Repository,
    ) -> Result<(), RegistryError> {
        let name = match repository.owner() {
            Owner::Project(project) => return Ok(ctx.require(action, project)?),
            Owner::Upstream(name) => name,
        };
        let expired = ctx
            .principal
            .expires_at
            .is_some_and(|end| end <= ctx.clock.now());
        if !ctx.principal.is_authenticated() || expired {
            return Err(Denied::Unauthenticated.into());
        }
        if self.config.upstream(name).is_none() {
            return Err(Denied::Invisible(format!("repository `{repository}`")).into());
        }
        match action {
            Action::Read => Ok(()),
            Action::Push => Err(RegistryError::Unsupported(format!(
                "pushes to `{name}`, which it only reads through"
            ))),
            _ => Ok(ctx.require_installation(Action::Operate)?),
        }
    }

    fn now(&self) -> Timestamp {
        self.store.clock().now()
    }

    fn claims(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Timestamp>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn uploads(&self) -> &Uploads {
        &self.uploads
    }

    /// Appends an event of the builder.
    pub(crate) async fn record(&self, event: NewEvent) -> Result<(), RegistryError> {
        Ok(self
            .store
            .write::<_, StoreError, _>(|tx| {
                let event = event.clone();
                Box::pin(async move { tx.append(event).await.map(|_| ()) })
            })
            .await?)
    }

    /// A repository that has this manifest, for Ondol's own use: it asks nobody's permission.
    /// From this moment on nothing removes the manifest for ten minutes, so whoever is about to
    /// refer to it from a release asks here first and commits then.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn locate(&self, digest: &Digest) -> Result<Option<Repository>, RegistryError> {
        let now = self.now();
        {
            let mut claims = self.claims();
            if claims.len() >= MAX_CLAIMS {
                claims.retain(|_, at| now.since(*at) < LEAST);
            }
            if claims.len() < MAX_CLAIMS {
                claims.insert(digest.clone(), now);
            }
        }
        let names = self
            .store
            .write::<_, StoreError, _>(|tx| Box::pin(store::claim_manifest(tx, digest)))
            .await?;
        let mut found = None;
        for name in names {
            let repository: Repository = name.parse()?;
            if repository.project().is_some() {
                return Ok(Some(repository));
            }
            found = found.or(Some(repository));
        }
        Ok(found)
    }

    /// Digests that the registry holds, after `after` in text order: its part of the mark.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn held_digests(&self, after: &str, limit: u32) -> Result<Vec<Digest>, StoreError> {
        self.store
            .read::<_, StoreError, _>(|tx| Box::pin(store::linked_digests(tx, after, limit)))
            .await
    }

    /// Chooses the manifest of this machine's platform: the manifest itself, or the fitting
    /// child of an index.
    pub(crate) fn platform_child(index: &[u8]) -> Option<Descriptor> {
        let parsed = Manifest::parse(index, "").ok()?;
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        parsed.manifests.into_iter().find(|child| {
            child.platform.as_ref().is_some_and(|platform| {
                platform["os"] == "linux" && platform["architecture"] == architecture
            })
        })
    }
}

/// Whether a media type is an index.
pub(crate) fn is_index(media_type: &str) -> bool {
    media_type == media::INDEX || media_type == media::DOCKER_LIST
}
