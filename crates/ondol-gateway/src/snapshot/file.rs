//! The snapshot on disk: `gateway-snapshot.json`, and the one before it.
//!
//! A generation is acknowledged only after this file is durable. Several gateways share the file
//! while one replaces another, so writing is fenced by generation under a lock. The envelope holds
//! a checksum of the exact text, because a disk can return other bytes than were written; the
//! previous good file then serves until the control plane pushes again.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{SNAPSHOT_FORMAT, Snapshot};
use crate::error::GatewayError;
use crate::run_dir::RunDir;

const CURRENT: &str = "gateway-snapshot.json";
const PREVIOUS: &str = "gateway-snapshot.previous.json";
const LOCK: &str = "gateway-snapshot.lock";
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Envelope<'text> {
    format: u32,
    sha256: String,
    #[serde(borrow)]
    snapshot: &'text RawValue,
}

/// What a starting gateway found.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The newest readable snapshot.
    pub(crate) snapshot: Option<Snapshot>,
    /// Why the newest file could not be used, if so.
    pub(crate) problem: Option<GatewayError>,
}

/// The two snapshot files of a run directory.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile {
    run_dir: RunDir,
}

impl SnapshotFile {
    pub(crate) fn new(run_dir: RunDir) -> Self {
        Self { run_dir }
    }

    /// Reads the newest good snapshot. Damage is reported, not fatal: the previous file serves.
    pub(crate) fn load(&self) -> Loaded {
        let problem = match read(&self.run_dir.join(CURRENT)) {
            Ok(Some(snapshot)) => {
                return Loaded {
                    snapshot: Some(snapshot),
                    problem: None,
                };
            }
            Ok(None) => None,
            Err(problem) => Some(problem),
        };
        match read(&self.run_dir.join(PREVIOUS)) {
            Ok(snapshot) => Loaded { snapshot, problem },
            Err(second) => Loaded {
                snapshot: None,
                problem: problem.or(Some(second)),
            },
        }
    }

    /// Makes `snapshot` durable unless a newer one is there already.
    pub(crate) fn store(&self, snapshot: &Snapshot) -> Result<(), GatewayError> {
        let _lock = self.run_dir.lock(LOCK)?;
        let current = self.run_dir.join(CURRENT);
        match read(&current) {
            Ok(Some(known)) if known.generation > snapshot.generation => {
                return Err(GatewayError::StaleGeneration {
                    offered: snapshot.generation,
                    current: known.generation,
                });
            }
            Ok(Some(known)) if known.generation == snapshot.generation => {
                if known != *snapshot {
                    return Err(GatewayError::GenerationReused {
                        generation: known.generation,
                    });
                }
                // Another gateway wrote it; its rename may not be durable yet.
                return self.run_dir.sync();
            }
            Ok(Some(_)) => self.keep_previous(&current)?,
            // A damaged file is not worth keeping, and a missing one cannot be kept.
            Ok(None) | Err(_) => {}
        }
        self.run_dir.write_atomic(CURRENT, &encode(snapshot)?, true)
    }

    fn keep_previous(&self, current: &Path) -> Result<(), GatewayError> {
        let link = self.run_dir.join(".gateway-snapshot.previous.tmp");
        let _ = fs::remove_file(&link);
        fs::hard_link(current, &link)
            .and_then(|()| fs::rename(&link, self.run_dir.join(PREVIOUS)))
            .map_err(|source| {
                GatewayError::io(
                    "keep the previous snapshot",
                    self.run_dir.join(PREVIOUS),
                    source,
                )
            })
    }
}

pub(super) fn encode(snapshot: &Snapshot) -> Result<Vec<u8>, GatewayError> {
    let failed = |error: serde_json::Error| GatewayError::protocol(error.to_string());
    let text = serde_json::to_string(snapshot).map_err(failed)?;
    let raw: &RawValue = serde_json::from_str(&text).map_err(failed)?;
    let envelope = Envelope {
        format: SNAPSHOT_FORMAT,
        sha256: checksum(&text),
        snapshot: raw,
    };
    serde_json::to_vec(&envelope).map_err(failed)
}

fn checksum(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn read(path: &Path) -> Result<Option<Snapshot>, GatewayError> {
    let corrupted = |reason: String| GatewayError::SnapshotCorrupted {
        path: path.to_owned(),
        reason,
    };
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(GatewayError::io("read", path, source)),
    };
    if length > MAX_FILE_BYTES {
        return Err(corrupted(format!(
            "{length} bytes are more than a snapshot can have"
        )));
    }
    let bytes = fs::read(path).map_err(|source| GatewayError::io("read", path, source))?;
    decode(&bytes, path).map(Some)
}

pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<Snapshot, GatewayError> {
    let corrupted = |reason: String| GatewayError::SnapshotCorrupted {
        path: path.to_owned(),
        reason,
    };
    let text = std::str::from_utf8(bytes).map_err(|error| corrupted(error.to_string()))?;
    let envelope: Envelope<'_> =
        serde_json::from_str(text).map_err(|error| corrupted(error.to_string()))?;
    if envelope.format > SNAPSHOT_FORMAT {
        return Err(GatewayError::SnapshotNewer {
            found: envelope.format,
            known: SNAPSHOT_FORMAT,
        });
    }
    if envelope.sha256 != checksum(envelope.snapshot.get()) {
        return Err(corrupted("its checksum does not match its contents".into()));
    }
    let snapshot: Snapshot = serde_json::from_str(envelope.snapshot.get())
        .map_err(|error| corrupted(error.to_string()))?;
    snapshot.validate()?;
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> (tempfile::TempDir, SnapshotFile) {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(RunDir::open(dir.path()).unwrap());
        (dir, file)
    }

    #[test]
    fn the_newest_snapshot_comes_back() {
        let (_dir, file) = files();
        assert!(file.load().snapshot.is_none() && file.load().problem.is_none());
        file.store(&Snapshot::empty(1)).unwrap();
        file.store(&Snapshot::empty(2)).unwrap();
        assert_eq!(file.load().snapshot.unwrap().generation, 2);
    }

    #[test]
    fn an_older_generation_never_replaces_a_newer_one() {
        let (_dir, file) = files();
        file.store(&Snapshot::empty(7)).unwrap();
        let error = file.store(&Snapshot::empty(6)).unwrap_err();
        assert!(matches!(
            error,
            GatewayError::StaleGeneration {
                offered: 6,
                current: 7
            }
        ));
        file.store(&Snapshot::empty(7)).unwrap();
        let mut other = Snapshot::empty(7);
        other.drain.deadline_ms = 1;
        assert!(matches!(
            file.store(&other),
            Err(GatewayError::GenerationReused { generation: 7 })
        ));
    }

    #[test]
    fn every_torn_length_and_flipped_bit_is_noticed_and_the_previous_one_serves() {
        let (dir, file) = files();
        file.store(&Snapshot::empty(1)).unwrap();
        file.store(&Snapshot::empty(2)).unwrap();
        let path = dir.path().join(CURRENT);
        let good = fs::read(&path).unwrap();
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            let loaded = file.load();
            assert!(
                matches!(loaded.problem, Some(GatewayError::SnapshotCorrupted { .. })),
                "cut at {length}"
            );
            assert_eq!(loaded.snapshot.unwrap().generation, 1);
        }
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 0x04;
            fs::write(&path, &bad).unwrap();
            let loaded = file.load();
            assert_eq!(loaded.snapshot.unwrap().generation, 1, "flipped at {index}");
            assert!(loaded.problem.is_some());
        }
        file.store(&Snapshot::empty(3)).unwrap();
        assert_eq!(file.load().snapshot.unwrap().generation, 3);
    }

    #[test]
    fn the_stored_form_is_fixed() {
        let text = String::from_utf8(encode(&Snapshot::empty(4)).unwrap()).unwrap();
        assert!(text.starts_with("{\"format\":1,\"sha256\":\""), "{text}");
        assert!(text.ends_with(
            "\"snapshot\":{\"format\":1,\"generation\":4,\"routes\":[],\"drain\":{\"deadline_ms\":60000,\"websocket_grace_ms\":5000}}}"
        ));
    }
}
