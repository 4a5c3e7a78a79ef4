//! The learners behind the built-in trainer.
//!
//! Written here rather than taken from a crate, because a model that is served must do four
//! things that no maintained crate does at once: give class probabilities, stop at a deadline,
//! be a function of data and seed alone, and be read back from a file that nobody has to trust.
//! The tests check the linear ones against smartcore.
//!
//! A learner maps a row of finite numbers to its outputs: a probability per class, or one value.

mod boost;
mod forest;
mod lbfgs;
mod linear;
mod matrix;
mod random;
mod tree;

use std::time::Instant;

use serde::{Deserialize, Serialize};

pub(crate) use boost::{BoostSettings, fit_boosted};
pub(crate) use forest::{ForestSettings, fit_forest};
pub(crate) use linear::{fit_elastic_net, fit_logistic, fit_ridge};
pub(crate) use matrix::Matrix;
pub(crate) use random::Random;

/// What a learner is trained towards.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal<'a> {
    /// Classes by number, below the count.
    Classes { of: &'a [u32], count: usize },
    /// Values.
    Values(&'a [f64]),
}

impl Goal<'_> {
    /// How many outputs a learner for this goal has.
    pub(crate) fn outputs(&self) -> usize {
        match self {
            Self::Classes { count, .. } => *count,
            Self::Values(_) => 1,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Classes { of, .. } => of.len(),
            Self::Values(values) => values.len(),
        }
    }
}

/// The time is over: the fit was abandoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfTime;

/// When a fit must stop, if ever.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deadline(pub(crate) Option<Instant>);

impl Deadline {
    pub(crate) fn check(self) -> Result<(), OutOfTime> {
        match self.0 {
            Some(end) if Instant::now() >= end => Err(OutOfTime),
            _ => Ok(()),
        }
    }
}

/// From the outputs of a linear function to those of the learner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Link {
    /// One number, the log-odds of the second of two classes.
    Sigmoid,
    /// One number per class, up to a common constant the log of its probability.
    Softmax,
    /// The value itself.
    Identity,
}

impl Link {
    /// How many numbers go in for so many outputs.
    pub(crate) fn inputs(self, outputs: usize) -> usize {
        match self {
            Self::Sigmoid | Self::Identity => 1,
            Self::Softmax => outputs,
        }
    }

    /// Turns the raw numbers at the front of `out` into outputs.
    pub(crate) fn apply(self, out: &mut [f64]) {
        match self {
            Self::Identity => {}
            Self::Sigmoid => {
                let p = sigmoid(out[0]);
                out[0] = 1.0 - p;
                out[1] = p;
            }
            Self::Softmax => softmax(out),
        }
    }
}

pub(crate) fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 {
        1.0 / (1.0 + (-z).exp())
    } else {
        let e = z.exp();
        e / (1.0 + e)
    }
}

pub(crate) fn softmax(values: &mut [f64]) {
    let top = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for value in values.iter_mut() {
        *value = (*value - top).exp();
        sum += *value;
    }
    for value in values.iter_mut() {
        *value /= sum;
    }
}

pub(crate) use boost::Boosted;
pub(crate) use forest::Forest;
pub(crate) use linear::Linear;

/// A trained learner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Learner {
    /// The same outputs for every row: what there is to beat.
    #[serde(rename_all = "kebab-case")]
    Constant {
        /// The outputs.
        outputs: Vec<f64>,
    },
    /// Linear in its inputs.
    Linear(Linear),
    /// The mean of many trees.
    Forest(Forest),
    /// The sum of many trees.
    Boosted(Boosted),
    /// The mean of other learners.
    Blend {
        /// The others; none of them a blend.
        members: Vec<Learner>,
    },
}

impl Learner {
    /// Writes the outputs for `row` into `out`.
    pub(crate) fn predict(&self, row: &[f64], out: &mut [f64]) {
        match self {
            Self::Constant { outputs } => out.copy_from_slice(outputs),
            Self::Linear(linear) => linear.predict(row, out),
            Self::Forest(forest) => forest.predict(row, out),
            Self::Boosted(boosted) => boosted.predict(row, out),
            Self::Blend { members } => {
                let mut part = vec![0.0; out.len()];
                out.fill(0.0);
                for member in members {
                    member.predict(row, &mut part);
                    for (sum, value) in out.iter_mut().zip(&part) {
                        *sum += value / members.len() as f64;
                    }
                }
            }
        }
    }

    /// About how many additions one prediction costs.
    pub(crate) fn work(&self) -> usize {
        match self {
            Self::Constant { .. } => 1,
            Self::Linear(linear) => linear.weights.len(),
            Self::Forest(forest) => forest.trees.len() * 10,
            Self::Boosted(boosted) => boosted.trees.len() * 10,
            Self::Blend { members } => members.iter().map(Self::work).sum(),
        }
    }

    /// Checks that predicting on rows of `width` into `outputs` cannot fail.
    pub(crate) fn validate(&self, width: usize, outputs: usize) -> Result<(), String> {
        match self {
            Self::Constant { outputs: values } => {
                if values.len() != outputs || values.iter().any(|value| !value.is_finite()) {
                    return Err("the constant has not the outputs of the model".to_owned());
                }
                Ok(())
            }
            Self::Linear(linear) => linear.validate(width, outputs),
            Self::Forest(forest) => forest.validate(width, outputs),
            Self::Boosted(boosted) => boosted.validate(width, outputs),
            Self::Blend { members } => {
                if members.is_empty() || members.len() > 8 {
                    return Err("a blend has 1 to 8 members".to_owned());
                }
                members.iter().try_for_each(|member| match member {
                    Self::Blend { .. } => Err("a blend within a blend".to_owned()),
                    member => member.validate(width, outputs),
                })
            }
        }
    }
}

/// The learner that knows nothing but the goal: class shares, or the mean.
pub(crate) fn fit_constant(goal: Goal<'_>) -> Learner {
    let outputs = match goal {
        Goal::Classes { of, count } => {
            let mut shares = vec![0.0; count];
            for &class in of {
                shares[class as usize] += 1.0 / of.len() as f64;
            }
            shares
        }
        Goal::Values(values) => vec![values.iter().sum::<f64>() / values.len() as f64],
    };
    Learner::Constant { outputs }
}

#[cfg(test)]
mod tests;
