//! How many queries run at once: a few, so that all together stay within memory, and the others
//! wait their turn. Who is turned away is told which query holds the place.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::HttpConfig;
use super::answer::ApiError;

/// The most characters of a query that are shown to somebody else's refusal.
const SHOWN: usize = 120;

/// The places for queries.
pub(super) struct Admission {
    places: Arc<Semaphore>,
    count: usize,
    waiting: AtomicUsize,
    max_waiting: usize,
    max_wait: Duration,
    running: Mutex<BTreeMap<u64, (Instant, String)>>,
    next: std::sync::atomic::AtomicU64,
}

/// The place of one query; it is free again when this is dropped.
pub(super) struct Place {
    admission: Arc<Admission>,
    number: u64,
    /// How long the query waited for it.
    pub(super) waited: Duration,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut running = self
            .admission
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        running.remove(&self.number);
    }
}

/// Counts somebody who waits, also when the wait is given up.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    pub(super) fn new(config: &HttpConfig) -> Self {
        let count = config.max_queries.max(1);
        Self {
            places: Arc::new(Semaphore::new(count)),
            count,
            waiting: AtomicUsize::new(0),
            max_waiting: config.max_waiting,
            max_wait: config.max_wait,
            running: Mutex::default(),
            next: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// Too many wait already, or none became free in time.
    pub(super) async fn enter(
        self: &Arc<Self>,
        query: &str,
        at_most: Duration,
    ) -> Result<Place, ApiError> {
        let begun = Instant::now();
        let permit = match self.places.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
                let _waiting = Waiting(&self.waiting);
                if waiting >= self.max_waiting {
                    return Err(self.full(&format!("{waiting} more wait")));
                }
                let wait = self.max_wait.min(at_most);
                match tokio::time::timeout(wait, self.places.clone().acquire_owned()).await {
                    Ok(Ok(permit)) => permit,
                    Ok(Err(_)) | Err(_) => {
                        return Err(self.full(&format!("no place was free for {wait:?}")));
                    }
                }
            }
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let shown = query.chars().take(SHOWN).collect();
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, (Instant::now(), shown));
        Ok(Place {
            admission: self.clone(),
            number,
            waited: begun.elapsed(),
            _permit: permit,
        })
    }

    fn full(&self, why: &str) -> ApiError {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = running.values().next().map_or_else(
            || "one that just ends".to_owned(),
            |(since, query)| format!("{query} (for {} s)", since.elapsed().as_secs()),
        );
        ApiError::unavailable(format!(
            "{} queries run (max_queries) and {why}; the one that runs longest is {oldest}",
            self.count
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_turned_away_is_told_who_holds_the_place() {
        let admission = Arc::new(Admission::new(&HttpConfig {
            max_queries: 1,
            max_waiting: 1,
            max_wait: Duration::ZERO,
            ..HttpConfig::default()
        }));
        let long = Duration::from_secs(60);
        let place = admission.enter("sum(heavy)", long).await.unwrap();
        let refused = admission.enter("up", long).await.err().unwrap();
        assert_eq!(refused.status(), http::StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.message().contains("sum(heavy)"), "{refused:?}");
        drop(place);
        assert!(admission.enter("up", long).await.is_ok());
        assert_eq!(admission.waiting.load(Ordering::Relaxed), 0);
    }
}
