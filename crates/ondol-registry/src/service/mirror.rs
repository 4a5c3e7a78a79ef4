//! Repositories of other registries, read through this one and kept.
//!
//! A tag is believed for a while and then asked about again; what has a digest is asked for once.
//! Nothing is kept that does not have its digest, and a client that follows a download never gets
//! its last byte before the digest was right. When the other registry is away, what is here is
//! served as it is.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, header};
use ondol_store::StoreError;
use ondol_store::blobs::Hasher;
use ondol_types::{Algorithm, Digest, UploadId};
use tokio::sync::{Semaphore, watch};

use super::blobs::{BlobStream, Content};
use super::{Pulled, RegistryService};
use crate::config::Upstream;
use crate::error::RegistryError;
use crate::model::{Manifest, Reference, Repository, media};
use crate::remote::{Asked, Client, ClientError, Reach, host_port};
use crate::store;
use crate::uploads::file_name;

/// Downloads at once; more wait.
const DOWNLOADS: usize = 8;
/// Bytes that one read of a download hands on.
const READ: usize = 256 * 1024;
/// Bytes that are gathered before they are written.
const BATCH: usize = 1 << 20;

/// What this process knows about other registries.
pub(super) struct Mirror {
    clients: Mutex<HashMap<String, Arc<Client>>>,
    downloads: Mutex<HashMap<(Repository, Digest), Arc<Download>>>,
    slots: Arc<Semaphore>,
}

impl Default for Mirror {
    fn default() -> Self {
        Self {
            clients: Mutex::default(),
            downloads: Mutex::default(),
            slots: Arc::new(Semaphore::new(DOWNLOADS)),
        }
    }
}

/// How far a download is.
#[derive(Clone, Debug)]
enum Progress {
    Arrived(u64),
    Done(u64),
    Failed(String),
}

struct Download {
    file: std::fs::File,
    size: Option<u64>,
    progress: watch::Receiver<Progress>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn upstream_error(upstream: &str, error: ClientError) -> RegistryError {
    RegistryError::Upstream {
        upstream: upstream.to_owned(),
        problem: error.to_string(),
    }
}

/// The media types that are asked for, images before lists of them.
pub(crate) fn manifest_types() -> String {
    [
        media::INDEX,
        media::MANIFEST,
        media::DOCKER_LIST,
        media::DOCKER_MANIFEST,
        media::ARTIFACT,
    ]
    .join(", ")
}

impl RegistryService {
    /// Which addresses may be asked: public ones, those of upstreams, those an administrator
    /// named.
    pub(crate) fn reach(&self) -> Reach {
        let upstreams = self.config.upstreams.iter();
        let theirs = upstreams.filter_map(|it| host_port(&it.url.parse().ok()?));
        Reach::new(theirs.chain(self.config.private_registries.iter().cloned()))
    }

    /// The upstream that answers at a host, as image references name it.
    pub(crate) fn upstream_at(&self, host: &str) -> Option<&str> {
        let there = |it: &&Upstream| {
            let url: Option<reqwest::Url> = it.url.parse().ok();
            it.name == host
                || url.is_some_and(|url| {
                    url.host_str() == Some(host) || host_port(&url).as_deref() == Some(host)
                })
        };
        let found = self.config.upstreams.iter().find(there)?;
        Some(&found.name)
    }

    fn client(&self, name: &str) -> Result<Arc<Client>, RegistryError> {
        if let Some(client) = locked(&self.mirror.clients).get(name) {
            return Ok(client.clone());
        }
        let upstream: &Upstream = self.config.upstream(name).ok_or_else(|| {
            upstream_error(name, ClientError::Away("it is not configured".to_owned()))
        })?;
        let client = Client::new(&upstream.url, upstream.login.clone(), self.reach())
            .map_err(|error| upstream_error(name, error))?;
        let client = Arc::new(client);
        locked(&self.mirror.clients).insert(name.to_owned(), client.clone());
        Ok(client)
    }

    /// A manifest of another registry: the one that is here when it may be believed, else the one
    /// that is there, else the one that is here after all.
    pub(super) async fn manifest_there(
        &self,
        upstream: &str,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Pulled, RegistryError> {
        let here = self.manifest_row(repository, reference).await?;
        if let Some(row) = &here {
            let believed = match reference {
                Reference::Digest(_) => true,
                Reference::Tag(tag) => self.is_fresh(repository, tag).await?,
            };
            if believed {
                self.date_manifest(repository, row).await?;
                return self.pulled(row.clone()).await;
            }
        }
        let fetched = match &here {
            // A question without a body is enough when the tag has not moved.
            Some(row) => match self.head_there(upstream, repository, reference).await {
                Ok(Some(digest)) if digest == row.digest => Ok(None),
                Ok(_) => self
                    .fetch_manifest(upstream, repository, reference)
                    .await
                    .map(Some),
                Err(error) => Err(error),
            },
            None => self
                .fetch_manifest(upstream, repository, reference)
                .await
                .map(Some),
        };
        match (fetched, here) {
            (Ok(Some(pulled)), _) => Ok(pulled),
            (Ok(None), Some(row)) => {
                self.believe(repository, reference).await?;
                self.date_manifest(repository, &row).await?;
                self.pulled(row).await
            }
            (Err(error @ RegistryError::Upstream { .. }), Some(row)) => {
                tracing::warn!(
                    registry.repository = %repository,
                    error = %error,
                    "an upstream is away; serving what is here"
                );
                self.date_manifest(repository, &row).await?;
                self.pulled(row).await
            }
            (Err(error), _) => Err(error),
            (Ok(None), None) => Err(unknown(repository, reference)),
        }
    }

    async fn is_fresh(&self, repository: &Repository, tag: &str) -> Result<bool, RegistryError> {
        let target = self
            .store
            .read::<_, StoreError, _>(|tx| Box::pin(store::tag_target(tx, repository, tag)))
            .await?;
        let fresh = self.config.upstream_fresh;
        Ok(target.is_some_and(|(_, checked)| self.now().since(checked) < fresh))
    }

    async fn believe(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<(), RegistryError> {
        if let Reference::Tag(tag) = reference {
            self.store
                .write::<_, StoreError, _>(|tx| Box::pin(store::check_tag(tx, repository, tag)))
                .await?;
        }
        Ok(())
    }

    async fn ask(
        &self,
        upstream: &str,
        method: Method,
        repository: &Repository,
        path: &str,
        accept: &str,
    ) -> Result<Option<Asked>, RegistryError> {
        let client = self.client(upstream)?;
        let name = repository.name_there().unwrap_or_default();
        // Docker Hub keeps its own images below `library/`.
        let hub = upstream == "docker.io" && !name.contains('/');
        let name = if hub {
            format!("library/{name}")
        } else {
            name.to_owned()
        };
        match client.ask(method, &name, path, accept).await {
            Ok(asked) => Ok(Some(asked)),
            Err(ClientError::Missing) => Ok(None),
            Err(error) => Err(upstream_error(upstream, error)),
        }
    }

    async fn head_there(
        &self,
        upstream: &str,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<Digest>, RegistryError> {
        let path = format!("manifests/{reference}");
        let types = manifest_types();
        let asked = self
            .ask(upstream, Method::HEAD, repository, &path, &types)
            .await?
            .ok_or_else(|| unknown(repository, reference))?;
        Ok(asked
            .header("docker-content-digest")
            .and_then(|text| text.parse().ok()))
    }

    async fn fetch_manifest(
        &self,
        upstream: &str,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Pulled, RegistryError> {
        let wrong = |problem: String| upstream_error(upstream, ClientError::Away(problem));
        let path = format!("manifests/{reference}");
        let types = manifest_types();
        let asked = self
            .ask(upstream, Method::GET, repository, &path, &types)
            .await?
            .ok_or_else(|| unknown(repository, reference))?;
        let media_type = asked.header(header::CONTENT_TYPE).unwrap_or("").to_owned();
        let announced: Option<Digest> = asked
            .header("docker-content-digest")
            .and_then(|text| text.parse().ok());
        let bytes = asked
            .bytes()
            .await
            .map_err(|error| upstream_error(upstream, error))?;
        let expected = match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => announced,
        };
        let algorithm = expected
            .as_ref()
            .map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = Hasher::digest(algorithm, &bytes);
        if expected
            .as_ref()
            .is_some_and(|expected| *expected != digest)
        {
            return Err(wrong(format!("it sent other bytes than {reference}")));
        }
        let manifest =
            Manifest::parse(&bytes, &media_type).map_err(|error| wrong(error.to_string()))?;
        let tags: Vec<&str> = match reference {
            Reference::Tag(tag) => vec![tag],
            Reference::Digest(_) => Vec::new(),
        };
        self.record_manifest(repository, &manifest, &digest, bytes.clone(), &tags, None)
            .await?;
        Ok(Pulled {
            digest,
            media_type: manifest.media_type,
            bytes,
        })
    }

    pub(super) async fn blob_size_there(
        &self,
        upstream: &str,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<u64, RegistryError> {
        let path = format!("blobs/{digest}");
        let asked = self
            .ask(upstream, Method::HEAD, repository, &path, "*/*")
            .await?
            .ok_or_else(|| RegistryError::BlobUnknown {
                repository: repository.to_string(),
                digest: digest.clone(),
            })?;
        asked.length().ok_or_else(|| {
            let problem = "it does not say how long the blob is".to_owned();
            upstream_error(upstream, ClientError::Away(problem))
        })
    }

    /// A blob of another registry, while it arrives or when it is here.
    pub(super) async fn blob_there(
        &self,
        upstream: &str,
        repository: &Repository,
        digest: &Digest,
        whole: bool,
    ) -> Result<Content, RegistryError> {
        let key = (repository.clone(), digest.clone());
        let running = locked(&self.mirror.downloads).get(&key).cloned();
        let download = match running {
            Some(download) => download,
            None => self.download(upstream, repository, digest).await?,
        };
        match download.size {
            Some(size) if !whole => {
                return Ok(Content::Arriving(follow(download), size));
            }
            _ => {}
        }
        let mut progress = download.progress.clone();
        loop {
            let now = progress.borrow_and_update().clone();
            match now {
                Progress::Done(_) => break,
                Progress::Failed(problem) => {
                    return Err(upstream_error(upstream, ClientError::Away(problem)));
                }
                Progress::Arrived(_) => {}
            }
            if progress.changed().await.is_err() {
                let problem = "the download ended".to_owned();
                return Err(upstream_error(upstream, ClientError::Away(problem)));
            }
        }
        let (file, size) = self.blobs.open_file(digest).await?;
        Ok(Content::File(file, size))
    }

    /// Begins a download, which goes on whoever waits for it.
    async fn download(
        &self,
        upstream: &str,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Arc<Download>, RegistryError> {
        let slot = self.mirror.slots.clone().acquire_owned().await;
        let path = format!("blobs/{digest}");
        let asked = self
            .ask(upstream, Method::GET, repository, &path, "*/*")
            .await?
            .ok_or_else(|| RegistryError::BlobUnknown {
                repository: repository.to_string(),
                digest: digest.clone(),
            })?;
        let size = asked.length();
        if size.is_some_and(|size| size > self.config.max_blob_bytes) {
            return Err(RegistryError::TooLarge {
                what: "the blob".to_owned(),
                limit: self.config.max_blob_bytes,
            });
        }
        let id = UploadId::generate(&**self.store.clock());
        let name = file_name(&id, repository, digest.algorithm());
        let staged = self.blobs.stage(&name, digest.algorithm()).await?;
        let (tell, progress) = watch::channel(Progress::Arrived(0));
        let download = Arc::new(Download {
            file: staged.reader()?,
            size,
            progress,
        });
        let key = (repository.clone(), digest.clone());
        {
            let mut downloads = locked(&self.mirror.downloads);
            if let Some(other) = downloads.get(&key) {
                // Somebody else was faster; this answer is not read.
                let (other, blobs) = (other.clone(), self.blobs.clone());
                drop(staged);
                tokio::spawn(async move { blobs.discard_staged(&name).await });
                return Ok(other);
            }
            downloads.insert(key.clone(), download.clone());
        }
        let registry = self.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let outcome = registry
                .receive_blob(&key, &name, staged, asked, &tell)
                .await;
            locked(&registry.mirror.downloads).remove(&key);
            match outcome {
                Ok(size) => tell.send_replace(Progress::Done(size)),
                Err(error) => {
                    let _ = registry.blobs.discard_staged(&name).await;
                    tracing::warn!(
                        registry.repository = %key.0,
                        blob.digest = %key.1,
                        error = %error,
                        "a blob of an upstream was not kept"
                    );
                    tell.send_replace(Progress::Failed(error.to_string()))
                }
            };
        });
        Ok(download)
    }

    async fn receive_blob(
        &self,
        (repository, digest): &(Repository, Digest),
        name: &str,
        mut staged: ondol_store::blobs::StagedBlob,
        asked: Asked,
        tell: &watch::Sender<Progress>,
    ) -> Result<u64, RegistryError> {
        let limit = self.config.max_blob_bytes;
        let mut body = std::pin::pin!(asked.stream());
        loop {
            let (mut batch, mut gathered) = (Vec::new(), 0);
            while gathered < BATCH
                && let Some(chunk) = body.next().await
            {
                let chunk = chunk.map_err(RegistryError::Broken)?;
                gathered += chunk.len();
                batch.push(chunk);
            }
            if batch.is_empty() {
                break;
            }
            if staged.size() + gathered as u64 > limit {
                return Err(RegistryError::TooLarge {
                    what: "the blob".to_owned(),
                    limit,
                });
            }
            let written;
            (staged, written) = tokio::task::spawn_blocking(move || {
                let written = staged.append(&batch);
                staged.touch();
                (staged, written)
            })
            .await
            .map_err(|error| RegistryError::io(name)(std::io::Error::other(error)))?;
            tell.send_replace(Progress::Arrived(written?));
        }
        let blob = staged.finish(digest).await?;
        self.link(repository, digest, blob.size).await?;
        Ok(blob.size)
    }
}

fn unknown(repository: &Repository, reference: &Reference) -> RegistryError {
    RegistryError::ManifestUnknown {
        repository: repository.to_string(),
        reference: reference.to_string(),
    }
}

/// The bytes of a download as they arrive. The last byte is held back until the digest was right,
/// so that whoever counts bytes never has a whole blob that is wrong.
fn follow(download: Arc<Download>) -> BlobStream {
    let progress = download.progress.clone();
    let state = (download, progress, 0_u64);
    Box::pin(futures_util::stream::try_unfold(
        state,
        |(download, mut progress, offset)| async move {
            loop {
                let now = progress.borrow_and_update().clone();
                let (end, done) = match now {
                    Progress::Arrived(size) => (size.saturating_sub(1), false),
                    Progress::Done(size) => (size, true),
                    Progress::Failed(problem) => return Err(std::io::Error::other(problem)),
                };
                if offset < end {
                    let length = READ.min((end - offset) as usize);
                    let from = download.clone();
                    let bytes = tokio::task::spawn_blocking(move || {
                        let mut buffer = vec![0; length];
                        from.file.read_exact_at(&mut buffer, offset)?;
                        Ok::<_, std::io::Error>(Bytes::from(buffer))
                    })
                    .await
                    .map_err(std::io::Error::other)??;
                    let next = offset + bytes.len() as u64;
                    return Ok(Some((bytes, (download, progress, next))));
                }
                if done {
                    return Ok(None);
                }
                if progress.changed().await.is_err() {
                    return Err(std::io::Error::other("the download ended"));
                }
            }
        },
    ))
}
