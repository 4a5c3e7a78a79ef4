//! Replicas follow the load: through the loops, with rows, gateway and deaths.

use std::time::Duration;

use ondol_types::event;

use super::fakes::{Behaviour, image};
use super::sim::{Sim, canary, production, scaled, sims, spec, web};
use crate::model::{ReplicaState, RolloutState};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

async fn of_state(sim: &Sim, state: ReplicaState) -> usize {
    let replicas = sim.replicas().await;
    replicas
        .iter()
        .filter(|replica| replica.state == state)
        .count()
}

async fn ready(sim: &Sim) -> usize {
    of_state(sim, ReplicaState::Ready).await
}

#[tokio::test]
async fn replicas_follow_the_load_and_say_why() {
    for mut sim in sims().await {
        sim.live("one", 1, spec(|spec| scaled(spec, 1, 4))).await;
        assert_eq!(ready(&sim).await, 1);
        sim.load(28, MINUTE).await;
        assert_eq!(ready(&sim).await, 3);
        assert_eq!(sim.outside.endpoints().len(), 3);
        let status = sim
            .process
            .service
            .status(&sim.ctx(), &web())
            .await
            .unwrap()
            .remove(0);
        let scaling = status.scaling.unwrap();
        assert_eq!((scaling.min, scaling.max, scaling.replicas), (1, 4, 3));
        assert!(
            scaling.reason.contains("28.0 requests/s")
                && scaling.reason.contains("ask for 3 of 1 to 4"),
            "{}",
            scaling.reason
        );
        let told: Vec<_> = sim
            .events()
            .await
            .into_iter()
            .filter(|found| found.event_type == event::ENVIRONMENT_MODIFIED)
            .collect();
        let scale = &told.last().unwrap().document["customData"]["scale"];
        assert_eq!(scale["replicas"], 3);
        assert!(scale["reason"].as_str().unwrap().contains("ask for 3"));

        sim.load(2, 4 * MINUTE).await;
        assert_eq!(ready(&sim).await, 3, "fewer only after five minutes");
        // What leaves still answers something, and is not cut off.
        let busy = sim.outside.endpoints();
        sim.outside
            .lock()
            .in_flight
            .extend(busy.into_iter().map(|endpoint| (endpoint, 1)));
        sim.load(2, 2 * MINUTE).await;
        assert_eq!(ready(&sim).await, 1);
        sim.outside.lock().in_flight.clear();
        sim.pass(SECOND).await;
        assert_eq!(sim.outside.running(&image(1)).len(), 1);
        assert_eq!(sim.outside.endpoints().len(), 1);
    }
}

#[tokio::test]
async fn one_that_does_not_answer_gets_no_traffic() {
    for mut sim in sims().await {
        sim.live("one", 1, spec(|spec| scaled(spec, 1, 2))).await;
        let first = sim.outside.endpoints();
        sim.outside.behave(
            &image(1),
            Behaviour {
                status: None,
                ..Behaviour::GOOD
            },
        );
        sim.outside.keep_answering(&first);
        sim.load(20, MINUTE).await;
        assert_eq!(of_state(&sim, ReplicaState::Starting).await, 1);
        assert_eq!(sim.outside.endpoints(), first);
        sim.outside.answer(&image(1), Some(200));
        sim.load(20, 10 * SECOND).await;
        assert_eq!(sim.outside.endpoints().len(), 2);
    }
}

#[tokio::test]
async fn a_rollout_is_not_disturbed_and_begins_with_as_many() {
    for mut sim in sims().await {
        sim.live("one", 1, spec(|spec| scaled(spec, 1, 6))).await;
        sim.load(30, MINUTE).await;
        assert_eq!(ready(&sim).await, 3);
        let shifting = spec(|spec| {
            scaled(spec, 1, 6);
            canary(spec);
            spec.release.check = Some("error_rate < 0.5".parse().unwrap());
        });
        let id = sim.push("two", 2, shifting).await;
        sim.settle().await;
        assert_eq!(sim.rollout(id).await.state, RolloutState::Shifting);
        assert_eq!(sim.outside.running(&image(2)).len(), 3);
        sim.load(60, MINUTE).await;
        assert_eq!(sim.outside.running(&image(1)).len(), 3);
        let service = sim.process.service.clone();
        service.promote(&sim.ctx(), id).await.unwrap();
        sim.settle().await;
        sim.calm().await;
        assert_eq!(ready(&sim).await, 3);
        sim.load(60, MINUTE).await;
        assert_eq!(ready(&sim).await, 6);
    }
}

#[tokio::test]
async fn a_restart_forgets_nothing_and_takes_nothing_away() {
    for mut sim in sims().await {
        sim.live("one", 1, spec(|spec| scaled(spec, 1, 4))).await;
        sim.load(40, MINUTE).await;
        assert_eq!(ready(&sim).await, 4);
        sim.outside.crash.kill();
        sim.clock.advance(20 * MINUTE);
        sim.settle().await;
        assert_eq!(sim.crashes, 1);
        assert_eq!(ready(&sim).await, 4);
        sim.load(0, 4 * MINUTE).await;
        assert_eq!(ready(&sim).await, 4, "the silence was no load");
        sim.load(0, 3 * MINUTE).await;
        assert_eq!(ready(&sim).await, 1);
    }
}

#[tokio::test]
async fn counters_that_cannot_be_read_change_nothing_and_a_person_is_stronger() {
    for mut sim in sims().await {
        sim.live("one", 1, spec(|spec| scaled(spec, 1, 4))).await;
        sim.load(40, MINUTE).await;
        sim.outside.lock().counters_down = true;
        sim.load(0, 10 * MINUTE).await;
        assert_eq!(ready(&sim).await, 4);
        sim.outside.lock().counters_down = false;
        let service = sim.process.service.clone();
        service
            .scale(&sim.ctx(), &web(), &production(), Some(2))
            .await
            .unwrap();
        sim.load(40, MINUTE).await;
        assert_eq!(ready(&sim).await, 2);
        service
            .scale(&sim.ctx(), &web(), &production(), None)
            .await
            .unwrap();
        sim.load(40, MINUTE).await;
        assert_eq!(ready(&sim).await, 4);
    }
}
