//! Who asks, for doors that bring a trait of their own.
//!
//! All answer a wrong token with a refusal that says no more than that.

use std::time::Duration;

use async_trait::async_trait;
use http::HeaderMap;
use ondol_auth::{AuthError, Authenticator, Denied, Grant, Principal};
use ondol_registry::RegistryError;
use ondol_types::{Secret, Timestamp};

/// The one authenticator behind the registry's door.
pub(in crate::serve) struct RegistryDoor(pub(in crate::serve) Authenticator);

#[async_trait]
impl ondol_registry::http::Authenticate for RegistryDoor {
    async fn principal(
        &self,
        headers: &HeaderMap,
        peer: Option<std::net::IpAddr>,
    ) -> Result<Principal, RegistryError> {
        let outcome = self.0.authenticate(headers, peer).await;
        outcome.map_err(|error| match error {
            AuthError::Store(error) => error.into(),
            AuthError::TooManyFailures { seconds } => RegistryError::TooManyAttempts(seconds),
            error => {
                tracing::debug!(error = %error, "registry credentials refused");
                Denied::Unauthenticated.into()
            }
        })
    }

    fn mint(
        &self,
        principal: &Principal,
        grant: Grant,
        life: Duration,
    ) -> Result<(Secret<String>, Timestamp), RegistryError> {
        let minted = self.0.tokens().mint_scoped(principal, Some(grant), life);
        minted.map_err(|error| match error {
            AuthError::Store(error) => error.into(),
            _ => Denied::Unauthenticated.into(),
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

/// The one authenticator behind the door of metrics.
pub(in crate::serve) struct MetricsDoor(pub(in crate::serve) Authenticator);

#[async_trait]
impl ondol_telemetry::http::Authenticate for MetricsDoor {
    async fn principal(
        &self,
        headers: &HeaderMap,
        peer: Option<std::net::IpAddr>,
    ) -> Result<Principal, Denied> {
        self.0.authenticate(headers, peer).await.map_err(|error| {
            tracing::debug!(error = %error, "metrics credentials refused");
            Denied::Unauthenticated
        })
    }
}
