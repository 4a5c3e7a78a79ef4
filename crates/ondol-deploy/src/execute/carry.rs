//! What a new rollout takes over from those before it: their wishes, their refusals, and the
//! release command that has run. A release command is never run again for what goes on with it.

use ondol_store::Tx;

use super::compose::Ground;
use crate::error::DeployError;
use crate::model::{CommandState, Kind, Release, Rollout, RolloutState};
use crate::store;

impl Ground {
    /// The rollouts that gave way to this one, directly or not.
    pub(super) fn carried(&self) -> Vec<&Rollout> {
        let mut heirs = vec![self.rollout.id];
        let mut carried = Vec::new();
        for earlier in &self.earlier {
            if earlier.superseded_by.is_some_and(|by| heirs.contains(&by)) {
                heirs.push(earlier.id);
                carried.push(earlier);
            }
        }
        carried
    }

    /// A restart while automation is held: what was accepted since waits for a person.
    pub(super) fn repeats(&self) -> bool {
        self.rollout.kind == Kind::Restart && self.environment.hold.is_some()
    }
}

/// Whether the newest rollout that tried exactly these parts ended without them, or they were
/// gone back from: it takes more than a restart to try them again.
pub(super) async fn refused(
    tx: &mut Tx<'_>,
    found: &Ground,
    release: &Release,
) -> Result<bool, DeployError> {
    if found
        .current
        .as_ref()
        .is_some_and(|current| current.same_parts(release))
    {
        return Ok(false);
    }
    for earlier in &found.earlier {
        let Some(to) = earlier.to else { continue };
        let tried = store::release(tx, to).await?;
        if !tried.is_some_and(|tried| tried.same_parts(release)) {
            continue;
        }
        return Ok(match (earlier.state, earlier.superseded_by) {
            (RolloutState::Aborted, Some(by)) => store::rollout(tx, by)
                .await?
                .is_some_and(|by| by.kind == Kind::Rollback),
            _ => true,
        });
    }
    Ok(false)
}

/// Whether the release command of the same image has succeeded already in a rollout that was
/// superseded since the current release took over, and no other one has run after it: what takes
/// its place goes on from there, and does not migrate twice.
pub(super) async fn continues(
    tx: &mut Tx<'_>,
    found: &Ground,
    release: &Release,
) -> Result<bool, DeployError> {
    let Some(command) = &release.config.release.command else {
        return Ok(false);
    };
    if found.rollout.kind == Kind::Rollback {
        return Ok(false);
    }
    let since = match found.environment.serving {
        Some(serving) => store::rollout(tx, serving)
            .await?
            .map_or(0, |serving| serving.number),
        None => 0,
    };
    for earlier in found
        .earlier
        .iter()
        .take_while(|earlier| earlier.number > since)
    {
        let Some(ran) = store::command(tx, earlier.id).await? else {
            continue;
        };
        let of = match earlier.to {
            Some(to) => store::release(tx, to).await?,
            None => None,
        };
        return Ok(ran.state == CommandState::Succeeded
            && earlier.superseded_by.is_some()
            && of.is_some_and(|of| {
                of.image == release.image && of.config.release.command.as_ref() == Some(command)
            }));
    }
    Ok(false)
}
