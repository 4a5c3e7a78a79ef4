//! The gateway's control socket: newline-delimited JSON, one answer for each request, one
//! connection at a time answered in order.

mod frame;
mod protocol;
mod server;

pub(crate) use frame::{read_frame, write_frame};
pub use protocol::GatewayStatus;
pub(crate) use protocol::{CONTROL_VERSION, Reply, Request, RequestBody};
pub(crate) use server::serve;

/// Requests, answers and snapshots are read or refused; what is valid survives being written, and
/// a table can be made of it.
#[cfg(any(test, fuzzing))]
pub fn fuzz(data: &[u8]) {
    let _ = serde_json::from_slice::<Reply>(data).map(Reply::into_result);
    let snapshot = match serde_json::from_slice::<Request>(data) {
        Ok(Request {
            body: RequestBody::Apply { snapshot },
            ..
        }) => Some(*snapshot),
        Ok(_) => None,
        Err(_) => serde_json::from_slice(data).ok(),
    };
    if let Some(snapshot) = snapshot {
        crate::snapshot::fuzz(&snapshot);
    }
    crate::snapshot::fuzz_file(data);
}
