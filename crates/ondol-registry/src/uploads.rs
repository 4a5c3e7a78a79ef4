//! Uploads under way. They live in memory: a restart forgets them, and clients begin again.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ondol_store::blobs::BlobWriter;
use ondol_types::UploadId;
use tokio::sync::Mutex;

use crate::error::RegistryError;
use crate::model::Repository;

const IDLE: Duration = Duration::from_secs(3_600);

/// One upload: its writer is taken out while a request appends to it.
pub(crate) struct Upload {
    pub(crate) repository: Repository,
    pub(crate) writer: Option<BlobWriter>,
    touched: Instant,
}

impl Upload {
    pub(crate) fn received(&self) -> u64 {
        self.writer.as_ref().map_or(0, BlobWriter::size)
    }

    pub(crate) fn touch(&mut self) {
        self.touched = Instant::now();
    }
}

/// All uploads, bounded in number and in idleness.
#[derive(Default)]
pub(crate) struct Uploads {
    all: std::sync::Mutex<HashMap<UploadId, Arc<Mutex<Upload>>>>,
}

impl Uploads {
    pub(crate) fn insert(
        &self,
        id: UploadId,
        repository: Repository,
        writer: BlobWriter,
        limit: usize,
    ) -> Result<(), RegistryError> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, upload| {
            upload
                .try_lock()
                .map_or(true, |upload| upload.touched.elapsed() < IDLE)
        });
        if all.len() >= limit {
            return Err(RegistryError::Busy(limit));
        }
        all.insert(
            id,
            Arc::new(Mutex::new(Upload {
                repository,
                writer: Some(writer),
                touched: Instant::now(),
            })),
        );
        Ok(())
    }

    pub(crate) fn get(&self, id: &UploadId) -> Option<Arc<Mutex<Upload>>> {
        self.all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
    }

    pub(crate) fn remove(&self, id: &UploadId) -> bool {
        self.all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id)
            .is_some()
    }
}
