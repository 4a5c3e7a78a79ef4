//! Images from Dockerfiles, built by the engine.
//!
//! A build is somebody else's program with the engine's help, so it gets what a workload gets and
//! no more: a network of its project's own, never that of the host; a share of the machine that
//! yields to what serves; nothing of the host's files but its context. One that is cancelled, or
//! whose engine dies, ends with everything that it started. What its cache keeps has a floor and a
//! ceiling and is known by id, so that nothing of others is ever removed.
//!
//! | module | what |
//! |---|---|
//! | `ignore`, `context` | which files are sent, and how |
//! | `request` | what the two engines are asked, each in its own way |
//! | `policy` | what no Dockerfile may ask for |
//! | `progress` | what they say meanwhile, and what their errors mean |
//! | `group` | limits over a whole build, and its end |
//! | `ledger`, `prune` | which images are from builds of this installation, and how long they stay |

mod context;
mod error;
mod group;
mod ignore;
mod ledger;
mod policy;
mod progress;
mod prune;
mod request;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::models::BuildInfo;
use bollard::query_parameters::{BuildImageOptions, TagImageOptions};
use futures_util::StreamExt;
use ondol_types::{Clock, Digest, ProjectName, RelPath, Secret, Timestamp};
use tokio::sync::Semaphore;

pub use error::BuildError;
#[cfg(any(test, fuzzing))]
pub use ignore::fuzz as fuzz_ignore;
pub use progress::{BuildLine, BuildSource};
pub use prune::{CacheRule, Pruned};

use super::archive::Pieces;
use super::client::{failed, is_unreachable, with_sources};
use super::names::Names;
use super::{ContainerEngine, Host, USED_FILE, probe::Facts, surroundings};
use crate::error::EngineError;
use crate::fleet::blocking;
use crate::mask::Masker;
use crate::model::Limits;
use context::Context;
use group::Group;
use ledger::Ledger;
use policy::Policy;
use progress::Progress;

/// How often a build begins at all.
const TRIES: usize = 3;

/// What builds may use, together and each.
#[derive(Clone, Debug)]
pub struct BuildConfig {
    /// How many run at one time; others wait.
    pub at_once: usize,
    /// Bytes of one context.
    pub context_bytes: u64,
    /// How long one may take.
    pub patience: Duration,
    /// What one may use where its project asks for nothing. Without a limit on memory, half of
    /// the engine's is shared out among those that run at one time.
    pub limits: Limits,
    /// How long what they leave is kept.
    pub cache: CacheRule,
}

impl Default for BuildConfig {
    fn default() -> Self {
        Self {
            at_once: 2,
            context_bytes: 4 << 30,
            patience: Duration::from_secs(60 * 60),
            limits: Limits::default(),
            cache: CacheRule::default(),
        }
    }
}

/// What is to be built.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// For which project.
    pub project: ProjectName,
    /// The checkout.
    pub source: PathBuf,
    /// The folder of it that is the context; `None` is all of it.
    pub context: Option<RelPath>,
    /// The Dockerfile, from the root of the checkout.
    pub dockerfile: RelPath,
    /// The stage to build; `None` is the last.
    pub target: Option<String>,
    /// Build arguments. They are seen in the image's history.
    pub args: BTreeMap<String, String>,
    /// Secrets by the id that `RUN --mount=type=secret,id=…` names. No layer and no history has
    /// them, and they are masked in lines.
    pub secrets: BTreeMap<String, Secret<String>>,
    /// Labels of the image, such as the commit.
    pub labels: BTreeMap<String, String>,
    /// What it may use; what is absent is the installation's.
    pub limits: Limits,
    /// Whether its commands reach the network.
    pub network: bool,
    /// Whether what was built before is used again.
    pub cache: bool,
    /// The time of every file in the context, in seconds; that of the commit, so that one that
    /// changes gets a later time. It decides nothing about the cache.
    pub time: Option<u64>,
}

impl BuildRequest {
    /// A build of all of a checkout with a network and the cache.
    pub fn new(project: ProjectName, source: impl Into<PathBuf>, dockerfile: RelPath) -> Self {
        Self {
            project,
            source: source.into(),
            context: None,
            dockerfile,
            target: None,
            args: BTreeMap::new(),
            secrets: BTreeMap::new(),
            labels: BTreeMap::new(),
            limits: Limits {
                cpu_cores: None,
                memory_bytes: None,
                pids: None,
            },
            network: true,
            cache: true,
            time: None,
        }
    }
}

/// An image in the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltImage {
    /// Its id: the digest of its configuration.
    pub id: Digest,
    /// Files, folders and links of the context.
    pub entries: usize,
    /// Bytes of the context.
    pub bytes: u64,
}

/// What the engine remembers for builds.
pub(super) struct Builds {
    config: BuildConfig,
    turns: Semaphore,
    ledger: Arc<Ledger>,
    /// The file that says that there is something to sweep in the engine.
    used: PathBuf,
    clock: Arc<dyn Clock>,
    /// Networks that a build is about to use.
    networks: Mutex<HashMap<String, usize>>,
}

impl Builds {
    pub(super) fn new(config: BuildConfig, dir: &Path, clock: Arc<dyn Clock>) -> Self {
        Self {
            turns: Semaphore::new(config.at_once.max(1)),
            config,
            ledger: Arc::new(Ledger::new(dir)),
            used: dir.join(USED_FILE),
            clock,
            networks: Mutex::default(),
        }
    }

    /// Networks that must not be taken for unused ones.
    pub(super) fn networks(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, usize>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A network in use, until it is dropped.
struct InUse<'b> {
    builds: &'b Builds,
    network: String,
}

impl<'b> InUse<'b> {
    fn new(builds: &'b Builds, network: String) -> Self {
        *builds.lock().entry(network.clone()).or_default() += 1;
        Self { builds, network }
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        let mut networks = self.builds.lock();
        if let Some(count) = networks.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                networks.remove(&self.network);
            }
        }
    }
}

impl ContainerEngine {
    /// Builds an image and tells each line as it comes. When the future is dropped, the build ends
    /// in the engine too.
    ///
    /// # Errors
    /// [`BuildError`], which says whether the same may work later.
    pub async fn build(
        &self,
        request: &BuildRequest,
        lines: &mut (dyn FnMut(BuildLine<'_>) + Send),
    ) -> Result<BuiltImage, BuildError> {
        let host = &*self.host;
        let patience = host.builds.config.patience;
        let _turn = match host.builds.turns.try_acquire() {
            Ok(turn) => turn,
            Err(_) => {
                lines(BuildLine::engine("waiting for another build to end"));
                let turn = host.builds.turns.acquire().await;
                turn.map_err(|_| BuildError::Interrupted("builds are over".to_owned()))?
            }
        };
        let building = async {
            let mut tries = 1;
            loop {
                match host.build(request, lines).await {
                    Err(BuildError::CacheGone(_)) if tries < TRIES => {
                        tries += 1;
                        lines(BuildLine::engine(
                            "something of the cache went away meanwhile; the build begins again",
                        ));
                    }
                    ended => return ended,
                }
            }
        };
        tokio::time::timeout(patience, building)
            .await
            .unwrap_or(Err(BuildError::OutOfTime(patience)))
    }

    /// The bytes of an image in the engine, as `docker save` writes them.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn export(&self, id: &Digest) -> Result<Pieces, BuildError> {
        let (_, docker) = self.host.finder.client().await?;
        let pieces = docker.export_image(&id.to_string());
        Ok(Box::pin(pieces.map(|piece| {
            piece.map_err(|error| std::io::Error::other(with_sources(&error)))
        })))
    }

    /// Ends what builds of an earlier process have left running, and removes what builds have left
    /// in the engine by the rule of [`BuildConfig::cache`]. To be called after a start and from
    /// time to time.
    ///
    /// # Errors
    /// The engine does not answer, or refuses.
    pub async fn prune_builds(&self) -> Result<Pruned, BuildError> {
        let (_, docker) = self.host.finder.client().await?;
        let builds = &self.host.builds;
        Group::clear(&self.host.facts().await, self.host.names.short()).await;
        // A build that runs may be about to use what looks unused.
        let at_once = u32::try_from(builds.config.at_once.max(1)).unwrap_or(u32::MAX);
        let Ok(_nobody_builds) = builds.turns.try_acquire_many(at_once) else {
            return Ok(Pruned::default());
        };
        let (now, own) = (builds.clock.now(), self.host.names.repository());
        prune::prune(&docker, &builds.ledger, &own, &builds.config.cache, now).await
    }

    /// Forgets the builds of a project that is deleted: what they have left goes with the next
    /// [`ContainerEngine::prune_builds`].
    pub async fn forget_builds(&self, project: &ProjectName) {
        self.host.builds.ledger.forget(project).await;
    }

    /// Gives a built image the name under which workloads look for the stored image of a manifest,
    /// so that the engine is not sent what it has. To be called when the store has it.
    ///
    /// # Errors
    /// The engine does not answer, or has it no more.
    pub async fn keep_built(&self, id: &Digest, manifest: &Digest) -> Result<(), BuildError> {
        let (_, docker) = self.host.finder.client().await?;
        let options = TagImageOptions {
            repo: Some(self.host.names.repository()),
            tag: Some(Names::tag(manifest)),
        };
        let tagged = docker.tag_image(&id.to_string(), Some(options)).await;
        Ok(tagged.map_err(failed(format!("name the image {id}")))?)
    }
}

impl Host {
    async fn build(
        &self,
        request: &BuildRequest,
        lines: &mut (dyn FnMut(BuildLine<'_>) + Send),
    ) -> Result<BuiltImage, BuildError> {
        let (_, docker) = self.finder.client().await?;
        let facts = self.facts().await;
        if !request.secrets.is_empty() && !facts.podman {
            return Err(BuildError::Unsupported {
                engine: facts.engine.clone(),
                what: "take build secrets through its API without BuildKit's session; Podman can"
                    .to_owned(),
            });
        }
        let mut context = self.list(request).await?;
        let refused = |line: Option<usize>, problem: &str| BuildError::Refused {
            path: request.dockerfile.to_string(),
            line,
            problem: problem.to_owned(),
        };
        let careful = facts
            .podman_version
            .is_some_and(|version| version < policy::SOUND_PODMAN);
        let policy = Policy::new(request.project.as_str(), careful, context.links());
        context.dockerfile = policy
            .prepare(&context.dockerfile)
            .map_err(|refusal| refused(Some(refusal.line), refusal.problem))?;
        let (entries, bytes) = (context.len(), context.bytes);
        let limits = self.limits(&facts, &request.limits);
        let network = match request.network {
            true => Some(
                self.build_network(&facts, &docker, &request.project)
                    .await?,
            ),
            false => None,
        };
        let group = Group::make(&facts, &limits, self.names.short()).await;
        if let Some(notice) = group.notice() {
            lines(BuildLine::engine(notice));
        }
        let query = request::Query {
            podman: facts.podman,
            request,
            labels: &request.labels,
            limits: &limits,
            network: network.as_ref().map(|network| network.network.as_str()),
            parent: group.parent(),
            tag: format!("{}/{}", self.names.repository(), request.project),
        }
        .text();
        let masker = Masker::new(request.secrets.values());
        let secrets = request.secrets.values().cloned().collect();
        let docker = asking(docker, query, self.builds.config.patience);
        let path = request.dockerfile.as_str();
        let mut account = Account {
            ledger: self.builds.ledger.clone(),
            project: request.project.clone(),
            begun: self.builds.clock.now(),
            progress: Progress::new(&context.dockerfile, path, masker),
            written: false,
        };
        let body = bollard::body_try_stream(context.send(secrets));
        let mut steps = docker
            .build_image(BuildImageOptions::default(), None, Some(body))
            .boxed();
        let (mut id, mut forbidden) = (None, None);
        let failed = loop {
            match steps.next().await {
                None => break None,
                Some(Ok(step)) => {
                    if let Some(built) = step.aux.as_ref().and_then(|aux| aux.id.clone()) {
                        id = Some(built);
                    }
                    said(&mut account.progress, step, lines);
                    if let Err(problem) = policy.step(account.progress.instruction()) {
                        forbidden = Some(problem);
                        break None;
                    }
                }
                Some(Err(error)) => break Some(error),
            }
        };
        account.progress.end(lines);
        let id = id.and_then(|id| id.parse::<Digest>().ok());
        let outcome = match (failed, id) {
            _ if forbidden.is_some() => Err(refused(None, forbidden.unwrap_or_default())),
            (None, Some(id)) => Ok(BuiltImage { id, entries, bytes }),
            (None, None) => Err(BuildError::Interrupted(
                "its answer ended before the build did".to_owned(),
            )),
            (Some(error), _) if is_unreachable(&error) => {
                Err(BuildError::Interrupted(with_sources(&error)))
            }
            (Some(error), _) => {
                let short = group.short_of_memory();
                Err(account.progress.error(&error, short, &limits))
            }
        };
        if outcome.is_ok() {
            group.end().await;
        } else {
            group.kill().await;
        }
        account
            .write(outcome.as_ref().ok().map(|built| &built.id))
            .await;
        outcome
    }

    async fn list(&self, request: &BuildRequest) -> Result<Context, BuildError> {
        let (source, folder) = (request.source.clone(), request.context.clone());
        let dockerfile = request.dockerfile.clone();
        let limit = self.builds.config.context_bytes;
        let time = request.time.unwrap_or(context::NO_TIME);
        let used = self.builds.used.clone();
        blocking(move || {
            if !used.exists() {
                std::fs::write(&used, "").map_err(EngineError::io("write", &used))?;
            }
            Context::list(&source, folder.as_ref(), &dockerfile, limit, time)
        })
        .await
    }

    fn limits(&self, facts: &Facts, asked: &Limits) -> Limits {
        let config = &self.builds.config;
        let share = facts.memory_bytes / 2 / config.at_once.max(1) as u64;
        let memory = asked.memory_bytes.or(config.limits.memory_bytes);
        Limits {
            cpu_cores: asked.cpu_cores.or(config.limits.cpu_cores),
            memory_bytes: memory.or((share > 0).then_some(share)),
            pids: asked.pids.or(config.limits.pids),
        }
    }

    /// A network that nothing else is in, from which only what is public is reached.
    async fn build_network(
        &self,
        facts: &Facts,
        docker: &Docker,
        project: &ProjectName,
    ) -> Result<InUse<'_>, BuildError> {
        let name = self.names.network(project, Some("build"));
        let in_use = InUse::new(&self.builds, name);
        surroundings::network(docker, &self.names, project, Some("build")).await?;
        if let Err(why) = self.keep_apart(facts).await {
            tracing::warn!(
                workload.engine = "container",
                why,
                "a build's network is not kept apart"
            );
        }
        Ok(in_use)
    }
}

/// What a build has made, for the ledger, also when it is cancelled.
struct Account {
    ledger: Arc<Ledger>,
    project: ProjectName,
    begun: Timestamp,
    progress: Progress,
    written: bool,
}

impl Account {
    async fn write(mut self, image: Option<&Digest>) {
        self.written = true;
        let images = self.progress.images();
        self.ledger
            .record(&self.project, image, images, self.begun)
            .await;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let images = self.progress.images();
        if self.written || images.is_empty() {
            return;
        }
        let (ledger, project, begun) = (self.ledger.clone(), self.project.clone(), self.begun);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { ledger.record(&project, None, images, begun).await });
        }
    }
}

/// A client whose builds have this query: neither engine's is all in the client's types.
fn asking(docker: Docker, query: String, patience: Duration) -> Docker {
    docker
        .with_timeout(patience)
        .with_request_modifier(move |mut request| {
            let path = format!("{}?{query}", request.uri().path());
            let mut parts = request.uri().clone().into_parts();
            if let Ok(path) = path.parse() {
                parts.path_and_query = Some(path);
                if let Ok(uri) = http::Uri::from_parts(parts) {
                    *request.uri_mut() = uri;
                }
            }
            request
        })
}

fn said(progress: &mut Progress, step: BuildInfo, lines: &mut (dyn FnMut(BuildLine<'_>) + Send)) {
    if let Some(text) = step.stream {
        progress.take(&text, lines);
    }
    // How far a download has come would be thousands of lines.
    if let (Some(status), None) = (step.status, step.progress_detail) {
        progress.take(&format!("{status}\n"), lines);
    }
}
