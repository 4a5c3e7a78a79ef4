//! Leases: running work is held by a lease with a fencing token, renewed by heartbeat.
//!
//! At most one holder may record the outcome of a piece of work. Time alone cannot promise that
//! (a holder may sleep through the end of its lease), so every lease has a *fence*, a number
//! that only grows; [`verify`] stands inside the transaction that records the outcome and refuses
//! a fence that somebody else has overtaken. Expiry only decides when another may begin.
//!
//! A control plane that restarts takes over at once what its earlier self held: the lock of the
//! data directory shows that the earlier one is dead.

mod heartbeat;
mod store;

use std::time::Duration;

use ondol_store::{Store, StoreError, Tx};
use ondol_types::{Classified, ErrorKind, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use heartbeat::Heartbeat;
pub(crate) use store::MIGRATION;

/// Rows of leases that nobody released or renewed for so long are deleted.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Who holds leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// One per data directory, lasting.
    pub installation: String,
    /// One per start of the control plane.
    pub incarnation: String,
}

/// A holding of some work, by name and fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    name: String,
    fence: i64,
    ttl: Duration,
}

impl Lease {
    /// What is held.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The fencing token: greater than that of every earlier lease.
    pub fn fence(&self) -> i64 {
        self.fence
    }
}

/// A lease as status pages show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaseInfo {
    /// What is held.
    pub name: String,
    /// The installation that holds it.
    pub installation: String,
    /// The fencing token.
    pub fence: i64,
    /// When it ends unless it is renewed.
    pub expires_at: Timestamp,
}

/// Why an outcome may not be recorded, or a lease not be asked for.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else holds the work now, or it was released.
    #[error("the lease `{name}` with fence {fence} is no longer held")]
    Lost {
        /// What was held.
        name: String,
        /// Its fence.
        fence: i64,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Classified for LeaseError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Lost { .. } => ErrorKind::Conflict,
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "background.lease.lost",
            Self::Store(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Lost { .. } => None,
            Self::Store(error) => error.hint(),
        }
    }
}

/// Refuses unless `lease` is still the newest of its name. Call it inside the transaction that
/// records what the holder did. A lease that ran out and that nobody took is still good.
///
/// # Errors
/// [`LeaseError::Lost`] when it was overtaken or released.
pub async fn verify(tx: &mut Tx<'_>, lease: &Lease) -> Result<(), LeaseError> {
    if store::is_current(tx, &lease.name, lease.fence).await? {
        Ok(())
    } else {
        Err(LeaseError::Lost {
            name: lease.name.clone(),
            fence: lease.fence,
        })
    }
}

/// The leases of a database, as one holder sees them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leases {
    store: Store,
    holder: Holder,
}

impl Leases {
    /// Leases held in the name of `holder`.
    pub fn new(store: Store, holder: Holder) -> Self {
        Self { store, holder }
    }

    /// Takes a lease for `ttl` when nobody holds it, when it ran out, or when an earlier
    /// incarnation of this installation held it. `None` when somebody holds it, also when that
    /// is this very incarnation.
    ///
    /// # Errors
    /// [`LeaseError::Store`].
    pub async fn acquire(&self, name: &str, ttl: Duration) -> Result<Option<Lease>, LeaseError> {
        let holder = &self.holder;
        self.store
            .write(|tx| {
                Box::pin(async move {
                    store::forget(tx, tx.now().minus(FORGOTTEN_AFTER)).await?;
                    let taken = store::take(tx, name, holder, ttl).await?;
                    Ok(taken.map(|fence| Lease {
                        name: name.to_owned(),
                        fence,
                        ttl,
                    }))
                })
            })
            .await
    }

    /// Renews a lease once.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] when somebody else has it.
    pub async fn renew(&self, lease: &Lease) -> Result<(), LeaseError> {
        self.store
            .write(|tx| {
                Box::pin(async move {
                    let until = tx.now().plus(lease.ttl);
                    if store::renew(tx, &lease.name, lease.fence, until).await? {
                        Ok(())
                    } else {
                        Err(LeaseError::Lost {
                            name: lease.name.clone(),
                            fence: lease.fence,
                        })
                    }
                })
            })
            .await
    }

    /// Gives a lease back, so that the next asker gets it at once. Doing it twice, or after
    /// losing it, changes nothing.
    ///
    /// # Errors
    /// [`LeaseError::Store`].
    pub async fn release(&self, lease: &Lease) -> Result<(), LeaseError> {
        self.store
            .write(|tx| {
                Box::pin(async move { Ok(store::release(tx, &lease.name, lease.fence).await?) })
            })
            .await
    }

    /// Renews a lease in the background until the returned handle is dropped.
    pub fn keep(&self, lease: &Lease) -> Heartbeat {
        Heartbeat::start(self.clone(), lease.clone())
    }

    /// What is held now, by name, at most `limit`.
    ///
    /// # Errors
    /// [`LeaseError::Store`].
    pub async fn list(&self, limit: u32) -> Result<Vec<LeaseInfo>, LeaseError> {
        self.store
            .read(|tx| Box::pin(async move { Ok(store::list(tx, limit).await?) }))
            .await
    }
}
