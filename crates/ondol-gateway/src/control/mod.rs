//! The gateway's control socket: newline-delimited JSON, one answer for each request, one
//! connection at a time answered in order.

mod frame;
mod protocol;
mod server;

pub(crate) use frame::{read_frame, write_frame};
pub use protocol::GatewayStatus;
pub(crate) use protocol::{CONTROL_VERSION, Reply, Request, RequestBody};
pub(crate) use server::serve;
