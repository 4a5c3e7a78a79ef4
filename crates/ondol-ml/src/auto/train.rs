//! The training itself: prepare, compare, choose, fit on everything, describe.

use std::collections::BTreeMap;
use std::time::Instant;

use ondol_types::Digest;

use super::candidates::{Candidate, Family};
use super::encode::{Encoder, Value};
use super::evaluate::{Evaluation, Folds};
use super::importance::importance;
use super::prepare::{Prepared, Target, prepare};
use super::{AutoOptions, LeaderboardEntry, Metric, Task, TrainReport, Trained};
use crate::error::{MlError, MlResult};
use crate::learn::{Deadline, Learner};
use crate::model_file::{Check, FORMAT, FeatureKind, ModelFile, TargetInfo, Training};
use crate::table::Table;

/// The share of the time budget that may go into comparing; the rest is for the final fit.
const COMPARING: f64 = 0.7;
/// Most numbers that all rows together may become.
const MAX_NUMBERS: usize = 60_000_000;

struct Tried {
    name: String,
    members: Vec<Candidate>,
    evaluation: Result<Evaluation, String>,
}

/// Trains a model on a table. `fingerprint` identifies the data and is kept in the model;
/// `progress` is called with lines for people.
///
/// # Errors
/// When the data or the options do not allow it; the error says what to change.
pub fn train(
    table: &Table,
    options: &AutoOptions,
    fingerprint: &Digest,
    progress: &mut dyn FnMut(&str),
) -> MlResult<Trained> {
    let began = Instant::now();
    let prepared = prepare(table, options)?;
    let task = prepared.task();
    let metric = primary_metric(&prepared, options)?;
    let rows: Vec<u32> = (0..prepared.rows as u32).collect();
    let (encoder, matrix) = Encoder::fit(&prepared.columns, &prepared.target, &rows, options.seed);
    if matrix.data.len() > MAX_NUMBERS {
        return Err(MlError::TooLarge {
            what: "the number of values after encoding".to_owned(),
            actual: matrix.data.len() as u64,
            limit: MAX_NUMBERS as u64,
        });
    }
    let classes = prepared.target.goal().outputs();
    progress(&format!(
        "{} rows, {} features, {}",
        prepared.rows,
        prepared.features.len(),
        match task {
            Task::Classification => format!(
                "classification of `{}` into {classes} classes",
                options.target
            ),
            Task::Regression => format!("regression of `{}`", options.target),
        }
    ));
    prepared
        .warnings
        .iter()
        .for_each(|warning| progress(&format!("warning: {warning}")));
    let folds = Folds::new(
        &prepared,
        options.folds,
        matrix.width,
        options.seed,
        options.threads,
    );
    let deadline = Deadline(began.checked_add(options.time_budget.mul_f64(COMPARING)));
    let mut tried = compare(&folds, metric, &matrix.width, deadline, progress)?;
    blend(&folds, metric, &mut tried, progress);
    let best = choose(&tried, metric);
    let chosen = &tried[best];
    let cut_short = tried.iter().any(|tried| tried.evaluation.is_err());
    let mut warnings = prepared.warnings.clone();
    if cut_short {
        warnings.push("the time budget ended before all candidates were compared: another run may choose another".to_owned());
    }
    let evaluation = chosen
        .evaluation
        .as_ref()
        .map_err(|reason| MlError::Internal(reason.clone()))?;
    progress(&format!("best: {}", chosen.name));
    let learner = refit(&chosen.members, &matrix, &prepared, options.seed)?;
    let importance = importance(
        &folds,
        &chosen.members,
        metric,
        options.seed,
        options.threads,
        learner.work(),
    )?;
    let mut metrics = evaluation.metrics.clone();
    metrics.insert("rows".to_owned(), prepared.rows as f64);
    metrics.insert("features".to_owned(), prepared.features.len() as f64);
    let mut leaderboard: Vec<(f64, LeaderboardEntry)> = tried
        .iter()
        .map(|tried| {
            let (metrics, skipped) = match &tried.evaluation {
                Ok(evaluation) => (evaluation.metrics.clone(), None),
                Err(reason) => (BTreeMap::new(), Some(reason.clone())),
            };
            (
                rank(&tried.evaluation, metric),
                LeaderboardEntry {
                    name: tried.name.clone(),
                    metrics,
                    skipped,
                },
            )
        })
        .collect();
    leaderboard.sort_by(|a, b| b.0.total_cmp(&a.0));
    let report = TrainReport {
        task,
        target: options.target.clone(),
        primary_metric: metric,
        algorithm: chosen.name.clone(),
        metrics: metrics.clone(),
        leaderboard: leaderboard.into_iter().map(|(_, entry)| entry).collect(),
        importance,
        warnings,
        rows: prepared.rows,
        folds: folds.folds.len(),
        cut_short,
    };
    let checks = checks(&prepared, &encoder, &learner, classes);
    let algorithm = chosen.name.clone();
    drop(folds);
    let labels = match prepared.target {
        Target::Classes { labels, .. } => Some(labels),
        Target::Values(_) => None,
    };
    let model = ModelFile {
        format: FORMAT.to_owned(),
        library: env!("CARGO_PKG_VERSION").to_owned(),
        task,
        target: TargetInfo {
            name: options.target.clone(),
            labels,
        },
        features: prepared.features,
        algorithm,
        metrics,
        training: Training {
            data: fingerprint.clone(),
            rows: prepared.rows as u64,
            seed: options.seed,
        },
        checks,
        encoder,
        learner,
    };
    model.validate()?;
    Ok(Trained { model, report })
}

fn primary_metric(prepared: &Prepared, options: &AutoOptions) -> MlResult<Metric> {
    if let Some(metric) = options.metric {
        if metric.task() != prepared.task() {
            let what = format!("the metric `{}` is not for this task", metric.name());
            return Err(MlError::training(
                what,
                "accuracy, f1, log_loss … are for classes, rmse, mae, r2 for numbers",
            ));
        }
        if metric == Metric::RocAuc && prepared.target.goal().outputs() != 2 {
            return Err(MlError::training(
                "roc_auc needs exactly two classes",
                "choose balanced_accuracy or log_loss",
            ));
        }
        return Ok(metric);
    }
    Ok(match &prepared.target {
        Target::Values(_) => Metric::Rmse,
        Target::Classes { of, labels } => {
            let mut counts = vec![0usize; labels.len()];
            of.iter().for_each(|&class| counts[class as usize] += 1);
            let rarest = counts.iter().min().copied().unwrap_or(0);
            // With rare classes, always answering the frequent one is accurate and useless.
            if rarest * labels.len() * 5 < of.len() {
                Metric::BalancedAccuracy
            } else {
                Metric::Accuracy
            }
        }
    })
}

fn compare(
    folds: &Folds<'_>,
    metric: Metric,
    width: &usize,
    deadline: Deadline,
    progress: &mut dyn FnMut(&str),
) -> MlResult<Vec<Tried>> {
    let prepared = folds.prepared;
    let candidates = Candidate::all(
        prepared.task(),
        prepared.rows,
        *width,
        prepared.target.goal().outputs(),
    );
    let mut tried = Vec::with_capacity(candidates.len());
    for (index, candidate) in candidates.into_iter().enumerate() {
        let began = Instant::now();
        // The baseline and the first real candidate are completed whatever they take: without
        // them there would be no model.
        let limit = if index < 2 { Deadline(None) } else { deadline };
        let name = candidate.name();
        let outcome = if limit.check().is_err() {
            None
        } else {
            folds.evaluate(candidate, limit)?.ok()
        };
        let evaluation = match outcome {
            Some(evaluation) => {
                progress(&format!(
                    "{name}: {} in {:.2} s",
                    shown(&evaluation, metric),
                    began.elapsed().as_secs_f64()
                ));
                Ok(evaluation)
            }
            None => {
                progress(&format!("{name}: skipped, the time budget is over"));
                Err("the time budget was over".to_owned())
            }
        };
        tried.push(Tried {
            name,
            members: vec![candidate],
            evaluation,
        });
    }
    Ok(tried)
}

fn shown(evaluation: &Evaluation, metric: Metric) -> String {
    let value = |name: &str| evaluation.metrics.get(name).copied().unwrap_or(f64::NAN);
    let name = metric.name();
    format!(
        "{name} {:.4} ± {:.4}",
        value(name),
        value(&format!("{name}_std"))
    )
}

/// Higher is better; candidates without a score come last.
fn rank(evaluation: &Result<Evaluation, String>, metric: Metric) -> f64 {
    let value = evaluation
        .as_ref()
        .ok()
        .and_then(|evaluation| evaluation.metrics.get(metric.name()).copied());
    match value {
        Some(value) if value.is_finite() => {
            if metric.higher_is_better() {
                value
            } else {
                -value
            }
        }
        _ => f64::NEG_INFINITY,
    }
}

/// Adds the mean of the best candidate of each family, which costs no further fits to judge.
fn blend(
    folds: &Folds<'_>,
    metric: Metric,
    tried: &mut Vec<Tried>,
    progress: &mut dyn FnMut(&str),
) {
    let mut best: Vec<usize> = Vec::new();
    for family in [Family::Linear, Family::Forest, Family::Boosted] {
        let of_family = (0..tried.len()).filter(|&index| {
            let kept = tried[index]
                .evaluation
                .as_ref()
                .is_ok_and(|evaluation| !evaluation.outputs.is_empty());
            kept && tried[index].members[0].family() == family
        });
        best.extend(of_family.rev().max_by(|&a, &b| {
            rank(&tried[a].evaluation, metric).total_cmp(&rank(&tried[b].evaluation, metric))
        }));
    }
    best.sort_by(|&a, &b| {
        rank(&tried[b].evaluation, metric).total_cmp(&rank(&tried[a].evaluation, metric))
    });
    let wanted: Vec<usize> = best.into_iter().take(2).collect();
    let parts: Vec<&Evaluation> = wanted
        .iter()
        .filter_map(|&index| tried[index].evaluation.as_ref().ok())
        .collect();
    if parts.len() < 2 {
        return;
    }
    let outputs = (0..folds.folds.len())
        .map(|fold| {
            let (one, other) = (&parts[0].outputs[fold], &parts[1].outputs[fold]);
            one.iter().zip(other).map(|(a, b)| (a + b) / 2.0).collect()
        })
        .collect();
    let evaluation = folds.judge(outputs);
    let members: Vec<Candidate> = wanted
        .iter()
        .map(|&index| tried[index].members[0])
        .collect();
    let name = format!(
        "blend of {}",
        members
            .iter()
            .map(|member| member.name())
            .collect::<Vec<_>>()
            .join(" and ")
    );
    progress(&format!("{name}: {}", shown(&evaluation, metric)));
    tried.push(Tried {
        name,
        members,
        evaluation: Ok(evaluation),
    });
}

/// The best by the metric; of equals, the one with the smaller loss; of equals, the simpler one,
/// which comes first.
fn choose(tried: &[Tried], metric: Metric) -> usize {
    let second = match metric.task() {
        Task::Classification => Metric::LogLoss,
        Task::Regression => Metric::Rmse,
    };
    let mut best = 0;
    for index in 1..tried.len() {
        let ahead =
            |metric| rank(&tried[index].evaluation, metric) - rank(&tried[best].evaluation, metric);
        let lead = ahead(metric);
        let tie = lead.abs() <= 1e-9;
        if (!tie && lead > 0.0) || (tie && ahead(second) > 1e-9) {
            best = index;
        }
    }
    best
}

fn refit(
    members: &[Candidate],
    matrix: &crate::learn::Matrix,
    prepared: &Prepared,
    seed: u64,
) -> MlResult<Learner> {
    let goal = prepared.target.goal();
    let mut fits = Vec::with_capacity(members.len());
    for member in members {
        let fit = member.fit(matrix, goal, seed, Deadline(None));
        fits.push(fit.map_err(|_| {
            MlError::Internal("a fit without a deadline ran out of time".to_owned())
        })?);
    }
    match fits.len() {
        1 => fits
            .pop()
            .ok_or_else(|| MlError::Internal("no fit".to_owned())),
        _ => Ok(Learner::Blend { members: fits }),
    }
}

/// Made-up rows (quantiles and categories, never rows of the data) with what the model says to
/// them. Whoever loads the model later checks that it still says so.
fn checks(prepared: &Prepared, encoder: &Encoder, learner: &Learner, outputs: usize) -> Vec<Check> {
    [2, 5, 8]
        .into_iter()
        .map(|decile| {
            let mut row = BTreeMap::new();
            let mut values = Vec::with_capacity(prepared.features.len());
            for feature in &prepared.features {
                let (value, shown) = match &feature.kind {
                    FeatureKind::Number => {
                        let number = feature
                            .summary
                            .as_ref()
                            .map_or(0.0, |summary| summary.deciles[decile]);
                        (Value::Number(number), serde_json::json!(number))
                    }
                    FeatureKind::Boolean => (
                        Value::Number(f64::from(u8::from(decile > 4))),
                        serde_json::json!(decile > 4),
                    ),
                    FeatureKind::Category { values } => {
                        let place = (values.len() - 1) * decile / 10;
                        (
                            Value::Category(place as u32),
                            serde_json::json!(values[place]),
                        )
                    }
                };
                values.push(value);
                row.insert(feature.name.clone(), shown);
            }
            let (mut numbers, mut out) = (Vec::new(), vec![0.0; outputs]);
            encoder.encode(&values, &mut numbers);
            learner.predict(&numbers, &mut out);
            Check { row, outputs: out }
        })
        .collect()
}
