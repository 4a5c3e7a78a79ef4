//! How many replicas the load asks for: pure, after the rules of Kubernetes'
//! HorizontalPodAutoscaler. The number that the load asks for is what it amounts to, divided by
//! what one replica is to carry, rounded up; within a tenth of that, nothing changes. More
//! replicas come at once, though not more than twice as many in one step; fewer come only when
//! nothing in five minutes asked for more.
//!
//! Missing data is no load: it must never lead to fewer replicas, and never to more.

use std::collections::BTreeMap;
use std::time::Duration;

use ondol_spec::model::Service;
use ondol_types::{ReleaseId, ReplicaId, Timestamp};

use super::{Plan, Record, Sight, World};
use crate::model::{Peak, Release, Scale};

/// Between two judgements.
const PERIOD: Duration = Duration::from_secs(15);
/// Over which time the load is measured.
const WINDOW: Duration = Duration::from_secs(30);
/// The fewest samples in it, and the shortest time between the first and the last.
const MIN_SAMPLES: usize = 4;
const MIN_SPAN: Duration = Duration::from_secs(12);
/// The newest sample must not be older.
const FRESH: Duration = Duration::from_secs(15);
/// Load this close to what the replicas are to carry changes nothing.
const TOLERANCE: f64 = 0.1;
/// Fewer replicas only when nothing within this time asked for more.
const STABILIZATION: Duration = Duration::from_secs(300);
/// After a longer silence, the number that ran meanwhile counts as asked for just now.
const SILENCE: Duration = Duration::from_secs(60);
/// One step may always add this many, and otherwise as many as there are.
const STEP: u32 = 4;

/// Counters of one release at one moment; those that only grow are differences of neighbours.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    pub(crate) at: Timestamp,
    /// Requests that were answered, ever.
    pub(crate) requests: u64,
    /// Requests in progress.
    pub(crate) in_flight: u64,
    /// Processor time used by each replica, ever, in seconds.
    pub(crate) cpu: BTreeMap<ReplicaId, f64>,
}

/// What is known at one look.
pub(crate) struct Load<'a> {
    pub(crate) now: Timestamp,
    pub(crate) release: ReleaseId,
    /// What a person set, who is stronger.
    pub(crate) asked: Option<u32>,
    /// The rollout that is under way.
    pub(crate) rollout: Option<i64>,
    /// Oldest first.
    pub(crate) samples: &'a [Sample],
}

/// What the load asks for, with the words for it; `Err` says what it waits for.
pub(crate) type Judgement = Result<(u32, String), String>;

/// The bounds of a specification, as this installation can keep them.
pub(crate) fn bounds(service: &Service) -> (u32, u32) {
    let spec = &service.replicas;
    let min = spec.min.min(crate::MAX_REPLICAS);
    (min, spec.max.clamp(min, crate::MAX_REPLICAS))
}

/// How many replicas a release is to have when no person says otherwise.
pub(crate) fn wanted(service: &Service, scale: Option<&Scale>) -> u32 {
    let (min, max) = bounds(service);
    match scale.filter(|_| service.replicas.target.is_some()) {
        Some(scale) => scale.replicas.clamp(min, max),
        None => min,
    }
}

/// Judges the load. Neither the pause between judgements nor the wait before fewer replicas is in
/// this: it is what people are shown.
pub(crate) fn judge(service: &Service, scale: Option<&Scale>, load: &Load<'_>) -> Judgement {
    let Some(target) = &service.replicas.target else {
        return Err("the specification names no load".to_owned());
    };
    if let Some(asked) = load.asked {
        return Err(format!("a person asked for {asked} replicas"));
    }
    if let Some(number) = load.rollout {
        return Err(format!("rollout {number} is under way"));
    }
    let Some(scale) = scale.filter(|scale| scale.release == load.release) else {
        return Err("the load is about to be measured".to_owned());
    };
    let from = load.now.minus(WINDOW).max(scale.since);
    let samples: Vec<&Sample> = load
        .samples
        .iter()
        .filter(|sample| sample.at >= from && sample.at <= load.now)
        .collect();
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return Err(format!("0 of {MIN_SAMPLES} samples that it needs"));
    };
    let span = last.at.since(first.at);
    if samples.len() < MIN_SAMPLES || span < MIN_SPAN {
        return Err(format!(
            "{} of {MIN_SAMPLES} samples that it needs",
            samples.len().min(MIN_SAMPLES - 1)
        ));
    }
    if load.now.since(last.at) > FRESH {
        return Err("the gateway's counters cannot be read".to_owned());
    }
    let seconds = span.as_secs_f64();
    let (min, max) = bounds(service);
    let have = scale.replicas.clamp(min, max);
    let cores = service
        .limits
        .cpu
        .filter(|cores| *cores > 0.0)
        .unwrap_or(1.0);
    let measured = [
        target
            .rps
            .map(|each| (growth(&samples) / seconds, each, "requests/s")),
        target
            .concurrency
            .map(|each| (mean_in_flight(&samples), each, "requests in flight")),
        target.cpu.map(|each| {
            let used = cpu(&samples) / seconds / cores;
            (used * 100.0, each.ratio() * 100.0, "% of a processor")
        }),
    ];
    measured
        .into_iter()
        .flatten()
        .filter_map(|(total, each, what)| {
            let asks = replicas_for(total, each, have)?.clamp(min, max);
            let words = format!(
                "{total:.1} {what}, of which one replica carries {each}, ask for {asks} of {min} to {max}"
            );
            Some((asks, words))
        })
        // Of equals the first, so that the words do not change back and forth.
        .reduce(|most, other| if other.0 > most.0 { other } else { most })
        .ok_or_else(|| "the load cannot be measured".to_owned())
}

/// `None` when there is no such number.
fn replicas_for(total: f64, each: f64, have: u32) -> Option<u32> {
    let exact = total / each;
    if !exact.is_finite() || exact < 0.0 {
        return None;
    }
    let ratio = exact / f64::from(have.max(1));
    if (ratio - 1.0).abs() <= TOLERANCE {
        return Some(have);
    }
    // A little less than the exact number is an error of rounding.
    Some((exact - 1e-9).ceil().clamp(0.0, f64::from(u32::MAX)) as u32)
}

fn growth(samples: &[&Sample]) -> f64 {
    let steps = samples.windows(2).map(|pair| {
        let (before, after) = (pair[0].requests, pair[1].requests);
        // Counters that begin anew count from zero.
        after.checked_sub(before).unwrap_or(after)
    });
    steps.sum::<u64>() as f64
}

fn mean_in_flight(samples: &[&Sample]) -> f64 {
    let total: u64 = samples.iter().map(|sample| sample.in_flight).sum();
    total as f64 / samples.len() as f64
}

fn cpu(samples: &[&Sample]) -> f64 {
    let steps = samples.windows(2).flat_map(|pair| {
        // What a replica uses to start is not load.
        pair[1].cpu.iter().filter_map(|(id, after)| {
            let before = pair[0].cpu.get(id)?;
            Some(if after >= before {
                after - before
            } else {
                *after
            })
        })
    });
    steps.sum()
}

/// What is to be kept next, and whether that is another number of replicas for the load's sake.
pub(crate) fn next(
    service: &Service,
    scale: Option<&Scale>,
    load: &Load<'_>,
) -> Option<(Scale, bool)> {
    service.replicas.target.as_ref()?;
    let (min, max) = bounds(service);
    let now = load.now;
    let begin = |replicas: u32, reason: &str| Scale {
        format: Scale::FORMAT,
        replicas,
        release: load.release,
        since: now,
        at: now,
        changed_at: now,
        reason: reason.to_owned(),
        peaks: vec![Peak { at: now, replicas }],
    };
    if let Some(asked) = load.asked {
        // What comes after the person's number begins with it.
        let same =
            scale.is_some_and(|scale| scale.replicas == asked && scale.release == load.release);
        return (!same).then(|| (begin(asked, "a person asked for this many"), false));
    }
    if load.rollout.is_some() {
        return None;
    }
    let Some(scale) = scale.filter(|scale| scale.release == load.release) else {
        let replicas = scale.map_or(min, |scale| scale.replicas.clamp(min, max));
        return Some((begin(replicas, "the release is new"), false));
    };
    if now < scale.at.plus(PERIOD) {
        return None;
    }
    let (asks, words) = judge(service, Some(scale), load).ok()?;
    let have = scale.replicas.clamp(min, max);
    let mut peaks = scale.peaks.clone();
    if now.since(scale.at) > SILENCE {
        push(
            &mut peaks,
            Peak {
                at: now,
                replicas: have,
            },
        );
    }
    push(
        &mut peaks,
        Peak {
            at: now,
            replicas: asks,
        },
    );
    peaks.retain(|peak| now.since(peak.at) <= STABILIZATION);
    let most = peaks.first().map_or(asks, |peak| peak.replicas);
    let replicas = if asks > have {
        asks.min(have.saturating_mul(2).max(have.saturating_add(STEP)))
    } else if most < have {
        most
    } else {
        have
    }
    .clamp(min, max);
    let changes = replicas != scale.replicas;
    Some((
        Scale {
            replicas,
            at: now,
            changed_at: if changes { now } else { scale.changed_at },
            reason: if changes { words } else { scale.reason.clone() },
            peaks,
            ..scale.clone()
        },
        changes,
    ))
}

/// Keeps the list falling: what is not more than a newer one can never be the most again.
fn push(peaks: &mut Vec<Peak>, peak: Peak) {
    while peaks
        .last()
        .is_some_and(|last| last.replicas <= peak.replicas)
    {
        peaks.pop();
    }
    peaks.push(peak);
}

pub(super) fn plan_scale(world: &World<'_>, sight: &Sight<'_>, plan: &mut Plan) {
    let environment = world.environment;
    let Some(release) = world.release(environment.current) else {
        return;
    };
    let Release { id, config, .. } = release;
    let load = Load {
        now: sight.now,
        release: *id,
        asked: environment.replicas,
        rollout: world
            .running
            .or(world.pending)
            .map(|rollout| rollout.number),
        samples: sight.samples.get(id).map(Vec::as_slice).unwrap_or_default(),
    };
    if let Some((scale, changes)) = next(&config.service, environment.scale.as_ref(), &load) {
        plan.record(Record::Scale {
            before: environment.scale.as_ref().map(|scale| scale.at),
            scale,
            changes,
        });
    }
}

#[cfg(test)]
#[path = "scale_tests.rs"]
mod tests;
