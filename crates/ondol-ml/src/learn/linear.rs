//! Logistic regression, ridge and elastic net. Inputs are expected to be standardised.

use serde::{Deserialize, Serialize};

use super::lbfgs::minimize;
use super::matrix::{Matrix, dot};
use super::{Deadline, Goal, Learner, Link, OutOfTime, sigmoid, softmax};

/// A linear function and its link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Linear {
    /// From raw numbers to outputs.
    pub(crate) link: Link,
    /// For each raw number, a weight per input.
    pub(crate) weights: Vec<f64>,
    /// For each raw number, its value at zero.
    pub(crate) bias: Vec<f64>,
}

impl Linear {
    pub(super) fn predict(&self, row: &[f64], out: &mut [f64]) {
        for ((raw, weights), bias) in out
            .iter_mut()
            .zip(self.weights.chunks_exact(row.len().max(1)))
            .zip(&self.bias)
        {
            *raw = dot(weights, row) + bias;
        }
        self.link.apply(out);
    }

    pub(super) fn validate(&self, width: usize, outputs: usize) -> Result<(), String> {
        let raws = self.link.inputs(outputs);
        let fits = match self.link {
            Link::Sigmoid => outputs == 2,
            Link::Identity => outputs == 1,
            Link::Softmax => outputs >= 2,
        };
        if !fits || width == 0 || self.bias.len() != raws || self.weights.len() != raws * width {
            return Err("the linear function has not the shape of the model".to_owned());
        }
        if self
            .weights
            .iter()
            .chain(&self.bias)
            .any(|value| !value.is_finite())
        {
            return Err("a weight is not finite".to_owned());
        }
        Ok(())
    }
}

/// Logistic regression with an L2 penalty: minimizes the summed log loss plus |w|² / (2 c). The
/// bias is not penalised.
pub(crate) fn fit_logistic(
    x: &Matrix,
    goal: Goal<'_>,
    c: f64,
    deadline: Deadline,
) -> Result<Learner, OutOfTime> {
    let Goal::Classes { of, count } = goal else {
        return Ok(super::fit_constant(goal));
    };
    let (n, d) = (x.rows(), x.width);
    let raws = if count == 2 { 1 } else { count };
    let stride = d + 1;
    let scale = 1.0 / n as f64;
    let penalty = scale / c;
    let mut raw = vec![0.0; raws];
    let objective = |w: &[f64], gradient: &mut [f64]| {
        gradient.fill(0.0);
        let mut loss = 0.0;
        for (i, &class) in of.iter().enumerate() {
            let row = x.row(i);
            for (k, value) in raw.iter_mut().enumerate() {
                *value = dot(&w[k * stride..k * stride + d], row) + w[k * stride + d];
            }
            let class = class as usize;
            if raws == 1 {
                let y = class as f64;
                let z = raw[0];
                // ln(1 + e^z) - y z, without overflow.
                loss += z.max(0.0) + (-z.abs()).exp().ln_1p() - y * z;
                raw[0] = sigmoid(z) - y;
            } else {
                let top = raw.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = raw.iter().map(|z| (z - top).exp()).sum();
                loss += top + sum.ln() - raw[class];
                softmax(&mut raw);
                raw[class] -= 1.0;
            }
            for (k, residual) in raw.iter().enumerate() {
                let part = &mut gradient[k * stride..(k + 1) * stride];
                for (target, value) in part.iter_mut().zip(row) {
                    *target += residual * value;
                }
                part[d] += residual;
            }
        }
        let mut squares = 0.0;
        for k in 0..raws {
            let weights = &w[k * stride..k * stride + d];
            squares += dot(weights, weights);
            for (target, value) in gradient[k * stride..k * stride + d].iter_mut().zip(weights) {
                *target = *target * scale + penalty * value;
            }
            gradient[k * stride + d] *= scale;
        }
        loss * scale + 0.5 * penalty * squares
    };
    let w = minimize(objective, vec![0.0; raws * stride], 1e-6, 300, deadline)?;
    let link = if raws == 1 {
        Link::Sigmoid
    } else {
        Link::Softmax
    };
    let weights = (0..raws)
        .flat_map(|k| w[k * stride..k * stride + d].to_vec())
        .collect();
    let bias = (0..raws).map(|k| w[k * stride + d]).collect();
    Ok(Learner::Linear(Linear {
        link,
        weights,
        bias,
    }))
}

/// What least squares needs to know of the data: means and centred products.
struct Normal {
    means: Vec<f64>,
    target_mean: f64,
    /// Row-major, symmetric.
    gram: Vec<f64>,
    products: Vec<f64>,
}

fn normal(x: &Matrix, y: &[f64], deadline: Deadline) -> Result<Normal, OutOfTime> {
    let (n, d) = (x.rows(), x.width);
    let mut means = vec![0.0; d];
    for i in 0..n {
        for (mean, value) in means.iter_mut().zip(x.row(i)) {
            *mean += value / n as f64;
        }
    }
    let target_mean = y.iter().sum::<f64>() / n as f64;
    let mut gram = vec![0.0; d * d];
    let mut products = vec![0.0; d];
    let mut centred = vec![0.0; d];
    for (i, value) in y.iter().enumerate() {
        if i.is_multiple_of(1_024) {
            deadline.check()?;
        }
        for ((target, value), mean) in centred.iter_mut().zip(x.row(i)).zip(&means) {
            *target = value - mean;
        }
        let residual = value - target_mean;
        for a in 0..d {
            let value = centred[a];
            products[a] += value * residual;
            if value != 0.0 {
                for (target, other) in gram[a * d..a * d + a + 1].iter_mut().zip(&centred) {
                    *target += value * other;
                }
            }
        }
    }
    for a in 0..d {
        for b in 0..a {
            gram[b * d + a] = gram[a * d + b];
        }
    }
    Ok(Normal {
        means,
        target_mean,
        gram,
        products,
    })
}

fn with_bias(normal: &Normal, weights: Vec<f64>) -> Learner {
    let bias = vec![normal.target_mean - dot(&weights, &normal.means)];
    Learner::Linear(Linear {
        link: Link::Identity,
        weights,
        bias,
    })
}

/// Ridge regression: minimizes the summed squared error plus `alpha` |w|².
pub(crate) fn fit_ridge(
    x: &Matrix,
    goal: Goal<'_>,
    alpha: f64,
    deadline: Deadline,
) -> Result<Learner, OutOfTime> {
    let Goal::Values(y) = goal else {
        return Ok(super::fit_constant(goal));
    };
    let normal = normal(x, y, deadline)?;
    let d = x.width;
    let mut factor = normal.gram.clone();
    // A penalty of nothing would leave a singular system; this one is below rounding.
    let trace: f64 = (0..d).map(|a| normal.gram[a * d + a]).sum();
    let ridge = alpha.max(1e-12 * trace / d as f64).max(1e-300);
    for a in 0..d {
        factor[a * d + a] += ridge;
    }
    for a in 0..d {
        deadline.check()?;
        for b in 0..=a {
            let (upper, lower) = factor.split_at(a * d);
            let sum = if a == b {
                dot(&lower[..b], &lower[..b])
            } else {
                dot(&lower[..b], &upper[b * d..b * d + b])
            };
            let rest = factor[a * d + b] - sum;
            factor[a * d + b] = if a == b {
                rest.max(ridge * 1e-6).sqrt()
            } else {
                rest / factor[b * d + b]
            };
        }
    }
    let mut w = normal.products.clone();
    for a in 0..d {
        let sum = dot(&factor[a * d..a * d + a], &w[..a]);
        w[a] = (w[a] - sum) / factor[a * d + a];
    }
    for a in (0..d).rev() {
        w[a] /= factor[a * d + a];
        let value = w[a];
        for b in 0..a {
            w[b] -= factor[a * d + b] * value;
        }
    }
    Ok(with_bias(&normal, w))
}

/// Elastic net by coordinate descent: minimizes half the mean squared error plus
/// `strength` (`ratio` |w|₁ + (1 - `ratio`) |w|² / 2). `strength` is given as a share of the
/// smallest one that leaves no weight.
pub(crate) fn fit_elastic_net(
    x: &Matrix,
    goal: Goal<'_>,
    strength: f64,
    ratio: f64,
    deadline: Deadline,
) -> Result<Learner, OutOfTime> {
    let Goal::Values(y) = goal else {
        return Ok(super::fit_constant(goal));
    };
    let normal = normal(x, y, deadline)?;
    let (n, d) = (x.rows() as f64, x.width);
    let top = normal
        .products
        .iter()
        .fold(0.0f64, |top, value| top.max(value.abs()))
        / n
        / ratio;
    let (l1, l2) = (strength * top * ratio, strength * top * (1.0 - ratio));
    let mut w = vec![0.0; d];
    // `gram · w`, kept up to date as single weights change.
    let mut fitted = vec![0.0; d];
    for _ in 0..1_000 {
        deadline.check()?;
        let mut change = 0.0f64;
        for a in 0..d {
            let diagonal = normal.gram[a * d + a] / n;
            if diagonal <= 1e-12 {
                continue;
            }
            let rest = (normal.products[a] - fitted[a]) / n + diagonal * w[a];
            let next = rest.signum() * (rest.abs() - l1).max(0.0) / (diagonal + l2);
            let difference = next - w[a];
            if difference != 0.0 {
                for (target, value) in fitted.iter_mut().zip(&normal.gram[a * d..(a + 1) * d]) {
                    *target += difference * value;
                }
                w[a] = next;
                change = change.max(difference.abs() * diagonal.sqrt());
            }
        }
        if change <= 1e-9 * top.max(1e-300) {
            break;
        }
    }
    Ok(with_bias(&normal, w))
}
