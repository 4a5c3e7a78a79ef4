//! Other registries: how they are named, which addresses may be asked, and what is said to them.

mod client;
mod reach;
mod reference;

pub(crate) use client::{Asked, Client, ClientError};
pub(crate) use reach::{Reach, host_port};
pub(crate) use reference::Remote;
