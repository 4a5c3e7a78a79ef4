//! Random interleavings of everything that can happen; the rules of `Sim::check` hold after each
//! step, and once the world is well again everything comes to rest on the last good push.

use std::time::Duration;

use proptest::prelude::*;

use super::fakes::{Behaviour, image};
use super::sim::{Sim, canary, production, scaled, sim, spec, web, with_command};
use crate::CRASH_POINTS;
use crate::model::RolloutState;

#[derive(Clone, Debug)]
enum Step {
    Push {
        number: u8,
        canary: bool,
        command: bool,
        replicas: u32,
        scaled: bool,
    },
    Rollback,
    Restart,
    Scale(u32),
    Unhold,
    Promote,
    Abort,
    Die(u8),
    Answer(u8, bool),
    InFlight(bool),
    Gateway(bool),
    Counters(bool),
    Crash(usize),
    Kill,
    Pass(u64),
    Load(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..8, any::<bool>(), any::<bool>(), 1u32..3, any::<bool>())
            .prop_map(|(number, canary, command, replicas, scaled)| Step::Push { number, canary, command, replicas, scaled }),
        1 => Just(Step::Rollback),
        1 => Just(Step::Restart),
        1 => (1u32..4).prop_map(Step::Scale),
        1 => Just(Step::Unhold),
        1 => Just(Step::Promote),
        1 => Just(Step::Abort),
        2 => (1u8..8).prop_map(Step::Die),
        1 => (1u8..8, any::<bool>()).prop_map(|(number, well)| Step::Answer(number, well)),
        1 => any::<bool>().prop_map(Step::InFlight),
        1 => any::<bool>().prop_map(Step::Gateway),
        1 => any::<bool>().prop_map(Step::Counters),
        3 => (0..CRASH_POINTS.len()).prop_map(Step::Crash),
        1 => Just(Step::Kill),
        6 => prop_oneof![Just(50u64), Just(1_000), Just(7_000), Just(40_000)].prop_map(Step::Pass),
        2 => (0u64..60).prop_map(Step::Load),
    ]
}

/// Images 6 and 7 never work.
fn behaviours(sim: &Sim) {
    sim.outside.behave(
        &image(6),
        Behaviour {
            exits: true,
            ..Behaviour::GOOD
        },
    );
    sim.outside.behave(
        &image(7),
        Behaviour {
            status: Some(500),
            command: Some(1),
            ..Behaviour::GOOD
        },
    );
}

async fn take(sim: &mut Sim, index: usize, step: Step) {
    let key = format!("step-{index}");
    let (service, ctx, web, production) =
        (sim.process.service.clone(), sim.ctx(), web(), production());
    // Requests that make no sense at the moment are refused; that is what they should be.
    match step {
        Step::Push {
            number,
            canary: shifts,
            command,
            replicas,
            scaled: by_load,
        } => {
            let spec = spec(|spec| {
                if shifts {
                    canary(spec);
                }
                if command {
                    with_command(spec);
                }
                spec.service.as_mut().unwrap().replicas.min = replicas;
                if by_load {
                    scaled(spec, replicas, replicas + 2);
                }
            });
            sim.push(&key, number, spec).await;
        }
        Step::Rollback => drop(
            service
                .rollback(&ctx, &key, &web, &production, None, true)
                .await,
        ),
        Step::Restart => drop(service.restart(&ctx, &key, &web, &production).await),
        Step::Scale(replicas) => drop(service.scale(&ctx, &web, &production, Some(replicas)).await),
        Step::Unhold => drop(service.unhold(&ctx, &web, &production).await),
        Step::Promote | Step::Abort => {
            for open in sim.open().await {
                match step {
                    Step::Promote => drop(service.promote(&ctx, open.id).await),
                    _ => drop(service.abort(&ctx, open.id).await),
                }
            }
        }
        Step::Die(number) => {
            for id in sim.outside.running(&image(number)).into_iter().take(1) {
                sim.outside.die(&id, 1);
            }
        }
        Step::Answer(number, well) => sim.outside.answer(&image(number), well.then_some(200)),
        Step::InFlight(busy) => {
            let endpoints = sim.outside.endpoints();
            let mut outside = sim.outside.lock();
            outside.in_flight.clear();
            if busy {
                outside
                    .in_flight
                    .extend(endpoints.into_iter().map(|endpoint| (endpoint, 1)));
            }
        }
        Step::Gateway(down) => sim.outside.lock().gateway_down = down,
        Step::Counters(down) => sim.outside.lock().counters_down = down,
        Step::Crash(point) => sim.outside.crash.arm(CRASH_POINTS[point], 0),
        Step::Kill => sim.outside.crash.kill(),
        Step::Load(rps) => sim.load(rps, Duration::from_secs(60)).await,
        Step::Pass(millis) => sim.clock.advance(Duration::from_millis(millis)),
    }
    sim.settle().await;
}

async fn story(steps: Vec<Step>) {
    let mut sim = sim().await;
    behaviours(&sim);
    for (index, step) in steps.into_iter().enumerate() {
        take(&mut sim, index, step).await;
    }
    {
        let mut outside = sim.outside.lock();
        (outside.gateway_down, outside.counters_down) = (false, false);
        outside.in_flight.clear();
    }
    for number in 1..8 {
        sim.outside.answer(&image(number), Some(200));
    }
    sim.outside.crash.arm("none", 0);
    let id = sim.push("the-last", 9, spec(|_| {})).await;
    let done = sim.finish(id).await;
    assert_eq!(done.state, RolloutState::Done, "{done:#?}");
    sim.calm().await;
    let current = sim.current().await.unwrap();
    assert_eq!(current.image, image(9));
    assert_eq!(sim.outside.serving("web"), [(current.number, 100)]);
    for number in 1..8 {
        assert!(sim.outside.running(&image(number)).is_empty());
    }
}

/// Two dozen stories, or as many as `PROPTEST_CASES` asks for.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    let cases = if usual.cases == 256 { 24 } else { usual.cases };
    ProptestConfig {
        cases,
        max_shrink_iters: 60,
        ..usual
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_happens_the_rules_hold(steps in proptest::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(story(steps));
    }
}
