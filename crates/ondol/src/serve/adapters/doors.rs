//! Who asks, for doors that bring a trait of their own.

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
