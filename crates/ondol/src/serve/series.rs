//! The store of metrics in this process: opened off the runtime, maintained by a thread of its
//! own, filled by the scraper, asked through the door of Prometheus' API.
//!
//! The store blocks, so nothing here calls it on a thread of the runtime. At the end the scraper
//! stops first, so that its last samples are stored; the log makes every acknowledged sample
//! durable, so nothing is lost when this never gets to run.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ondol_telemetry::Metrics;
use ondol_telemetry::http::{Authenticate, Door, HttpConfig};
use ondol_telemetry::ingest::push::Groups;
use ondol_telemetry::ingest::scrape::{
    Place, ScrapeConfig, Scraper, StaticTargets, Target, TargetSource,
};
use ondol_telemetry::promql;
use ondol_telemetry::tsdb::{Going, Tsdb, TsdbConfig, TsdbWriter};
use ondol_types::{Clock, CrashPoints};
use tokio::sync::watch;

use crate::error::{Exit, Failure, Outcome};

/// Batches that are stored at the same time: enough for the log to sync several at once.
const WRITES: usize = 4;
/// Time between two looks at what is to be maintained.
const MAINTAIN: Duration = Duration::from_secs(5);
/// Index pages of blocks that stay unfolded.
const CACHE: usize = 8 << 20;
/// Active series: each takes about a kilobyte, and the platform is for small machines.
const MAX_SERIES: usize = 200_000;
const MAX_SERIES_PER_METRIC: usize = 50_000;
/// Samples of one query in memory, 16 bytes each.
const MAX_QUERY_SAMPLES: usize = 5_000_000;
const DAY: i64 = 24 * 3_600_000;

/// How much of the metrics is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) days: u32,
    pub(super) mib: u64,
}

/// The opened store.
pub(super) struct Opened {
    tsdb: Arc<Tsdb>,
    pushed: Arc<Groups>,
    clock: Arc<dyn Clock>,
}

/// The store with what fills it.
pub(super) struct Series {
    tsdb: Arc<Tsdb>,
    writer: Arc<TsdbWriter>,
    scraper: Scraper,
    pushed: Arc<Groups>,
    clock: Arc<dyn Clock>,
    stopping: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    running: Mutex<Option<Running>>,
}

struct Running {
    maintenance: JoinHandle<()>,
    scraping: tokio::task::JoinHandle<()>,
}

impl Series {
    /// Opens the store and replays its log.
    pub(super) async fn open(
        folder: PathBuf,
        kept: Kept,
        clock: Arc<dyn Clock>,
        crash: Arc<dyn CrashPoints>,
    ) -> Outcome<Opened> {
        let config = TsdbConfig {
            retention: Some(i64::from(kept.days) * DAY),
            retention_bytes: Some(kept.mib.saturating_mul(1 << 20)),
            max_series: MAX_SERIES,
            max_series_per_metric: MAX_SERIES_PER_METRIC,
            cache_bytes: CACHE,
            ..TsdbConfig::default()
        };
        let its = clock.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let pushed = Groups::open(&folder.join("push"));
            let opened = Tsdb::open(&folder.join("series"), config, its, Arc::new(Going(crash)));
            (opened, pushed)
        });
        let (opened, pushed) = opening.await.map_err(|error| {
            Failure::new(Exit::Internal, "opening the metrics ended unexpectedly").because(error)
        })?;
        let pushed = Arc::new(pushed.map_err(Failure::io("open the pushed metrics"))?);
        let tsdb = opened.map_err(|error| {
            Failure::new(Exit::Unavailable, "cannot open the metrics").because(error)
        })?;
        let tsdb = Arc::new(tsdb);
        Ok(Opened {
            tsdb,
            pushed,
            clock,
        })
    }

    /// Starts the scraper and the maintenance.
    pub(super) fn start(&self) {
        let (tsdb, stopping) = (self.tsdb.clone(), self.stopping.clone());
        let maintenance = std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || {
                while !stopping.load(Ordering::Acquire) {
                    tsdb.wait(MAINTAIN);
                    if stopping.load(Ordering::Acquire) {
                        break;
                    }
                    if let Err(error) = tsdb.maintain() {
                        tracing::error!(error = %error, "metrics could not be maintained");
                        // What fails at once would be tried without end.
                        std::thread::sleep(Duration::from_secs(1));
                    }
                }
            });
        let maintenance = match maintenance {
            Ok(maintenance) => maintenance,
            Err(error) => {
                tracing::error!(error = %error, "no thread for the metrics: they are not kept");
                return;
            }
        };
        let scraping = tokio::spawn(self.scraper.clone().run(self.stop.subscribe()));
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(Running {
            maintenance,
            scraping,
        });
    }

    /// What the routes need.
    pub(super) fn door(&self, authenticate: Arc<dyn Authenticate>) -> Door {
        Door {
            source: self.tsdb.clone(),
            index: self.tsdb.clone(),
            writer: self.writer.clone(),
            authenticate,
            targets: Arc::new(self.scraper.clone()),
            push: Some(self.pushed.clone()),
            clock: self.clock.clone(),
            config: HttpConfig {
                query: promql::Config {
                    max_samples: MAX_QUERY_SAMPLES,
                    ..promql::Config::default()
                },
                ..HttpConfig::default()
            },
        }
    }

    /// Ends the scraper, which ends its series, and then the maintenance.
    pub(super) async fn stop(&self, patience: Duration) {
        let _ = self.stop.send(true);
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(running) = running else {
            return;
        };
        if tokio::time::timeout(patience, running.scraping)
            .await
            .is_err()
        {
            tracing::warn!("the scraper did not end in time");
        }
        self.stopping.store(true, Ordering::Release);
        self.tsdb.wake();
        let ended = tokio::task::spawn_blocking(move || running.maintenance.join());
        if tokio::time::timeout(patience, ended).await.is_err() {
            tracing::warn!("the maintenance of metrics did not end in time");
        }
    }
}

impl Opened {
    /// The store with a scraper of the platform's own metrics and of these targets.
    pub(super) fn scraping(
        self,
        own: Metrics,
        control: &str,
        workloads: Arc<dyn TargetSource>,
    ) -> Series {
        let writer = Arc::new(TsdbWriter::new(self.tsdb.clone(), WRITES));
        let instance = control.split_once("://").map_or(control, |(_, host)| host);
        let own = Target::new("ondol", instance, Place::Own("/metrics", Arc::new(own)));
        let scraper = Scraper::new(
            vec![
                Arc::new(StaticTargets(vec![own, self.pushed.target()])),
                workloads,
            ],
            writer.clone(),
            self.clock.clone(),
            ScrapeConfig {
                max_scrapes: 4,
                max_body: 8 << 20,
                max_samples: 50_000,
                ..ScrapeConfig::default()
            },
        );
        Series {
            tsdb: self.tsdb,
            writer,
            scraper,
            pushed: self.pushed,
            clock: self.clock,
            stopping: Arc::default(),
            stop: watch::Sender::new(false),
            running: Mutex::default(),
        }
    }
}
