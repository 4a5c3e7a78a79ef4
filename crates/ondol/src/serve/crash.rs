//! Crash points for the kill harness: the release binary ends itself where a test asks for it.

use std::sync::Arc;

use ondol_types::{CrashPoints, NoCrash};

use crate::error::{Failure, Outcome};

/// Every named place of every room.
pub(crate) const CRASH_POINTS: &[&[&str]] = &[
    ondol_git::CRASH_POINTS,
    ondol_pipeline::CRASH_POINTS,
    ondol_deploy::CRASH_POINTS,
    ondol_ml::CRASH_POINTS,
    ondol_store::events::CRASH_POINTS,
    &OTHERS,
];

/// Those of the data room, the engine and the blobs.
static OTHERS: [&str; 10] = [
    "data.push.begun",
    "data.upload.stored",
    "data.upload.recorded",
    "data.commit.stored",
    "data.commit.done",
    "workload.start.prepared",
    "workload.start.launched",
    "workload.settle.before",
    "workload.settle.after",
    "store.pack.published",
];

struct KillAt(String);

impl CrashPoints for KillAt {
    fn reached(&self, point: &'static str) {
        if point == self.0 {
            tracing::warn!(crash.point = point, "ending here, as asked");
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
            // The signal is on its way; nothing more may happen.
            loop {
                std::thread::park();
            }
        }
    }
}

/// No crash, or one at a known point.
pub(super) fn wire(point: Option<String>) -> Outcome<Arc<dyn CrashPoints>> {
    let Some(point) = point else {
        return Ok(Arc::new(NoCrash));
    };
    if !CRASH_POINTS
        .iter()
        .flat_map(|room| room.iter())
        .any(|known| *known == point)
    {
        return Err(Failure::usage(format!("there is no crash point `{point}`"))
            .hint("`ondol reference crash-points` lists them"));
    }
    Ok(Arc::new(KillAt(point)))
}
