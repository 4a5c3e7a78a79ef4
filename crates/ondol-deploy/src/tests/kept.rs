//! Whatever the order of pushes, secrets, restarts and rollbacks: nothing that was accepted is
//! lost in silence, and nobody is told that something is live which does not serve.

use std::time::Duration;

use ondol_spec::model::SecretRef;
use ondol_store::events::NewEvent;
use ondol_types::{ErrorKind, RolloutId, SecretName, event};

use super::fakes::{Behaviour, image};
use super::sim::{Sim, canary, plain, production, sim, sims, spec, web, with_command};
use crate::model::{Kind, RolloutState};
use crate::{DeployError, Standing};

const SECOND: Duration = Duration::from_secs(1);

fn token() -> SecretName {
    "TOKEN".parse().unwrap()
}

fn secret_set(version: i64) -> NewEvent {
    NewEvent::new(event::SECRET_SET, "TOKEN")
        .project(&web())
        .content(serde_json::json!({ "name": "TOKEN", "version": version }))
}

async fn set_secret(sim: &mut Sim, version: i64) {
    sim.outside.lock().secrets.insert(token(), version);
    sim.append(secret_set(version)).await;
    sim.settle().await;
}

fn with_secret() -> std::sync::Arc<ondol_spec::model::Spec> {
    spec(|spec| {
        with_command(spec);
        spec.secrets = vec![SecretRef::env(token())];
    })
}

async fn restart(sim: &mut Sim, key: &str) -> RolloutId {
    let (service, ctx) = (sim.process.service.clone(), sim.ctx());
    let asked = service.restart(&ctx, key, &web(), &production()).await;
    sim.settle().await;
    asked.unwrap().rollout
}

async fn rollback(sim: &mut Sim, key: &str) -> RolloutId {
    let (service, ctx) = (sim.process.service.clone(), sim.ctx());
    let asked = service
        .rollback(&ctx, key, &web(), &production(), None, true)
        .await;
    sim.settle().await;
    asked.unwrap().rollout
}

/// Release 1 serves; image 2 does not answer, so that its rollout waits in `probing`.
async fn under_way(sim: &mut Sim) -> RolloutId {
    sim.outside.lock().secrets.insert(token(), 1);
    sim.live("one", 1, with_secret()).await;
    sim.outside.behave(
        &image(2),
        Behaviour {
            status: None,
            ..Behaviour::GOOD
        },
    );
    let id = sim.push("two", 2, with_secret()).await;
    sim.until("probing", SECOND, 20, async |sim: &Sim| {
        sim.rollout(id).await.state == RolloutState::Probing
    })
    .await;
    id
}

fn well(sim: &Sim) {
    sim.outside.behave(&image(2), Behaviour::GOOD);
    sim.outside.answer(&image(2), Some(200));
}

#[tokio::test]
async fn a_restart_waits_for_a_push_and_takes_nothing_back() {
    for mut sim in sims().await {
        let push = under_way(&mut sim).await;
        let restarted = restart(&mut sim, "again").await;
        assert_eq!(sim.rollout(push).await.state, RolloutState::Probing);
        assert_eq!(sim.rollout(restarted).await.state, RolloutState::Pending);
        well(&sim);
        assert_eq!(sim.finish(restarted).await.state, RolloutState::Done);
        assert_eq!(sim.standing(push, 2).await, Standing::Live { release: 2 });
        let current = sim.current().await.unwrap();
        assert_eq!((current.number, &current.image), (2, &image(2)));
        assert_eq!(sim.rollout(restarted).await.kind, Kind::Restart);
        sim.calm().await;
    }
}

#[tokio::test]
async fn a_restart_brings_a_staged_secret_and_says_that_it_is_a_deployment() {
    for mut sim in sims().await {
        sim.outside.lock().secrets.insert(token(), 1);
        sim.live("one", 1, with_secret()).await;
        let commands = sim.outside.command_starts();
        sim.outside.lock().secrets.insert(token(), 2);
        let restarted = restart(&mut sim, "again").await;
        let done = sim.finish(restarted).await;
        assert_eq!((done.state, done.kind), (RolloutState::Done, Kind::Deploy));
        let current = sim.current().await.unwrap();
        assert_eq!((current.number, current.secrets[&token()]), (2, 2));
        assert_eq!(
            sim.outside.command_starts(),
            commands,
            "no migration for a secret"
        );
        sim.calm().await;
    }
}

#[tokio::test]
async fn a_secret_that_is_on_its_way_survives_a_restart() {
    for mut sim in sims().await {
        sim.outside.lock().secrets.insert(token(), 1);
        sim.live("one", 1, with_secret()).await;
        sim.outside.lock().secrets.insert(token(), 2);
        sim.append(secret_set(2)).await;
        let restarted = restart(&mut sim, "again").await;
        assert!(sim.finish(restarted).await.state.is_final());
        sim.calm().await;
        assert_eq!(sim.current().await.unwrap().secrets[&token()], 2);
    }
}

#[tokio::test]
async fn a_secret_goes_on_with_a_push_and_does_not_migrate_twice() {
    for mut sim in sims().await {
        let push = under_way(&mut sim).await;
        let commands = sim.outside.command_starts();
        set_secret(&mut sim, 2).await;
        assert_eq!(sim.rollout(push).await.state, RolloutState::Aborted);
        well(&sim);
        sim.calm().await;
        let current = sim.current().await.unwrap();
        assert_eq!((&current.image, current.secrets[&token()]), (&image(2), 2));
        assert!(current.commanded, "its command ran in the rollout before");
        assert_eq!(sim.outside.command_starts(), commands);
        assert_eq!(sim.standing(push, 2).await, Standing::Live { release: 3 });
    }
}

#[tokio::test]
async fn a_push_that_a_rollback_overtakes_is_not_live_and_a_restart_respects_the_hold() {
    for mut sim in sims().await {
        sim.live("zero", 3, plain()).await;
        let push = {
            sim.outside.lock().secrets.insert(token(), 1);
            under_way(&mut sim).await
        };
        let back = rollback(&mut sim, "back").await;
        assert_eq!(sim.finish(back).await.state, RolloutState::Done);
        let Standing::NotLive { reason } = sim.standing(push, 2).await else {
            panic!("a push that never served is not live");
        };
        assert_eq!(reason, "superseded by rollback to release 1: not live");
        well(&sim);
        let restarted = restart(&mut sim, "again").await;
        let done = sim.finish(restarted).await;
        assert_eq!((done.state, done.kind), (RolloutState::Done, Kind::Restart));
        assert!(done.message.contains("is held"), "{}", done.message);
        assert_eq!(sim.current().await.unwrap().image, image(3));
        // Without the hold a restart still does not bring what was gone back from.
        let (service, ctx) = (sim.process.service.clone(), sim.ctx());
        service.unhold(&ctx, &web(), &production()).await.unwrap();
        let restarted = restart(&mut sim, "once-more").await;
        sim.finish(restarted).await;
        assert_eq!(sim.current().await.unwrap().image, image(3));
        // Asking again does.
        let again = sim.push("retried", 2, with_secret()).await;
        assert_eq!(sim.finish(again).await.state, RolloutState::Done);
        assert!(matches!(
            sim.standing(again, 2).await,
            Standing::Live { .. }
        ));
        sim.calm().await;
    }
}

#[tokio::test]
async fn what_is_parked_survives_restarts_and_rollbacks() {
    for mut sim in sims().await {
        sim.outside.lock().secrets.insert(token(), 1);
        sim.live("one", 1, with_secret()).await;
        sim.live("two", 2, with_secret()).await;
        let back = rollback(&mut sim, "back").await;
        sim.finish(back).await;
        set_secret(&mut sim, 2).await;
        let restarted = restart(&mut sim, "again").await;
        assert_eq!(sim.finish(restarted).await.kind, Kind::Restart);
        let open = sim.open().await;
        assert_eq!((open.len(), open[0].state), (1, RolloutState::Held));
        let (service, ctx) = (sim.process.service.clone(), sim.ctx());
        service.unhold(&ctx, &web(), &production()).await.unwrap();
        sim.calm().await;
        let current = sim.current().await.unwrap();
        assert_eq!((&current.image, current.secrets[&token()]), (&image(2), 2));
    }
}

#[tokio::test]
async fn a_restart_behind_a_rollback_that_waits_leaves_it_alone() {
    for mut sim in sims().await {
        sim.live("zero", 3, plain()).await;
        sim.live("one", 1, spec(with_command)).await;
        sim.outside.behave(
            &image(2),
            Behaviour {
                command: None,
                ..Behaviour::GOOD
            },
        );
        let push = sim.push("two", 2, spec(with_command)).await;
        sim.settle().await;
        assert_eq!(
            sim.rollout(push).await.state,
            RolloutState::ReleaseCommand,
            "its command runs on"
        );
        let back = rollback(&mut sim, "back").await;
        let restarted = restart(&mut sim, "again").await;
        let restarted = sim.rollout(restarted).await;
        assert_eq!(
            (restarted.state, restarted.superseded_by),
            (RolloutState::Aborted, Some(back))
        );
        assert_eq!(sim.rollout(back).await.state, RolloutState::Pending);
        let (service, ctx) = (sim.process.service.clone(), sim.ctx());
        service.abort(&ctx, push).await.unwrap();
        assert_eq!(sim.finish(back).await.state, RolloutState::Done);
        assert_eq!(sim.current().await.unwrap().image, image(3));
        sim.calm().await;
    }
}

#[tokio::test]
async fn a_restart_does_not_try_again_what_failed() {
    for mut sim in sims().await {
        sim.live("one", 1, plain()).await;
        sim.outside.behave(
            &image(2),
            Behaviour {
                exits: true,
                ..Behaviour::GOOD
            },
        );
        let push = sim.push("two", 2, plain()).await;
        assert_eq!(sim.finish(push).await.state, RolloutState::Failed);
        assert!(matches!(
            sim.standing(push, 2).await,
            Standing::NotLive { .. }
        ));
        let before = sim.outside.running(&image(1));
        let restarted = restart(&mut sim, "again").await;
        let done = sim.finish(restarted).await;
        assert_eq!((done.state, done.kind), (RolloutState::Done, Kind::Restart));
        assert!(done.message.contains("newer code"), "{}", done.message);
        sim.calm().await;
        let after = sim.outside.running(&image(1));
        assert!(after.len() == 1 && after != before);
    }
}

#[tokio::test]
async fn an_older_push_is_skipped_and_known_to_be_overtaken() {
    let mut sim = sim().await;
    let chain = |sim: &Sim| ondol_types::EventId::generate(&*sim.clock).to_string();
    let older = chain(&sim);
    sim.clock.advance(SECOND);
    let newer = chain(&sim);
    let mut request = sim.request_of("newer", 2, plain());
    request.chain = Some(newer.clone());
    let id = sim.request(request).await;
    sim.finish(id).await;
    let mut late = sim.request_of("older", 1, plain());
    late.chain = Some(older.clone());
    let late = sim.request(late).await;
    assert!(matches!(
        sim.standing(late, 1).await,
        Standing::Overtaken { .. }
    ));
    let service = &sim.process.service;
    for (chain, overtaken) in [(&older, true), (&newer, false)] {
        let said = service
            .is_overtaken(&sim.ctx(), &web(), &production(), chain)
            .await;
        assert_eq!(said.unwrap(), overtaken);
    }
}

#[tokio::test]
async fn a_paused_canary_is_told_to_whoever_waits() {
    let mut sim = sim().await;
    let checked = || {
        spec(|spec| {
            canary(spec);
            spec.release.check = Some("error_rate < 0.05".parse().unwrap());
            spec.release.min_requests = 50;
            spec.release.patience = ondol_spec::model::Period::from_secs(20);
        })
    };
    sim.live("one", 1, checked()).await;
    let id = sim.push("two", 2, checked()).await;
    assert_eq!(sim.finish(id).await.state, RolloutState::Paused);
    assert_eq!(sim.standing(id, 2).await, Standing::Paused);
    let waits = sim
        .process
        .service
        .waits_for_person(&sim.ctx(), "two")
        .await
        .unwrap();
    assert_eq!(waits.unwrap().id, id);
    // A restart waits behind it and supersedes nothing.
    let restarted = restart(&mut sim, "again").await;
    assert_eq!(sim.rollout(restarted).await.state, RolloutState::Pending);
    assert_eq!(sim.rollout(id).await.state, RolloutState::Paused);
}

#[tokio::test]
async fn the_rollout_of_a_secret_is_found_by_its_event() {
    let mut sim = sim().await;
    sim.outside.lock().secrets.insert(token(), 1);
    sim.live("one", 1, with_secret()).await;
    set_secret(&mut sim, 2).await;
    let event = sim
        .events()
        .await
        .into_iter()
        .find(|event| event.event_type == event::SECRET_SET)
        .unwrap();
    let found = sim
        .process
        .service
        .followed_from(&sim.ctx(), &web(), event.id, event.seq, Duration::ZERO)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((found.len(), found[0].number), (1, 2));
    let later = sim
        .process
        .service
        .followed_from(
            &sim.ctx(),
            &web(),
            event.id,
            event.seq + 1_000,
            Duration::ZERO,
        )
        .await;
    assert!(later.unwrap().is_none(), "not followed so far");
}

#[tokio::test]
async fn a_rollout_of_an_invisible_project_is_an_unknown_one() {
    let mut sim = sim().await;
    let live = sim.live("one", 1, plain()).await;
    let mut stranger = sim.ctx();
    stranger.principal = ondol_auth::Principal::anonymous();
    let service = sim.process.service.clone();
    for error in [
        service.rollout(&stranger, live.id).await.unwrap_err(),
        service.abort(&stranger, live.id).await.unwrap_err(),
    ] {
        assert!(matches!(error, DeployError::NoRollout(_)), "{error}");
        assert!(!error.to_string().contains("web"), "{error}");
        assert_eq!(ondol_types::Classified::kind(&error), ErrorKind::NotFound);
    }
}
