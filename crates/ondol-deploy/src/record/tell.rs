//! The events of this room: standard types as their schemas allow, the rest as `customData`.

use ondol_store::events::NewEvent;
use ondol_types::event::{self, EventType};
use serde_json::json;

use crate::model::{Environment, Release, Replica, Rollout};

fn place(project: &ondol_types::ProjectName, environment: &ondol_types::EnvironmentName) -> String {
    format!("{project}/{environment}")
}

pub(crate) fn environment(
    event_type: EventType,
    environment: &Environment,
    actor: &str,
) -> NewEvent {
    NewEvent::new(event_type, place(&environment.project, &environment.name))
        .project(&environment.project)
        .actor(actor)
        .content(json!({ "name": environment.name }))
        .custom(json!({
            "hold": environment.hold.as_ref().map(|hold| &hold.reason),
            "replicas": environment.replicas,
            "scale": environment.scale.as_ref().map(|scale| {
                json!({ "replicas": scale.replicas, "reason": scale.reason })
            }),
        }))
}

pub(crate) fn service(event_type: EventType, release: &Release, rollout: &Rollout) -> NewEvent {
    let event = NewEvent::new(event_type, release.project.as_str())
        .project(&release.project)
        .actor(rollout.author.clone())
        .content(json!({
            "environment": { "id": release.environment },
            "artifactId": release.purl(),
        }))
        .custom(json!({
            "release": release.id,
            "number": release.number,
            "origin": release.origin,
            "rollout": rollout.id,
            "reason": rollout.reason,
            "commit": release.commit,
            "run": release.run,
            "model": release.model,
        }));
    chained(event, rollout.chain.as_ref())
}

pub(crate) fn removed(environment: &Environment) -> NewEvent {
    NewEvent::new(event::SERVICE_REMOVED, environment.project.as_str())
        .project(&environment.project)
        .content(json!({ "environment": { "id": environment.name } }))
}

pub(crate) fn release(release: &Release) -> NewEvent {
    let event = NewEvent::new(event::RELEASE_CREATED, release.id)
        .project(&release.project)
        .actor(release.author.clone())
        .content(json!({
            "project": release.project,
            "environment": release.environment,
            "number": release.number,
            "image": release.image,
            "secrets": release.secrets,
            "model": release.model,
            "commit": release.commit,
            "run": release.run,
            "reason": release.reason,
            "origin": release.origin,
            "irreversible": release.irreversible,
        }));
    chained(event, release.chain.as_ref())
}

pub(crate) fn rollout(event_type: EventType, rollout: &Rollout) -> NewEvent {
    let event = NewEvent::new(event_type, rollout.id)
        .project(&rollout.project)
        .actor(rollout.author.clone())
        .content(json!({
            "project": rollout.project,
            "environment": rollout.environment,
            "number": rollout.number,
            "kind": rollout.kind,
            "reason": rollout.reason,
            "state": rollout.state,
            "strategy": rollout.strategy,
            "from": rollout.from,
            "to": rollout.to,
            "message": rollout.message,
            "supersededBy": rollout.superseded_by,
            "run": rollout.run,
        }));
    chained(event, rollout.chain.as_ref())
}

pub(crate) fn replica(replica: &Replica) -> NewEvent {
    NewEvent::new(event::REPLICA_CHANGED, replica.id)
        .project(&replica.project)
        .content(json!({
            "project": replica.project,
            "environment": replica.environment,
            "release": replica.release,
            "rollout": replica.rollout,
            "state": replica.state,
            "incarnation": replica.incarnation,
            "failures": replica.failures,
            "crashLooping": replica.crash_looping(),
            "detail": replica.detail.as_deref().map(|detail| crate::model::cut(detail, 500)),
        }))
}

pub(crate) fn volume(
    environment: (&ondol_types::ProjectName, &ondol_types::EnvironmentName),
    name: &ondol_types::VolumeName,
) -> NewEvent {
    NewEvent::new(
        event::VOLUME_CREATED,
        format!("{}/{name}", place(environment.0, environment.1)),
    )
    .project(environment.0)
    .content(json!({ "project": environment.0, "environment": environment.1, "name": name }))
}

fn chained(event: NewEvent, chain: Option<&String>) -> NewEvent {
    match chain {
        Some(chain) => event.chain(chain.clone()),
        None => event,
    }
}
