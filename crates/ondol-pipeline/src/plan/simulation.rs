//! Random graphs, failures, crashes and cancellations, worked off without a database: the
//! decisions must bring every run to its end, whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ondol_spec::model::Limits;
use ondol_types::{RunId, StepId, Timestamp};
use ondol_workload::{Exit, Usage};
use proptest::prelude::*;

use super::{Candidate, Decision, Occupied, Seen, Verdict, admit, decide, judge};
use crate::model::{
    CancelRequest, CommandWork, Conclusion, Definition, Join, Member, Need, Place, Program, Run,
    RunOutcome, Step, StepKind, StepOutcome, StepState,
};

fn definition(retries: u32) -> Definition {
    let work = CommandWork {
        program: Program::Shell("true".into()),
        place: Place::Copy,
        env: BTreeMap::new(),
        path: Vec::new(),
        links: Vec::new(),
        junit: Vec::new(),
        quarantine: Vec::new(),
        limits: Limits::default(),
        secrets: Vec::new(),
        data: None,
        model: None,
        tracked: false,
        artifacts: Vec::new(),
        takes: Vec::new(),
        image: None,
        services: BTreeMap::new(),
    };
    Definition {
        retries,
        ..Definition::command(work, Duration::from_secs(60))
    }
}

pub(crate) fn command(name: &str, needs: &[(&str, Join)], retries: u32) -> Step {
    let needs = needs
        .iter()
        .map(|(step, join)| Need {
            step: step.parse().unwrap(),
            join: *join,
        })
        .collect();
    Step::new(
        RunId::derived("run"),
        0,
        name.parse().unwrap(),
        definition(retries),
        needs,
    )
}

fn action(name: &str, needs: &[(&str, Join)]) -> Step {
    let mut step = command(name, needs, 0);
    step.definition = Definition::action(name, Duration::from_secs(60));
    step.kind = StepKind::Action;
    step
}

/// What the world does with one attempt of a step.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Pass,
    Fail,
    TimeOut,
    Vanish,
    Refuse,
}

#[derive(Clone, Debug)]
struct Plot {
    steps: Vec<Step>,
    fates: Vec<Vec<Fate>>,
    cancel_at: Option<usize>,
    crash_every: Option<usize>,
    places: usize,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Pass), 2 => Just(Fate::Fail), 1 => Just(Fate::TimeOut), 1 => Just(Fate::Vanish), 1 => Just(Fate::Refuse)
    ]
}

fn plot() -> impl Strategy<Value = Plot> {
    (1usize..9).prop_flat_map(|count| {
        let step = |index: usize| {
            let earlier = proptest::collection::vec((0..index.max(1), any::<bool>()), 0..3);
            (
                earlier,
                0u32..3,
                any::<bool>(),
                any::<bool>(),
                any::<bool>(),
                any::<bool>(),
            )
                .prop_map(
                    move |(earlier, retries, repeatable, allow_failure, is_action, source)| {
                        let names: Vec<(String, Join)> = earlier
                            .into_iter()
                            .filter(|_| index > 0)
                            .map(|(need, passed)| {
                                (
                                    format!("s{need}"),
                                    if passed { Join::Passed } else { Join::Ended },
                                )
                            })
                            .collect();
                        let needs: Vec<(&str, Join)> = names
                            .iter()
                            .map(|(name, join)| (name.as_str(), *join))
                            .collect();
                        let name = format!("s{index}");
                        let mut step = if is_action {
                            action(&name, &needs)
                        } else {
                            command(&name, &needs, retries)
                        };
                        (step.repeatable, step.allow_failure) = (repeatable, allow_failure);
                        if let (true, crate::model::Work::Command(work)) =
                            (source, &mut step.definition.work)
                        {
                            work.place = Place::Source;
                        }
                        step.ordinal = index as i64;
                        step
                    },
                )
        };
        let steps: Vec<_> = (0..count).map(step).collect();
        let fates = proptest::collection::vec(proptest::collection::vec(fate(), 8), count);
        (
            steps,
            fates,
            proptest::option::weighted(0.3, 0usize..20),
            proptest::option::weighted(0.4, 1usize..5),
            1usize..4,
        )
            .prop_map(|(steps, fates, cancel_at, crash_every, places)| Plot {
                steps,
                fates,
                cancel_at,
                crash_every,
                places,
            })
    })
}

struct World {
    run: Run,
    steps: Vec<Step>,
    /// Workloads by step: the attempt and how it ended, once it has.
    workloads: BTreeMap<StepId, (u32, Option<Fate>)>,
    busy: BTreeSet<StepId>,
    /// Every start: step, attempt.
    started: Vec<(usize, u32)>,
    now: Timestamp,
}

impl World {
    fn seen(&self) -> BTreeMap<StepId, Seen> {
        let mut seen = BTreeMap::new();
        for step in &self.steps {
            if self.busy.contains(&step.id) {
                seen.insert(step.id, Seen::Busy);
            } else if let Some((attempt, ended)) = self.workloads.get(&step.id) {
                let state = match ended {
                    _ if *attempt != step.attempt => Seen::Absent,
                    None => Seen::Alive,
                    // A workload that was wiped, and one whose shim vanished.
                    Some(Fate::Vanish) if step.state == StepState::Running => Seen::Absent,
                    Some(fate) => Seen::Exited(exit(*fate)),
                };
                seen.insert(step.id, state);
            }
        }
        seen
    }

    fn finish(&mut self, index: usize, conclusion: Conclusion) {
        let now = self.now;
        self.steps[index].finish(conclusion, now).unwrap();
    }

    fn verdict(&mut self, index: usize, exit: Option<Exit>) {
        let cancel = self.run.cancel.clone();
        let verdict = judge(
            &self.steps[index],
            exit.as_ref(),
            cancel.as_ref().map(|cancel| cancel.reason.as_str()),
        );
        match verdict {
            Verdict::Done(conclusion) => self.finish(index, conclusion),
            Verdict::Again { fault, reason } => {
                let now = self.now;
                self.steps[index].again(now, fault, reason).unwrap();
            }
        }
    }
}

fn exit(fate: Fate) -> Exit {
    Exit {
        code: matches!(fate, Fate::Pass).then_some(0).or(Some(1)),
        signal: None,
        oom: false,
        timed_out: matches!(fate, Fate::TimeOut),
        stopped: false,
        lost: matches!(fate, Fate::Vanish),
        at: Timestamp::from_micros(0),
        usage: Usage::default(),
    }
}

fn play(plot: &Plot) -> (RunOutcome, World) {
    let mut run = crate::model::tests_support::run();
    run.start(Timestamp::from_micros(1)).unwrap();
    let mut world = World {
        run,
        steps: plot.steps.clone(),
        workloads: BTreeMap::new(),
        busy: BTreeSet::new(),
        started: Vec::new(),
        now: Timestamp::from_micros(1),
    };
    for round in 0..400 {
        world.now = world.now.plus(Duration::from_secs(1));
        if plot.cancel_at == Some(round) {
            world.run.cancel = Some(CancelRequest {
                by: "ann".into(),
                reason: "ann cancelled it".into(),
                superseded: false,
                at: world.now,
            });
        }
        if plot
            .crash_every
            .is_some_and(|every| round % (every * 3) == 1)
        {
            world.busy.clear();
        }
        let decisions = decide(&world.run, &world.steps, &world.seen(), world.now);
        let mut candidates = Vec::new();
        for decision in decisions {
            let at = |id: &StepId| world.steps.iter().position(|step| step.id == *id).unwrap();
            match decision {
                Decision::FinishRun(outcome, reason) => {
                    world.run.finish(outcome, reason, world.now).unwrap();
                    return (outcome, world);
                }
                Decision::Admit(id) => candidates.push(at(&id)),
                Decision::Launch(id) => {
                    let index = at(&id);
                    let attempt = world.steps[index].attempt;
                    assert!(
                        world
                            .workloads
                            .get(&id)
                            .is_none_or(|(known, _)| *known < attempt),
                        "launched twice"
                    );
                    world.started.push((index, attempt));
                    world.workloads.insert(id, (attempt, None));
                }
                Decision::Adopt(id) => {
                    let index = at(&id);
                    let now = world.now;
                    world.steps[index].begin(now).unwrap();
                }
                Decision::Act(id) => {
                    let index = at(&id);
                    let now = world.now;
                    world.steps[index].take("me", now).unwrap();
                    if world.steps[index].state == StepState::Ready {
                        world.steps[index].begin(now).unwrap();
                        let attempt = world.steps[index].attempt;
                        world.started.push((index, attempt));
                    }
                    world.busy.insert(id);
                }
                Decision::Judge(id, exit) => {
                    let index = at(&id);
                    world.verdict(index, exit);
                }
                Decision::Conclude(id, conclusion) => {
                    let index = at(&id);
                    world.finish(index, conclusion);
                }
                Decision::Stop(id) | Decision::Kill(id) => {
                    world.workloads.get_mut(&id).unwrap().1 = Some(Fate::Fail);
                }
                Decision::Interrupt(id) => {
                    let index = at(&id);
                    world.busy.remove(&id);
                    world.finish(
                        index,
                        Conclusion::because(StepOutcome::Cancelled, "interrupted"),
                    );
                }
            }
        }
        let candidates: Vec<(usize, Candidate)> = candidates
            .into_iter()
            .map(|index| {
                let step = &world.steps[index];
                let candidate = Candidate {
                    step: step.id,
                    run: step.run,
                    run_seq: 1,
                    ordinal: step.ordinal,
                    project: world.run.project.clone(),
                    waits: false,
                    place: step.definition.as_command().map(|work| work.place),
                };
                (index, candidate)
            })
            .collect();
        let mut occupied = Occupied::default();
        for step in &world.steps {
            if matches!(step.state, StepState::Ready | StepState::Running) {
                *occupied
                    .projects
                    .entry(world.run.project.clone())
                    .or_default() += 1;
                match step.definition.as_command().map(|work| work.place) {
                    Some(Place::Source) => {
                        occupied.changing.insert(step.run);
                    }
                    Some(Place::Copy) if step.state == StepState::Ready => {
                        occupied.copying.insert(step.run);
                    }
                    _ => {}
                }
            }
        }
        let admitted = admit(
            candidates
                .iter()
                .map(|(_, candidate)| candidate.clone())
                .collect(),
            occupied,
            plot.places,
        );
        for id in admitted {
            let index = world.steps.iter().position(|step| step.id == id).unwrap();
            for need in world.steps[index].needs.clone() {
                let earlier = world
                    .steps
                    .iter()
                    .find(|step| step.name == need.step)
                    .unwrap();
                assert_eq!(earlier.state, StepState::Finished);
                assert!(
                    need.join == Join::Ended || earlier.passed(),
                    "started before its needs passed"
                );
            }
            let now = world.now;
            world.steps[index].claim(now).unwrap();
        }
        let working = world
            .steps
            .iter()
            .filter(|step| matches!(step.state, StepState::Ready | StepState::Running))
            .count();
        assert!(
            working <= plot.places,
            "{working} steps work in {} places",
            plot.places
        );
        // The world moves: everything that runs ends as its fate has it.
        let ended: Vec<StepId> = world
            .workloads
            .iter()
            .filter(|(_, (_, end))| end.is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in ended {
            let index = world.steps.iter().position(|step| step.id == id).unwrap();
            let (attempt, end) = world.workloads.get_mut(&id).unwrap();
            *end = Some(plot.fates[index][(*attempt as usize - 1) % 8]);
        }
        for id in if round % 2 == 0 {
            std::mem::take(&mut world.busy)
        } else {
            BTreeSet::new()
        } {
            let index = world.steps.iter().position(|step| step.id == id).unwrap();
            let outcome = match plot.fates[index][0] {
                Fate::Pass => Conclusion::success(),
                Fate::Refuse => Conclusion::because(StepOutcome::Refused, "no"),
                _ => Conclusion::because(StepOutcome::Failure, "no"),
            };
            world.finish(index, outcome);
        }
    }
    panic!("the run does not end: {:?}", world.steps);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_run_ends_and_starts_each_attempt_once(plot in plot()) {
        let (_, world) = play(&plot);
        let distinct: BTreeSet<_> = world.started.iter().collect();
        prop_assert_eq!(distinct.len(), world.started.len());
        prop_assert!(world.steps.iter().all(|step| step.outcome.is_some()));
        for (index, step) in world.steps.iter().enumerate() {
            let starts = world.started.iter().filter(|(which, _)| *which == index).count() as u32;
            let most = if step.repeatable { 1 + step.definition.retries + super::outcome::MAX_FAULTS } else { 1 + step.definition.retries };
            prop_assert!(starts <= most, "{} was started {starts} times", step.name);
        }
    }

    #[test]
    fn the_outcome_does_not_depend_on_places_or_crashes(mut plot in plot()) {
        (plot.cancel_at, plot.crash_every, plot.places) = (None, None, 1);
        let alone = play(&plot);
        (plot.crash_every, plot.places) = (Some(1), 3);
        let crowded = play(&plot);
        prop_assert_eq!(alone.0, crowded.0);
        let outcomes = |world: &World| world.steps.iter().map(|step| step.outcome).collect::<Vec<_>>();
        prop_assert_eq!(outcomes(&alone.1), outcomes(&crowded.1));
    }

    #[test]
    fn nothing_that_needed_a_failed_step_ran(plot in plot()) {
        let (outcome, world) = play(&plot);
        for step in &world.steps {
            for need in step.needs.iter().filter(|need| need.join == Join::Passed) {
                let earlier = world.steps.iter().find(|other| other.name == need.step).unwrap();
                if !earlier.passed() {
                    prop_assert!(matches!(step.outcome, Some(StepOutcome::Skipped | StepOutcome::Cancelled)));
                }
            }
        }
        let failed = world.steps.iter().any(|step| !step.allow_failure && step.outcome == Some(StepOutcome::Failure));
        prop_assert!(!(failed && outcome == RunOutcome::Success));
    }
}

#[test]
fn the_reason_of_a_skip_names_the_root() {
    let mut steps = vec![
        command("test", &[], 0),
        command("image", &[("test", Join::Passed)], 0),
        command("deploy", &[("image", Join::Passed)], 0),
    ];
    let now = Timestamp::from_micros(1);
    steps[0].claim(now).unwrap();
    steps[0].begin(now).unwrap();
    steps[0]
        .finish(
            Conclusion::because(StepOutcome::Failure, "exited with 1"),
            now,
        )
        .unwrap();
    let mut run = crate::model::tests_support::run();
    run.start(now).unwrap();
    let nothing = BTreeMap::new();
    loop {
        let mut progressed = false;
        for decision in decide(&run, &steps, &nothing, now) {
            match decision {
                Decision::Conclude(id, conclusion) => {
                    let step = steps.iter_mut().find(|step| step.id == id).unwrap();
                    step.finish(conclusion, now).unwrap();
                    progressed = true;
                }
                Decision::FinishRun(outcome, reason) => {
                    assert_eq!(outcome, RunOutcome::Failure);
                    assert_eq!(reason.unwrap(), "`test` failed: exited with 1");
                }
                other => panic!("{other:?}"),
            }
        }
        if !progressed {
            break;
        }
    }
    assert_eq!(steps[1].reason.as_deref(), Some("`test` failed"));
    assert_eq!(steps[2].reason.as_deref(), Some("`test` failed"));
}

#[test]
fn what_outlives_its_timeout_is_killed() {
    let mut step = command("slow", &[], 0);
    let began = Timestamp::from_micros(1);
    step.claim(began).unwrap();
    step.begin(began).unwrap();
    let mut run = crate::model::tests_support::run();
    run.start(began).unwrap();
    let seen = BTreeMap::from([(step.id, Seen::Alive)]);
    let id = step.id;
    let steps = [step];
    assert!(decide(&run, &steps, &seen, began.plus(Duration::from_secs(100))).is_empty());
    assert_eq!(
        decide(&run, &steps, &seen, began.plus(Duration::from_secs(121))),
        vec![Decision::Kill(id)]
    );
}

/// Steps of one matrix, of which `at_work` have begun.
fn matrix(count: usize, at_work: usize, fail_fast: bool, max_parallel: Option<u32>) -> Vec<Step> {
    let now = Timestamp::from_micros(1);
    (0..count)
        .map(|index| {
            let mut step = command(&format!("m-{index}"), &[], 0);
            step.ordinal = index as i64;
            step.definition.matrix = Some(Member {
                group: "m".parse().unwrap(),
                label: format!("m (v={index})"),
                fail_fast,
                max_parallel,
            });
            step.label = Some(format!("m (v={index})"));
            if index < at_work {
                step.claim(now).unwrap();
                step.begin(now).unwrap();
            }
            step
        })
        .collect()
}

fn running() -> (Run, Timestamp) {
    let now = Timestamp::from_micros(1);
    let mut run = crate::model::tests_support::run();
    run.start(now).unwrap();
    (run, now)
}

#[test]
fn no_more_steps_of_a_matrix_run_than_may() {
    let (run, now) = running();
    let steps = matrix(6, 2, true, Some(3));
    let seen: BTreeMap<StepId, Seen> = steps.iter().map(|step| (step.id, Seen::Alive)).collect();
    let decisions = decide(&run, &steps, &seen, now);
    assert_eq!(decisions, [Decision::Admit(steps[2].id)]);
    let free = matrix(6, 2, true, None);
    assert_eq!(decide(&run, &free, &seen, now).len(), 4);
}

#[test]
fn a_failure_ends_the_rest_of_its_matrix_when_it_is_to() {
    let (run, now) = running();
    let mut steps = matrix(4, 3, true, None);
    let failed = Conclusion::because(StepOutcome::Failure, "exited with 1");
    steps[0].finish(failed.clone(), now).unwrap();
    let seen = BTreeMap::from([(steps[1].id, Seen::Alive), (steps[2].id, Seen::Busy)]);
    let decisions = decide(&run, &steps, &seen, now);
    let why = "`m (v=0)` failed, and `fail_fast` ends the others";
    assert_eq!(
        decisions,
        [
            Decision::Stop(steps[1].id),
            Decision::Conclude(steps[3].id, Conclusion::because(StepOutcome::Skipped, why)),
        ]
    );
    // What it ends with then is no failure of its own, and no other attempt follows.
    let stopped = Exit {
        stopped: true,
        ..world_exit(Some(143))
    };
    let off = super::called_off(&run, &steps[1], &steps);
    let verdict = judge(&steps[1], Some(&stopped), off.as_deref());
    let Verdict::Done(conclusion) = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(conclusion.outcome, StepOutcome::Cancelled);
    let mut others = matrix(4, 3, false, None);
    others[0].finish(failed, now).unwrap();
    let seen = others.iter().map(|step| (step.id, Seen::Alive)).collect();
    assert_eq!(
        decide(&run, &others, &seen, now),
        [Decision::Admit(others[3].id)]
    );
}

fn world_exit(code: Option<i32>) -> Exit {
    Exit {
        code,
        signal: None,
        oom: false,
        timed_out: false,
        stopped: false,
        lost: false,
        at: Timestamp::from_micros(0),
        usage: Usage::default(),
    }
}
