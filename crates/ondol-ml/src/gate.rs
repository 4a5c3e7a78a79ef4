//! Whether a candidate becomes champion. Pure.
//!
//! Numbers of candidate and champion come from different versions of the data, and each was
//! measured at its own evaluation. They are compared as they are, and on purpose: the champion's
//! promise, on data that was right, is what a candidate must keep. Measuring the champion again
//! on the candidate's data would be unfair twice. It has seen most of those rows, so it looks
//! better than it is; and when the new data is wrong (labels shuffled, units changed), it looks
//! as bad as the candidate, and the gate would open exactly when it must not. Such a measurement
//! can be given for information: it is told in the reason, and never decides. When the world has
//! really changed and the old numbers cannot be reached any more, a person promotes by hand.
//!
//! Without a champion, a candidate is its own champion. NaN, infinities and missing metrics
//! refuse. Without an expression, the primary metric must not be worse than the champion's by
//! more than [`tolerance`].

use std::collections::BTreeMap;

use ondol_spec::expr::{Expression, Values};

/// Metrics by name.
pub type Metrics = BTreeMap<String, f64>;

/// What is known of candidate and champion.
#[derive(Clone, Copy, Debug)]
pub struct GateInput<'a> {
    /// The candidate's metrics, measured at its evaluation.
    pub candidate: &'a Metrics,
    /// The champion's version and metrics, measured at its own evaluation.
    pub champion: Option<(i64, &'a Metrics)>,
    /// The champion's metrics on the candidate's data, for information.
    pub champion_on_new_data: Option<&'a Metrics>,
    /// What candidates are compared by when there is no expression.
    pub primary: Option<&'a str>,
}

/// What the gate decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the candidate becomes champion.
    pub accepted: bool,
    /// Why, for people.
    pub reason: String,
}

/// Metrics of which less is better, by the end of their names.
const ERRORS: [&str; 10] = [
    "loss",
    "rmse",
    "mae",
    "mse",
    "mape",
    "error",
    "error_rate",
    "perplexity",
    "wer",
    "brier",
];

/// Whether more of a metric is better, judged by its name.
pub fn higher_is_better(metric: &str) -> bool {
    !ERRORS.iter().any(|name| {
        metric == *name
            || metric
                .strip_suffix(name)
                .is_some_and(|rest| rest.ends_with(['_', '.']))
    })
}

/// How much worse than the champion a candidate may be without an expression: 0.01 for metrics
/// of which more is better, and 2 % of the champion's value for errors.
pub fn tolerance(metric: &str, champion: f64) -> f64 {
    if higher_is_better(metric) {
        0.01
    } else {
        0.02 * champion.abs()
    }
}

/// The primary metric when nobody named one: the first of the usual ones that the candidate has.
pub fn usual_metric(metrics: &Metrics) -> Option<&str> {
    ["accuracy", "f1", "roc_auc", "r2", "rmse", "mae", "loss"]
        .into_iter()
        .find_map(|name| metrics.get_key_value(name).map(|(name, _)| name.as_str()))
}

/// Decides.
pub fn decide(rule: Option<&Expression>, input: &GateInput<'_>) -> Decision {
    let mut decision = match rule {
        Some(rule) => by_rule(rule, input),
        None => by_default(input),
    };
    if let Some(metrics) = input.champion_on_new_data {
        let name = input.primary.or_else(|| usual_metric(metrics));
        if let Some((name, value)) = name.and_then(|name| metrics.get_key_value(name)) {
            decision.reason.push_str(&format!(
                " (for information: on the candidate's data the champion has {name} {})",
                shown(*value)
            ));
        }
    }
    decision
}

fn refused(reason: String) -> Decision {
    Decision {
        accepted: false,
        reason,
    }
}

/// A dot would make a group; metrics from nested JSON are reached by `_` instead.
fn plain(name: &str) -> String {
    name.replace('.', "_")
}

fn by_rule(rule: &Expression, input: &GateInput<'_>) -> Decision {
    let mut values = Values::new();
    for (name, &value) in input.candidate {
        let finite = if value.is_finite() { value } else { f64::NAN };
        values.set(&plain(name), finite);
        // Where the champion never measured this, the candidate is compared with itself.
        values.set(&format!("champion.{}", plain(name)), finite);
    }
    for (name, &value) in input
        .champion
        .iter()
        .flat_map(|(_, metrics)| metrics.iter())
    {
        values.set(
            &format!("champion.{}", plain(name)),
            if value.is_finite() { value } else { f64::NAN },
        );
    }
    let whose = match input.champion {
        Some((version, _)) => format!("against version {version}"),
        None => "there is no champion yet".to_owned(),
    };
    match rule.evaluate(&values) {
        Ok(verdict) => Decision {
            accepted: verdict.passed,
            reason: format!("{verdict}; {whose}"),
        },
        Err(refusal) => refused(format!("accept cannot be decided: {refusal}")),
    }
}

fn by_default(input: &GateInput<'_>) -> Decision {
    let bad: Vec<&str> = input
        .candidate
        .iter()
        .filter(|(_, value)| value.is_nan())
        .map(|(name, _)| name.as_str())
        .collect();
    let Some(name) = input.primary.or_else(|| usual_metric(input.candidate)) else {
        return match (input.champion, bad.first()) {
            (_, Some(bad)) => refused(format!("{bad} is not a number")),
            (None, None) => Decision {
                accepted: true,
                reason: "there is no champion yet".to_owned(),
            },
            // Nothing to compare by, and nobody asked for a comparison.
            (Some(_), None) => Decision {
                accepted: true,
                reason: "there is no accept rule, and no usual metric to compare by".to_owned(),
            },
        };
    };
    let Some(&candidate) = input.candidate.get(name) else {
        return refused(format!("the candidate has no {name}"));
    };
    if !candidate.is_finite() {
        return refused(format!("{name} is not a number"));
    }
    let Some((version, champion)) = input.champion else {
        return Decision {
            accepted: true,
            reason: format!("{name} {}; there is no champion yet", shown(candidate)),
        };
    };
    let Some(&before) = champion.get(name).filter(|value| value.is_finite()) else {
        return Decision {
            accepted: true,
            reason: format!(
                "{name} {}; version {version} never measured it",
                shown(candidate)
            ),
        };
    };
    let allowed = tolerance(name, before);
    let accepted = if higher_is_better(name) {
        candidate >= before - allowed
    } else {
        candidate <= before + allowed
    };
    let words = if accepted {
        "is not worse than"
    } else {
        "is worse than"
    };
    let reason = format!(
        "{name} {} {words} {} of version {version} (tolerance {})",
        shown(candidate),
        shown(before),
        shown(allowed)
    );
    Decision { accepted, reason }
}

fn shown(value: f64) -> String {
    let text = format!("{value:.4}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(pairs: &[(&str, f64)]) -> Metrics {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    }

    fn judge(rule: Option<&str>, candidate: &Metrics, champion: Option<&Metrics>) -> Decision {
        let rule = rule.map(|text| Expression::parse(text).unwrap());
        let champion = champion.map(|metrics| (3, metrics));
        decide(
            rule.as_ref(),
            &GateInput {
                candidate,
                champion,
                champion_on_new_data: None,
                primary: None,
            },
        )
    }

    const RULE: Option<&str> = Some("accuracy >= 0.93 && accuracy >= champion.accuracy - 0.01");

    #[test]
    fn shuffled_labels_are_refused_with_the_numbers() {
        let decision = judge(
            RULE,
            &metrics(&[("accuracy", 0.41)]),
            Some(&metrics(&[("accuracy", 0.96)])),
        );
        assert!(!decision.accepted);
        assert!(
            decision.reason.contains("accuracy >= 0.93") && decision.reason.contains("0.41"),
            "{}",
            decision.reason
        );
        assert!(decision.reason.contains("0.95"), "{}", decision.reason);
    }

    #[test]
    fn the_first_candidate_is_its_own_champion() {
        assert!(judge(RULE, &metrics(&[("accuracy", 0.96)]), None).accepted);
        assert!(!judge(RULE, &metrics(&[("accuracy", 0.90)]), None).accepted);
        assert!(judge(None, &metrics(&[("accuracy", 0.10)]), None).accepted);
    }

    #[test]
    fn not_a_number_refuses() {
        for value in [f64::NAN, f64::INFINITY] {
            let candidate = metrics(&[("accuracy", value)]);
            assert!(!judge(Some("accuracy >= 0.5"), &candidate, None).accepted);
            assert!(!judge(Some("!(accuracy < 0.5)"), &candidate, None).accepted);
            assert!(!judge(None, &candidate, None).accepted);
        }
        assert!(!judge(None, &metrics(&[("custom", f64::NAN)]), None).accepted);
    }

    #[test]
    fn a_missing_metric_refuses_and_one_the_champion_lacks_does_not() {
        let candidate = metrics(&[("f1", 0.8), ("val.auc", 0.9)]);
        assert!(!judge(Some("accuracy >= 0.5"), &candidate, None).accepted);
        assert!(
            judge(
                Some("f1 >= champion.f1 && val_auc > 0.8"),
                &candidate,
                Some(&metrics(&[("accuracy", 1.0)]))
            )
            .accepted
        );
    }

    #[test]
    fn without_a_rule_the_primary_metric_decides_within_its_tolerance() {
        let champion = metrics(&[("accuracy", 0.95), ("rmse", 10.0)]);
        let with = |name: &str, value: f64| {
            judge(None, &metrics(&[(name, value)]), Some(&champion)).accepted
        };
        assert!(with("accuracy", 0.941) && !with("accuracy", 0.939));
        assert!(with("rmse", 10.19) && !with("rmse", 10.21));
        assert!(
            higher_is_better("val_auc")
                && !higher_is_better("val_loss")
                && !higher_is_better("log_loss")
        );
        assert!(higher_is_better("gloss"));
    }

    #[test]
    fn what_the_champion_does_on_new_data_is_told_and_does_not_decide() {
        let (candidate, champion, now) = (
            metrics(&[("accuracy", 0.4)]),
            metrics(&[("accuracy", 0.96)]),
            metrics(&[("accuracy", 0.3)]),
        );
        let input = GateInput {
            candidate: &candidate,
            champion: Some((3, &champion)),
            champion_on_new_data: Some(&now),
            primary: Some("accuracy"),
        };
        let decision = decide(None, &input);
        assert!(
            !decision.accepted && decision.reason.contains("accuracy 0.3"),
            "{}",
            decision.reason
        );
    }
}
