//! Random interleavings of everything that can happen; the rules of `Sim::check` hold after each
//! step, and once the world is well again everything comes to rest on the last good push.

use std::time::Duration;

use ondol_spec::model::SecretRef;
use ondol_store::events::NewEvent;
use ondol_types::{RolloutId, event};
use proptest::prelude::*;

use super::fakes::{Behaviour, image};
use super::sim::{Sim, canary, production, scaled, sim, spec, web, with_command};
use crate::model::{Kind, RolloutState};
use crate::{CRASH_POINTS, Standing};

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
    Secret,
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
        2 => Just(Step::Restart),
        1 => Just(Step::Secret),
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

/// The secret that every push receives.
fn token() -> ondol_types::SecretName {
    "TOKEN".parse().unwrap()
}

fn secret_set(version: i64) -> NewEvent {
    NewEvent::new(event::SECRET_SET, "TOKEN")
        .project(&web())
        .content(serde_json::json!({ "name": "TOKEN", "version": version }))
}

/// Whoever was told that their push is live had an image that served; and what was accepted last
/// serves, or something visible says why it does not: the environment is held, or the newest
/// rollout that was not superseded failed, was aborted, or went back.
async fn nothing_is_lost(sim: &Sim, asked: &[(RolloutId, u8)]) {
    let (rollouts, open) = (sim.rollouts().await, sim.open().await);
    for (id, number) in asked {
        let Some(live) = live_of(&sim.standing(*id, *number).await) else {
            continue;
        };
        let (service, ctx) = (&sim.process.service, sim.ctx());
        let release = service.release(&ctx, &web(), &production(), live).await;
        let release = release.unwrap();
        assert_eq!(release.image, image(*number));
        assert!(release.activated_at.is_some(), "{release:#?}");
    }
    let Some(environment) = sim.environment().await else {
        return;
    };
    let Some(accepted) = sim.accepted().await else {
        return;
    };
    let current = sim.current().await;
    let serves = current.as_ref().is_some_and(|current| {
        let newest = sim.outside.lock().secrets.get(&token()).copied();
        current.image == accepted && current.secrets.get(&token()).copied() == newest
    });
    let waits = environment.hold.is_some() || !open.is_empty();
    // Restarts add nothing to what was decided before them.
    let said = rollouts
        .iter()
        .find(|rollout| {
            rollout.state.is_final()
                && rollout.superseded_by.is_none()
                && rollout.kind != Kind::Restart
        })
        .is_some_and(|last| last.state != RolloutState::Done || last.kind == Kind::Rollback);
    assert!(
        serves || waits || said,
        "{accepted} was accepted, is not served, and nothing says why: {rollouts:#?}"
    );
}

fn live_of(standing: &Standing) -> Option<i64> {
    match standing {
        Standing::Live { release } => Some(*release),
        _ => None,
    }
}

async fn take(sim: &mut Sim, index: usize, step: Step, asked: &mut Vec<(RolloutId, u8)>) {
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
                spec.secrets = vec![SecretRef::env(token())];
                spec.service.as_mut().unwrap().replicas.min = replicas;
                if by_load {
                    scaled(spec, replicas, replicas + 2);
                }
            });
            let id = sim.push(&key, number, spec).await;
            asked.push((id, number));
        }
        Step::Rollback => drop(
            service
                .rollback(&ctx, &key, &web, &production, None, true)
                .await,
        ),
        Step::Secret => {
            let version = {
                let mut outside = sim.outside.lock();
                let version = outside.secrets.entry(token()).or_insert(0);
                *version += 1;
                *version
            };
            sim.append(secret_set(version)).await;
        }
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
    sim.outside.lock().secrets.insert(token(), 1);
    let mut asked = Vec::new();
    for (index, step) in steps.into_iter().enumerate() {
        take(&mut sim, index, step, &mut asked).await;
        nothing_is_lost(&sim, &asked).await;
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
