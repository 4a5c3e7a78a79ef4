//! Who asks, for doors that bring a trait of their own.
//!
//! Both answer a wrong token with a refusal that says no more than that.

use async_trait::async_trait;
use http::HeaderMap;
use ondol_auth::{Authenticator, Denied, Principal};

/// The one authenticator behind the registry's door.
pub(in crate::serve) struct RegistryDoor(pub(in crate::serve) Authenticator);

#[async_trait]
impl ondol_registry::http::Authenticate for RegistryDoor {
    async fn principal(
        &self,
        headers: &HeaderMap,
        peer: Option<std::net::IpAddr>,
    ) -> Result<Principal, Denied> {
        self.0.authenticate(headers, peer).await.map_err(|error| {
            tracing::debug!(error = %error, "registry credentials refused");
            Denied::Unauthenticated
        })
    }
}

/// The one authenticator behind the door of tracking.
pub(in crate::serve) struct TrackingDoor(pub(in crate::serve) Authenticator);

#[async_trait]
impl ondol_ml::tracking::http::Authenticate for TrackingDoor {
    async fn principal(
        &self,
        headers: &HeaderMap,
        peer: Option<std::net::IpAddr>,
    ) -> Result<Principal, Denied> {
        self.0.authenticate(headers, peer).await.map_err(|error| {
            tracing::debug!(error = %error, "tracking credentials refused");
            Denied::Unauthenticated
        })
    }
}
