//! How much each column matters: how much worse the model becomes on rows it was not trained on
//! when the column is shuffled among them.

use super::candidates::Candidate;
use super::encode::value_at;
use super::evaluate::{Folds, in_parallel};
use super::metrics::one;
use super::{Importance, Metric};
use crate::error::MlResult;
use crate::learn::{Deadline, Learner, Random};

const MAX_FEATURES: usize = 200;
const MAX_TEST_ROWS: usize = 1_000;
/// With fewer rows than this, the measurement would say nothing.
const MIN_TEST_ROWS: usize = 20;
const REPETITIONS: usize = 3;
/// Additions that all predictions may cost: a second or two. Counted rather than timed, because
/// the report has to be the same each time.
const WORK: usize = 1_000_000_000;

/// The columns by importance to the mean of `members`, most important first. None when there are
/// too many columns, or predictions are too dear: `work` is what one costs.
pub(crate) fn importance(
    folds: &Folds<'_>,
    members: &[Candidate],
    metric: Metric,
    seed: u64,
    threads: usize,
    work: usize,
) -> MlResult<Vec<Importance>> {
    let prepared = folds.prepared;
    let features = prepared.features.len();
    if features > MAX_FEATURES {
        return Ok(Vec::new());
    }
    // With enough rows, one fold says as much as all.
    let used = if prepared.rows <= 2_000 && work <= 3_000 {
        folds.folds.len()
    } else {
        1
    };
    let rows = (WORK / (work * features * REPETITIONS * used).max(1)).min(MAX_TEST_ROWS);
    if rows < MIN_TEST_ROWS {
        return Ok(Vec::new());
    }
    let sign = if metric.higher_is_better() { 1.0 } else { -1.0 };
    let outcomes = in_parallel(used, threads, |fold| {
        let encoded = folds.encoded(fold);
        let goal = encoded.train_target.goal();
        let fits: Result<Vec<Learner>, _> = members
            .iter()
            .map(|member| member.fit(&encoded.train, goal, seed, Deadline(None)))
            .collect();
        let Ok(fits) = fits else { return Vec::new() };
        let learner = Learner::Blend { members: fits };
        let test = &folds.folds[fold].test;
        let test = &test[..test.len().min(rows)];
        let target = prepared.target.select(test);
        let outputs = goal.outputs();
        let score = |shuffled: Option<(usize, &[u32])>| {
            let mut predicted = vec![0.0; test.len() * outputs];
            let (mut values, mut numbers) = (
                Vec::with_capacity(features),
                Vec::with_capacity(encoded.encoder.width()),
            );
            for (at, (&row, out)) in test
                .iter()
                .zip(predicted.chunks_exact_mut(outputs))
                .enumerate()
            {
                values.clear();
                numbers.clear();
                for (feature, column) in prepared.columns.iter().enumerate() {
                    let row = match shuffled {
                        Some((changed, order)) if changed == feature => order[at],
                        _ => row,
                    };
                    values.push(value_at(column, row));
                }
                encoded.encoder.encode(&values, &mut numbers);
                learner.predict(&numbers, out);
            }
            one(metric, &target, &predicted)
        };
        let base = score(None);
        let mut drops = vec![Vec::with_capacity(REPETITIONS); features];
        for (feature, drops) in drops.iter_mut().enumerate() {
            for repetition in 0..REPETITIONS {
                let mut order = test.to_vec();
                Random::new(
                    seed,
                    (90_000 + fold * 1_000 + feature) as u64 * 10 + repetition as u64,
                )
                .shuffle(&mut order);
                let drop = sign * (base - score(Some((feature, &order))));
                if drop.is_finite() {
                    drops.push(drop);
                }
            }
        }
        drops
    })?;
    if outcomes.iter().any(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let mut all: Vec<Importance> = (0..features)
        .map(|feature| {
            let drops: Vec<f64> = outcomes
                .iter()
                .flat_map(|fold| fold[feature].iter().copied())
                .collect();
            let n = drops.len().max(1) as f64;
            let mean = drops.iter().sum::<f64>() / n;
            let variance = drops
                .iter()
                .map(|drop| (drop - mean) * (drop - mean))
                .sum::<f64>()
                / n;
            Importance {
                feature: prepared.features[feature].name.clone(),
                mean,
                std: variance.sqrt(),
            }
        })
        .collect();
    all.sort_by(|a, b| b.mean.total_cmp(&a.mean));
    Ok(all)
}
