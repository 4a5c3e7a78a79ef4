//! A request's way through: find its route, choose a replica, carry it over, bring the answer back.

mod account;
mod body;
mod carry;
mod forward;
mod reply;
mod service;
mod tunnel;
mod websocket;

pub(crate) use reply::Refusal;
pub(crate) use service::handle;
