//! Who asks, what they may do, what is secret, and what was done.
//!
//! Every protocol turns its own header form into a [`Principal`] through [`Tokens`], carries it in
//! a [`Ctx`], and every service operation asks [`Ctx::require`], which is [`decide`]: one
//! function for git, the registry, the JSON API and every door to come. Deny is the default.

mod model;

pub use model::{
    Action, Ctx, Denied, Grant, Principal, PrincipalKind, Resource, Role, VisibleScope, decide,
    visible_scope,
};
