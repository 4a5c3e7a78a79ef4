//! Lists that clients page through.

use ondol_auth::{Action, Ctx, Denied, visible_scope};
use ondol_store::StoreError;
use ondol_types::Digest;

use super::RegistryService;
use crate::error::RegistryError;
use crate::model::{Descriptor, Repository};
use crate::store;

/// Referrers of one page.
const MAX_REFERRERS: usize = 1_000;
/// Bytes of annotations of one page, so that the answer fits what clients read of a manifest.
const MAX_REFERRER_BYTES: usize = 3 << 20;
/// Referrers that are read at once.
const REFERRERS_AT_ONCE: u32 = 20;

impl RegistryService {
    /// Tags after `last` in order, at most `limit`, and whether there are more.
    ///
    /// # Errors
    /// A repository that does not exist is invisible.
    pub async fn tags(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        last: &str,
        limit: u32,
    ) -> Result<(Vec<String>, bool), RegistryError> {
        self.authorize(ctx, Action::Read, repository)?;
        let (exists, mut tags) = self
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    Ok((
                        store::repository_exists(tx, repository).await?,
                        store::tags(tx, repository, last, limit.saturating_add(1)).await?,
                    ))
                })
            })
            .await?;
        if !exists {
            return Err(Denied::Invisible(format!("repository `{repository}`")).into());
        }
        let more = tags.len() > limit as usize;
        tags.truncate(limit as usize);
        Ok((tags, more))
    }

    /// Repositories that the asker may read, after `last` in order.
    ///
    /// # Errors
    /// Only those of the store.
    pub async fn catalog(
        &self,
        ctx: &Ctx,
        last: &str,
        limit: u32,
    ) -> Result<(Vec<String>, bool), RegistryError> {
        let scope = &visible_scope(&ctx.principal, Action::Read, ctx.clock.now());
        let upstreams: &Vec<String> = &self
            .config
            .upstreams
            .iter()
            .map(|upstream| upstream.name.clone())
            .collect();
        let mut found = self
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(store::catalog(
                    tx,
                    scope,
                    upstreams,
                    last,
                    limit.saturating_add(1),
                ))
            })
            .await?;
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        Ok((found, more))
    }

    /// A page of manifests whose subject is `digest`, as descriptors, optionally of one artifact
    /// type, and where the next page begins. A page ends by its number of entries or by its
    /// bytes: annotations are part of it, and may be long.
    ///
    /// # Errors
    /// Only of permission and store: an unknown subject has an empty list.
    pub(crate) async fn referrers(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
        skip: u32,
    ) -> Result<(Vec<Descriptor>, Option<u32>), RegistryError> {
        self.authorize(ctx, Action::Read, repository)?;
        let (mut found, mut bytes, mut at) = (Vec::new(), 0, skip);
        loop {
            let rows = self
                .store
                .read::<_, StoreError, _>(|tx| {
                    Box::pin(store::referrers(
                        tx,
                        repository,
                        digest,
                        artifact_type,
                        at,
                        REFERRERS_AT_ONCE,
                    ))
                })
                .await?;
            let last = rows.len() < REFERRERS_AT_ONCE as usize;
            for row in rows {
                let annotations = row.annotations.and_then(|value| value.as_object().cloned());
                let text = annotations.iter().flatten();
                bytes += text
                    .map(|(key, value)| key.len() + value.to_string().len())
                    .sum::<usize>();
                if !found.is_empty() && bytes > MAX_REFERRER_BYTES {
                    return Ok((found, Some(at)));
                }
                at += 1;
                found.push(Descriptor {
                    artifact_type: row.artifact_type,
                    annotations,
                    ..Descriptor::new(&row.media_type, row.digest, row.size)
                });
                if found.len() == MAX_REFERRERS {
                    return Ok((found, Some(at)));
                }
            }
            if last {
                return Ok((found, None));
            }
        }
    }
}
