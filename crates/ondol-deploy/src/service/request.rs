//! Requests for rollouts: by the pipeline, by people, and by what follows from events.

use ondol_auth::{Action, Ctx};
use ondol_spec::model::Spec;
use ondol_store::Tx;
use ondol_types::{
    CommitId, Digest, EnvironmentName, EventId, ProjectName, RolloutId, RunId, Timestamp, event,
};

use super::{DeployService, Draft, begin, check, environment};
use crate::crash;
use crate::error::DeployError;
use crate::model::{
    Accepted, AcceptedImage, Kind, ModelRef, Preview, Reason, Rollout, RolloutState,
};
use crate::record::{move_rollout, tell};
use crate::routes::claims;
use crate::store;

/// A newly built image, and perhaps a model version, to be released.
#[derive(Clone, Debug)]
pub struct DeployRequest {
    /// The same key is the same request, however often it comes: the id of the step.
    pub key: String,
    /// Which project.
    pub project: ProjectName,
    /// Where.
    pub environment: EnvironmentName,
    /// The branch that the environment belongs to, when it is a preview: it is removed with the
    /// branch, and has no host of the specification, which production has.
    pub preview: Option<Preview>,
    /// What caused it: [`Reason::Push`] and [`Reason::Command`] lift a hold, [`Reason::Data`] waits.
    pub reason: Reason,
    /// Digest of the image's manifest.
    pub image: Digest,
    /// The effective specification of the commit.
    pub spec: std::sync::Arc<Spec>,
    /// The model version that the run made or found.
    pub model: Option<ModelRef>,
    /// The run that built it.
    pub run: Option<RunId>,
    /// Which commit.
    pub commit: Option<CommitId>,
    /// The chain that it belongs to: the id of the event that began it.
    pub chain: Option<String>,
    /// Who caused it, for people; by default whoever asks.
    pub author: Option<String>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requested {
    /// The rollout.
    pub rollout: RolloutId,
    /// False when the same request had come before.
    pub newly: bool,
}

/// Whether what belongs to `newer` began after what belongs to `older`: chains are named by the
/// event that began them, and ids of events sort by time.
pub(super) fn is_older(chain: Option<&str>, than: Option<&str>) -> bool {
    match (chain.and_then(event_of), than.and_then(event_of)) {
        (Some(chain), Some(than)) => chain < than,
        _ => false,
    }
}

fn event_of(chain: &str) -> Option<EventId> {
    chain.parse().ok()
}

impl DeployService {
    /// Accepts an image and asks for a rollout. Repeating it with the same key changes nothing.
    ///
    /// An image of an older push than the accepted one is not taken, so that a slow run cannot
    /// bring old code back; its rollout ends at once and says so.
    ///
    /// # Errors
    /// Not allowed; there is no such image; the specification asks for what this installation
    /// cannot do or breaks a bound; a host belongs to another project; the key was used for something else.
    pub async fn request(
        &self,
        ctx: &Ctx,
        request: DeployRequest,
    ) -> Result<Requested, DeployError> {
        ctx.require(Action::Deploy, &request.project)?;
        check::key(&request.key)?;
        // An image that is not there is refused before anything is written about it.
        let image = self.room().images.describe(&request.image).await;
        let image = image.map_err(DeployError::room("the image cannot be released"))?;
        let mut config = check::config_of(self.room(), &request.project, &request.spec, &image)?;
        let production = request.environment == EnvironmentName::production();
        if request.preview.is_some() {
            if production {
                return Err(DeployError::Invalid {
                    key: "environment".to_owned(),
                    problem: "a preview never goes to production".to_owned(),
                });
            }
            config.service.hosts.clear();
        }
        let most = self.room().config.max_previews;
        let author = request
            .author
            .clone()
            .unwrap_or_else(|| ctx.principal.name.clone());
        let image = AcceptedImage {
            image: request.image.clone(),
            config,
            commit: request.commit.clone(),
            run: request.run,
            chain: request.chain.clone(),
            author,
        };
        let (request, image) = (&request, &image);
        let requested = self
            .room()
            .store
            .write::<_, DeployError, _>(|tx| {
                Box::pin(async move { accept(tx, request, image, most).await })
            })
            .await?;
        self.room().crash.reached(crash::REQUESTED);
        self.room().wake_environments();
        Ok(requested)
    }

    /// Asks for a rollout of the newest accepted parts, by a person: it lifts a hold.
    ///
    /// # Errors
    /// Not allowed; nothing was accepted yet.
    pub async fn deploy(
        &self,
        ctx: &Ctx,
        key: &str,
        project: &ProjectName,
        name: &EnvironmentName,
    ) -> Result<Requested, DeployError> {
        ctx.require(Action::Deploy, project)?;
        check::key(key)?;
        let author = ctx.principal.name.as_str();
        let requested = self
            .room()
            .store
            .write::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    if let Some(known) = repeated(tx, key, project, name).await? {
                        return Ok(known);
                    }
                    environment(tx, project, name).await?;
                    if store::accepted(tx, project, name).await?.image.is_none() {
                        return Err(DeployError::NothingReleased {
                            project: project.clone(),
                            environment: name.clone(),
                        });
                    }
                    lift(tx, project, name, author).await?;
                    let draft = draft(project, name, key, Reason::Command, author);
                    let rollout = begin(tx, draft, false).await?;
                    Ok(Requested {
                        rollout: rollout.id,
                        newly: true,
                    })
                })
            })
            .await?;
        self.room().wake_environments();
        Ok(requested)
    }
}

pub(super) fn draft<'a>(
    project: &'a ProjectName,
    environment: &'a EnvironmentName,
    key: &'a str,
    reason: Reason,
    author: &'a str,
) -> Draft<'a> {
    Draft {
        project,
        environment,
        key,
        kind: Kind::Deploy,
        reason,
        target: None,
        run: None,
        chain: None,
        author,
        not_before: None,
    }
}

/// The answer to a key that was used before.
pub(super) async fn repeated(
    tx: &mut Tx<'_>,
    key: &str,
    project: &ProjectName,
    name: &EnvironmentName,
) -> Result<Option<Requested>, DeployError> {
    match store::rollout_by_key(tx, key).await? {
        None => Ok(None),
        Some(known) if known.project == *project && known.environment == *name => {
            Ok(Some(Requested {
                rollout: known.id,
                newly: false,
            }))
        }
        Some(_) => Err(DeployError::KeyReused(key.to_owned())),
    }
}

/// A person's wish lifts a hold.
pub(super) async fn lift(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
    actor: &str,
) -> Result<(), DeployError> {
    let Some(mut found) = store::environment(tx, project, name).await? else {
        return Ok(());
    };
    if found.hold.take().is_some() {
        store::set_hold(tx, project, name, None).await?;
        tx.append(tell::environment(
            event::ENVIRONMENT_MODIFIED,
            &found,
            actor,
        ))
        .await?;
    }
    Ok(())
}

async fn accept(
    tx: &mut Tx<'_>,
    request: &DeployRequest,
    image: &AcceptedImage,
    max_previews: u32,
) -> Result<Requested, DeployError> {
    let (project, name) = (&request.project, &request.environment);
    if let Some(known) = repeated(tx, &request.key, project, name).await? {
        return Ok(known);
    }
    if let Some(preview) = &request.preview {
        admit(tx, request, preview, max_previews).await?;
    }
    if store::create_environment(tx, project, name).await?
        && let Some(made) = store::environment(tx, project, name).await?
    {
        tx.append(tell::environment(
            event::ENVIRONMENT_CREATED,
            &made,
            &image.author,
        ))
        .await?;
    }
    let found = environment(tx, project, name).await?;
    let before = store::accepted(tx, project, name).await?;
    let mut accepted: Accepted = before.clone();
    let known = before.image.as_ref();
    let overtaken = is_older(
        image.chain.as_deref(),
        known.and_then(|image| image.chain.as_deref()),
    );
    if !overtaken {
        claim(tx, project, name, image, found.current).await?;
        accepted.image = Some(image.clone());
    }
    if accepted.model.is_none() && request.preview.is_some() {
        // A branch is shown with the model that production serves.
        let production = store::accepted(tx, project, &EnvironmentName::production()).await?;
        accepted.model = production.model;
    }
    if let Some(model) = newer_model(before.model.as_ref(), request.model.as_ref()) {
        accepted.model = Some(model.clone());
    }
    store::set_accepted(tx, project, name, &accepted).await?;
    let drafted = Draft {
        run: request.run,
        chain: request.chain.clone(),
        ..draft(project, name, &request.key, request.reason, &image.author)
    };
    if overtaken && accepted.model == before.model {
        return overtaken_rollout(tx, drafted).await;
    }
    let human = request.reason.is_human() && !overtaken;
    if human {
        lift(tx, project, name, &image.author).await?;
    }
    let rollout = begin(tx, drafted, found.hold.is_some() && !human).await?;
    Ok(Requested {
        rollout: rollout.id,
        newly: true,
    })
}

/// Whether a branch may have a preview now; notes that it does.
async fn admit(
    tx: &mut Tx<'_>,
    request: &DeployRequest,
    preview: &Preview,
    most: u32,
) -> Result<(), DeployError> {
    let (project, name) = (&request.project, &request.environment);
    if let Some(known) = store::preview(tx, project, name).await? {
        if known.branch != preview.branch {
            return Err(DeployError::BranchTaken {
                project: project.clone(),
                environment: name.clone(),
                branch: known.branch,
            });
        }
        // The run of a push before the branch's end must not bring it back.
        let ended = known.ended.map(|event| event.to_string());
        if is_older(request.chain.as_deref(), ended.as_deref()) {
            return Err(DeployError::BranchGone {
                project: project.clone(),
                branch: known.branch,
            });
        }
    }
    let there = store::environment(tx, project, name).await?.is_some();
    if !there && store::count_previews(tx, project).await? >= most {
        return Err(DeployError::TooManyPreviews {
            project: project.clone(),
            most,
        });
    }
    Ok(store::touch_preview(tx, project, name, preview).await?)
}

/// A model version that the accepted one is not newer than. Going back is for the alias alone.
fn newer_model<'a>(before: Option<&ModelRef>, asked: Option<&'a ModelRef>) -> Option<&'a ModelRef> {
    asked.filter(|asked| {
        before.is_none_or(|before| before.name != asked.name || before.version <= asked.version)
    })
}

/// The rollout of an image that a newer one has overtaken.
async fn overtaken_rollout(tx: &mut Tx<'_>, draft: Draft<'_>) -> Result<Requested, DeployError> {
    let newest = store::rollouts_before(tx, draft.project, draft.environment, i64::MAX, 1).await?;
    let message = "superseded: the image of a newer push was accepted before";
    let by = newest.first().map(|rollout| rollout.id);
    ended_at_once(tx, draft, message, by).await
}

/// A rollout that has nothing to do: there for whoever asked to see, and over.
pub(super) async fn ended_at_once(
    tx: &mut Tx<'_>,
    draft: Draft<'_>,
    message: &str,
    by: Option<RolloutId>,
) -> Result<Requested, DeployError> {
    let now: Timestamp = tx.now();
    let number = store::next_rollout_number(tx, draft.project, draft.environment).await?;
    let rollout = Rollout {
        id: RolloutId::derived(&format!("rollout:{}", draft.key)),
        project: draft.project.clone(),
        environment: draft.environment.clone(),
        number,
        key: draft.key.to_owned(),
        kind: draft.kind,
        reason: draft.reason,
        state: RolloutState::Aborted,
        since: now,
        strategy: ondol_spec::model::Strategy::Rolling,
        from: None,
        to: None,
        target: None,
        phase: crate::model::Phase::default(),
        message: message.to_owned(),
        failure: None,
        superseded_by: by,
        run: draft.run,
        chain: draft.chain,
        author: draft.author.to_owned(),
        not_before: None,
        created_at: now,
        finished_at: Some(now),
    };
    store::insert_rollout(tx, &rollout).await?;
    tx.append(tell::rollout(event::ROLLOUT_FINISHED, &rollout))
        .await?;
    Ok(Requested {
        rollout: rollout.id,
        newly: true,
    })
}

/// Takes the hosts of a configuration, or names who has one.
async fn claim(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
    image: &AcceptedImage,
    current: Option<ondol_types::ReleaseId>,
) -> Result<(), DeployError> {
    let wanted = claims(&image.config);
    for (host, path) in &wanted {
        match store::host_owner(tx, host, path).await? {
            Some((owner, place)) if owner != *project || place != *name => {
                return Err(DeployError::HostTaken {
                    host: host.clone(),
                    path: path.clone(),
                    project: owner,
                    environment: place,
                });
            }
            _ => store::claim_host(tx, host, path, project, name).await?,
        }
    }
    // What neither serves nor is wanted any more is free again.
    let mut kept = wanted;
    if let Some(current) = current
        && let Some(release) = store::release(tx, current).await?
    {
        kept.extend(claims(&release.config));
    }
    for open in store::open_rollouts(tx, Some((project, name))).await? {
        if let Some(to) = open.to
            && let Some(release) = store::release(tx, to).await?
        {
            kept.extend(claims(&release.config));
        }
    }
    Ok(store::keep_hosts(tx, project, name, &kept).await?)
}

/// Parks nothing any more: what automation wanted meanwhile begins.
pub(super) async fn release_held(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
) -> Result<Option<RolloutId>, DeployError> {
    let open = store::open_rollouts(tx, Some((project, name))).await?;
    let Some(held) = open
        .iter()
        .find(|rollout| rollout.state == RolloutState::Held)
    else {
        return Ok(None);
    };
    if let Some(pending) = open
        .iter()
        .find(|rollout| rollout.state == RolloutState::Pending)
    {
        if pending.kind == Kind::Rollback {
            // It would not bring what is parked, which goes on when it has ended.
            return Ok(Some(held.id));
        }
        super::give_way(tx, held, pending.id).await?;
        return Ok(Some(pending.id));
    }
    move_rollout(
        tx,
        held.id,
        RolloutState::Held,
        RolloutState::Pending,
        0,
        "waiting for its turn",
    )
    .await?;
    Ok(Some(held.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_ordered_by_their_first_event() {
        let clock = |micros| ondol_types::ManualClock::at(Timestamp::from_micros(micros));
        let early = EventId::generate(&clock(1_000_000)).to_string();
        let late = EventId::generate(&clock(2_000_000)).to_string();
        assert!(is_older(Some(&early), Some(&late)));
        assert!(!is_older(Some(&late), Some(&early)));
        assert!(!is_older(Some(&early), Some(&early)));
        assert!(!is_older(Some("by hand"), Some(&late)) && !is_older(None, Some(&late)));
    }

    #[test]
    fn a_request_never_brings_an_older_model_back() {
        let version = |version| ModelRef {
            name: "iris".parse().unwrap(),
            version,
            digest: None,
        };
        assert!(newer_model(Some(&version(3)), Some(&version(2))).is_none());
        assert_eq!(
            newer_model(Some(&version(3)), Some(&version(4))),
            Some(&version(4))
        );
        assert_eq!(newer_model(None, Some(&version(1))), Some(&version(1)));
    }
}
