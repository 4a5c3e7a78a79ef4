//! Retention: what [`crate::plan`] lets go, taken away a little at a time.
//!
//! A repository is read as a whole, planned, and changed in small transactions, each of which
//! looks again at what it removes. Pushes go on meanwhile and are never kept waiting for long.

use std::collections::HashSet;

use ondol_store::StoreError;
use ondol_types::{Digest, Problem, Timestamp};

use super::manifests::remove_manifest;
use super::{LEAST, RegistryService, Retained};
use crate::error::RegistryError;
use crate::model::{Owner, Repository};
use crate::plan::{self, Keep, Pattern, Rule};
use crate::store;

/// Manifests and links that one transaction removes.
const STEP: usize = 100;
/// Repositories that are looked up at once.
const PAGE: u32 = 1_000;
/// Loose blobs of one repository that one round removes.
const MAX_LOOSE: usize = 1_000_000;
/// Who removes, as events say it.
const ACTOR: &str = "retention";

impl RegistryService {
    /// One round of retention over every repository, upload and upstream. Images of releases
    /// stay. Returns how many manifests, tags, blob links and uploads went.
    ///
    /// # Errors
    /// Those of the store and of `retained`.
    pub async fn retain(&self, retained: &dyn Retained) -> Result<u64, Problem> {
        let (mut removed, mut last) = (0, String::new());
        loop {
            let last_ref = last.as_str();
            let names = self
                .store
                .read::<_, StoreError, _>(|tx| Box::pin(store::repositories(tx, last_ref, PAGE)))
                .await?;
            let Some(end) = names.last() else { break };
            last.clone_from(end);
            let known = names
                .iter()
                .filter_map(|name| name.parse::<Repository>().ok());
            for repository in known {
                removed += self.retain_repository(&repository, retained).await?;
            }
        }
        removed += self.trim_upstreams().await?;
        removed += self.expire_uploads().await?;
        let before = self.now().minus(self.config.loose_for.max(LEAST));
        self.store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    store::forget_layers(tx).await?;
                    store::drop_empty_repositories(tx, before).await
                })
            })
            .await?;
        Ok(removed)
    }

    async fn retain_repository(
        &self,
        repository: &Repository,
        retained: &dyn Retained,
    ) -> Result<u64, Problem> {
        let mut removed = 0;
        if let Some(rule) = self.rule(repository) {
            removed += self.retire(repository, &rule, retained).await?;
        }
        removed += self.unlink_loose(repository).await?;
        Ok(removed)
    }

    fn rule(&self, repository: &Repository) -> Option<Rule> {
        let mut rule = match repository.owner() {
            Owner::Project(_) => plan::rule_for(&self.config.rules, repository.as_str())?.clone(),
            Owner::Upstream(_) => Rule {
                repositories: Pattern::any(),
                keep: vec![Keep {
                    tags: Pattern::any(),
                    newest: None,
                    within: Some(self.config.upstream_idle),
                }],
                untagged: self.config.upstream_idle,
            },
        };
        rule.untagged = rule.untagged.max(LEAST);
        Some(rule)
    }

    async fn retire(
        &self,
        repository: &Repository,
        rule: &Rule,
        retained: &dyn Retained,
    ) -> Result<u64, Problem> {
        let view = self
            .store
            .read::<_, StoreError, _>(|tx| Box::pin(store::view(tx, repository)))
            .await?;
        if view.tags.is_empty() && view.manifests.is_empty() {
            return Ok(0);
        }
        let held = self.held(retained, repository).await?;
        let now = self.now();
        let retirement = plan::retire(&view, rule, &held, now);
        let mut removed = 0;
        for step in retirement.tags.chunks(STEP) {
            removed += self
                .store
                .write::<_, StoreError, _>(|tx| {
                    Box::pin(async move {
                        let mut removed = 0;
                        for tag in step {
                            // One that was moved or pushed again since the plan is another tag.
                            removed += u64::from(store::delete_tag_as(tx, repository, tag).await?);
                        }
                        Ok(removed)
                    })
                })
                .await?;
        }
        let before = now.minus(rule.untagged);
        for step in retirement.manifests.chunks(STEP) {
            // Releases are asked again for each step: one may have been made since.
            let held = self.held(retained, repository).await?;
            removed += self
                .remove_confirmed(repository, step, &held, before)
                .await?;
        }
        Ok(removed)
    }

    async fn remove_confirmed(
        &self,
        repository: &Repository,
        step: &[Digest],
        held: &HashSet<Digest>,
        before: Timestamp,
    ) -> Result<u64, RegistryError> {
        self.store
            .write::<_, RegistryError, _>(|tx| {
                Box::pin(async move {
                    let mut candidates = Vec::with_capacity(step.len());
                    for digest in step {
                        candidates.extend(store::candidate(tx, repository, digest).await?);
                    }
                    let mut removed = 0;
                    for digest in plan::confirm(&candidates, held, before) {
                        let gone = remove_manifest(tx, repository, &digest, ACTOR).await?;
                        removed += u64::from(gone);
                    }
                    Ok(removed)
                })
            })
            .await
    }

    async fn unlink_loose(&self, repository: &Repository) -> Result<u64, RegistryError> {
        let before = self.now().minus(self.config.loose_for.max(LEAST));
        let mut removed = 0;
        for _ in 0..MAX_LOOSE / STEP {
            let loose = &self
                .store
                .read::<_, StoreError, _>(|tx| {
                    Box::pin(store::loose_blobs(tx, repository, before, STEP as u32))
                })
                .await?;
            let gone: u64 = self
                .store
                .write::<_, StoreError, _>(|tx| {
                    Box::pin(async move {
                        let mut gone = 0;
                        for digest in loose {
                            gone += u64::from(
                                store::unlink_loose(tx, repository, digest, before).await?,
                            );
                        }
                        Ok(gone)
                    })
                })
                .await?;
            removed += gone;
            if loose.len() < STEP || gone == 0 {
                break;
            }
        }
        Ok(removed)
    }

    /// Takes away what was asked for the longest ago, until all upstreams fit their ceiling.
    async fn trim_upstreams(&self) -> Result<u64, RegistryError> {
        let mut removed = 0;
        let upstreams = &self.config.upstreams;
        if upstreams.is_empty() {
            return Ok(0);
        }
        let share = self.config.upstream_bytes / upstreams.len() as u64;
        for upstream in upstreams {
            let name = upstream.name.as_str();
            let mut bytes = self
                .store
                .read::<_, StoreError, _>(|tx| Box::pin(store::upstream_bytes(tx, name)))
                .await?;
            while bytes > share {
                let oldest = self
                    .store
                    .read::<_, StoreError, _>(|tx| {
                        Box::pin(store::oldest_blobs(tx, name, STEP as u32))
                    })
                    .await?;
                let mut going = Vec::new();
                for (repository, blob) in oldest {
                    if bytes <= share {
                        break;
                    }
                    bytes = bytes.saturating_sub(blob.size);
                    going.push((repository.parse::<Repository>()?, blob.digest));
                }
                if going.is_empty() {
                    break;
                }
                let going = &going;
                removed += self
                    .store
                    .write::<_, StoreError, _>(|tx| {
                        Box::pin(async move {
                            let mut removed = 0;
                            for (repository, digest) in going {
                                removed +=
                                    u64::from(store::unlink_blob(tx, repository, digest).await?);
                            }
                            Ok(removed)
                        })
                    })
                    .await?;
            }
        }
        Ok(removed)
    }
}
