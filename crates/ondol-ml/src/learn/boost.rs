//! Gradient boosting: the sum of small trees, each grown towards what the others still miss.

use serde::{Deserialize, Serialize};

use super::matrix::Matrix;
use super::random::Random;
use super::tree::{Binned, Growth, Signal, Tree, grow};
use super::{Deadline, Goal, Learner, Link, OutOfTime};

/// Rounds of trees, one per raw number and round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Boosted {
    pub(crate) link: Link,
    /// The raw numbers before the first round.
    pub(crate) start: Vec<f64>,
    /// Round after round, a tree per raw number.
    pub(crate) trees: Vec<Tree>,
}

impl Boosted {
    fn raw(&self, row: &[f64], out: &mut [f64]) {
        let raws = self.start.len();
        out[..raws].copy_from_slice(&self.start);
        for (index, tree) in self.trees.iter().enumerate() {
            out[index % raws] += f64::from(tree.values[tree.leaf(row)]);
        }
    }

    pub(super) fn predict(&self, row: &[f64], out: &mut [f64]) {
        self.raw(row, out);
        self.link.apply(out);
    }

    pub(super) fn validate(&self, width: usize, outputs: usize) -> Result<(), String> {
        let raws = self.link.inputs(outputs);
        let fits = match self.link {
            Link::Sigmoid => outputs == 2,
            Link::Identity => outputs == 1,
            Link::Softmax => outputs >= 2,
        };
        if !fits || self.start.len() != raws || !self.trees.len().is_multiple_of(raws) {
            return Err("the boosted trees have not the shape of the model".to_owned());
        }
        if self.start.iter().any(|value| !value.is_finite()) {
            return Err("the start of boosting is not finite".to_owned());
        }
        self.trees
            .iter()
            .try_for_each(|tree| tree.validate(width, 1))
    }
}

/// How trees are added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BoostSettings {
    /// Most rounds.
    pub(crate) rounds: usize,
    /// The share of each tree's answer that is taken.
    pub(crate) rate: f64,
    /// Most leaves of a tree.
    pub(crate) leaves: usize,
    pub(crate) seed: u64,
}

/// With fewer rows, none is held back to see when to stop.
const EARLY_STOP_ROWS: usize = 2_000;
const PATIENCE: usize = 15;

/// Adds trees until the rounds are over or the rows held back get no better.
pub(crate) fn fit_boosted(
    x: &Matrix,
    goal: Goal<'_>,
    settings: BoostSettings,
    deadline: Deadline,
) -> Result<Learner, OutOfTime> {
    let (n, outputs) = (x.rows(), goal.outputs());
    let link = match goal {
        Goal::Values(_) => Link::Identity,
        Goal::Classes { count: 2, .. } => Link::Sigmoid,
        Goal::Classes { .. } => Link::Softmax,
    };
    let raws = link.inputs(outputs);
    let binned = Binned::new(x);
    let mut order: Vec<u32> = (0..n as u32).collect();
    Random::new(settings.seed, 7).shuffle(&mut order);
    let held = if n >= EARLY_STOP_ROWS { n / 10 } else { 0 };
    let (held, used) = order.split_at(held);
    let start = start(goal, link, raws);
    let mut raw: Vec<f64> = start.iter().copied().cycle().take(n * raws).collect();
    let mut boosted = Boosted {
        link,
        start,
        trees: Vec::new(),
    };
    let mut gradients = vec![0.0; n];
    let mut hessians = vec![0.0; n];
    let growth = Growth {
        leaves: settings.leaves,
        depth: 8,
        leaf_rows: (used.len() / 50).clamp(3, 20),
        lambda: 1.0,
        tried: x.width,
    };
    // The unit of λ is a hessian of 1, so values are brought to unit variance for it.
    let spread = match goal {
        Goal::Values(values) => deviation(values),
        Goal::Classes { .. } => 1.0,
    };
    let (mut best_loss, mut best_trees) = (f64::INFINITY, 0);
    let mut random = Random::new(settings.seed, 8);
    let mut outputs_of = vec![0.0; n * outputs];
    for round in 0..settings.rounds {
        for (row, out) in outputs_of.chunks_exact_mut(outputs).enumerate() {
            out[..raws].copy_from_slice(&raw[row * raws..(row + 1) * raws]);
            link.apply(out);
        }
        let mut grown = Vec::with_capacity(raws);
        for output in 0..raws {
            deadline.check()?;
            // With two classes, the one raw number speaks for the second.
            let class = if raws == 1 { 1 } else { output };
            for (row, out) in outputs_of.chunks_exact(outputs).enumerate() {
                (gradients[row], hessians[row]) = match goal {
                    Goal::Values(values) => ((values[row] - out[0]) / spread, 1.0),
                    Goal::Classes { of, .. } => {
                        let (p, y) = (out[class], f64::from(of[row] as usize == class));
                        (y - p, (p * (1.0 - p)).max(1e-6))
                    }
                };
            }
            let signal = Signal::Newton {
                gradients: &gradients,
                weights: &hessians,
            };
            let leaf = |sums: &[f64], _| {
                vec![(settings.rate * spread * sums[0] / (sums[1] + growth.lambda)) as f32]
            };
            let mut members = used.to_vec();
            grown.push(grow(
                &binned,
                &signal,
                &mut members,
                &growth,
                &mut random,
                deadline,
                leaf,
            )?);
        }
        let stumps = grown.iter().all(|tree| tree.feature.len() == 1);
        for (output, tree) in grown.iter().enumerate() {
            for row in 0..n {
                raw[row * raws + output] += f64::from(tree.values[tree.leaf(x.row(row))]);
            }
        }
        boosted.trees.extend(grown);
        if held.is_empty() {
            best_trees = boosted.trees.len();
        } else {
            let loss = loss(goal, link, raws, &raw, held);
            if loss < best_loss * (1.0 - 1e-4) {
                (best_loss, best_trees) = (loss, boosted.trees.len());
            } else if (round + 1) * raws >= best_trees + PATIENCE * raws {
                break;
            }
        }
        if stumps {
            break;
        }
    }
    boosted.trees.truncate(best_trees);
    Ok(Learner::Boosted(boosted))
}

fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values
        .iter()
        .map(|value| (value - mean) * (value - mean))
        .sum::<f64>()
        / values.len() as f64;
    if variance > 0.0 { variance.sqrt() } else { 1.0 }
}

fn start(goal: Goal<'_>, link: Link, raws: usize) -> Vec<f64> {
    match goal {
        Goal::Values(values) => vec![values.iter().sum::<f64>() / values.len() as f64],
        Goal::Classes { of, count } => {
            // One imagined row per class keeps the logarithm of an absent class finite.
            let mut counts = vec![1.0; count];
            of.iter().for_each(|&class| counts[class as usize] += 1.0);
            if link == Link::Sigmoid {
                vec![f64::ln(counts[1] / counts[0])]
            } else {
                let total: f64 = counts.iter().sum();
                counts
                    .iter()
                    .take(raws)
                    .map(|count| f64::ln(count / total))
                    .collect()
            }
        }
    }
}

fn loss(goal: Goal<'_>, link: Link, raws: usize, raw: &[f64], rows: &[u32]) -> f64 {
    let mut outputs = vec![0.0; goal.outputs()];
    let mut sum = 0.0;
    for &row in rows {
        let row = row as usize;
        outputs[..raws].copy_from_slice(&raw[row * raws..(row + 1) * raws]);
        link.apply(&mut outputs);
        sum += match goal {
            Goal::Values(values) => (values[row] - outputs[0]).powi(2),
            Goal::Classes { of, .. } => -outputs[of[row] as usize].max(1e-15).ln(),
        };
    }
    sum / rows.len() as f64
}
