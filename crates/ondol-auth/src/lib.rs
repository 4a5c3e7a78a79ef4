#![doc = include_str!("../README.md")]

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
