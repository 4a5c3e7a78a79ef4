//! Effects under way: each runs in a task of its own, at most once at a time, and wakes the loop
//! at its end. There are no retries inside: one that fails cools down and is planned again.

mod carry;
mod command;
mod compose;
mod contained;
mod fail;
mod launch;
pub(crate) mod probe;
mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ondol_types::{Classified, Timestamp};
use ondol_workload::backoff::Backoff;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::error::DeployError;
use crate::plan::Effect;
use crate::room::Room;

pub(crate) use launch::{ROLE, ROLE_COMMAND, ROLE_REPLICA};

/// The most probes at one time.
const PROBES: usize = 64;

#[derive(Default)]
struct Book {
    busy: BTreeSet<Effect>,
    cooling: BTreeMap<Effect, (u32, Timestamp)>,
}

/// Runs effects. Dropping it ends them where they are, as the end of the process would.
pub(crate) struct Executor {
    room: Arc<Room>,
    book: Arc<Mutex<Book>>,
    tasks: Mutex<JoinSet<()>>,
    heavy: Arc<Semaphore>,
    /// Stops wait for programs to end, and must not hold up starts.
    stops: Arc<Semaphore>,
    light: Arc<Semaphore>,
}

/// Takes the effect off the book also when its task panics.
struct Entry {
    room: Arc<Room>,
    book: Arc<Mutex<Book>>,
    effect: Effect,
    failed: bool,
}

impl Entry {
    fn succeeded(&mut self) {
        self.failed = false;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut book = lock(&self.book);
        book.busy.remove(&self.effect);
        if self.failed {
            let failures = book
                .cooling
                .get(&self.effect)
                .map_or(0, |(failures, _)| *failures)
                .saturating_add(1);
            let backoff = Backoff {
                ceiling: Duration::from_secs(10),
                ..Backoff::default()
            };
            let until = self.room.clock.now().plus(backoff.delay(failures));
            book.cooling.insert(self.effect.clone(), (failures, until));
        } else {
            book.cooling.remove(&self.effect);
        }
        drop(book);
        self.room.wake_environments();
        if !matches!(self.effect, Effect::Probe(..)) {
            self.room.wake_routes();
        }
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor {
    pub(crate) fn new(room: Arc<Room>) -> Self {
        let slots = room.config.concurrency.max(1);
        Self {
            room,
            book: Arc::default(),
            tasks: Mutex::default(),
            heavy: Arc::new(Semaphore::new(slots)),
            stops: Arc::new(Semaphore::new(slots)),
            light: Arc::new(Semaphore::new(PROBES)),
        }
    }

    /// What is not to be begun now: what is under way, and what failed a moment ago. And when
    /// the first of the latter may be tried again.
    pub(crate) fn busy(&self) -> (BTreeSet<Effect>, Option<Timestamp>) {
        let now = self.room.clock.now();
        let mut book = lock(&self.book);
        // Long after it cooled down, a failure is forgotten; so the map has a bound.
        book.cooling
            .retain(|_, (_, until)| until.plus(Duration::from_secs(60)) > now);
        let mut all = book.busy.clone();
        let cooling = book.cooling.iter().filter(|(_, (_, until))| *until > now);
        let next = cooling.clone().map(|(_, (_, until))| *until).min();
        all.extend(cooling.map(|(effect, _)| effect.clone()));
        (all, next)
    }

    /// Begins an effect, unless it is under way.
    pub(crate) fn begin(&self, effect: Effect) {
        if !lock(&self.book).busy.insert(effect.clone()) {
            return;
        }
        let mut entry = Entry {
            room: self.room.clone(),
            book: self.book.clone(),
            effect: effect.clone(),
            failed: true,
        };
        let slots = match effect {
            Effect::Probe(..) => Some(self.light.clone()),
            Effect::Stop(_) | Effect::Recycle(..) => Some(self.stops.clone()),
            Effect::Await(_) => None,
            _ => Some(self.heavy.clone()),
        };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let _slot = match slots {
                Some(slots) => slots.acquire_owned().await.ok(),
                None => None,
            };
            let room = entry.room.clone();
            match run(&room, &entry.effect).await {
                Ok(()) => entry.succeeded(),
                Err(error) => tracing::warn!(
                    deploy.effect = ?entry.effect,
                    error = %error.told(),
                    error.code = error.code(),
                    "a deployment effect failed; it will be tried again"
                ),
            }
        });
    }

    /// How many effects are under way.
    #[cfg(test)]
    pub(crate) fn under_way(&self) -> Vec<Effect> {
        lock(&self.book).busy.iter().cloned().collect()
    }
}

async fn run(room: &Arc<Room>, effect: &Effect) -> Result<(), DeployError> {
    match effect {
        Effect::Compose(rollout) => compose::compose(room, *rollout).await,
        Effect::Command(rollout) => command::begin(room, *rollout).await,
        Effect::Resolve(rollout) => command::resolve(room, *rollout).await,
        Effect::Await(rollout) => command::finish(room, *rollout).await,
        Effect::Start(replica, incarnation) => start::start(room, *replica, *incarnation).await,
        Effect::Probe(replica, incarnation) => probe::probe(room, *replica, *incarnation).await,
        Effect::Recycle(replica, incarnation) => start::recycle(room, *replica, *incarnation).await,
        Effect::Stop(replica) => start::stop(room, *replica).await,
        Effect::Fail(rollout, cause) => fail::fail(room, *rollout, cause).await,
    }
}
