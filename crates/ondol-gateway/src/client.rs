//! How the control plane steers gateways.
//!
//! While one gateway replaces another, two live at once, and a change counts only when both have
//! it. A gateway opens its socket *before* it reads the snapshot file, and an acknowledged change
//! is in that file: so listing, applying and listing again until nobody new appears reaches all.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ondol_types::ReplicaId;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::control::{
    CONTROL_VERSION, GatewayStatus, Reply, Request, RequestBody, read_frame, write_frame,
};
use crate::error::GatewayError;
use crate::run_dir::RunDir;
use crate::snapshot::{DrainPolicy, Snapshot};
use crate::stats::{Counters, CountersFile};

const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// A gateway that was killed is back within this.
const RESTART_WAIT: Duration = Duration::from_secs(5);

const END_WAIT: Duration = Duration::from_secs(2);

const RETRY_EVERY: Duration = Duration::from_millis(20);

/// The control plane's end.
#[derive(Debug, Clone)]
pub struct GatewayControl {
    run_dir: RunDir,
}

/// What a change reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The generation.
    pub generation: u64,
    /// The gateways that have made it durable and serve it.
    pub gateways: Vec<String>,
}

/// How far a replica has drained, over all living gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainStatus {
    /// Whether any gateway still sends it new requests.
    pub routed: bool,
    /// Requests in progress.
    pub in_flight: u64,
    /// WebSockets and other upgraded connections.
    pub tunnels: u64,
}

impl DrainStatus {
    /// Whether the replica may be stopped.
    pub fn is_drained(&self) -> bool {
        !self.routed && self.in_flight == 0 && self.tunnels == 0
    }
}

impl GatewayControl {
    /// Steers the gateways of a run directory.
    pub fn new(run_dir: &Path) -> Result<Self, GatewayError> {
        Ok(Self {
            run_dir: RunDir::open(run_dir)?,
        })
    }

    /// Makes every living gateway persist and serve a snapshot. Waits for a gateway that is just
    /// being restarted; fails with [`GatewayError::NoGateway`] when none comes.
    pub async fn apply(&self, snapshot: &Snapshot) -> Result<Applied, GatewayError> {
        snapshot.validate()?;
        let deadline = Instant::now() + RESTART_WAIT;
        let mut done: BTreeSet<String> = BTreeSet::new();
        loop {
            let living = self.living()?;
            let new: Vec<&String> = living
                .iter()
                .filter(|instance| !done.contains(*instance))
                .collect();
            if new.is_empty() {
                done.retain(|instance| living.contains(instance));
                if !done.is_empty() {
                    return Ok(Applied {
                        generation: snapshot.generation,
                        gateways: done.into_iter().collect(),
                    });
                }
                if Instant::now() >= deadline {
                    return Err(GatewayError::NoGateway {
                        run_dir: self.run_dir.path().to_owned(),
                    });
                }
                tokio::time::sleep(RETRY_EVERY).await;
                continue;
            }
            for instance in new {
                let body = RequestBody::Apply {
                    snapshot: Box::new(snapshot.clone()),
                };
                match self.ask(instance, body).await {
                    Ok(Reply::Applied { .. }) => drop(done.insert(instance.clone())),
                    Ok(other) => return Err(unexpected(&other)),
                    // It died meanwhile; the next listing shows.
                    Err(GatewayError::NotAnswering { .. })
                        if !self.is_alive(instance) && Instant::now() < deadline => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// What every living gateway says of itself.
    pub async fn status(&self) -> Result<Vec<GatewayStatus>, GatewayError> {
        let mut all = Vec::new();
        for instance in self.living()? {
            match self.ask(&instance, RequestBody::Status).await {
                Ok(Reply::Status { status }) => all.push(*status),
                Ok(other) => return Err(unexpected(&other)),
                Err(GatewayError::NotAnswering { .. }) if !self.is_alive(&instance) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Everything counted since this data directory exists, summed over gateways: the living, and
    /// those whose counts no living one has taken over yet. Work in progress is the living ones'.
    pub async fn counters(&self) -> Result<Counters, GatewayError> {
        const ATTEMPTS: usize = 4;
        for attempt in 1.. {
            let known: BTreeSet<String> = self
                .run_dir
                .list("gateway-counters-", ".json")?
                .into_iter()
                .collect();
            let mut total = Counters::default();
            let mut contained: BTreeSet<String> = BTreeSet::new();
            let mut complete = true;
            for instance in self.living()? {
                match self.ask(&instance, RequestBody::Counters).await {
                    Ok(Reply::Counters {
                        instance,
                        folded,
                        counters,
                    }) => {
                        total.merge(&counters);
                        contained.insert(instance);
                        contained.extend(folded);
                    }
                    Ok(other) => return Err(unexpected(&other)),
                    Err(GatewayError::NotAnswering { .. }) if !self.is_alive(&instance) => {
                        complete = false
                    }
                    Err(error) => return Err(error),
                }
            }
            let mut files = Vec::new();
            for instance in known
                .iter()
                .filter(|instance| !contained.contains(*instance))
            {
                match CountersFile::read(&self.run_dir, instance) {
                    Some(file) => files.push(file),
                    // It was taken over between our questions: ask again.
                    None => complete = false,
                }
            }
            contained.extend(files.iter().flat_map(|file| file.folded.clone()));
            for file in files
                .into_iter()
                .filter(|file| !contained.contains(&file.instance))
            {
                total.merge(&file.counters.without_gauges());
            }
            if complete || attempt >= ATTEMPTS {
                return Ok(total);
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
        Ok(Counters::default())
    }

    /// How far a replica has drained.
    pub async fn drain_status(&self, replica: ReplicaId) -> Result<DrainStatus, GatewayError> {
        let counters = self.counters().await?;
        Ok(match counters.replica(replica) {
            Some(row) => DrainStatus {
                routed: row.routed,
                in_flight: row.in_flight,
                tunnels: row.tunnels,
            },
            None => DrainStatus {
                routed: false,
                in_flight: 0,
                tunnels: 0,
            },
        })
    }

    /// Gives a replica that is no longer routed other drain times than its snapshot did.
    pub async fn drain(&self, replica: ReplicaId, policy: DrainPolicy) -> Result<(), GatewayError> {
        for instance in self.living()? {
            match self
                .ask(&instance, RequestBody::Drain { replica, policy })
                .await
            {
                Ok(_) => {}
                Err(GatewayError::NotAnswering { .. }) if !self.is_alive(&instance) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Counters as Prometheus text.
    pub async fn metrics_text(&self) -> Result<String, GatewayError> {
        Ok(self.counters().await?.to_prometheus())
    }

    /// Waits until at least one gateway lives and all serve `generation` or a later one.
    pub async fn wait_generation(
        &self,
        generation: u64,
        timeout: Duration,
    ) -> Result<(), GatewayError> {
        let deadline = Instant::now() + timeout;
        loop {
            let all = self.status().await;
            if let Ok(all) = &all
                && !all.is_empty()
                && all.iter().all(|status| status.generation >= generation)
            {
                return Ok(());
            }
            if Instant::now() >= deadline {
                all?;
                return Err(GatewayError::TimedOut {
                    what: format!("generation {generation} at every gateway"),
                    waited_seconds: timeout.as_secs_f64(),
                });
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// The names of all gateways that live; the leavings of dead ones are cleared away.
    pub(crate) fn living(&self) -> Result<Vec<String>, GatewayError> {
        let mut living = Vec::new();
        for instance in self.run_dir.list("gateway-", ".sock")? {
            if self.is_alive(&instance) {
                living.push(instance);
            } else {
                self.run_dir.remove(&format!("gateway-{instance}.sock"));
                self.run_dir.remove(&format!("gateway-{instance}.lock"));
            }
        }
        Ok(living)
    }

    pub(crate) fn is_alive(&self, instance: &str) -> bool {
        self.run_dir.is_held(&format!("gateway-{instance}.lock"))
    }

    /// A gateway that stopped answering is usually just ending: its lock goes a moment later.
    async fn wait_for_end(&self, instance: &str) {
        let deadline = Instant::now() + END_WAIT;
        while self.is_alive(instance) && Instant::now() < deadline {
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    pub(crate) async fn ask(
        &self,
        instance: &str,
        body: RequestBody,
    ) -> Result<Reply, GatewayError> {
        let operation = body.name();
        let silent = |reason: String| GatewayError::NotAnswering {
            instance: instance.to_owned(),
            operation,
            reason,
        };
        let conversation = async {
            let path = self
                .run_dir
                .socket_path(&format!("gateway-{instance}.sock"));
            let stream = UnixStream::connect(&path)
                .await
                .map_err(|error| silent(error.to_string()))?;
            let mut stream = BufReader::new(stream);
            let request = Request {
                version: CONTROL_VERSION,
                body,
            };
            write_frame(&mut stream, &request)
                .await
                .map_err(|error| silent(error.to_string()))?;
            match read_frame::<Reply>(&mut stream).await {
                Ok(Some(reply)) => Ok(reply),
                Ok(None) => Err(silent("it closed the connection".into())),
                Err(error) => Err(silent(error.to_string())),
            }
        };
        match tokio::time::timeout(ANSWER_WAIT, conversation).await {
            Ok(Ok(reply)) => reply.into_result(),
            Ok(Err(error)) => {
                self.wait_for_end(instance).await;
                Err(error)
            }
            Err(_) => Err(silent(format!("no answer for {} s", ANSWER_WAIT.as_secs()))),
        }
    }
}

fn unexpected(reply: &Reply) -> GatewayError {
    GatewayError::protocol(
        format!("an answer to another question: {reply:?}")
            .chars()
            .take(200)
            .collect::<String>(),
    )
}
