//! Decisions without input or output: what a filter, an order, a page token and a name mean.

pub(super) mod check;
pub(super) mod filter;
mod lex;
pub(super) mod names;
pub(super) mod order;
pub(super) mod page;
pub(super) mod sample;
