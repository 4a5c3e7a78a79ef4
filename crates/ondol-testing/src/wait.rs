//! Waiting for something to become true, and the runtime that clients run on.

use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

const PAUSE: Duration = Duration::from_millis(50);

/// Asks `found` until it answers something.
///
/// # Panics
/// When `deadline` passes first; the message says what was waited for.
#[track_caller]
pub fn eventually_some<T>(
    what: &str,
    deadline: Duration,
    mut found: impl FnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(
            started.elapsed() < deadline,
            "not within {deadline:?}: {what}"
        );
        std::thread::sleep(PAUSE);
    }
}

/// Asks `condition` until it holds.
///
/// # Panics
/// When `deadline` passes first; the message says what was waited for.
#[track_caller]
pub fn eventually(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    eventually_some(what, deadline, || condition().then_some(()));
}

/// Whether `condition` comes to hold within `deadline`.
pub fn holds_within(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !condition() {
        if started.elapsed() >= deadline {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    true
}

/// The one runtime of a test process, shared by every client.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        // One crypto provider for the process; a second installation is harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime starts")
    })
}

/// Runs a future to its end from a test's own thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    runtime().block_on(future)
}
