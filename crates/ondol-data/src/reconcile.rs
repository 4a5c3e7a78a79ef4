//! Loops of this room: pushes that nobody finished, and the collection of blobs.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_store::Store;
use ondol_store::blobs::{BlobOwner, Blobs};
use ondol_types::{ErrorKind, Problem};

use crate::error::DataError;
use crate::store;

const BATCH: u32 = 200;

/// Removes pushes that expired, finished or not.
#[derive(Clone, Debug)]
pub struct ExpiredPushes {
    store: Store,
}

impl ExpiredPushes {
    /// The loop over the pushes in `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

#[async_trait]
impl Reconciler for ExpiredPushes {
    fn name(&self) -> &'static str {
        "data.pushes"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(600)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let removed = self
            .store
            .write::<_, DataError, _>(|tx| {
                Box::pin(async move { Ok(store::remove_expired(tx, BATCH).await?) })
            })
            .await?;
        Ok(Report {
            seen: removed,
            changed: removed,
            note: None,
            more: removed == u64::from(BATCH),
        })
    }
}

/// Collects the blobs that no owner refers to.
#[derive(Clone)]
pub struct Collector {
    blobs: Blobs,
    owners: Vec<Arc<dyn BlobOwner>>,
    period: Duration,
    grace: Duration,
}

impl Collector {
    /// A collection every `period` of what nobody stored, found or refers to for `grace`.
    /// `owners` must be all rooms that keep blobs; `grace` must be longer than any request or
    /// build may take between storing a blob and committing the row that refers to it.
    pub fn new(
        blobs: Blobs,
        owners: Vec<Arc<dyn BlobOwner>>,
        period: Duration,
        grace: Duration,
    ) -> Self {
        Self {
            blobs,
            owners,
            period,
            grace,
        }
    }
}

#[async_trait]
impl Reconciler for Collector {
    fn name(&self) -> &'static str {
        "blobs.collection"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn tick(&self) -> Result<Report, Problem> {
        if self.owners.is_empty() {
            return Err(Problem::new(
                ErrorKind::Internal,
                "store.gc.owners",
                "a collection without owners would remove everything",
            ));
        }
        let report = self.blobs.gc(&self.owners, self.grace).await?;
        Ok(Report {
            seen: report.seen,
            changed: report.removed,
            note: (report.freed_bytes > 0).then(|| {
                format!(
                    "{} blobs removed, {} bytes freed",
                    report.removed, report.freed_bytes
                )
            }),
            more: false,
        })
    }
}
