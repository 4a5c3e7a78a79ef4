//! The loops: one that looks what there is to scrape, and one for each target.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ondol_types::Clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cache::{Cache, Round};
use super::fetch::{Fetched, Fetcher};
use super::{Place, ScrapeConfig, Target, TargetSource, TargetState};
use crate::http::Targets;
use crate::ingest::text::Format;
use crate::series::{Appended, Batch, Labels, SeriesWriter};

/// A scrape whose time is this close to when it was due is stored as if it were on time: regular
/// times take less space.
const TOLERANCE: Duration = Duration::from_millis(3);
/// How much less often a target is asked that has never answered and need not.
const PATIENCE: u32 = 4;

/// What makes a target the same one.
type Key = (String, String, Labels);

fn key(target: &Target) -> Key {
    (
        target.pool.clone(),
        target.place.url().to_owned(),
        target.labels.clone(),
    )
}

/// The scraper. Cheap to clone; [`Self::run`] is its life.
#[derive(Clone)]
pub struct Scraper(Arc<Inner>);

struct Inner {
    sources: Vec<Arc<dyn TargetSource>>,
    writer: Arc<dyn SeriesWriter>,
    clock: Arc<dyn Clock>,
    config: ScrapeConfig,
    fetcher: Fetcher,
    scrapes: Arc<Semaphore>,
    states: Mutex<BTreeMap<Key, TargetState>>,
}

impl Scraper {
    /// A scraper of the targets of these sources.
    #[must_use]
    pub fn new(
        sources: Vec<Arc<dyn TargetSource>>,
        writer: Arc<dyn SeriesWriter>,
        clock: Arc<dyn Clock>,
        config: ScrapeConfig,
    ) -> Self {
        Self(Arc::new(Inner {
            sources,
            writer,
            clock,
            scrapes: Arc::new(Semaphore::new(config.max_scrapes.max(1))),
            config,
            fetcher: Fetcher::default(),
            states: Mutex::default(),
        }))
    }

    /// Scrapes until `stop` says `true` or its sender is gone. Every series gets its end then, so
    /// that none looks alive for minutes after a restart that leaves it out.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut loops: BTreeMap<Key, watch::Sender<bool>> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let wanted = self.wanted().await;
            // Dropping the sender ends the loop of a target.
            loops.retain(|key, _| wanted.contains_key(key));
            self.states().retain(|key, _| wanted.contains_key(key));
            for (key, target) in wanted {
                loops.entry(key).or_insert_with(|| {
                    let (sender, receiver) = watch::channel(false);
                    tasks.spawn(TargetLoop::new(self.0.clone(), target).run(receiver));
                    sender
                });
            }
            while tasks.try_join_next().is_some() {}
            tokio::select! {
                () = tokio::time::sleep(self.0.config.discovery) => {}
                () = stopped(&mut stop) => break,
            }
        }
        drop(loops);
        while tasks.join_next().await.is_some() {}
    }

    async fn wanted(&self) -> BTreeMap<Key, Target> {
        let mut wanted = BTreeMap::new();
        for source in &self.0.sources {
            for target in source.targets().await {
                if wanted.len() >= self.0.config.max_targets {
                    tracing::warn!(
                        limit = self.0.config.max_targets,
                        url = target.place.url(),
                        "scrape.targets over the limit are left out"
                    );
                    return wanted;
                }
                wanted.insert(key(&target), target);
            }
        }
        wanted
    }

    fn states(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, TargetState>> {
        self.0.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Targets for Scraper {
    fn targets(&self) -> Vec<TargetState> {
        self.states().values().cloned().collect()
    }

    fn pace(&self) -> (Duration, Duration) {
        (self.0.config.interval, self.0.config.timeout)
    }
}

/// Ends when the channel says so or is closed.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// How far into the interval a target is asked: the same in every process.
fn offset(target: &Target, interval: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    key(target).hash(&mut hasher);
    Duration::from_millis(hasher.finish() % interval.as_millis().max(1) as u64)
}

/// An answer that was read. The place of the answer is kept until its batch is stored.
struct Read {
    round: Round,
    place: Option<OwnedSemaphorePermit>,
}

struct TargetLoop {
    inner: Arc<Inner>,
    target: Target,
    interval: Duration,
    timeout: Duration,
    cache: Cache,
    /// Whether it has answered once.
    answered: bool,
}

impl TargetLoop {
    fn new(inner: Arc<Inner>, target: Target) -> Self {
        let or = |own: Duration, general: Duration| if own.is_zero() { general } else { own };
        let interval = or(target.interval, inner.config.interval).max(Duration::from_millis(100));
        let timeout = or(target.timeout, inner.config.timeout).min(interval);
        let cache = Cache::new(
            target.labels.clone(),
            target.honor_labels,
            inner.config.rules.clone(),
        );
        Self {
            inner,
            target,
            interval,
            timeout,
            cache,
            answered: false,
        }
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let length = self.interval.as_micros().max(1) as i64;
        let now = self.inner.clock.now().as_micros();
        let phase = offset(&self.target, self.interval).as_micros() as i64;
        let wait = (phase - now).rem_euclid(length);
        let mut due = now + wait;
        let mut at = Instant::now() + Duration::from_micros(wait as u64);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                () = stopped(&mut stop) => break,
            }
            if !self.scrape(due, &mut stop).await {
                break;
            }
            let steps = if self.target.optional && !self.answered {
                PATIENCE
            } else {
                1
            };
            due += length * i64::from(steps);
            at += self.interval * steps;
            // What was slept through is not made up for.
            let now = Instant::now();
            while at < now {
                due += length;
                at += self.interval;
            }
        }
        self.end().await;
    }

    /// Ends everything that the target said, after it has gone.
    async fn end(&mut self) {
        let time = self.inner.clock.now().as_millis();
        let mut batch = self.cache.end(time);
        if self.answered || !self.target.optional {
            self.reports(&mut batch, time, None);
        }
        if let Err(error) = self.inner.writer.append(batch).await {
            tracing::warn!(error = %error, url = self.target.place.url(), "scrape.end not stored");
        }
    }

    /// Asks the target once and stores what it says. Results in `false` when the target went
    /// meanwhile: a question is given up then, and an answer is still stored whole, so that the
    /// series that are to be ended are known.
    async fn scrape(&mut self, due: i64, stop: &mut watch::Receiver<bool>) -> bool {
        let started = self.inner.clock.now();
        let begun = Instant::now();
        let late = Duration::from_micros(started.as_micros().abs_diff(due));
        let time = if late <= TOLERANCE {
            due.div_euclid(1000)
        } else {
            started.as_millis()
        };
        let fetched = tokio::select! {
            fetched = tokio::time::timeout(self.timeout, self.fetch()) => fetched
                .unwrap_or_else(|_| Err(format!("no answer within {:?}", self.timeout))),
            () = stopped(stop) => return false,
        };
        let took = begun.elapsed();
        let read = match fetched {
            Ok(fetched) => self.read(fetched, time).await,
            Err(error) => Err(error),
        };
        let optional = self.target.optional && !self.answered;
        if optional && !read.as_ref().is_ok_and(|read| read.round.seen > 0) {
            // What has no metrics is not down: it is nothing.
            self.cache.end(time);
            return true;
        }
        self.answered |= read.is_ok();
        let (mut batch, numbers, mut error, _place) = match read {
            Ok(Read { round, place }) => {
                let counts = [round.seen, round.kept, round.added].map(|count| count as f64);
                let [seen, kept, added] = counts;
                (round.batch, [1.0, seen, kept, added], None, place)
            }
            Err(error) => (self.cache.end(time), [0.0; 4], Some(error), None),
        };
        self.reports(&mut batch, time, Some((took, numbers)));
        match self.inner.writer.append(batch).await {
            Ok(appended) => error = error.or_else(|| refused(&appended)),
            Err(failed) => error = Some(format!("the samples are not stored: {failed}")),
        }
        if let Some(error) = &error {
            tracing::debug!(error, url = self.target.place.url(), "scrape.failed");
        }
        let state = TargetState {
            pool: self.target.pool.clone(),
            url: self.target.place.url().to_owned(),
            labels: self.target.labels.clone(),
            last: Some(started),
            took,
            error,
            interval: self.interval,
            timeout: self.timeout,
        };
        self.inner
            .states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key(&self.target), state);
        true
    }

    async fn fetch(&self) -> Result<Fetched, String> {
        let limit = self.inner.config.max_body;
        match &self.target.place {
            Place::Http(url) => {
                let places = &self.inner.scrapes;
                let asked = self.inner.fetcher.fetch(url, self.timeout, limit, places);
                asked.await
            }
            Place::Own(_, own) => Ok(Fetched {
                text: own.exposition().await,
                format: Format::Prometheus,
                place: None,
            }),
        }
    }

    fn empty_cache(&self) -> Cache {
        Cache::new(
            self.target.labels.clone(),
            self.target.honor_labels,
            self.inner.config.rules.clone(),
        )
    }

    /// Reads an answer where that may take its time.
    async fn read(&mut self, fetched: Fetched, time: i64) -> Result<Read, String> {
        let empty = self.empty_cache();
        let mut cache = std::mem::replace(&mut self.cache, empty);
        let limit = self.inner.config.max_samples;
        let reading = tokio::task::spawn_blocking(move || {
            let round = cache.read(&fetched.text, fetched.format, time, limit);
            (round, cache, fetched.place)
        });
        let (round, cache, place) = reading
            .await
            .map_err(|error| format!("reading the answer ended unexpectedly: {error}"))?;
        self.cache = cache;
        let round = round.map_err(|error| error.to_string())?;
        Ok(Read { round, place })
    }

    /// The series about the scrape itself; without numbers, their ends.
    fn reports(&self, batch: &mut Batch, time: i64, numbers: Option<(Duration, [f64; 4])>) {
        let stale = f64::from_bits(crate::series::STALE_NAN);
        let (took, [up, seen, kept, added]) = match numbers {
            Some((took, numbers)) => (took.as_secs_f64(), numbers),
            None => (stale, [stale; 4]),
        };
        for (name, value) in [
            ("up", up),
            ("scrape_duration_seconds", took),
            ("scrape_samples_scraped", seen),
            ("scrape_samples_post_metric_relabeling", kept),
            ("scrape_series_added", added),
        ] {
            self.cache.report(batch, name, time, value);
        }
    }
}

/// What the store refused of a scrape, in words.
fn refused(appended: &Appended) -> Option<String> {
    let (why, (count, first)) = appended.refused.iter().next()?;
    Some(format!("{count} samples refused: {why} (first: {first})"))
}
