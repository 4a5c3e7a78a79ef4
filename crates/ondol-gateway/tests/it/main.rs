//! The gateway against real sockets, and its processes against SIGKILL.

mod drain;
mod framing;
mod generations;
mod process;
mod proxy;
mod support;
mod websocket;
