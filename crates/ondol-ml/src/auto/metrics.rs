//! Metrics of predictions against the truth, with scikit-learn's definitions.

use super::Metric;
use super::prepare::Target;

/// The metrics of `outputs`, row after row, for the rows of `target`. A metric that these rows do
/// not define is left out.
pub(crate) fn measure(target: &Target, outputs: &[f64]) -> Vec<(Metric, f64)> {
    match target {
        Target::Values(values) => of_values(values, outputs),
        Target::Classes { of, labels } => of_classes(of, labels.len(), outputs),
    }
}

/// One metric; NaN when these rows do not define it.
pub(crate) fn one(metric: Metric, target: &Target, outputs: &[f64]) -> f64 {
    measure(target, outputs)
        .into_iter()
        .find(|(name, _)| *name == metric)
        .map_or(f64::NAN, |(_, value)| value)
}

fn of_values(truth: &[f64], predicted: &[f64]) -> Vec<(Metric, f64)> {
    let n = truth.len() as f64;
    let mean = truth.iter().sum::<f64>() / n;
    let squared: f64 = truth
        .iter()
        .zip(predicted)
        .map(|(t, p)| (t - p) * (t - p))
        .sum();
    let absolute: f64 = truth
        .iter()
        .zip(predicted)
        .map(|(t, p)| (t - p).abs())
        .sum();
    let spread: f64 = truth.iter().map(|t| (t - mean) * (t - mean)).sum();
    let mut out = vec![
        (Metric::Rmse, (squared / n).sqrt()),
        (Metric::Mae, absolute / n),
    ];
    if spread > 0.0 {
        out.push((Metric::R2, 1.0 - squared / spread));
    }
    out
}

/// The class with the highest probability; the first of equals.
pub(crate) fn best_class(probabilities: &[f64]) -> usize {
    let mut best = 0;
    for (class, value) in probabilities.iter().enumerate() {
        if *value > probabilities[best] {
            best = class;
        }
    }
    best
}

fn of_classes(truth: &[u32], classes: usize, outputs: &[f64]) -> Vec<(Metric, f64)> {
    let n = truth.len() as f64;
    let (mut right, mut given, mut due) = (
        vec![0.0f64; classes],
        vec![0.0f64; classes],
        vec![0.0f64; classes],
    );
    let mut loss = 0.0;
    for (&class, row) in truth.iter().zip(outputs.chunks_exact(classes)) {
        let predicted = best_class(row);
        given[predicted] += 1.0;
        due[class as usize] += 1.0;
        if predicted == class as usize {
            right[predicted] += 1.0;
        }
        loss -= row[class as usize].clamp(1e-15, 1.0).ln();
    }
    let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    // Classes that neither stand in these rows nor were predicted say nothing.
    let seen: Vec<usize> = (0..classes)
        .filter(|&c| given[c] > 0.0 || due[c] > 0.0)
        .collect();
    let mean = |value: &dyn Fn(usize) -> f64| {
        seen.iter().map(|&c| value(c)).sum::<f64>() / seen.len() as f64
    };
    let present: Vec<usize> = (0..classes).filter(|&c| due[c] > 0.0).collect();
    let balanced = present.iter().map(|&c| right[c] / due[c]).sum::<f64>() / present.len() as f64;
    let mut out = vec![
        (Metric::Accuracy, right.iter().sum::<f64>() / n),
        (Metric::BalancedAccuracy, balanced),
        (
            Metric::F1,
            mean(&|c| ratio(2.0 * right[c], given[c] + due[c])),
        ),
        (Metric::Precision, mean(&|c| ratio(right[c], given[c]))),
        (Metric::Recall, mean(&|c| ratio(right[c], due[c]))),
        (Metric::LogLoss, loss / n),
    ];
    if classes == 2 && due[0] > 0.0 && due[1] > 0.0 {
        out.push((Metric::RocAuc, roc_auc(truth, outputs, due[1], due[0])));
    }
    out
}

/// The rank-sum form, equal scores sharing their rank.
fn roc_auc(truth: &[u32], outputs: &[f64], positives: f64, negatives: f64) -> f64 {
    let mut order: Vec<usize> = (0..truth.len()).collect();
    order.sort_by(|&a, &b| outputs[a * 2 + 1].total_cmp(&outputs[b * 2 + 1]));
    let (mut ranks, mut at) = (0.0, 0);
    while at < order.len() {
        let score = outputs[order[at] * 2 + 1];
        let end = (at..order.len())
            .find(|&i| outputs[order[i] * 2 + 1] != score)
            .unwrap_or(order.len());
        let rank = (at + 1 + end) as f64 / 2.0;
        ranks += rank
            * order[at..end]
                .iter()
                .filter(|&&row| truth[row] == 1)
                .count() as f64;
        at = end;
    }
    (ranks - positives * (positives + 1.0) / 2.0) / (positives * negatives)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_file::Labels;

    fn value(metrics: &[(Metric, f64)], metric: Metric) -> f64 {
        metrics.iter().find(|(name, _)| *name == metric).unwrap().1
    }

    #[test]
    fn classes_match_scikit_learn() {
        // y = [0,1,2,2,1,0], predicted = [0,2,2,2,1,1]; numbers from sklearn.metrics 1.5.
        let labels = Labels::Text(vec!["a".into(), "b".into(), "c".into()]);
        let target = Target::Classes {
            of: vec![0, 1, 2, 2, 1, 0],
            labels,
        };
        let mut outputs = Vec::new();
        for class in [0, 2, 2, 2, 1, 1] {
            outputs.extend((0..3).map(|c| if c == class { 0.8 } else { 0.1 }));
        }
        let metrics = measure(&target, &outputs);
        let near = |metric, expected: f64| {
            assert!(
                (value(&metrics, metric) - expected).abs() < 1e-9,
                "{metric:?}"
            )
        };
        near(Metric::Accuracy, 4.0 / 6.0);
        near(Metric::BalancedAccuracy, (0.5 + 0.5 + 1.0) / 3.0);
        near(Metric::Precision, (1.0 + 0.5 + 2.0 / 3.0) / 3.0);
        near(Metric::Recall, 2.0 / 3.0);
        near(Metric::F1, (2.0 / 3.0 + 0.5 + 0.8) / 3.0);
        near(
            Metric::LogLoss,
            -(4.0 * 0.8f64.ln() + 2.0 * 0.1f64.ln()) / 6.0,
        );
        assert!(metrics.iter().all(|(metric, _)| *metric != Metric::RocAuc));
    }

    #[test]
    fn roc_auc_counts_ties_half() {
        let labels = Labels::Boolean(vec![false, true]);
        let target = Target::Classes {
            of: vec![0, 0, 1, 1],
            labels,
        };
        let scores = [0.1, 0.4, 0.35, 0.8];
        let outputs: Vec<f64> = scores.iter().flat_map(|p| [1.0 - p, *p]).collect();
        assert!((one(Metric::RocAuc, &target, &outputs) - 0.75).abs() < 1e-12);
        let outputs: Vec<f64> = [0.5; 8].to_vec();
        assert!((one(Metric::RocAuc, &target, &outputs) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn values_match_scikit_learn() {
        let metrics = measure(
            &Target::Values(vec![3.0, -0.5, 2.0, 7.0]),
            &[2.5, 0.0, 2.0, 8.0],
        );
        assert!((value(&metrics, Metric::R2) - 0.948_608_137_044_967_9).abs() < 1e-12);
        assert!((value(&metrics, Metric::Mae) - 0.5).abs() < 1e-12);
        assert!((value(&metrics, Metric::Rmse) - 0.375f64.sqrt()).abs() < 1e-12);
        assert!(one(Metric::R2, &Target::Values(vec![1.0, 1.0]), &[1.0, 1.0]).is_nan());
    }
}
