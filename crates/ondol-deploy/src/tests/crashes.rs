//! The death of the process at every named place, more than once each: nothing acknowledged is
//! lost, exactly one release is current, the old one serves until the swap, nothing is stopped
//! too early, no release command runs twice, and every rollout ends.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fakes::{Behaviour, image};
use super::sim::{Sim, canary, production, sim, sims, spec, web, with_command};
use crate::CRASH_POINTS;
use crate::model::RolloutState;

/// A whole life: first release, upgrade with migration and canary, one that fails, a rollback.
async fn life(sim: &mut Sim) {
    sim.outside.behave(
        &image(3),
        Behaviour {
            exits: true,
            ..Behaviour::GOOD
        },
    );
    let full = || {
        spec(|spec| {
            with_command(spec);
            canary(spec);
            spec.service.as_mut().unwrap().replicas.min = 2;
        })
    };
    let mut ended = BTreeSet::new();
    for number in 1..=3u8 {
        let id = sim.push(&format!("push-{number}"), number, full()).await;
        let rollout = sim.finish(id).await;
        assert!(rollout.state.is_final(), "{rollout:#?}");
        ended.insert(rollout.state);
        let image_now = sim.current().await.map(|release| release.image);
        match rollout.state {
            RolloutState::Done => assert_eq!(image_now, Some(image(number))),
            // A death around the migration makes its outcome unknown: then the old one serves.
            _ => assert_ne!(image_now, Some(image(number))),
        }
    }
    // A secret without which nothing is composed, so that the follower has something to do.
    let event =
        ondol_store::events::NewEvent::new(ondol_types::event::SECRET_SET, "X").project(&web());
    let event = &event;
    sim.store()
        .write::<_, ondol_store::StoreError, _>(|tx| {
            Box::pin(async move { tx.append(event.clone()).await })
        })
        .await
        .unwrap();
    sim.until(
        "the follower has looked",
        Duration::from_secs(1),
        60,
        async |sim: &Sim| sim.open().await.is_empty(),
    )
    .await;
    let id = sim.push("push-4", 4, full()).await;
    let last = sim.finish(id).await;
    if last.state == RolloutState::Done {
        let earlier = sim
            .process
            .service
            .rollback(&sim.ctx(), "back", &web(), &production(), None, false)
            .await;
        if let Ok(back) = earlier {
            let back = sim.finish(back.rollout).await;
            assert_eq!(back.state, RolloutState::Done, "{back:#?}");
            assert!(sim.current().await.unwrap().origin.is_some());
        }
    }
    sim.calm().await;
    let serving = sim.outside.serving("web");
    let current = sim.current().await.expect("something serves");
    assert_eq!(serving, [(current.number, 100)]);
    assert_eq!(sim.outside.running(&current.image).len(), 2);
    let running: usize = (1..=4)
        .map(|number| sim.outside.running(&image(number)).len())
        .sum();
    assert_eq!(running, 2, "nothing else runs");
}

#[tokio::test]
async fn a_life_without_deaths_passes_every_place() {
    for mut sim in sims().await {
        life(&mut sim).await;
        assert_eq!(sim.crashes, 0);
        let reached: BTreeSet<&str> = sim
            .outside
            .crash
            .reached
            .lock()
            .unwrap()
            .keys()
            .copied()
            .collect();
        let missing: Vec<_> = CRASH_POINTS
            .iter()
            .filter(|point| !reached.contains(**point) && !of_the_end(point))
            .collect();
        assert!(missing.is_empty(), "never reached: {missing:?}");
    }
}

/// Places that only the end of a project passes; `forget` dies at those.
fn of_the_end(point: &str) -> bool {
    point.starts_with("deploy.forget.")
}

async fn die_at(points: &[&'static str]) {
    for point in points.iter().filter(|point| !of_the_end(point)) {
        for skip in [0, 2] {
            let mut sim = sim().await;
            sim.outside.crash.arm(point, skip);
            life(&mut sim).await;
            assert!(sim.crashes > 0 || skip > 0, "{point} was not reached");
        }
    }
}

#[tokio::test]
async fn death_at_the_first_places() {
    die_at(&CRASH_POINTS[..8]).await;
}

#[tokio::test]
async fn death_at_the_middle_places() {
    die_at(&CRASH_POINTS[8..16]).await;
}

#[tokio::test]
async fn death_at_the_last_places() {
    die_at(&CRASH_POINTS[16..]).await;
}

#[tokio::test]
async fn a_command_intended_by_a_dead_process_is_never_begun() {
    for mut sim in sims().await {
        sim.live("one", 1, spec(|_| {})).await;
        sim.outside.crash.arm("deploy.command.intended", 0);
        let id = sim.push("two", 2, spec(with_command)).await;
        let failed = sim.finish(id).await;
        assert_eq!(
            (failed.state, sim.crashes, sim.outside.command_starts()),
            (RolloutState::Failed, 1, 0)
        );
        let message = failed.failure.unwrap().message;
        assert!(
            message.contains("unknown") && message.contains("never repeated"),
            "{message}"
        );
        assert_eq!(sim.outside.serving("web"), [(1, 100)]);
    }
}

#[tokio::test]
async fn a_command_started_by_a_dead_process_is_adopted() {
    for mut sim in sims().await {
        for (key, point) in [
            ("one", "deploy.command.started"),
            ("two", "deploy.command.ended"),
        ] {
            sim.outside.crash.arm(point, 0);
            let number = if key == "one" { 1 } else { 2 };
            sim.live(key, number, spec(with_command)).await;
        }
        assert_eq!((sim.crashes, sim.outside.command_starts()), (2, 2));
    }
}

#[tokio::test]
async fn a_long_absence_gives_every_wait_its_time_anew() {
    for mut sim in sims().await {
        sim.live("one", 1, spec(|_| {})).await;
        sim.outside.behave(
            &image(2),
            Behaviour {
                status: None,
                ..Behaviour::GOOD
            },
        );
        let id = sim.push("two", 2, spec(|_| {})).await;
        sim.pass(Duration::from_secs(2)).await;
        sim.outside.behave(&image(2), Behaviour::GOOD);
        sim.clock.advance(Duration::from_secs(3_600));
        sim.restart();
        assert_eq!(sim.finish(id).await.state, RolloutState::Done);
    }
}
