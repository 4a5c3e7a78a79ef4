//! Retention, the end of projects, and key rotation: one bounded, idempotent sweep that the
//! composition root runs as a reconciler.

use std::time::Duration;

use ondol_store::events::EventFilter;
use ondol_store::{Store, Tx};
use ondol_types::{ProjectName, Timestamp, event};

use crate::error::AuthError;
use crate::secrets::Secrets;
use crate::store;
use crate::tokens::Tokens;

/// How long rows of ended tokens are kept, for the audit.
const ENDED_TOKENS_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long replaced and removed versions are kept whatever their number, so that the releases
/// which name them can be started again.
const VERSIONS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// How many versions are kept whatever their age.
const VERSIONS_KEPT_ALWAYS: i64 = 20;
/// How many versions there may be whatever their age.
const VERSIONS_CEILING: i64 = 500;
const EVENTS_AT_ONCE: u32 = 200;

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Deletions of projects that were followed.
    pub projects: u64,
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
        let (projects, more_events) = self.follow_deletions().await?;
        let pruned = self.prune().await?;
        let (rewrapped, more_keys) = self.secrets.rewrap_some().await?;
        Ok(Swept {
            projects,
            pruned,
            rewrapped,
            more: more_events || more_keys,
        })
    }

    /// What was granted on a project and kept for it ends with it: a later project of the same
    /// name belongs to others.
    async fn follow_deletions(&self) -> Result<(u64, bool), AuthError> {
        let filter = &EventFilter {
            type_prefix: Some(event::REPOSITORY_DELETED.to_owned()),
            ..EventFilter::default()
        };
        let (count, full) = self
            .store()
            .write::<_, AuthError, _>(|tx| {
                Box::pin(async move {
                    let cursor = store::cursor(tx).await?;
                    let newest = tx.newest_event().await?;
                    let events = tx.events_after(cursor, filter, EVENTS_AT_ONCE).await?;
                    for deleted in &events {
                        if let Some(project) = &deleted.project {
                            end_project(tx, project, deleted.time).await?;
                        }
                    }
                    let full = events.len() as u32 == EVENTS_AT_ONCE;
                    let reached = match events.last() {
                        Some(last) if full => last.seq,
                        _ => newest,
                    };
                    if reached > cursor {
                        store::set_cursor(tx, reached).await?;
                    }
                    Ok((events.len() as u64, full))
                })
            })
            .await?;
        if count > 0 {
            self.tokens.forget_all();
        }
        Ok((count, full))
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
                    Ok(tokens + secrets)
                })
            })
            .await
    }
}

async fn end_project(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    at: Timestamp,
) -> Result<(), AuthError> {
    store::drop_project_secrets(tx, project, at).await?;
    for mut token in store::tokens(tx).await? {
        if token.created_at <= at && token.grant.projects.remove(project).is_some() {
            store::set_grant(tx, &token).await?;
        }
    }
    Ok(())
}
