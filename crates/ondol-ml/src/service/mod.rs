//! What can be done with models. Every operation asks for permission, then makes one transaction
//! that changes the rows and appends the event.

mod bytes;
mod queries;

use std::path::Path;
use std::sync::Arc;

use ondol_auth::{Action, Ctx};
use ondol_spec::expr::Expression;
use ondol_store::blobs::Blobs;
use ondol_store::events::NewEvent;
use ondol_store::{Store, Tx};
use ondol_types::event::{
    EventType, MODEL_VERSION_CREATED, MODEL_VERSION_PROMOTED, MODEL_VERSION_REFUSED,
    ModelVersionEvent,
};
use ondol_types::{CrashPoints, ModelName, ProjectName};

use crate::error::{MlError, MlResult};
use crate::gate::{Decision, GateInput, Metrics, decide};
use crate::model::{ModelVersion, NewVersion, VersionState, digest_of};
use crate::store::{self, Stored};

/// Ceilings and retention of models.
#[derive(Clone, Copy, Debug)]
pub struct ModelsConfig {
    /// Most files of a version.
    pub max_files: usize,
    /// Most bytes of a version.
    pub max_bytes: u64,
    /// Newest versions of each model that retention leaves alone.
    pub keep_versions: i64,
}

impl Default for ModelsConfig {
    fn default() -> Self {
        Self {
            max_files: 10_000,
            max_bytes: 20 << 30,
            keep_versions: 50,
        }
    }
}

/// Longest reason that a person may give, in characters.
const MAX_REASON: usize = 500;
/// Longest metric and parameter texts together, in bytes.
const MAX_DESCRIPTION: usize = 256 << 10;

/// The models of all projects. Cheap to clone.
#[derive(Clone)]
pub struct Models {
    pub(crate) store: Store,
    pub(crate) blobs: Blobs,
    crash: Arc<dyn CrashPoints>,
    pub(crate) config: ModelsConfig,
}

/// How a candidate is judged.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// The `accept` expression; without it the primary metric decides.
    pub accept: Option<Expression>,
    /// The champion's metrics on the candidate's data, for information.
    pub champion_on_new_data: Option<Metrics>,
}

impl Models {
    /// The models in a store.
    pub fn new(
        store: Store,
        blobs: Blobs,
        crash: Arc<dyn CrashPoints>,
        config: ModelsConfig,
    ) -> Self {
        Self {
            store,
            blobs,
            crash,
            config,
        }
    }

    /// Registers the files below `dir` as the next version of a model, as a candidate. When the
    /// run of its lineage registered one before, that one is returned, whatever `dir` holds now.
    ///
    /// # Errors
    /// [`MlError::Invalid`] when the folder is empty or holds something other than files and
    /// folders, [`MlError::TooLarge`] over a ceiling.
    pub async fn register(&self, ctx: &Ctx, new: NewVersion, dir: &Path) -> MlResult<ModelVersion> {
        ctx.require(Action::Push, &new.project)?;
        let description = new
            .metrics
            .keys()
            .map(|name| name.len() + 32)
            .sum::<usize>()
            + new
                .params
                .iter()
                .map(|(name, value)| name.len() + value.len() + 8)
                .sum::<usize>();
        if description > MAX_DESCRIPTION {
            let what = "metrics and parameters of a model in bytes".to_owned();
            return Err(MlError::TooLarge {
                what,
                actual: description as u64,
                limit: MAX_DESCRIPTION as u64,
            });
        }
        if let Some(run) = new.lineage.run {
            let (project, model) = (new.project.clone(), new.model.clone());
            let before = self
                .store
                .read(|tx| {
                    Box::pin(async move { store::find_by_run(tx, &project, &model, run).await })
                })
                .await?;
            if let Some(before) = before {
                return Ok(before.version);
            }
        }
        let found = bytes::scan(dir, &self.config).await?;
        let files = self.store_files(&found).await?;
        self.crash.reached("ml.register.stored");
        let digest = digest_of(&files);
        // From here to the commit nothing is collected; what was collected while a large model
        // was being stored is stored again.
        let _hold = self.blobs.hold().await;
        self.restore_missing(&found, &files).await?;
        let (new, files, digest) = (&new, &files, &digest);
        let author = ctx.principal.name.as_str();
        let version = self
            .store
            .write(|tx| {
                Box::pin(async move {
                    if let Some(run) = new.lineage.run
                        && let Some(before) =
                            store::find_by_run(tx, &new.project, &new.model, run).await?
                    {
                        return Ok(before.version);
                    }
                    let version = store::insert_version(tx, new, digest, files, author).await?;
                    append(
                        tx,
                        MODEL_VERSION_CREATED,
                        &version,
                        None,
                        new.chain.clone(),
                        author,
                    )
                    .await?;
                    Ok::<_, MlError>(version)
                })
            })
            .await?;
        self.crash.reached("ml.register.committed");
        tracing::info!(project = %version.project, model = %version.model, version = version.version, size_bytes = version.size, "model version registered");
        Ok(version)
    }

    /// Judges a candidate: it becomes champion or is refused, with the reason. A version that was
    /// judged before stays as it is.
    ///
    /// # Errors
    /// [`MlError::NotFound`].
    pub async fn judge(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        model: &ModelName,
        version: i64,
        judgement: &Judgement,
    ) -> MlResult<ModelVersion> {
        ctx.require(Action::Push, project)?;
        let actor = ctx.principal.name.as_str();
        self.crash.reached("ml.judge.before");
        let judged = self
            .store
            .write(|tx| {
                Box::pin(async move {
                    let Stored {
                        version: candidate,
                        chain,
                    } = store::find_version(tx, project, model, version).await?;
                    if candidate.state != VersionState::Candidate {
                        return Ok(candidate);
                    }
                    let champion = champion_of(tx, project, model).await?;
                    let Decision { accepted, reason } = match &champion {
                        // Two runs at once: the older one must not undo the newer.
                        Some(champion) if champion.version > candidate.version => Decision {
                            accepted: false,
                            reason: format!(
                                "version {} became champion before this one was judged",
                                champion.version
                            ),
                        },
                        champion => decide(
                            judgement.accept.as_ref(),
                            &GateInput {
                                candidate: &candidate.metrics,
                                champion: champion
                                    .as_ref()
                                    .map(|champion| (champion.version, &champion.metrics)),
                                champion_on_new_data: judgement.champion_on_new_data.as_ref(),
                                primary: candidate.primary_metric.as_deref(),
                            },
                        ),
                    };
                    let event = if accepted {
                        store::promote(tx, &candidate, actor, &reason).await?;
                        MODEL_VERSION_PROMOTED
                    } else {
                        store::set_state(tx, &candidate, VersionState::Refused, &reason).await?;
                        MODEL_VERSION_REFUSED
                    };
                    append(tx, event, &candidate, Some(reason), chain, actor).await?;
                    Ok::<_, MlError>(
                        store::find_version(tx, project, model, version)
                            .await?
                            .version,
                    )
                })
            })
            .await?;
        self.crash.reached("ml.judge.committed");
        let reason = judged.reason.as_deref().unwrap_or_default();
        tracing::info!(project = %project, model = %model, version, state = %judged.state, reason, "model version judged");
        Ok(judged)
    }

    /// Makes a version champion because a person says so, whatever the gate said. Doing it again
    /// changes nothing.
    ///
    /// # Errors
    /// [`MlError::NotFound`]; [`MlError::Invalid`] when the reason is too long.
    pub async fn promote(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        model: &ModelName,
        version: i64,
        reason: &str,
    ) -> MlResult<ModelVersion> {
        ctx.require(Action::Deploy, project)?;
        let reason = spoken("promoted", ctx, reason)?;
        self.make_champion(ctx, project, model, Some(version), &reason)
            .await
    }

    /// Makes the champion before the current one champion again, or the version `to`.
    ///
    /// # Errors
    /// [`MlError::Conflict`] when there was none before; [`MlError::NotFound`].
    pub async fn rollback(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        model: &ModelName,
        to: Option<i64>,
        reason: &str,
    ) -> MlResult<ModelVersion> {
        ctx.require(Action::Deploy, project)?;
        let reason = spoken("rolled back", ctx, reason)?;
        self.make_champion(ctx, project, model, to, &reason).await
    }

    async fn make_champion(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        model: &ModelName,
        to: Option<i64>,
        reason: &str,
    ) -> MlResult<ModelVersion> {
        let actor = ctx.principal.name.as_str();
        self.store
            .write(|tx| {
                Box::pin(async move {
                    let to = match to {
                        Some(version) => version,
                        None => previous_champion(tx, project, model).await?,
                    };
                    let Stored { version, chain } =
                        store::find_version(tx, project, model, to).await?;
                    if version.state == VersionState::Champion {
                        return Ok(version);
                    }
                    store::promote(tx, &version, actor, reason).await?;
                    append(
                        tx,
                        MODEL_VERSION_PROMOTED,
                        &version,
                        Some(reason.to_owned()),
                        chain,
                        actor,
                    )
                    .await?;
                    Ok::<_, MlError>(store::find_version(tx, project, model, to).await?.version)
                })
            })
            .await
    }
}

fn spoken(verb: &str, ctx: &Ctx, reason: &str) -> MlResult<String> {
    if reason.chars().count() > MAX_REASON {
        return Err(MlError::Invalid(format!(
            "the reason has more than {MAX_REASON} characters"
        )));
    }
    let reason = reason.trim();
    let separator = if reason.is_empty() { "" } else { ": " };
    Ok(format!(
        "{verb} by {}{separator}{reason}",
        ctx.principal.name
    ))
}

async fn champion_of(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    model: &ModelName,
) -> MlResult<Option<ModelVersion>> {
    match store::find_model(tx, project, model)
        .await?
        .and_then(|model| model.champion)
    {
        Some(champion) => Ok(Some(
            store::find_version(tx, project, model, champion)
                .await?
                .version,
        )),
        None => Ok(None),
    }
}

/// The version that was champion before the current one and still exists.
async fn previous_champion(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    model: &ModelName,
) -> MlResult<i64> {
    let current = store::find_model(tx, project, model)
        .await?
        .ok_or_else(|| MlError::NotFound(format!("model `{model}` in project `{project}`")))?
        .champion;
    for promotion in store::promotions(tx, project, model, queries::MAX_PAGE).await? {
        if Some(promotion.version) != current
            && store::find_version(tx, project, model, promotion.version)
                .await
                .is_ok()
        {
            return Ok(promotion.version);
        }
    }
    Err(MlError::Conflict(format!(
        "model `{model}` had no other champion to go back to"
    )))
}

pub(crate) async fn append(
    tx: &mut Tx<'_>,
    event: EventType,
    version: &ModelVersion,
    reason: Option<String>,
    chain: Option<String>,
    actor: &str,
) -> MlResult<()> {
    let content = ModelVersionEvent {
        project: version.project.clone(),
        model: version.model.clone(),
        version: version.version,
        run: version.lineage.run,
        digest: version.digest.clone(),
        reason,
    };
    let subject = format!("{}/{}/{}", version.project, version.model, version.version);
    let mut event = NewEvent::new(event, subject)
        .content(content)
        .project(&version.project)
        .actor(actor);
    if let Some(chain) = chain {
        event = event.chain(chain);
    }
    tx.append(event).await?;
    Ok(())
}
