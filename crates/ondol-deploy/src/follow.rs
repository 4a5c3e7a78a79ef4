//! What follows from other rooms' events: a promoted model version, a set or removed secret, a
//! deleted branch with a preview. The end of a project is asked for elsewhere (`forget`), and waits
//! until the cursor stands behind the event that says so. The cursor moves in the transaction of
//! what is derived, so each event counts
//! exactly once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_store::Tx;
use ondol_store::events::{Event, EventFilter};
use ondol_types::event::{self, ModelVersionEvent};
use ondol_types::{EnvironmentName, EventId, Problem, ProjectName, SecretName};
use serde_json::Value;

use crate::crash;
use crate::error::DeployError;
use crate::model::{Environment, Kind, ModelRef, Preview, Reason};
use crate::room::Room;
use crate::service::{Draft, begin};
use crate::store;

pub(crate) const CURSOR: &str = "deploy.follow";
const BATCH: u32 = 200;

const FOLLOWED: &[&str] = &[
    event::MODEL_VERSION_PROMOTED,
    event::SECRET_SET,
    event::SECRET_REMOVED,
    event::BRANCH_DELETED,
    event::REPOSITORY_DELETED,
];

/// Follows the log.
pub(crate) struct FollowLoop {
    pub(crate) room: Arc<Room>,
}

#[async_trait]
impl Reconciler for FollowLoop {
    fn name(&self) -> &'static str {
        CURSOR
    }

    fn period(&self) -> Duration {
        Duration::from_secs(5)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let events = self
            .room
            .store
            .read::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    let after = store::cursor(tx, CURSOR).await?;
                    Ok(tx
                        .events_after(after, &EventFilter::default(), BATCH)
                        .await?)
                })
            })
            .await?;
        let Some(last) = events.last().map(|event| event.seq) else {
            return Ok(Report::default());
        };
        let full = events.len() as u32 == BATCH;
        let relevant = events
            .iter()
            .any(|event| FOLLOWED.contains(&event.event_type.as_str()));
        if !relevant && !full {
            // Nothing follows from these; the cursor moves with the next batch that matters.
            return Ok(Report {
                seen: events.len() as u64,
                ..Report::default()
            });
        }
        self.room.crash.reached(crash::FOLLOW_BEFORE);
        let (room, events) = (&self.room, &events);
        let changed = room
            .store
            .write::<_, DeployError, _>(|tx| {
                Box::pin(async move { derive(room, tx, events, last).await })
            })
            .await?;
        if changed > 0 {
            self.room.wake_environments();
            self.room.wake_routes();
        }
        Ok(Report {
            seen: events.len() as u64,
            changed,
            note: None,
            more: full,
        })
    }
}

async fn derive(
    room: &Room,
    tx: &mut Tx<'_>,
    events: &[Event],
    last: i64,
) -> Result<u64, DeployError> {
    let from = store::cursor(tx, CURSOR).await?;
    let mut changed = 0;
    for found in events.iter().filter(|found| found.seq > from) {
        let Some(project) = found.project.as_ref() else {
            continue;
        };
        changed += match found.event_type.as_str() {
            event::MODEL_VERSION_PROMOTED => model(room, tx, project, found).await?,
            event::SECRET_SET | event::SECRET_REMOVED => secret(tx, project, found).await?,
            event::BRANCH_DELETED => branch(tx, project, found).await?,
            _ => 0,
        };
    }
    store::set_cursor(tx, CURSOR, last.max(from)).await?;
    Ok(changed)
}

/// The preview of a branch goes with it.
async fn branch(tx: &mut Tx<'_>, project: &ProjectName, found: &Event) -> Result<u64, DeployError> {
    let branch = found.subject.as_str();
    let name = Preview::environment_of(branch);
    store::end_preview(tx, project, &name, branch, found.id).await?;
    Ok(store::set_removing(tx, project, &name).await?)
}

fn actor(found: &Event) -> String {
    found.document["customData"]["actor"]
        .as_str()
        .unwrap_or("ondol")
        .to_owned()
}

/// Environments that take up changes: those that have accepted an image.
async fn taking(tx: &mut Tx<'_>, project: &ProjectName) -> Result<Vec<Environment>, DeployError> {
    let mut all = store::environments(tx, Some(project)).await?;
    all.retain(|environment| !environment.removing);
    Ok(all)
}

async fn model(
    room: &Room,
    tx: &mut Tx<'_>,
    project: &ProjectName,
    found: &Event,
) -> Result<u64, DeployError> {
    let Some(promoted) = found.content::<ModelVersionEvent>() else {
        return Ok(0);
    };
    let mut changed = 0;
    for environment in taking(tx, project).await? {
        let mut accepted = store::accepted(tx, project, &environment.name).await?;
        let uses = accepted
            .image
            .as_ref()
            .is_some_and(|image| image.config.model.as_ref() == Some(&promoted.model));
        if !uses {
            continue;
        }
        let model = ModelRef {
            name: promoted.model.clone(),
            version: promoted.version,
            digest: Some(promoted.digest.clone()),
        };
        if accepted
            .model
            .as_ref()
            .is_some_and(|known| known.name == model.name && known.version == model.version)
        {
            // The rollout of the run that trained it was here first.
            continue;
        }
        accepted.model = Some(model);
        store::set_accepted(tx, project, &environment.name, &accepted).await?;
        // The run that trained it will ask for a rollout itself, in a moment.
        let not_before = promoted
            .run
            .map(|_| tx.now().plus(room.config.model_patience));
        request(tx, &environment, found, Reason::Model, not_before).await?;
        changed += 1;
    }
    Ok(changed)
}

async fn secret(tx: &mut Tx<'_>, project: &ProjectName, found: &Event) -> Result<u64, DeployError> {
    let content: &Value = &found.document["subject"]["content"];
    if content["staged"].as_bool() == Some(true) {
        return Ok(0);
    }
    let name: Option<SecretName> = content["name"].as_str().and_then(|name| name.parse().ok());
    let place = content["environment"].as_str();
    let mut changed = 0;
    for environment in taking(tx, project).await? {
        if place.is_some_and(|place| place != environment.name.as_str()) {
            continue;
        }
        let accepted = store::accepted(tx, project, &environment.name).await?;
        let uses = accepted.image.as_ref().is_some_and(|image| {
            name.as_ref().is_none_or(|name| {
                let mut received = image.config.secrets.iter();
                received.any(|secret| secret.name == *name)
            })
        });
        if uses {
            request(tx, &environment, found, Reason::Secret, None).await?;
            changed += 1;
        }
    }
    Ok(changed)
}

/// The key of the rollout that follows from an event in an environment.
pub(crate) fn key(event: EventId, environment: &EnvironmentName) -> String {
    format!("event:{event}:{environment}")
}

async fn request(
    tx: &mut Tx<'_>,
    environment: &Environment,
    found: &Event,
    reason: Reason,
    not_before: Option<ondol_types::Timestamp>,
) -> Result<(), DeployError> {
    let key = key(found.id, &environment.name);
    if store::rollout_by_key(tx, &key).await?.is_some() {
        return Ok(());
    }
    let author = actor(found);
    let draft = Draft {
        project: &environment.project,
        environment: &environment.name,
        key: &key,
        kind: Kind::Deploy,
        reason,
        target: None,
        run: None,
        chain: Some(found.chain.clone()),
        author: &author,
        not_before,
    };
    begin(tx, draft, environment.hold.is_some()).await?;
    Ok(())
}
