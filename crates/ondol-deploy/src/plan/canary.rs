//! The verdict over one canary step. Missing data is no verdict: it waits, and after the step's
//! patience a person decides. Only a check that could be made and failed takes traffic back.

use std::time::Duration;

use ondol_spec::expr::Values;
use ondol_spec::model::Release as ReleaseSpec;
use ondol_types::Timestamp;

use crate::routes::ReleaseTraffic;

/// What is known at one look.
#[derive(Clone, Debug)]
pub(crate) struct Stand<'a> {
    pub(crate) step: u32,
    /// Since every gateway gave the canary its share.
    pub(crate) since: Timestamp,
    pub(crate) now: Timestamp,
    /// What the canary and the current release answered in the step; `None` when unknown.
    pub(crate) traffic: Option<(&'a ReleaseTraffic, &'a ReleaseTraffic)>,
}

/// What follows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Look again later.
    Wait { why: String },
    /// The next step.
    Advance,
    /// That was the last: all traffic.
    Swap,
    /// A person decides.
    Pause { why: String },
    /// The traffic goes back.
    Abort { why: String },
}

/// Decides one step.
pub(crate) fn decide(release: &ReleaseSpec, stand: &Stand<'_>) -> Decision {
    let elapsed = stand.now.since(stand.since);
    let share = release
        .steps
        .get(stand.step as usize)
        .copied()
        .unwrap_or(100);
    if let Some(check) = &release.check {
        match judge(release, check, stand, elapsed) {
            Err(missing) => {
                let patience = release.patience.duration();
                return if elapsed >= patience {
                    Decision::Pause {
                        why: format!("at {share} %: {missing} after {} s", patience.as_secs()),
                    }
                } else {
                    Decision::Wait {
                        why: format!("at {share} %: {missing}"),
                    }
                };
            }
            Ok((false, words)) => {
                return Decision::Abort {
                    why: format!("the check failed at {share} %: {words}"),
                };
            }
            Ok((true, words)) if elapsed < release.interval.duration() => {
                return Decision::Wait {
                    why: format!("at {share} %: {words}"),
                };
            }
            Ok((true, _)) => {}
        }
    } else if elapsed < release.interval.duration() {
        return Decision::Wait {
            why: format!(
                "at {share} % for {} s",
                release.interval.duration().as_secs()
            ),
        };
    }
    let next = release
        .steps
        .get(stand.step as usize + 1)
        .copied()
        .unwrap_or(100);
    if next >= 100 {
        Decision::Swap
    } else {
        Decision::Advance
    }
}

/// Whether the check holds, with the numbers; `Err` says what is missing.
fn judge(
    release: &ReleaseSpec,
    check: &ondol_spec::expr::Expression,
    stand: &Stand<'_>,
    elapsed: Duration,
) -> Result<(bool, String), String> {
    let (canary, current) = stand
        .traffic
        .ok_or_else(|| "the gateway's counters cannot be read".to_owned())?;
    let needed = release.min_requests.max(1);
    if canary.requests < needed {
        return Err(format!(
            "{} of {needed} requests that the check needs",
            canary.requests
        ));
    }
    let mut values = Values::new();
    for (name, value) in numbers(canary, elapsed) {
        values.set(name, value);
    }
    values.set_group("current", numbers(current, elapsed));
    match check.evaluate(&values) {
        Ok(verdict) => Ok((verdict.passed, verdict.to_string())),
        Err(refusal) => Err(format!("the check cannot be made ({refusal})")),
    }
}

/// What is known of one release; a number that does not exist is left out, never made up.
fn numbers(traffic: &ReleaseTraffic, elapsed: Duration) -> Vec<(&'static str, f64)> {
    let seconds = elapsed.as_secs_f64();
    [
        ("requests", Some(traffic.requests as f64)),
        (
            "rps",
            (seconds > 0.0).then(|| traffic.requests as f64 / seconds),
        ),
        ("error_rate", traffic.error_rate()),
        ("p50", traffic.durations.quantile(0.5)),
        ("p95", traffic.durations.quantile(0.95)),
        ("p99", traffic.durations.quantile(0.99)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routes::Histogram;

    fn spec(check: Option<&str>) -> ReleaseSpec {
        ReleaseSpec {
            check: check.map(|text| text.parse().unwrap()),
            ..ReleaseSpec::default()
        }
    }

    fn traffic(requests: u64, errors: u64) -> ReleaseTraffic {
        // Bucket 264 begins at 786 ms: (16 + 8) · 2^15 µs.
        let durations = Histogram {
            buckets: vec![(264, requests)],
            sum_micros: 0,
        };
        ReleaseTraffic {
            requests,
            errors,
            in_flight: 0,
            durations,
        }
    }

    fn at(
        seconds: u64,
        step: u32,
        canary: Option<&ReleaseTraffic>,
        current: &ReleaseTraffic,
        spec: &ReleaseSpec,
    ) -> Decision {
        let since = Timestamp::from_micros(0);
        let stand = Stand {
            step,
            since,
            now: since.plus(Duration::from_secs(seconds)),
            traffic: canary.map(|canary| (canary, current)),
        };
        decide(spec, &stand)
    }

    #[test]
    fn a_step_passes_after_its_interval_and_enough_good_requests() {
        let spec = spec(Some("error_rate < 0.01 && p95 < 2.0"));
        let (good, current) = (traffic(100, 0), traffic(900, 0));
        assert!(matches!(
            at(29, 0, Some(&good), &current, &spec),
            Decision::Wait { .. }
        ));
        assert_eq!(at(30, 0, Some(&good), &current, &spec), Decision::Advance);
        assert_eq!(at(30, 1, Some(&good), &current, &spec), Decision::Swap);
    }

    #[test]
    fn a_failing_check_aborts_at_once_and_shows_the_numbers() {
        let spec = spec(Some("error_rate < 0.01"));
        let Decision::Abort { why } = at(3, 0, Some(&traffic(100, 5)), &traffic(0, 0), &spec)
        else {
            panic!("it aborts");
        };
        assert!(why.contains("10 %") && why.contains("0.05"), "{why}");
    }

    #[test]
    fn too_few_requests_never_pass_and_pause_after_the_patience() {
        let spec = spec(Some("error_rate < 0.01"));
        for bad in [traffic(99, 99), traffic(0, 0)] {
            assert!(matches!(
                at(30, 0, Some(&bad), &traffic(9, 0), &spec),
                Decision::Wait { .. }
            ));
            assert!(matches!(
                at(600, 0, Some(&bad), &traffic(9, 0), &spec),
                Decision::Pause { .. }
            ));
        }
    }

    #[test]
    fn unreadable_counters_pause() {
        let spec = spec(Some("error_rate < 0.01"));
        assert!(matches!(
            at(599, 0, None, &traffic(0, 0), &spec),
            Decision::Wait { .. }
        ));
        assert!(matches!(
            at(600, 0, None, &traffic(0, 0), &spec),
            Decision::Pause { .. }
        ));
    }

    #[test]
    fn a_comparison_with_an_idle_current_release_is_missing_data() {
        let spec = spec(Some("error_rate <= current.error_rate"));
        let decision = at(600, 0, Some(&traffic(100, 0)), &traffic(0, 0), &spec);
        assert!(matches!(decision, Decision::Pause { .. }), "{decision:?}");
        assert_eq!(
            at(30, 0, Some(&traffic(100, 0)), &traffic(50, 0), &spec),
            Decision::Advance
        );
    }

    #[test]
    fn without_a_check_steps_go_by_time() {
        let spec = spec(None);
        assert!(matches!(
            at(29, 0, None, &traffic(0, 0), &spec),
            Decision::Wait { .. }
        ));
        assert_eq!(at(30, 0, None, &traffic(0, 0), &spec), Decision::Advance);
        assert_eq!(at(30, 1, None, &traffic(0, 0), &spec), Decision::Swap);
    }

    proptest! {
        #[test]
        fn nothing_passes_on_fewer_than_the_minimum(requests in 0u64..100, errors in 0u64..100, seconds in 0u64..2_000, step in 0u32..4) {
            let spec = spec(Some("error_rate < 0.5"));
            let decision = at(seconds, step, Some(&traffic(requests, errors)), &traffic(10, 0), &spec);
            let undecided = matches!(decision, Decision::Wait { .. } | Decision::Pause { .. });
            prop_assert!(undecided);
        }

        #[test]
        fn a_broken_canary_never_passes(requests in 100u64..10_000, seconds in 0u64..2_000, step in 0u32..4) {
            let spec = spec(Some("error_rate < 0.05"));
            let decision = at(seconds, step, Some(&traffic(requests, requests / 10)), &traffic(10, 0), &spec);
            let aborted = matches!(decision, Decision::Abort { .. });
            prop_assert!(aborted);
        }
    }
}
