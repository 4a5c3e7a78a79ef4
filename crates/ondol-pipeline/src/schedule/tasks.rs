//! The tasks of this process, one per thing that is worked on.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ondol_background::Activator;
use ondol_types::{RunId, StepId};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What a task works on. There is at most one task for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// A step is launched, acted or judged.
    Work(StepId),
    /// The workload of a step is stopped.
    Stop(StepId),
    /// The workspace of a run is removed.
    Clean(RunId),
}

#[derive(Default)]
struct State {
    busy: BTreeMap<Key, CancellationToken>,
    set: JoinSet<()>,
    closed: bool,
}

/// Tasks by what they work on. When one ends, however, it is no longer busy and the scheduler
/// is woken.
#[derive(Default)]
pub(crate) struct Tasks(Arc<Mutex<State>>);

struct Done {
    state: Arc<Mutex<State>>,
    key: Key,
    wake: Activator,
}

impl Drop for Done {
    fn drop(&mut self) {
        lock(&self.state).busy.remove(&self.key);
        self.wake.wake();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tasks {
    pub(crate) fn is_busy(&self, key: &Key) -> bool {
        lock(&self.0).busy.contains_key(key)
    }

    /// Starts a task unless one works on the same thing.
    pub(crate) fn spawn<F, T>(&self, key: Key, wake: &Activator, work: F)
    where
        F: FnOnce(CancellationToken) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        let mut state = lock(&self.0);
        if state.closed || state.busy.contains_key(&key) {
            return;
        }
        let cancel = CancellationToken::new();
        state.busy.insert(key, cancel.clone());
        let done = Done {
            state: self.0.clone(),
            key,
            wake: wake.clone(),
        };
        let work = work(cancel);
        state.set.spawn(async move {
            let _done = done;
            work.await;
        });
    }

    /// Tells the task that works on something to stop.
    pub(crate) fn interrupt(&self, key: &Key) {
        if let Some(cancel) = lock(&self.0).busy.get(key) {
            cancel.cancel();
        }
    }

    /// Forgets tasks that have ended.
    pub(crate) fn reap(&self) {
        let mut state = lock(&self.0);
        while let Some(ended) = state.set.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a task of the pipeline panicked; its step is decided upon again");
            }
        }
    }

    /// Ends every task and lets no other begin.
    pub(crate) async fn abort(&self) {
        let mut set = {
            let mut state = lock(&self.0);
            state.closed = true;
            std::mem::take(&mut state.set)
        };
        set.shutdown().await;
    }
}
