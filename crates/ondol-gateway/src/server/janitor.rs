//! Once a second, per worker: ends clients that are too slow and closes idle upstream connections.
//! Sleeps without any timer while there is nothing to look after.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::client::{Order, Slow};
use super::worker::Worker;

const EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn sweep(worker: Arc<Worker>) {
    loop {
        tokio::time::sleep(EVERY).await;
        worker.for_each_connection(|state| match state.slow() {
            Some(Slow::Stalled) => {
                worker.totals.malformed.fetch_add(1, Ordering::Relaxed);
                state.give(Order::Abort);
            }
            Some(Slow::Idle) => state.give(Order::Finish),
            None => {}
        });
        let idle: usize = worker
            .table()
            .replicas
            .iter()
            .map(|replica| replica.pool.sweep())
            .sum();
        if idle == 0 && worker.live.load(Ordering::Relaxed) == 0 {
            worker.busy.notified().await;
        }
    }
}
