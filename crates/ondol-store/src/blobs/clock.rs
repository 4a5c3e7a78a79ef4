//! The clock that files are dated with.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ondol_types::{Clock, Timestamp};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

/// The file system's own time. Ages of blobs are differences between file dates, so a store that
/// was not given a clock asks the file system, and the two never disagree.
pub(super) struct FileClock(pub(super) PathBuf);

impl Clock for FileClock {
    fn now(&self) -> Timestamp {
        let ask = || -> std::io::Result<SystemTime> {
            let folder = File::open(&self.0)?;
            let now = Timestamps {
                last_access: Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_OMIT,
                },
                last_modification: Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_NOW,
                },
            };
            rustix::fs::futimens(&folder, &now)?;
            folder.metadata()?.modified()
        };
        // A file system that does not answer makes everything look old to nobody: at zero no blob
        // is older than the cutoff, so nothing is collected.
        ask().map_or(Timestamp::from_micros(0), from_system)
    }
}

/// A file's date as a moment.
pub(super) fn from_system(time: SystemTime) -> Timestamp {
    let micros = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
    };
    Timestamp::from_micros(micros)
}

/// A moment as a file's date.
pub(super) fn to_system(moment: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(moment.as_micros().max(0) as u64)
}
