//! Cross-validation: every candidate on the same folds, each prepared without its test rows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::candidates::Candidate;
use super::encode::Encoder;
use super::metrics::measure;
use super::prepare::{Prepared, Target};
use super::{Metric, folds};
use crate::error::{MlError, MlResult};
use crate::learn::{Deadline, Matrix, OutOfTime};

/// Encoded folds with more numbers than this together are encoded again for each candidate.
const KEEP_NUMBERS: usize = 20_000_000;
/// Predictions of a candidate are kept for blending up to this many numbers.
const KEEP_OUTPUTS: usize = 4_000_000;

/// One split into rows to learn from and rows to test on.
pub(crate) struct Fold {
    pub(crate) train: Vec<u32>,
    pub(crate) test: Vec<u32>,
}

/// A fold as numbers.
pub(crate) struct Encoded {
    pub(crate) encoder: Encoder,
    pub(crate) train: Matrix,
    pub(crate) train_target: Target,
    pub(crate) test: Matrix,
}

/// The folds of a training.
pub(crate) struct Folds<'a> {
    pub(crate) prepared: &'a Prepared,
    pub(crate) folds: Vec<Fold>,
    kept: Vec<OnceLock<Arc<Encoded>>>,
    keep: bool,
    seed: u64,
    threads: usize,
}

/// How a candidate did.
#[derive(Clone, Debug)]
pub(crate) struct Evaluation {
    /// Mean and `_std` of each metric over the folds.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// For each fold, the outputs for its test rows; empty when too many to keep.
    pub(crate) outputs: Vec<Vec<f64>>,
}

impl<'a> Folds<'a> {
    pub(crate) fn new(
        prepared: &'a Prepared,
        asked: Option<usize>,
        width: usize,
        seed: u64,
        threads: usize,
    ) -> Self {
        let count = folds::count(&prepared.target, asked);
        let of = folds::assign(&prepared.target, count, seed);
        let folds: Vec<Fold> = (0..count as u8)
            .map(|fold| {
                let (test, train) =
                    (0..prepared.rows as u32).partition(|&row| of[row as usize] == fold);
                Fold { train, test }
            })
            .collect();
        let keep = prepared.rows.saturating_mul(width).saturating_mul(count) <= KEEP_NUMBERS;
        let kept = folds.iter().map(|_| OnceLock::new()).collect();
        Self {
            prepared,
            folds,
            kept,
            keep,
            seed,
            threads,
        }
    }

    /// A fold as numbers.
    pub(crate) fn encoded(&self, fold: usize) -> Arc<Encoded> {
        let make = || {
            let Fold { train, test } = &self.folds[fold];
            let (encoder, matrix) = Encoder::fit(
                &self.prepared.columns,
                &self.prepared.target,
                train,
                self.seed,
            );
            Arc::new(Encoded {
                test: encoder.encode_rows(&self.prepared.columns, test),
                encoder,
                train: matrix,
                train_target: self.prepared.target.select(train),
            })
        };
        if self.keep {
            self.kept[fold].get_or_init(make).clone()
        } else {
            make()
        }
    }

    /// Evaluates a candidate on every fold.
    pub(crate) fn evaluate(
        &self,
        candidate: Candidate,
        deadline: Deadline,
    ) -> MlResult<Result<Evaluation, OutOfTime>> {
        let outcomes = in_parallel(self.folds.len(), self.threads, |fold| {
            let encoded = self.encoded(fold);
            let goal = encoded.train_target.goal();
            let learner = candidate.fit(&encoded.train, goal, self.seed, deadline)?;
            let width = goal.outputs();
            let mut outputs = vec![0.0; encoded.test.rows() * width];
            for (row, out) in outputs.chunks_exact_mut(width).enumerate() {
                learner.predict(encoded.test.row(row), out);
            }
            Ok(outputs)
        })?;
        let outputs: Result<Vec<Vec<f64>>, OutOfTime> = outcomes.into_iter().collect();
        Ok(outputs.map(|outputs| self.judge(outputs)))
    }

    /// The metrics of outputs for the test rows of each fold.
    pub(crate) fn judge(&self, outputs: Vec<Vec<f64>>) -> Evaluation {
        let mut values: BTreeMap<Metric, Vec<f64>> = BTreeMap::new();
        for (fold, outputs) in self.folds.iter().zip(&outputs) {
            for (metric, value) in measure(&self.prepared.target.select(&fold.test), outputs) {
                values.entry(metric).or_default().push(value);
            }
        }
        let mut metrics = BTreeMap::new();
        for (metric, values) in values {
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let variance = values
                .iter()
                .map(|value| (value - mean) * (value - mean))
                .sum::<f64>()
                / n;
            // A mean of folds that is 0.96 on paper must not miss `>= 0.96` by rounding.
            let rounded = |value: f64| (value * 1e12).round() / 1e12;
            metrics.insert(metric.name().to_owned(), rounded(mean));
            metrics.insert(format!("{}_std", metric.name()), rounded(variance.sqrt()));
        }
        let kept: usize = outputs.iter().map(Vec::len).sum();
        Evaluation {
            metrics,
            outputs: if kept <= KEEP_OUTPUTS {
                outputs
            } else {
                Vec::new()
            },
        }
    }
}

/// Runs `work` for 0 to `count`, on some threads, and returns the results in order.
pub(crate) fn in_parallel<T: Send>(
    count: usize,
    threads: usize,
    work: impl Fn(usize) -> T + Sync,
) -> MlResult<Vec<T>> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<T>>> = (0..count).map(|_| Mutex::new(None)).collect();
    let run = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(slot) = results.get(index) else {
                break;
            };
            let result = work(index);
            *slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.clamp(1, count.max(1)) {
            scope.spawn(run);
        }
        run();
    });
    results
        .into_iter()
        .map(|slot| {
            slot.into_inner()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
        })
        .map(|result| {
            result.ok_or_else(|| MlError::Internal("a training thread ended early".to_owned()))
        })
        .collect()
}
