//! Going back: an earlier release with every part of it, and a hold, so that automation does not
//! undo it a moment later.

use ondol_auth::{Action, Ctx};
use ondol_store::Tx;
use ondol_types::{EnvironmentName, ProjectName, event};

use super::request::{draft, repeated};
use super::{DeployService, Draft, Requested, begin, check, environment};
use crate::error::DeployError;
use crate::model::{Environment, Hold, Kind, Reason, Release};
use crate::record::tell;
use crate::store;

impl DeployService {
    /// Goes back to release `to`, or to the one that served before the current. Image,
    /// configuration, secret versions and model version are those of that release; what its
    /// release command did is not undone. Sets a hold.
    ///
    /// # Errors
    /// Not allowed; there is no such release, it never served, or it serves now; a release
    /// command in between cannot be undone and `force` is not given.
    pub async fn rollback(
        &self,
        ctx: &Ctx,
        key: &str,
        project: &ProjectName,
        name: &EnvironmentName,
        to: Option<i64>,
        force: bool,
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
                    let found = environment(tx, project, name).await?;
                    let target = target(tx, &found, to, force).await?;
                    let hold = Hold {
                        reason: format!("rolled back to release {} by {author}", target.number),
                        by: author.to_owned(),
                        at: tx.now(),
                    };
                    store::set_hold(tx, project, name, Some(&hold)).await?;
                    let held = Environment {
                        hold: Some(hold),
                        ..found
                    };
                    tx.append(tell::environment(
                        event::ENVIRONMENT_MODIFIED,
                        &held,
                        author,
                    ))
                    .await?;
                    let draft = Draft {
                        kind: Kind::Rollback,
                        target: Some(target.number),
                        ..draft(project, name, key, Reason::Rollback, author)
                    };
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

async fn target(
    tx: &mut Tx<'_>,
    found: &Environment,
    to: Option<i64>,
    force: bool,
) -> Result<Release, DeployError> {
    let (project, name) = (&found.project, &found.name);
    let nothing = || DeployError::NothingReleased {
        project: project.clone(),
        environment: name.clone(),
    };
    let current = store::release(tx, found.current.ok_or_else(nothing)?)
        .await?
        .ok_or_else(nothing)?;
    let target = match to {
        Some(number) if number == current.number || Some(number) == current.origin => {
            return Err(DeployError::AlreadyCurrent(number));
        }
        Some(number) => store::release_numbered(tx, project, name, number)
            .await?
            .ok_or_else(|| DeployError::NoRelease {
                project: project.clone(),
                environment: name.clone(),
                number,
            })?,
        None => store::served_before(tx, project, name, current.base())
            .await?
            .ok_or_else(|| DeployError::NothingEarlier {
                project: project.clone(),
                environment: name.clone(),
            })?,
    };
    if target.activated_at.is_none() {
        return Err(DeployError::NeverServed(target.number));
    }
    if !force
        && let Some(crossed) = store::irreversible_after(tx, project, name, target.base()).await?
    {
        return Err(DeployError::Irreversible {
            to: target.number,
            crossed,
        });
    }
    Ok(target)
}
