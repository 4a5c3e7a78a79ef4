//! What is tried, simplest first.

use super::Task;
use crate::learn::{
    BoostSettings, Deadline, ForestSettings, Goal, Learner, Matrix, OutOfTime, fit_boosted,
    fit_constant, fit_elastic_net, fit_forest, fit_logistic, fit_ridge,
};

/// A learner with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Candidate {
    Baseline,
    Logistic { c: f64 },
    Ridge { alpha: f64 },
    ElasticNet { strength: f64 },
    Forest { trees: usize },
    Boosted { rounds: usize, leaves: usize },
}

/// Candidates of one family are variations of another; a blend takes one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    None,
    Linear,
    Forest,
    Boosted,
}

impl Candidate {
    /// All that are worth trying for a task and a size.
    pub(crate) fn all(task: Task, rows: usize, width: usize, classes: usize) -> Vec<Self> {
        let mut all = vec![Self::Baseline];
        match task {
            Task::Classification => {
                all.extend([1.0, 0.1, 10.0].map(|c| Self::Logistic { c }));
                if width * 10 > rows {
                    all.push(Self::Logistic { c: 0.01 });
                }
            }
            Task::Regression => {
                all.extend([1.0, 10.0, 100.0].map(|alpha| Self::Ridge { alpha }));
                all.extend([0.01, 0.05].map(|strength| Self::ElasticNet { strength }));
            }
        }
        let forest = Self::Forest { trees: 100 };
        // One tree per class and round: beyond this the time goes further elsewhere.
        let boosted = (classes <= 20).then(|| {
            let (rounds, leaves) = if rows < 2_000 { (100, 8) } else { (300, 31) };
            Self::Boosted { rounds, leaves }
        });
        // What is likely to win comes first where the budget may not be enough for both.
        if rows > 20_000 {
            all.extend(boosted);
            all.push(forest);
        } else {
            all.push(forest);
            all.extend(boosted);
        }
        all
    }

    /// The name that people see.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Baseline => "baseline (always the same answer)".to_owned(),
            Self::Logistic { c } => format!("logistic regression (c = {c})"),
            Self::Ridge { alpha } => format!("ridge regression (alpha = {alpha})"),
            Self::ElasticNet { strength } => format!("elastic net (strength = {strength})"),
            Self::Forest { trees } => format!("random forest ({trees} trees)"),
            Self::Boosted { rounds, leaves } => {
                format!("gradient boosting (up to {rounds} rounds of {leaves} leaves)")
            }
        }
    }

    pub(crate) fn family(self) -> Family {
        match self {
            Self::Baseline => Family::None,
            Self::Logistic { .. } | Self::Ridge { .. } | Self::ElasticNet { .. } => Family::Linear,
            Self::Forest { .. } => Family::Forest,
            Self::Boosted { .. } => Family::Boosted,
        }
    }

    /// Trains it.
    pub(crate) fn fit(
        self,
        x: &Matrix,
        goal: Goal<'_>,
        seed: u64,
        deadline: Deadline,
    ) -> Result<Learner, OutOfTime> {
        match self {
            Self::Baseline => Ok(fit_constant(goal)),
            Self::Logistic { c } => fit_logistic(x, goal, c, deadline),
            Self::Ridge { alpha } => fit_ridge(x, goal, alpha, deadline),
            Self::ElasticNet { strength } => fit_elastic_net(x, goal, strength, 0.5, deadline),
            Self::Forest { trees } => fit_forest(x, goal, ForestSettings { trees, seed }, deadline),
            Self::Boosted { rounds, leaves } => fit_boosted(
                x,
                goal,
                BoostSettings {
                    rounds,
                    rate: 0.1,
                    leaves,
                    seed,
                },
                deadline,
            ),
        }
    }
}
