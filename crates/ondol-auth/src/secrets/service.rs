//! Setting, listing, removing and opening secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use ondol_store::events::NewEvent;
use ondol_store::{Store, Tx};
use ondol_types::{ProjectName, Secret, SecretName, event};
use serde_json::json;

use super::envelope::{self, Binding, SealedVersion};
use super::{SecretInfo, SetSecret, fitness};
use crate::error::AuthError;
use crate::keys::KeyRing;
use crate::model::{Action, Ctx, Denied, PrincipalKind, Role};
use crate::store;

const MAX_SECRETS: i64 = 200;
const REWRAPPED_AT_ONCE: u32 = 200;

struct Inner {
    store: Store,
    root: RwLock<Arc<KeyRing>>,
}

/// The secrets of all projects. Cheap to clone.
#[derive(Clone)]
pub struct Secrets(Arc<Inner>);

impl Secrets {
    /// Opens the secrets of a database; `keys` is the folder of key files, where `root.key` is
    /// made when it is missing. Several keys may stand in that file, so that restoring one is
    /// adding its line.
    ///
    /// # Errors
    /// [`AuthError::BadFile`] or [`AuthError::Store`] when the key cannot be read or made.
    pub fn open(store: Store, keys: &Path) -> Result<Self, AuthError> {
        let root = KeyRing::open(keys.join("root.key"))?;
        Ok(Self(Arc::new(Inner {
            store,
            root: RwLock::new(Arc::new(root)),
        })))
    }

    fn root(&self) -> Arc<KeyRing> {
        self.0
            .root
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn replace_root(&self, next: KeyRing) {
        *self.0.root.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }

    /// Sets a secret: a new version, unless the newest one has the same value already. The
    /// project need not exist yet; whoever calls this for people checks that when it matters.
    ///
    /// # Errors
    /// [`AuthError::Denied`], [`AuthError::UnfitSecret`], [`AuthError::TooManySecrets`].
    pub async fn set(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        name: &SecretName,
        value: &Secret<String>,
    ) -> Result<SetSecret, AuthError> {
        self.set_staged(ctx, project, name, value, false).await
    }

    /// As [`Secrets::set`]; `staged` says in the event that the new version waits for the next
    /// rollout instead of asking for one.
    ///
    /// # Errors
    /// As [`Secrets::set`].
    pub async fn set_staged(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        name: &SecretName,
        value: &Secret<String>,
        staged: bool,
    ) -> Result<SetSecret, AuthError> {
        ctx.require(Action::Secrets, project)?;
        fitness::check(name, value)?;
        let root = self.root();
        let root = &*root;
        let by = ctx.principal.name.as_str();
        self.0
            .store
            .write(|tx| {
                Box::pin(async move {
                    let before = store::secret(tx, project, name).await?;
                    if let Some((info, false)) = &before
                        && let Some(sealed) =
                            store::secret_version(tx, project, name, info.version).await?
                        && open(root, project, name, info.version, &sealed)
                            .is_ok_and(|current| current == *value)
                    {
                        return Ok(SetSecret {
                            version: info.version,
                            changed: false,
                            event: None,
                        });
                    }
                    if before.is_none() && store::count_secrets(tx, project).await? >= MAX_SECRETS {
                        return Err(AuthError::TooManySecrets {
                            project: project.clone(),
                            limit: MAX_SECRETS,
                        });
                    }
                    let version = before.map_or(0, |(info, _)| info.version) + 1;
                    let binding = Binding {
                        project,
                        name,
                        version,
                    };
                    let sealed = envelope::seal(root.current(), value, binding);
                    store::put_secret(tx, project, name, version, by, &sealed).await?;
                    let content = json!({ "project": project, "name": name, "version": version, "staged": staged });
                    let event =
                        append(tx, event::SECRET_SET, project, name, content, by).await?;
                    Ok(SetSecret {
                        version,
                        changed: true,
                        event: Some(event),
                    })
                })
            })
            .await
    }

    /// The secrets of a project by name, without values.
    ///
    /// # Errors
    /// [`AuthError::Denied`], [`AuthError::Store`].
    pub async fn list(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
    ) -> Result<Vec<SecretInfo>, AuthError> {
        ctx.require(Action::Secrets, project)?;
        self.0
            .store
            .read(|tx| Box::pin(async move { Ok(store::secrets(tx, project).await?) }))
            .await
    }

    /// Removes a secret. Releases that name a version of it can still be started while the
    /// version is kept (30 days).
    ///
    /// # Errors
    /// [`AuthError::Denied`], [`AuthError::NoSecret`].
    pub async fn remove(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        name: &SecretName,
    ) -> Result<(), AuthError> {
        ctx.require(Action::Secrets, project)?;
        let by = ctx.principal.name.as_str();
        self.0
            .store
            .write(|tx| {
                Box::pin(async move {
                    if !store::remove_secret(tx, project, name).await? {
                        return Err(AuthError::NoSecret {
                            project: project.clone(),
                            name: name.clone(),
                        });
                    }
                    let content = json!({ "project": project, "name": name });
                    append(tx, event::SECRET_REMOVED, project, name, content, by).await?;
                    Ok(())
                })
            })
            .await
    }

    /// The newest versions of the named secrets: what a release composed now would carry.
    ///
    /// # Errors
    /// [`AuthError::NoSecret`] for the first name that is not set.
    pub async fn current_versions(
        &self,
        project: &ProjectName,
        names: &BTreeSet<SecretName>,
    ) -> Result<BTreeMap<SecretName, i64>, AuthError> {
        let set: BTreeMap<SecretName, i64> = self
            .0
            .store
            .read::<_, AuthError, _>(|tx| {
                Box::pin(async move { Ok(store::secrets(tx, project).await?) })
            })
            .await?
            .into_iter()
            .map(|info| (info.name, info.version))
            .collect();
        names
            .iter()
            .map(|name| match set.get(name) {
                Some(version) => Ok((name.clone(), *version)),
                None => Err(AuthError::NoSecret {
                    project: project.clone(),
                    name: name.clone(),
                }),
            })
            .collect()
    }

    /// The values of exact versions, for Ondol alone: what a workload is started with.
    ///
    /// # Errors
    /// [`AuthError::Denied`] to everybody but Ondol itself, [`AuthError::NoSecretVersion`],
    /// [`AuthError::ForeignKey`], [`AuthError::Tampered`].
    pub async fn values(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        versions: &BTreeMap<SecretName, i64>,
    ) -> Result<BTreeMap<SecretName, Secret<String>>, AuthError> {
        if ctx.principal.kind != PrincipalKind::System {
            return Err(Denied::Forbidden {
                principal: ctx.principal.name.clone(),
                action: Action::Secrets,
                resource: format!("project `{project}` (values are never read back)"),
                needs: Role::Admin,
            }
            .into());
        }
        let root = self.root();
        let root = &*root;
        self.0
            .store
            .read(|tx| {
                Box::pin(async move {
                    let mut values = BTreeMap::new();
                    for (name, version) in versions {
                        let sealed = store::secret_version(tx, project, name, *version)
                            .await?
                            .ok_or_else(|| AuthError::NoSecretVersion {
                                project: project.clone(),
                                name: name.clone(),
                                version: *version,
                            })?;
                        let value = open(root, project, name, *version, &sealed)?;
                        values.insert(name.clone(), value);
                    }
                    Ok(values)
                })
            })
            .await
    }

    /// Makes a new root key. Housekeeping rewraps every data key with it and then drops the old
    /// root key; a crash at any instant leaves both keys in the file until that is done.
    ///
    /// # Errors
    /// [`AuthError::Denied`], [`AuthError::Store`] when the key file cannot be written.
    pub fn rotate_root(&self, ctx: &Ctx) -> Result<(), AuthError> {
        ctx.require_installation(Action::Tokens)?;
        let next = self.root().rotated()?;
        self.replace_root(next);
        Ok(())
    }

    /// Rewraps some data keys with the current root key. Returns how many, and whether more wait.
    pub(crate) async fn rewrap_some(&self) -> Result<(u64, bool), AuthError> {
        let root = self.root();
        if !root.is_rotating() {
            return Ok((0, false));
        }
        let keys = &*root;
        let (seen, done) = self
            .0
            .store
            .write::<_, AuthError, _>(|tx| {
                Box::pin(async move {
                    let current = keys.current();
                    let bound =
                        store::versions_to_rewrap(tx, &current.id(), REWRAPPED_AT_ONCE).await?;
                    let mut done = 0u64;
                    for version in &bound {
                        let binding = Binding {
                            project: &version.project,
                            name: &version.name,
                            version: version.version,
                        };
                        let wrapped = keys.find(&version.key_id).and_then(|old| {
                            envelope::rewrap(old, current, &version.wrapped, binding).ok()
                        });
                        if let Some(wrapped) = wrapped {
                            store::rewrap(tx, version, &current.id(), wrapped).await?;
                            done += 1;
                        }
                    }
                    Ok((bound.len() as u64, done))
                })
            })
            .await?;
        if seen == 0 {
            self.replace_root(root.settled()?);
        } else if done == 0 {
            // What is left belongs to keys that are not here; the old keys stay with them.
            tracing::warn!(
                secret.versions = seen,
                "secrets are sealed with a root key that is not in the key file"
            );
        }
        Ok((done, done > 0))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }
}

fn open(
    root: &KeyRing,
    project: &ProjectName,
    name: &SecretName,
    version: i64,
    sealed: &SealedVersion,
) -> Result<Secret<String>, AuthError> {
    let key = root
        .find(&sealed.key_id)
        .ok_or_else(|| AuthError::ForeignKey {
            project: project.clone(),
            name: name.clone(),
            path: root.path.clone(),
        })?;
    let binding = Binding {
        project,
        name,
        version,
    };
    envelope::open(key, sealed, binding).map_err(|_| AuthError::Tampered {
        project: project.clone(),
        name: name.clone(),
    })
}

async fn append(
    tx: &mut Tx<'_>,
    event_type: event::EventType,
    project: &ProjectName,
    name: &SecretName,
    content: serde_json::Value,
    by: &str,
) -> Result<(ondol_types::EventId, i64), AuthError> {
    Ok(tx
        .append(
            NewEvent::new(event_type, name)
                .project(project)
                .content(content)
                .actor(by),
        )
        .await?)
}
