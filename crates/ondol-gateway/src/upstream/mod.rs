//! The side towards replicas: HTTP/1.1 over kept connections.
//!
//! Written by hand rather than with hyper's client, because three of the gateway's promises depend
//! on knowing exactly what has happened on the wire: a request is repeated only if not one byte of
//! an answer arrived on a *reused* connection; a body is never sent on a connection that may be
//! stale; and an exchange runs inside the client's own task, without a hop through another.

mod connection;
mod decode;
mod exchange;
mod head;
mod pump;

pub(crate) use connection::{Connection, Pool, connect};
pub(crate) use decode::{Decoded, Decoder};
pub(crate) use exchange::{ExchangeFailure, Limits, Sent, send};
pub(crate) use head::ResponseHead;
pub(crate) use head::has_token;
pub(crate) use pump::{ClientStall, Pump, PumpFailure, RequestBody, discard};
