//! Real git clients against the real router.

mod checkout;
mod client;
mod crash;
mod deletion;
mod hostile;
mod limits;
mod projects;
mod push;
mod server;
