//! Composes the release of a rollout, at the moment it starts, from the newest accepted of each
//! part; a rollback repeats an earlier release with every part of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ondol_spec::model::Strategy;
use ondol_store::Tx;
use ondol_types::{ErrorKind, ManualClock, ReleaseId, RolloutId, SecretName, event};

use super::carry::{continues, refused};
use crate::crash;
use crate::error::DeployError;
use crate::model::{
    Accepted, Environment, Failure, Kind, MAX_REASON, Reason, Release, ReplicaState, Rollout,
    RolloutState, cut,
};
use crate::record::{move_rollout, tell};
use crate::room::Room;
use crate::routes::claims;
use crate::store;

/// How long secrets may be unreadable before a rollout fails for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many rollouts back a new one looks for what gave way to it or tried its parts before.
const LOOK_BACK: u32 = 100;

pub(super) struct Ground {
    pub(super) rollout: Rollout,
    pub(super) environment: Environment,
    accepted: Accepted,
    pub(super) current: Option<Release>,
    target: Option<Release>,
    /// The rollouts before it, newest first.
    pub(super) earlier: Vec<Rollout>,
}

async fn ground(tx: &mut Tx<'_>, id: RolloutId) -> Result<Option<Ground>, DeployError> {
    let Some(rollout) = store::rollout(tx, id)
        .await?
        .filter(|rollout| rollout.state == RolloutState::Pending)
    else {
        return Ok(None);
    };
    let (project, name) = (&rollout.project, &rollout.environment);
    let Some(environment) = store::environment(tx, project, name)
        .await?
        .filter(|found| !found.removing)
    else {
        return Ok(None);
    };
    let current = match environment.current {
        Some(current) => store::release(tx, current).await?,
        None => None,
    };
    let target = match rollout.target {
        Some(number) => store::release_numbered(tx, project, name, number).await?,
        None => None,
    };
    let accepted = store::accepted(tx, project, name).await?;
    let earlier = store::rollouts_before(tx, project, name, rollout.number, LOOK_BACK).await?;
    Ok(Some(Ground {
        rollout,
        environment,
        accepted,
        current,
        target,
        earlier,
    }))
}

pub(super) async fn compose(room: &Arc<Room>, id: RolloutId) -> Result<(), DeployError> {
    let found = room
        .store
        .read::<_, DeployError, _>(|tx| Box::pin(async move { ground(tx, id).await }))
        .await?;
    let Some(found) = found else { return Ok(()) };
    let secrets = match secrets(room, &found).await {
        Ok(secrets) => Ok(secrets),
        Err(Refusal::Final(failure)) => Err(failure),
        Err(Refusal::Later(error)) => return Err(error),
    };
    room.crash.reached(crash::COMPOSE_BEFORE);
    let (found, secrets) = (&found, &secrets);
    room.store
        .write::<_, DeployError, _>(|tx| Box::pin(async move { write(tx, found, secrets).await }))
        .await?;
    room.crash.reached(crash::COMPOSE_AFTER);
    Ok(())
}

enum Refusal {
    Final(Failure),
    Later(DeployError),
}

/// The newest version of each secret, for a release that is composed anew.
async fn secrets(room: &Arc<Room>, found: &Ground) -> Result<BTreeMap<SecretName, i64>, Refusal> {
    let Some(image) = found
        .accepted
        .image
        .as_ref()
        .filter(|_| found.rollout.kind != Kind::Rollback && !found.repeats())
    else {
        return Ok(BTreeMap::new());
    };
    let names: Vec<SecretName> = image
        .config
        .secrets
        .iter()
        .map(|secret| secret.name.clone())
        .collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (project, environment) = (&found.rollout.project, &found.rollout.environment);
    let versions = match room.secrets.current(project, environment, &names).await {
        Ok(versions) => versions,
        Err(problem) => {
            let waited = room.clock.now().since(found.rollout.since.max(room.boot));
            let passing = matches!(
                problem.kind,
                ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Internal
            );
            let error = DeployError::room("the secrets of the project cannot be read")(problem);
            return Err(if passing && waited < PATIENCE {
                Refusal::Later(error)
            } else {
                Refusal::Final(Failure::plain(error.told()))
            });
        }
    };
    let missing: Vec<&str> = names
        .iter()
        .filter(|name| !versions.contains_key(*name))
        .map(|name| name.as_str())
        .collect();
    if let Some(first) = missing.first() {
        let verb = if missing.len() == 1 {
            "secret is"
        } else {
            "secrets are"
        };
        return Err(Refusal::Final(Failure {
            hint: Some(format!(
                "`ondol secret set {first} --project {project}`; setting it rolls out"
            )),
            ..Failure::plain(format!(
                "{} {verb} named under `secrets` and not set: {}",
                missing.len(),
                missing.join(", ")
            ))
        }));
    }
    Ok(versions)
}

async fn end(tx: &mut Tx<'_>, id: RolloutId, failure: &Failure) -> Result<(), DeployError> {
    if move_rollout(
        tx,
        id,
        RolloutState::Pending,
        RolloutState::Failed,
        0,
        &failure.message,
    )
    .await?
    {
        store::set_failure(tx, id, failure).await?;
    }
    Ok(())
}

async fn write(
    tx: &mut Tx<'_>,
    before: &Ground,
    secrets: &Result<BTreeMap<SecretName, i64>, Failure>,
) -> Result<(), DeployError> {
    let Some(found) = ground(tx, before.rollout.id).await? else {
        return Ok(());
    };
    if found.accepted != before.accepted || found.repeats() != before.repeats() {
        // Something else is wanted since the secrets were read: the next look composes it.
        return Ok(());
    }
    let rollout = &found.rollout;
    let place = (&rollout.project, &rollout.environment);
    let open = store::open_rollouts(tx, Some(place)).await?;
    if open.iter().any(|other| other.state.is_running()) {
        return Ok(());
    }
    let from = found.environment.current;
    if found.repeats() {
        return again(tx, &found).await;
    }
    let drafted = match secrets {
        Ok(secrets) => draft(tx, &found, secrets).await?,
        Err(failure) => Err(failure.clone()),
    };
    let carried = found.carried();
    // A restart that took the place of somebody's deployment answers for it.
    let alone = rollout.kind == Kind::Restart
        && !carried.iter().any(|carried| carried.kind == Kind::Deploy);
    let release = match drafted {
        Ok(release) => release,
        Err(_) if alone => return again(tx, &found).await,
        Err(failure) => return end(tx, rollout.id, &failure).await,
    };
    if alone && refused(tx, &found, &release).await? {
        return again(tx, &found).await;
    }
    if rollout.kind != Kind::Rollback
        && let Some(current) = found
            .current
            .as_ref()
            .filter(|current| current.same_parts(&release))
    {
        let restarts = |of: &Rollout| of.kind == Kind::Restart;
        if restarts(rollout) || carried.iter().any(|carried| restarts(carried)) {
            return again(tx, &found).await;
        }
        store::set_releases(
            tx,
            rollout.id,
            rollout.kind,
            from,
            current.id,
            Strategy::Rolling,
        )
        .await?;
        let message = format!(
            "nothing changed: release {} serves exactly this",
            current.number
        );
        move_rollout(
            tx,
            rollout.id,
            RolloutState::Pending,
            RolloutState::Done,
            0,
            &message,
        )
        .await?;
        return Ok(());
    }
    let number = store::next_release_number(tx, place.0, place.1).await?;
    let continued = continues(tx, &found, &release).await?;
    let release = Release {
        number,
        commanded: continued,
        ..release
    };
    store::insert_release(tx, &release).await?;
    tx.append(tell::release(&release)).await?;
    for name in release.config.volumes.keys() {
        if store::note_volume(tx, place.0, place.1, name).await? {
            tx.append(tell::volume(place, name)).await?;
        }
    }
    let kind = match rollout.kind {
        Kind::Rollback => Kind::Rollback,
        Kind::Deploy | Kind::Restart => Kind::Deploy,
    };
    let strategy = match kind {
        Kind::Deploy if from.is_some() => release.config.release.strategy,
        _ => Strategy::Rolling,
    };
    store::set_releases(tx, rollout.id, kind, from, release.id, strategy).await?;
    if rollout.kind == Kind::Rollback {
        adopt(tx, &found, &release).await?;
    }
    let (state, message) = if !continued && commands(&found, &release) {
        (
            RolloutState::ReleaseCommand,
            format!("release {number}: running the release command"),
        )
    } else {
        (
            RolloutState::Starting,
            format!("release {number}: starting"),
        )
    };
    begin(tx, rollout, state, &message).await
}

async fn begin(
    tx: &mut Tx<'_>,
    rollout: &Rollout,
    state: RolloutState,
    message: &str,
) -> Result<(), DeployError> {
    if move_rollout(tx, rollout.id, RolloutState::Pending, state, 0, message).await?
        && let Some(rollout) = store::rollout(tx, rollout.id).await?
    {
        tx.append(tell::rollout(event::ROLLOUT_STARTED, &rollout))
            .await?;
    }
    Ok(())
}

/// The current release with new replicas.
async fn again(tx: &mut Tx<'_>, found: &Ground) -> Result<(), DeployError> {
    let rollout = &found.rollout;
    let Some(current) = &found.current else {
        let failure = Failure::plain("nothing serves, so there is nothing to restart");
        return end(tx, rollout.id, &failure).await;
    };
    let from = found.environment.current;
    store::set_releases(
        tx,
        rollout.id,
        Kind::Restart,
        from,
        current.id,
        Strategy::Rolling,
    )
    .await?;
    let message = format!("restarting release {}", current.number);
    begin(tx, rollout, RolloutState::Starting, &message).await
}

/// A release command belongs to an image: a new secret or model does not migrate again, and
/// going back does not migrate at all.
fn commands(found: &Ground, release: &Release) -> bool {
    let Some(command) = &release.config.release.command else {
        return false;
    };
    found.rollout.kind != Kind::Rollback
        && found.current.as_ref().is_none_or(|current| {
            current.image != release.image
                || current.config.release.command.as_ref() != Some(command)
        })
}

/// The parts of the release, its number aside.
async fn draft(
    tx: &mut Tx<'_>,
    found: &Ground,
    secrets: &BTreeMap<SecretName, i64>,
) -> Result<Result<Release, Failure>, DeployError> {
    let rollout = &found.rollout;
    let now = tx.now();
    let id = ReleaseId::generate(&ManualClock::at(now));
    if rollout.kind == Kind::Rollback {
        let Some(target) = &found.target else {
            return Ok(Err(Failure::plain(
                "the release to go back to is not kept any more",
            )));
        };
        // Another project may have taken a host since.
        for (host, path) in claims(&target.config) {
            let place = (&rollout.project, &rollout.environment);
            match store::host_owner(tx, &host, &path).await? {
                Some((owner, there)) if (&owner, &there) != place => {
                    let message =
                        format!("its host `{host}` now belongs to `{there}` of project `{owner}`");
                    return Ok(Err(Failure::plain(message)));
                }
                _ => store::claim_host(tx, &host, &path, place.0, place.1).await?,
            }
        }
        return Ok(Ok(Release {
            id,
            origin: Some(target.base()),
            reason: Reason::Rollback,
            author: rollout.author.clone(),
            chain: rollout.chain.clone(),
            irreversible: false,
            commanded: false,
            created_at: now,
            activated_at: None,
            ..target.clone()
        }));
    }
    let Some(image) = found.accepted.image.clone() else {
        return Ok(Err(Failure::plain(
            "no image was accepted for this environment yet",
        )));
    };
    let model = match &image.config.model {
        None => None,
        Some(name) => match found
            .accepted
            .model
            .clone()
            .filter(|model| model.name == *name)
        {
            Some(model) => Some(model),
            None => {
                return Ok(Err(Failure {
                    hint: Some("push data, so that a version is trained and accepted".to_owned()),
                    ..Failure::plain(cut(
                        &format!(
                            "the service needs model `{name}`, which has no accepted version yet"
                        ),
                        MAX_REASON,
                    ))
                }));
            }
        },
    };
    let irreversible = image.config.release.command.is_some() && !image.config.release.reversible;
    Ok(Ok(Release {
        id,
        project: rollout.project.clone(),
        environment: rollout.environment.clone(),
        number: 0,
        image: image.image,
        config: image.config,
        secrets: secrets.clone(),
        model,
        commit: image.commit,
        run: rollout.run.or(image.run),
        chain: rollout.chain.clone().or(image.chain),
        author: rollout.author.clone(),
        reason: rollout.reason,
        origin: None,
        irreversible,
        commanded: false,
        created_at: now,
        activated_at: None,
    }))
}

/// Blue-green: what still stands of the release that is repeated takes over at once.
async fn adopt(tx: &mut Tx<'_>, found: &Ground, release: &Release) -> Result<(), DeployError> {
    let place = (&found.rollout.project, &found.rollout.environment);
    for replica in store::live_replicas(tx, Some(place)).await? {
        if replica.state != ReplicaState::Standby {
            continue;
        }
        let base = store::release(tx, replica.release)
            .await?
            .map(|of| of.base());
        if base == release.origin {
            store::adopt_standby(tx, &replica, release.id, found.rollout.id).await?;
        }
    }
    Ok(())
}
