//! The end of a replica: no new requests, then goodbye to its WebSockets, then the deadline.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ondol_types::ReplicaId;

use super::core::Core;
use crate::error::GatewayError;
use crate::routing::{ReplicaShared, TunnelOrder};
use crate::snapshot::DrainPolicy;

impl Core {
    /// Drains a replica that the snapshot no longer names. A later order replaces an earlier one.
    pub(super) fn drain(self: &Arc<Self>, replica: &Arc<ReplicaShared>, policy: DrainPolicy) {
        let epoch = replica.drain_epoch.fetch_add(1, Ordering::AcqRel) + 1;
        if replica.is_quiet() {
            return;
        }
        let (core, replica) = (self.clone(), replica.clone());
        tokio::spawn(async move {
            let deadline = Duration::from_millis(policy.deadline_ms);
            let grace = Duration::from_millis(policy.websocket_grace_ms).min(deadline);
            let current =
                |replica: &ReplicaShared| replica.drain_epoch.load(Ordering::Acquire) == epoch;
            tokio::time::sleep(grace).await;
            if !current(&replica) {
                return;
            }
            replica.order_tunnels(TunnelOrder::Goodbye);
            tokio::time::sleep(deadline - grace).await;
            if !current(&replica) || replica.is_quiet() {
                return;
            }
            tracing::warn!(
                replica.id = %replica.id,
                project = %replica.project,
                requests = replica.in_flight.load(Ordering::Relaxed),
                tunnels = replica.tunnels(),
                "replica's drain deadline passed, its requests are cut"
            );
            replica.cut.store(true, Ordering::Release);
            replica.order_tunnels(TunnelOrder::Cut);
            core.workers
                .iter()
                .for_each(|worker| worker.wake_connections());
        });
    }

    /// Takes back a drain, because the replica is routed again.
    pub(super) fn undrain(&self, replica: &ReplicaShared) {
        replica.drain_epoch.fetch_add(1, Ordering::AcqRel);
        replica.cut.store(false, Ordering::Release);
    }

    /// Gives a draining replica other times than its snapshot did. False if it is not known here.
    pub(crate) fn drain_by_order(
        self: &Arc<Self>,
        id: ReplicaId,
        policy: DrainPolicy,
    ) -> Result<bool, GatewayError> {
        let known = self
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replica(id)
            .cloned();
        let Some(replica) = known else {
            return Ok(false);
        };
        if replica.routed.load(Ordering::Acquire) {
            return Err(GatewayError::Refused {
                code: "gateway.drain.routed".into(),
                message: format!(
                    "replica {id} still gets requests; apply a snapshot without it first"
                ),
            });
        }
        self.drain(&replica, policy);
        Ok(true)
    }
}
