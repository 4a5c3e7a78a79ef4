//! Who asks, what they may do, what is secret, and what was done.
//!
//! Every protocol turns its own header form into a [`Principal`] through [`Authenticator`],
//! carries it in a [`Ctx`], and every service operation asks [`Ctx::require`], which is
//! [`decide`]: one function for git, the registry, the JSON API and every door to come. Deny is
//! the default.
//!
//! - [`model`](Principal): principals, roles, the decision.
//! - [`Tokens`]: access tokens, hashed at rest; short-lived tokens derived from them.
//! - [`Authenticator`], [`HostPolicy`]: what HTTP headers say, checked once for every door.
//! - [`Secrets`]: envelope-encrypted values with versions.
//! - [`Housekeeping`]: retention, grants and secrets of deleted projects, key rotation.

mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod housekeeping;
mod http;
mod keys;
mod model;
mod secrets;
mod store;
mod tokens;

pub use error::AuthError;
pub use housekeeping::{Housekeeping, Swept};
pub use http::{Authenticator, Credential, HostPolicy, is_from_another_site};
pub use model::{
    Action, Ctx, Denied, Grant, Principal, PrincipalKind, Resource, Role, RoleError, VisibleScope,
    decide, visible_scope,
};
pub use secrets::{SecretInfo, Secrets, SetSecret};
pub use store::MIGRATIONS;
pub use tokens::{FirstToken, NewToken, Token, TokenText, Tokens};
