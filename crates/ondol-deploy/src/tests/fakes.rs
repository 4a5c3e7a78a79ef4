//! The world outside the process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use ondol_spec::model::Health;
use ondol_types::{
    Clock, CrashPoints, Digest, EnvironmentName, ErrorKind, ManualClock, ModelName, Problem,
    ProjectName, ReleaseId, ReplicaId, Secret, SecretName, Timestamp, WorkloadId,
};
use ondol_workload::{
    Capabilities, CgroupVersion, Engine, EngineError, Exit, LogLine, LogLines, LogQuery,
    LogStreamKind, Observation, Started, StopPolicy, Usage, WorkDir, WorkloadSpec, WorkloadState,
};
use tokio::sync::watch;

use crate::execute::probe::Ask;
use crate::execute::{ROLE, ROLE_COMMAND};
use crate::ports::{ImageConfig, Images, Models, Routes, SecretValues};
use crate::routes::{Applied, Counters, ReleaseTraffic, ReplicaTraffic, RouteTable};

/// How a program behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behaviour {
    /// What it answers; `None` refuses connections.
    pub(super) status: Option<u16>,
    /// It exits at once.
    pub(super) exits: bool,
    /// How its release command ends; `None` runs on.
    pub(super) command: Option<i32>,
}

impl Behaviour {
    pub(super) const GOOD: Self = Self {
        status: Some(200),
        exits: false,
        command: Some(0),
    };
}

struct Workload {
    spec: WorkloadSpec,
    state: WorkloadState,
    address: Option<SocketAddr>,
    image: Digest,
}

#[derive(Default)]
pub(super) struct Inner {
    workloads: BTreeMap<WorkloadId, Workload>,
    behaviours: BTreeMap<Digest, Behaviour>,
    statuses: BTreeMap<SocketAddr, Option<u16>>,
    /// Failed probes in a row.
    unanswered: BTreeMap<SocketAddr, u32>,
    ports: u16,
    commands: BTreeMap<WorkloadId, u32>,
    table: Option<RouteTable>,
    places: BTreeMap<ReplicaId, (SocketAddr, ReleaseId)>,
    left: BTreeMap<ReplicaId, Timestamp>,
    pub(super) gateway_down: bool,
    pub(super) counters_down: bool,
    pub(super) newest_elsewhere: i64,
    pub(super) in_flight: BTreeMap<ReplicaId, u64>,
    pub(super) traffic: BTreeMap<ReleaseId, ReleaseTraffic>,
    pub(super) secrets: BTreeMap<SecretName, i64>,
    pub(super) broken_images: Vec<Digest>,
    /// Images with a root filesystem of their own.
    pub(super) rooted_images: Vec<Digest>,
    violations: Vec<String>,
}

/// Everything outside, shared by all fakes.
pub(super) struct Outside {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) crash: Arc<Crash>,
}

/// Kills the process at a named place: whatever reaches any place afterwards ends there too.
#[derive(Default)]
pub(super) struct Crash {
    armed: Mutex<Option<(&'static str, u32)>>,
    dead: AtomicBool,
    pub(super) reached: Mutex<BTreeMap<&'static str, u32>>,
}

impl Crash {
    pub(super) fn arm(&self, point: &'static str, skip: u32) {
        *self.armed.lock().unwrap() = Some((point, skip));
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    pub(super) fn revive(&self) {
        self.dead.store(false, Ordering::SeqCst);
    }

    /// The dead do nothing.
    async fn alive(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }
}

impl CrashPoints for Crash {
    fn reached(&self, point: &'static str) {
        *self.reached.lock().unwrap().entry(point).or_default() += 1;
        let mut armed = self.armed.lock().unwrap();
        match &mut *armed {
            Some((name, 0)) if *name == point => {
                *armed = None;
                self.kill();
            }
            Some((name, skip)) if *name == point => *skip -= 1,
            _ => {}
        }
        drop(armed);
        if self.is_dead() {
            // Unwinds without a message: it is the end of the process that is meant.
            std::panic::resume_unwind(Box::new("the process was killed"));
        }
    }
}

pub(super) fn image(number: u8) -> Digest {
    Digest::from_bytes(ondol_types::Algorithm::Sha256, &[number; 32])
}

fn exit(code: Option<i32>, stopped: bool, at: Timestamp) -> Exit {
    let signal = code.is_none().then_some(15);
    Exit {
        code,
        signal,
        oom: false,
        timed_out: false,
        stopped,
        lost: false,
        at,
        usage: Usage::default(),
    }
}

impl Outside {
    pub(super) fn new(clock: Arc<ManualClock>) -> Arc<Self> {
        let inner = Inner {
            ports: 20_000,
            ..Inner::default()
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
            changes: watch::Sender::new(0),
            clock,
            crash: Arc::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub(super) fn behave(&self, image: &Digest, behaviour: Behaviour) {
        self.lock().behaviours.insert(image.clone(), behaviour);
    }

    /// The programs of an image answer otherwise from now on.
    pub(super) fn answer(&self, image: &Digest, status: Option<u16>) {
        let mut inner = self.lock();
        let addresses: Vec<SocketAddr> = inner
            .workloads
            .values()
            .filter(|workload| workload.image == *image)
            .filter_map(|workload| workload.address)
            .collect();
        inner
            .statuses
            .extend(addresses.into_iter().map(|address| (address, status)));
    }

    /// These answer whatever else their program does.
    pub(super) fn keep_answering(&self, endpoints: &[ReplicaId]) {
        let mut inner = self.lock();
        let places: Vec<SocketAddr> = endpoints.iter().map(|id| inner.places[id].0).collect();
        inner
            .statuses
            .extend(places.into_iter().map(|address| (address, Some(200))));
    }

    /// Running replicas of an image.
    pub(super) fn running(&self, image: &Digest) -> Vec<WorkloadId> {
        let inner = self.lock();
        let of = inner.workloads.iter().filter(|(_, workload)| {
            workload.image == *image
                && workload.state.exit().is_none()
                && workload.spec.labels[ROLE] != ROLE_COMMAND
        });
        of.map(|(id, _)| *id).collect()
    }

    pub(super) fn spec(&self, id: &WorkloadId) -> WorkloadSpec {
        self.lock().workloads[id].spec.clone()
    }

    /// What the one release command was given.
    pub(super) fn command_spec(&self) -> WorkloadSpec {
        let inner = self.lock();
        let mut all = inner
            .workloads
            .values()
            .filter(|workload| workload.spec.labels[ROLE] == ROLE_COMMAND);
        all.next().expect("a release command").spec.clone()
    }

    /// The program of a workload ends by itself.
    pub(super) fn die(&self, id: &WorkloadId, code: i32) {
        let now = self.clock.now();
        if let Some(workload) = self.lock().workloads.get_mut(id)
            && workload.state.exit().is_none()
        {
            workload.state = WorkloadState::Exited(exit(Some(code), false, now));
        }
        self.changed();
    }

    /// Numbers of the releases that get traffic of a project, with their shares.
    pub(super) fn serving(&self, project: &str) -> Vec<(i64, u32)> {
        let inner = self.lock();
        let routes = inner
            .table
            .as_ref()
            .map(|table| table.routes.as_slice())
            .unwrap_or_default();
        routes
            .iter()
            .find(|route| route.project.as_str() == project)
            .map(|route| {
                route
                    .backends
                    .iter()
                    .map(|backend| (backend.number, backend.weight))
                    .collect()
            })
            .unwrap_or_default()
    }

    pub(super) fn endpoints(&self) -> Vec<ReplicaId> {
        let inner = self.lock();
        inner
            .table
            .as_ref()
            .map(|table| table.replicas().into_iter().collect())
            .unwrap_or_default()
    }

    pub(super) fn table(&self) -> RouteTable {
        self.lock().table.clone().unwrap_or_default()
    }

    pub(super) fn generation(&self) -> i64 {
        self.lock()
            .table
            .as_ref()
            .map_or(0, |table| table.generation)
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    pub(super) fn command_starts(&self) -> u32 {
        self.lock().commands.values().sum()
    }
}

impl Inner {
    fn status(&self, address: SocketAddr) -> Option<u16> {
        let workload = self
            .workloads
            .values()
            .find(|workload| workload.address == Some(address))?;
        if workload.state.exit().is_some() {
            return None;
        }
        match self.statuses.get(&address) {
            Some(status) => *status,
            None => {
                self.behaviours
                    .get(&workload.image)
                    .copied()
                    .unwrap_or(Behaviour::GOOD)
                    .status
            }
        }
    }

    fn good(&self, address: SocketAddr) -> bool {
        self.status(address).is_some_and(|status| status < 500)
    }

    /// Whether the platform may believe that it answers: it runs, and has not failed enough probes
    /// to count as unhealthy. Nobody can know more between two probes.
    fn believed(&self, address: SocketAddr) -> bool {
        let runs = self
            .workloads
            .values()
            .any(|workload| workload.address == Some(address) && workload.state.exit().is_none());
        let limit = crate::plan::Limits::default().unhealthy;
        runs && self
            .unanswered
            .get(&address)
            .is_none_or(|count| *count < limit)
    }

    /// The rules for the end of a replica that runs.
    fn check_stop(&mut self, id: &WorkloadId, now: Timestamp) {
        let Some(address) = self
            .workloads
            .get(id)
            .filter(|workload| workload.state.exit().is_none())
            .and_then(|workload| workload.address)
        else {
            return;
        };
        if !self.good(address) {
            return;
        }
        let endpoints: Vec<ReplicaId> = self
            .places
            .iter()
            .filter(|(_, (place, _))| *place == address)
            .map(|(id, _)| *id)
            .collect();
        let routed = self
            .table
            .as_ref()
            .map(RouteTable::replicas)
            .unwrap_or_default();
        for endpoint in endpoints {
            if routed.contains(&endpoint) {
                self.violations.push(format!(
                    "{endpoint} was stopped while the gateway sends requests to it"
                ));
            }
            let busy = self.in_flight.get(&endpoint).copied().unwrap_or(0) > 0;
            let over = self
                .left
                .get(&endpoint)
                .is_some_and(|left| now.since(*left) >= Duration::from_secs(30));
            if busy && !over {
                self.violations
                    .push(format!("{endpoint} was stopped with requests in progress"));
            }
        }
    }

    fn check_table(&mut self, table: &RouteTable) {
        let mut addresses = BTreeMap::new();
        for route in &table.routes {
            for backend in &route.backends {
                for endpoint in &backend.replicas {
                    let place = (endpoint.address, backend.release);
                    if *self.places.entry(endpoint.id).or_insert(place) != place {
                        self.violations
                            .push(format!("{} changed its place", endpoint.id));
                    }
                    if *addresses.entry(endpoint.address).or_insert(endpoint.id) != endpoint.id {
                        self.violations
                            .push(format!("{} has two endpoints", endpoint.address));
                    }
                }
            }
        }
        let Some(before) = &self.table else { return };
        if table.generation < before.generation {
            self.violations.push(format!(
                "generation {} after {}",
                table.generation, before.generation
            ));
        }
        if table.generation == before.generation && table != before {
            self.violations
                .push(format!("generation {} has two contents", table.generation));
        }
        let any = |table: &RouteTable, path: &str, holds: &dyn Fn(SocketAddr) -> bool| {
            let routes = table
                .routes
                .iter()
                .filter(|route| route.path == path && route.strip);
            let mut all = routes
                .flat_map(|route| &route.backends)
                .flat_map(|backend| &backend.replicas);
            all.any(|endpoint| holds(endpoint.address))
        };
        let mut problems = Vec::new();
        for route in table.routes.iter().filter(|route| route.strip) {
            let answered = any(before, &route.path, &|address| self.good(address));
            let believed = |address| self.good(address) || self.believed(address);
            if answered && !any(table, &route.path, &believed) {
                problems.push(format!("{} lost its last replica that answers", route.path));
            }
        }
        self.violations.extend(problems);
    }
}

fn observation(id: &WorkloadId, workload: &Workload) -> Observation {
    Observation {
        id: *id,
        incarnation: workload.spec.incarnation,
        project: workload.spec.project.clone(),
        kind: workload.spec.kind,
        labels: workload.spec.labels.clone(),
        state: workload.state.clone(),
        address: workload.address,
        work_dir: "/somewhere".into(),
        notices: Vec::new(),
    }
}

/// The image that a workload was made of.
fn image_of(spec: &WorkloadSpec) -> Digest {
    if let Some(container) = &spec.container {
        let ondol_workload::container::ImageRef::Stored(image) = &container.image else {
            panic!("releases run images of the registry")
        };
        return image.clone();
    }
    let WorkDir::CopyOf(dir) = &spec.work_dir else {
        panic!("replicas get a copy of their own")
    };
    let name = dir
        .ancestors()
        .filter_map(|dir| dir.file_name()?.to_str())
        .find(|name| name.starts_with("sha256-"));
    let name = name.expect("the folder of an image");
    name.replacen('-', ":", 1).parse().unwrap()
}

#[async_trait]
impl Engine for Outside {
    fn name(&self) -> &'static str {
        "process"
    }

    async fn start(&self, spec: WorkloadSpec) -> Result<Started, EngineError> {
        self.crash.alive().await;
        let now = self.clock.now();
        let started = {
            let mut inner = self.lock();
            if let Some(known) = inner.workloads.get(&spec.id) {
                if known.spec.incarnation == spec.incarnation {
                    let observation = observation(&spec.id, known);
                    return Ok(Started {
                        newly: false,
                        address: known.address,
                        observation,
                    });
                }
                if known.spec.incarnation > spec.incarnation {
                    return Err(EngineError::Stale {
                        id: spec.id,
                        asked: spec.incarnation,
                        known: known.spec.incarnation,
                    });
                }
                if known.state.exit().is_none() {
                    return Err(EngineError::Running {
                        id: spec.id,
                        incarnation: known.spec.incarnation,
                    });
                }
            }
            let image = image_of(&spec);
            let behaviour = inner
                .behaviours
                .get(&image)
                .copied()
                .unwrap_or(Behaviour::GOOD);
            let command = spec.labels[ROLE] == ROLE_COMMAND;
            let mut state = WorkloadState::Running {
                pid: 1,
                started_at: now,
            };
            let mut address = None;
            if command {
                let starts = inner.commands.entry(spec.id).or_default();
                *starts += 1;
                if *starts > 1 {
                    inner
                        .violations
                        .push(format!("the release command {} ran twice", spec.id));
                }
                if let Some(code) = behaviour.command {
                    state = WorkloadState::Exited(exit(Some(code), false, now));
                }
            } else {
                inner.ports += 1;
                address = Some(SocketAddr::from(([127, 0, 0, 1], inner.ports)));
                if behaviour.exits {
                    state = WorkloadState::Exited(exit(Some(3), false, now));
                }
            }
            let id = spec.id;
            let workload = Workload {
                spec,
                state,
                address,
                image,
            };
            let observation = observation(&id, &workload);
            inner.workloads.insert(id, workload);
            Started {
                newly: true,
                address,
                observation,
            }
        };
        self.changed();
        Ok(started)
    }

    async fn observe(&self, id: &WorkloadId) -> Result<Option<Observation>, EngineError> {
        self.crash.alive().await;
        Ok(self
            .lock()
            .workloads
            .get(id)
            .map(|workload| observation(id, workload)))
    }

    async fn list(&self) -> Result<Vec<Observation>, EngineError> {
        self.crash.alive().await;
        Ok(self
            .lock()
            .workloads
            .iter()
            .map(|(id, workload)| observation(id, workload))
            .collect())
    }

    async fn stop(&self, id: &WorkloadId, _policy: StopPolicy) -> Result<Exit, EngineError> {
        self.crash.alive().await;
        let now = self.clock.now();
        let ended = {
            let mut inner = self.lock();
            inner.check_stop(id, now);
            let workload = inner
                .workloads
                .get_mut(id)
                .ok_or(EngineError::NotFound(*id))?;
            if workload.state.exit().is_none() {
                workload.state = WorkloadState::Exited(exit(None, true, now));
            }
            workload.state.exit().cloned().expect("it has ended")
        };
        self.changed();
        Ok(ended)
    }

    async fn kill(&self, id: &WorkloadId) -> Result<Exit, EngineError> {
        self.stop(id, StopPolicy::default()).await
    }

    async fn wait(&self, id: &WorkloadId) -> Result<Exit, EngineError> {
        let mut changes = self.changes.subscribe();
        loop {
            self.crash.alive().await;
            let ended = {
                let inner = self.lock();
                inner
                    .workloads
                    .get(id)
                    .ok_or(EngineError::NotFound(*id))?
                    .state
                    .exit()
                    .cloned()
            };
            match ended {
                Some(ended) => return Ok(ended),
                None => changes.changed().await.expect("the world goes on"),
            }
        }
    }

    async fn logs(&self, id: &WorkloadId, query: LogQuery) -> Result<LogLines, EngineError> {
        let limit = query.limit.unwrap_or(100);
        let id = *id;
        let lines = (1..=limit).map(move |seq| {
            let text = format!("line {seq} of {id}");
            Ok(LogLine {
                seq,
                time: Timestamp::default(),
                stream: LogStreamKind::Stderr,
                text,
                truncated: false,
            })
        });
        Ok(Box::pin(futures_util::stream::iter(lines)))
    }

    async fn remove(&self, id: &WorkloadId) -> Result<(), EngineError> {
        let mut inner = self.lock();
        if inner
            .workloads
            .get(id)
            .is_some_and(|workload| workload.state.exit().is_none())
        {
            return Err(EngineError::Running {
                id: *id,
                incarnation: 1,
            });
        }
        inner.workloads.remove(id);
        Ok(())
    }

    async fn usage(&self, _id: &WorkloadId) -> Result<Usage, EngineError> {
        let cpu_seconds = self.clock.now().as_seconds_f64() / 10.0;
        Ok(Usage {
            cpu_seconds,
            memory_bytes: 1 << 20,
            pids: 1,
        })
    }

    async fn listening(&self, _id: &WorkloadId) -> Result<Vec<SocketAddr>, EngineError> {
        Ok(vec![SocketAddr::from(([127, 0, 0, 1], 5_000))])
    }

    async fn capabilities(&self) -> Capabilities {
        Capabilities {
            cgroups: CgroupVersion::None,
            memory_limit: false,
            cpu_limit: false,
            pids_limit: false,
            netns: false,
            netns_outbound: false,
            container: None,
            notices: Vec::new(),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[async_trait]
impl Routes for Outside {
    async fn apply(&self, table: RouteTable) -> Result<Applied, Problem> {
        self.crash.alive().await;
        let now = self.clock.now();
        let mut inner = self.lock();
        if inner.gateway_down {
            return Err(Problem::new(
                ErrorKind::Unavailable,
                "gateway.down",
                "no gateway is alive",
            ));
        }
        if table.generation < inner.newest_elsewhere {
            return Err(Problem::new(
                ErrorKind::Conflict,
                "gateway.generation.stale",
                "an older generation",
            ));
        }
        inner.check_table(&table);
        let (generation, named) = (table.generation, table.replicas());
        let before = inner
            .table
            .as_ref()
            .map(RouteTable::replicas)
            .unwrap_or_default();
        for endpoint in before.difference(&named) {
            inner.left.insert(*endpoint, now);
        }
        inner.table = Some(table);
        Ok(Applied {
            generation,
            gateways: 1,
        })
    }

    async fn generation(&self) -> Result<i64, Problem> {
        let inner = self.lock();
        if inner.gateway_down {
            return Err(Problem::new(
                ErrorKind::Unavailable,
                "gateway.down",
                "no gateway is alive",
            ));
        }
        Ok(inner
            .newest_elsewhere
            .max(inner.table.as_ref().map_or(0, |table| table.generation)))
    }

    async fn counters(&self) -> Result<Counters, Problem> {
        self.crash.alive().await;
        let inner = self.lock();
        if inner.counters_down {
            return Err(Problem::new(
                ErrorKind::Unavailable,
                "gateway.down",
                "no counters",
            ));
        }
        let replicas = inner
            .in_flight
            .iter()
            .map(|(id, in_flight)| {
                (
                    *id,
                    ReplicaTraffic {
                        in_flight: *in_flight,
                        ..ReplicaTraffic::default()
                    },
                )
            })
            .collect();
        Ok(Counters {
            releases: inner.traffic.clone(),
            replicas,
        })
    }
}

#[async_trait]
impl Ask for Outside {
    async fn ask(&self, address: SocketAddr, _host: &str, _health: &Health) -> Result<u16, String> {
        self.crash.alive().await;
        let mut inner = self.lock();
        let status = inner.status(address);
        let count = inner.unanswered.entry(address).or_default();
        *count = if status.is_some_and(|status| status < 500) {
            0
        } else {
            *count + 1
        };
        status.ok_or_else(|| "connection refused".to_owned())
    }
}

#[async_trait]
impl Images for Outside {
    async fn materialise(&self, image: &Digest, dest: &Path) -> Result<ImageConfig, Problem> {
        assert!(dest.is_dir(), "the folder is there");
        if self.lock().broken_images.contains(image) {
            return Err(Problem::new(
                ErrorKind::Corrupted,
                "registry.blob.corrupted",
                "a layer is damaged",
            ));
        }
        Ok(image_config())
    }

    async fn describe(&self, image: &Digest) -> Result<ImageConfig, Problem> {
        Ok(ImageConfig {
            own_root: self.lock().rooted_images.contains(image),
            ports: vec![9000],
            ..image_config()
        })
    }
}

fn image_config() -> ImageConfig {
    let env = BTreeMap::from([
        ("FROM_IMAGE".to_owned(), "1".to_owned()),
        ("SHARED".to_owned(), "image".to_owned()),
    ]);
    ImageConfig {
        env,
        cmd: vec!["serve".into()],
        workdir: "/app".into(),
        ..ImageConfig::default()
    }
}

#[async_trait]
impl Models for Outside {
    async fn materialise(
        &self,
        _project: &ProjectName,
        _model: &ModelName,
        _version: i64,
        dest: &Path,
    ) -> Result<(), Problem> {
        assert!(dest.is_dir(), "the folder is there");
        Ok(())
    }
}

#[async_trait]
impl SecretValues for Outside {
    async fn current(
        &self,
        _: &ProjectName,
        _: &EnvironmentName,
        names: &[SecretName],
    ) -> Result<BTreeMap<SecretName, i64>, Problem> {
        let inner = self.lock();
        Ok(names
            .iter()
            .filter_map(|name| Some((name.clone(), *inner.secrets.get(name)?)))
            .collect())
    }

    async fn values(
        &self,
        _: &ProjectName,
        _: &EnvironmentName,
        versions: &BTreeMap<SecretName, i64>,
    ) -> Result<BTreeMap<SecretName, Secret>, Problem> {
        Ok(versions
            .iter()
            .map(|(name, version)| (name.clone(), Secret::new(format!("value {version}"))))
            .collect())
    }
}
