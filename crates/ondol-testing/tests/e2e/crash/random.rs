//! Death at random instants. `ONDOL_SEED=n` repeats a run.

use std::time::{Duration, Instant};

use ondol_testing::platform::PATIENCE;
use ondol_testing::table::Random;
use ondol_testing::{environment, eventually, remark};

use super::all;
use super::rig::Rig;

const SEED: u64 = 20_261_120;

#[derive(Clone, Copy, Debug)]
enum Victim {
    Serve,
    Gateway,
    Both,
    Keeper,
}

const VICTIMS: [Victim; 4] = [Victim::Serve, Victim::Both, Victim::Gateway, Victim::Keeper];

fn seed() -> u64 {
    environment("ONDOL_SEED")
        .and_then(|text| text.parse().ok())
        .unwrap_or(SEED)
}

#[track_caller]
fn kill_at_random(mut rig: Rig, random: &mut Random, rounds: usize) {
    for round in 0..rounds {
        let victim = VICTIMS[round % VICTIMS.len()];
        let after = Duration::from_millis(random.below(1_500));
        let push = rig.prepare();
        let began = Instant::now();
        let output = std::thread::scope(|scope| {
            let pushing = scope.spawn(|| rig.push(&push));
            std::thread::sleep(after);
            match victim {
                Victim::Serve => ondol_testing::process::send(
                    rig.platform.serve_pid(),
                    rustix::process::Signal::KILL,
                ),
                Victim::Gateway => rig.platform.kill9_gateway(),
                Victim::Keeper => rig.platform.kill9_keeper(),
                Victim::Both => {
                    rig.platform.kill9_gateway();
                    ondol_testing::process::send(
                        rig.platform.serve_pid(),
                        rustix::process::Signal::KILL,
                    );
                }
            }
            pushing.join().expect("the push ended")
        });
        if matches!(victim, Victim::Serve | Victim::Both) {
            eventually("the killed server is gone", PATIENCE, || {
                rig.platform.has_ended()
            });
            assert!(rig.platform.revive());
        }
        let place = format!("{victim:?} after {} ms", after.as_millis());
        let run = rig.verify(&place, &push, &output);
        let (outcome, seconds) = (
            run["outcome"].as_str().unwrap_or(""),
            began.elapsed().as_secs_f32(),
        );
        remark(format!(
            "{place}: the push exited with {}, the run: {outcome} ({seconds:.1} s)",
            output.code
        ));
    }
    rig.finish_leniently();
}

#[test]
fn code_survives_death_at_random_instants() {
    let seed = seed();
    remark(format!("seed {seed}"));
    kill_at_random(
        Rig::code(""),
        &mut Random::new(seed),
        if all() { 32 } else { 6 },
    );
}

#[test]
fn data_survives_death_at_random_instants() {
    let seed = seed().wrapping_add(1);
    remark(format!("seed {seed}"));
    kill_at_random(
        Rig::data(),
        &mut Random::new(seed),
        if all() { 24 } else { 4 },
    );
}
