//! Retention and key rotation: one bounded, idempotent sweep that the composition root runs as a
//! reconciler; and the end of a project in this room.

use std::time::Duration;

use async_trait::async_trait;
use ondol_store::events::NewEvent;
use ondol_store::{ForgetProject, Forgotten, ProjectHold, Store};
use ondol_types::{Problem, event};
use serde_json::json;

use crate::error::AuthError;
use crate::secrets::Secrets;
use crate::store;
use crate::tokens::{MAX_DERIVED_LIFE, Tokens};

/// How long rows of ended tokens are kept, for the audit.
const ENDED_TOKENS_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long replaced and removed versions are kept whatever their number, so that the releases
/// which name them can be started again.
const VERSIONS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// How many versions are kept whatever their age.
const VERSIONS_KEPT_ALWAYS: i64 = 20;
/// How many versions there may be whatever their age.
const VERSIONS_CEILING: i64 = 500;

/// How long the end of a project is kept: twice what the identity of a workload can live.
const ENDS_KEPT: Duration = MAX_DERIVED_LIFE.saturating_mul(2);

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Rows that were deleted because of their age.
    pub pruned: u64,
    /// Data keys that were wrapped with a new root key.
    pub rewrapped: u64,
    /// Whether there is more to do at once.
    pub more: bool,
}

/// The sweep over tokens and secrets.
#[derive(Clone)]
pub struct Housekeeping {
    tokens: Tokens,
    secrets: Secrets,
}

impl Housekeeping {
    /// A sweep over these.
    pub fn new(tokens: Tokens, secrets: Secrets) -> Self {
        Self { tokens, secrets }
    }

    fn store(&self) -> &Store {
        self.secrets.store()
    }

    /// Sweeps once.
    ///
    /// # Errors
    /// [`AuthError::Store`]; the next sweep tries again.
    pub async fn sweep(&self) -> Result<Swept, AuthError> {
        let pruned = self.prune().await?;
        let (rewrapped, more_keys) = self.secrets.rewrap_some().await?;
        Ok(Swept {
            pruned,
            rewrapped,
            more: more_keys,
        })
    }

    async fn prune(&self) -> Result<u64, AuthError> {
        self.store()
            .write(|tx| {
                Box::pin(async move {
                    let now = tx.now();
                    let tokens = store::prune_tokens(tx, now.minus(ENDED_TOKENS_KEPT)).await?;
                    let secrets = store::prune_secrets(
                        tx,
                        now.minus(VERSIONS_KEPT),
                        VERSIONS_KEPT_ALWAYS,
                        VERSIONS_CEILING,
                    )
                    .await?;
                    let ends = store::prune_ends(tx, now.minus(ENDS_KEPT)).await?;
                    Ok(tokens + secrets + ends)
                })
            })
            .await
    }
}

/// What was granted on a project and kept for it ends with it: a later project of the same name
/// belongs to others. A token that opened nothing else is revoked.
#[async_trait]
impl ForgetProject for Housekeeping {
    fn name(&self) -> &'static str {
        "access"
    }

    async fn forget(&self, hold: &ProjectHold) -> Result<Forgotten, Problem> {
        let project = &hold.name;
        self.store()
            .write::<_, AuthError, _>(|tx| {
                Box::pin(async move {
                    store::drop_project_secrets(tx, project).await?;
                    store::note_end(tx, project).await?;
                    for mut token in store::tokens(tx).await? {
                        if token.grant.projects.remove(project).is_none() {
                            continue;
                        }
                        store::set_grant(tx, &token).await?;
                        if token.grant.is_empty() && token.revoked_at.is_none() {
                            store::revoke_token(tx, token.id).await?;
                            tx.append(
                                NewEvent::new(event::TOKEN_REVOKED, token.id)
                                    .content(json!({ "name": token.name }))
                                    .actor("ondol"),
                            )
                            .await?;
                        }
                    }
                    Ok(())
                })
            })
            .await?;
        self.tokens.forget_all();
        Ok(Forgotten::Entirely)
    }
}
