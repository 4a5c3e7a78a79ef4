//! The room against real engines and real sockets.

mod registry;
mod serving;
mod tracking;
