//! The heartbeat of one lease.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Lease, LeaseError, Leases};

/// Renews a lease three times per life until it is dropped. Dropping it does not release the
/// lease: a holder that dies midway must look like one that died.
#[derive(Debug)]
pub struct Heartbeat {
    lost: CancellationToken,
    task: JoinHandle<()>,
}

impl Heartbeat {
    pub(super) fn start(leases: Leases, lease: Lease) -> Self {
        let lost = CancellationToken::new();
        let signal = lost.clone();
        let task = tokio::spawn(async move {
            let pause = (lease.ttl / 3).max(Duration::from_millis(10));
            let mut renewed = Instant::now();
            loop {
                tokio::time::sleep(pause).await;
                match leases.renew(&lease).await {
                    Ok(()) => renewed = Instant::now(),
                    Err(LeaseError::Lost { .. }) => break,
                    Err(error) => {
                        tracing::warn!(lease.name = lease.name(), error = %error, "cannot renew a lease");
                        if renewed.elapsed() >= lease.ttl {
                            break;
                        }
                    }
                }
            }
            signal.cancel();
        });
        Self { lost, task }
    }

    /// Ends when the lease was lost, or could not be renewed for its whole life: the holder should
    /// stop what it does.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.task.abort();
    }
}
