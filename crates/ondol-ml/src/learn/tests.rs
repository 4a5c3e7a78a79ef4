use smartcore::linalg::basic::arrays::Array;
use smartcore::linalg::basic::matrix::DenseMatrix;
use smartcore::linear::logistic_regression::{LogisticRegression, LogisticRegressionParameters};
use smartcore::linear::ridge_regression::{RidgeRegression, RidgeRegressionParameters};

use super::*;

const NEVER: Deadline = Deadline(None);

/// Points around two centres per class, and a linear target with noise.
fn sample(n: usize, classes: usize, seed: u64) -> (Matrix, Vec<u32>, Vec<f64>) {
    let mut random = Random::new(seed, 0);
    let mut noise = || {
        (0..12)
            .map(|_| random.next() as f64 / u64::MAX as f64)
            .sum::<f64>()
            - 6.0
    };
    let (mut rows, mut labels, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..n {
        let class = i % classes;
        let row: Vec<f64> = (0..4)
            .map(|j| noise() + if j == class % 4 { 2.0 } else { 0.0 })
            .collect();
        values.push(3.0 * row[0] - 2.0 * row[1] + 0.1 * noise() + 5.0);
        labels.push(class as u32);
        rows.push(row);
    }
    (Matrix::from_rows(&rows), labels, values)
}

fn dense(x: &Matrix) -> DenseMatrix<f64> {
    DenseMatrix::new(x.rows(), x.width, x.data.clone(), false).unwrap()
}

fn accuracy(learner: &Learner, x: &Matrix, labels: &[u32], classes: usize) -> f64 {
    let mut out = vec![0.0; classes];
    let right = (0..x.rows()).filter(|&row| {
        learner.predict(x.row(row), &mut out);
        assert!(
            (out.iter().sum::<f64>() - 1.0).abs() < 1e-5,
            "probabilities sum to one: {out:?}"
        );
        let best = (0..classes)
            .max_by(|&a, &b| out[a].total_cmp(&out[b]))
            .unwrap();
        best as u32 == labels[row]
    });
    right.count() as f64 / labels.len() as f64
}

#[test]
fn logistic_regression_agrees_with_smartcore() {
    let (x, labels, _) = sample(200, 2, 1);
    let goal = Goal::Classes {
        of: &labels,
        count: 2,
    };
    let Learner::Linear(ours) = fit_logistic(&x, goal, 2.0, NEVER).unwrap() else {
        panic!("linear")
    };
    let y: Vec<u32> = labels.clone();
    let theirs = LogisticRegression::fit(
        &dense(&x),
        &y,
        LogisticRegressionParameters::default().with_alpha(0.5),
    )
    .unwrap();
    for (column, weight) in ours.weights.iter().enumerate() {
        let other = theirs.coefficients().get((0, column));
        assert!((weight - other).abs() < 1e-3, "{weight} {other}");
    }
    assert!((ours.bias[0] - theirs.intercept().get((0, 0))).abs() < 1e-3);
}

#[test]
fn ridge_agrees_with_smartcore() {
    let (x, _, values) = sample(120, 2, 2);
    let Learner::Linear(ours) = fit_ridge(&x, Goal::Values(&values), 10.0, NEVER).unwrap() else {
        panic!("linear")
    };
    // smartcore penalises around raw columns, so both see the same centred data.
    let means: Vec<f64> = (0..4)
        .map(|j| (0..120).map(|i| x.at(i, j)).sum::<f64>() / 120.0)
        .collect();
    let centred = Matrix {
        width: 4,
        data: x
            .data
            .iter()
            .enumerate()
            .map(|(at, value)| value - means[at % 4])
            .collect(),
    };
    let mean = values.iter().sum::<f64>() / 120.0;
    let y: Vec<f64> = values.iter().map(|value| value - mean).collect();
    let settings = RidgeRegressionParameters::default()
        .with_alpha(10.0)
        .with_normalize(false);
    let theirs = RidgeRegression::fit(&dense(&centred), &y, settings).unwrap();
    for (column, weight) in ours.weights.iter().enumerate() {
        let other = theirs.coefficients().get((column, 0));
        assert!((weight - other).abs() < 1e-6, "{weight} {other}");
    }
}

#[test]
fn elastic_net_satisfies_its_optimality_conditions() {
    let (x, _, values) = sample(150, 2, 3);
    let goal = Goal::Values(&values);
    let Learner::Linear(none) = fit_elastic_net(&x, goal, 1.0 + 1e-9, 0.5, NEVER).unwrap() else {
        panic!("linear")
    };
    assert!(
        none.weights.iter().all(|weight| *weight == 0.0),
        "the full strength leaves no weight"
    );
    let (strength, ratio) = (0.1, 0.5);
    let Learner::Linear(net) = fit_elastic_net(&x, goal, strength, ratio, NEVER).unwrap() else {
        panic!("linear")
    };
    let n = x.rows() as f64;
    let mut out = [0.0];
    let residuals: Vec<f64> = (0..x.rows())
        .map(|row| {
            net.predict(x.row(row), &mut out);
            values[row] - out[0]
        })
        .collect();
    let mean = values.iter().sum::<f64>() / n;
    let correlation = |target: &[f64], j: usize| -> f64 {
        let centre = (0..x.rows()).map(|i| x.at(i, j)).sum::<f64>() / n;
        (0..x.rows())
            .map(|i| (x.at(i, j) - centre) * target[i])
            .sum::<f64>()
            / n
    };
    let centred: Vec<f64> = values.iter().map(|value| value - mean).collect();
    let top = (0..4)
        .map(|j| correlation(&centred, j).abs())
        .fold(0.0, f64::max)
        / ratio;
    for (j, weight) in net.weights.iter().enumerate() {
        let pull = correlation(&residuals, j) - strength * top * (1.0 - ratio) * weight;
        if *weight == 0.0 {
            assert!(pull.abs() <= strength * top * ratio + 1e-6);
        } else {
            assert!((pull - strength * top * ratio * weight.signum()).abs() < 1e-6);
        }
    }
}

#[test]
fn every_classifier_learns_three_classes() {
    let (x, labels, _) = sample(600, 3, 4);
    let (fresh, truth, _) = sample(600, 3, 5);
    let goal = Goal::Classes {
        of: &labels,
        count: 3,
    };
    let forest = fit_forest(&x, goal, ForestSettings { trees: 50, seed: 1 }, NEVER).unwrap();
    let settings = BoostSettings {
        rounds: 60,
        rate: 0.1,
        leaves: 15,
        seed: 1,
    };
    let boosted = fit_boosted(&x, goal, settings, NEVER).unwrap();
    let logistic = fit_logistic(&x, goal, 1.0, NEVER).unwrap();
    for learner in [&logistic, &forest, &boosted] {
        assert_eq!(learner.validate(4, 3), Ok(()));
        let score = accuracy(learner, &fresh, &truth, 3);
        assert!(score > 0.80, "{score}");
    }
    let blend = Learner::Blend {
        members: vec![logistic, forest, boosted],
    };
    assert_eq!(blend.validate(4, 3), Ok(()));
    assert!(accuracy(&blend, &fresh, &truth, 3) > 0.80);
    assert!(
        Learner::Blend {
            members: vec![blend]
        }
        .validate(4, 3)
        .is_err()
    );
}

#[test]
fn every_regressor_learns_a_slope() {
    let (x, _, values) = sample(3_000, 2, 6);
    let (fresh, _, truth) = sample(300, 2, 7);
    let goal = Goal::Values(&values);
    let mean = truth.iter().sum::<f64>() / truth.len() as f64;
    let spread: f64 = truth.iter().map(|value| (value - mean).powi(2)).sum();
    let settings = BoostSettings {
        rounds: 200,
        rate: 0.1,
        leaves: 15,
        seed: 1,
    };
    for learner in [
        fit_ridge(&x, goal, 1.0, NEVER).unwrap(),
        fit_forest(&x, goal, ForestSettings { trees: 50, seed: 1 }, NEVER).unwrap(),
        fit_boosted(&x, goal, settings, NEVER).unwrap(),
    ] {
        assert_eq!(learner.validate(4, 1), Ok(()));
        let mut out = [0.0];
        let error: f64 = (0..fresh.rows())
            .map(|row| {
                learner.predict(fresh.row(row), &mut out);
                (truth[row] - out[0]).powi(2)
            })
            .sum();
        assert!(1.0 - error / spread > 0.9, "{}", 1.0 - error / spread);
    }
}

#[test]
fn fits_are_functions_of_data_and_seed() {
    let (x, labels, _) = sample(300, 3, 8);
    let goal = Goal::Classes {
        of: &labels,
        count: 3,
    };
    let fit = |seed| fit_forest(&x, goal, ForestSettings { trees: 5, seed }, NEVER).unwrap();
    assert_eq!(fit(1), fit(1));
    assert_ne!(fit(1), fit(2));
}

#[test]
fn a_deadline_ends_a_fit() {
    let (x, labels, _) = sample(300, 3, 9);
    let goal = Goal::Classes {
        of: &labels,
        count: 3,
    };
    let over = Deadline(Some(Instant::now()));
    assert_eq!(fit_logistic(&x, goal, 1.0, over).unwrap_err(), OutOfTime);
    assert_eq!(
        fit_forest(&x, goal, ForestSettings { trees: 5, seed: 1 }, over).unwrap_err(),
        OutOfTime
    );
}

#[test]
fn more_distinct_values_than_bins_still_split() {
    let rows: Vec<Vec<f64>> = (0..2_000).map(|i| vec![f64::from(i)]).collect();
    let values: Vec<f64> = (0..2_000)
        .map(|i| if i < 1_234 { 0.0 } else { 1.0 })
        .collect();
    let x = Matrix::from_rows(&rows);
    let forest = fit_forest(
        &x,
        Goal::Values(&values),
        ForestSettings { trees: 10, seed: 3 },
        NEVER,
    )
    .unwrap();
    let mut out = [0.0];
    forest.predict(&[100.0], &mut out);
    assert!(out[0] < 0.01);
    forest.predict(&[1_900.0], &mut out);
    assert!(out[0] > 0.99);
}
