//! Random forests: the mean of trees, each grown on a bootstrap sample with a few inputs tried
//! at every split.

use serde::{Deserialize, Serialize};

use super::matrix::Matrix;
use super::random::Random;
use super::tree::{Binned, Growth, Signal, Tree, grow};
use super::{Deadline, Goal, Learner, OutOfTime};

/// Trees whose leaves hold outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forest {
    /// What is added to the mean of the trees: the leaves hold differences from it, so that
    /// their rounding is relative to the spread of the target and not to its size.
    pub(crate) base: Vec<f64>,
    pub(crate) trees: Vec<Tree>,
}

impl Forest {
    pub(super) fn predict(&self, row: &[f64], out: &mut [f64]) {
        out.fill(0.0);
        for tree in &self.trees {
            let leaf = tree.leaf(row) * out.len();
            for (sum, value) in out.iter_mut().zip(&tree.values[leaf..]) {
                *sum += f64::from(*value);
            }
        }
        for (sum, base) in out.iter_mut().zip(&self.base) {
            *sum = base + *sum / self.trees.len() as f64;
        }
    }

    pub(super) fn validate(&self, width: usize, outputs: usize) -> Result<(), String> {
        if self.trees.is_empty()
            || self.base.len() != outputs
            || self.base.iter().any(|value| !value.is_finite())
        {
            return Err("a forest without trees, or with a base of another shape".to_owned());
        }
        self.trees
            .iter()
            .try_for_each(|tree| tree.validate(width, outputs))
    }
}

/// How a forest is grown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForestSettings {
    pub(crate) trees: usize,
    pub(crate) seed: u64,
}

/// Numbers that all trees of a forest may hold together: keeps model files small.
const MAX_NUMBERS: usize = 2_000_000;

/// Grows a forest.
pub(crate) fn fit_forest(
    x: &Matrix,
    goal: Goal<'_>,
    settings: ForestSettings,
    deadline: Deadline,
) -> Result<Learner, OutOfTime> {
    let (n, outputs) = (x.rows(), goal.outputs());
    let binned = Binned::new(x);
    let base = match goal {
        Goal::Classes { .. } => vec![0.0; outputs],
        Goal::Values(values) => vec![values.iter().sum::<f64>() / n as f64],
    };
    let tried = match goal {
        Goal::Classes { .. } => (x.width as f64).sqrt().ceil() as usize,
        Goal::Values(_) => x.width.div_ceil(3),
    };
    let leaf_rows = (settings.trees * n * (8 + outputs))
        .div_ceil(MAX_NUMBERS)
        .max(match goal {
            Goal::Classes { .. } => 1,
            Goal::Values(_) => 2,
        });
    let growth = Growth {
        leaves: usize::MAX,
        depth: 40,
        leaf_rows,
        lambda: 0.0,
        tried: tried.max(1),
    };
    let weights = vec![1.0; n];
    let gradients: Vec<f64> = match goal {
        Goal::Classes { .. } => Vec::new(),
        Goal::Values(values) => values.iter().map(|value| value - base[0]).collect(),
    };
    let signal = match goal {
        Goal::Classes { of, count } => Signal::Classes { of, count },
        Goal::Values(_) => Signal::Newton {
            gradients: &gradients,
            weights: &weights,
        },
    };
    let leaf = |sums: &[f64], rows: f64| match goal {
        Goal::Classes { .. } => sums.iter().map(|sum| (sum / rows) as f32).collect(),
        Goal::Values(_) => vec![(sums[0] / rows) as f32],
    };
    let mut trees = Vec::with_capacity(settings.trees);
    for number in 0..settings.trees {
        let mut random = Random::new(settings.seed, 1_000 + number as u64);
        let mut members: Vec<u32> = (0..n).map(|_| random.below(n) as u32).collect();
        trees.push(grow(
            &binned,
            &signal,
            &mut members,
            &growth,
            &mut random,
            deadline,
            leaf,
        )?);
    }
    Ok(Learner::Forest(Forest { base, trees }))
}
