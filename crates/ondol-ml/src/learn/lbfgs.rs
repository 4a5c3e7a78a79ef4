//! Limited-memory BFGS for smooth convex functions.

use std::collections::VecDeque;

use super::matrix::dot;
use super::{Deadline, OutOfTime};

const MEMORY: usize = 10;

/// Minimizes `function`, which writes its gradient at a point and returns its value, beginning
/// at `start`. Ends when the largest component of the gradient is below `tolerance`, when no
/// step makes the value smaller, or after `iterations`.
pub(super) fn minimize(
    mut function: impl FnMut(&[f64], &mut [f64]) -> f64,
    start: Vec<f64>,
    tolerance: f64,
    iterations: usize,
    deadline: Deadline,
) -> Result<Vec<f64>, OutOfTime> {
    let mut x = start;
    let mut gradient = vec![0.0; x.len()];
    let mut value = function(&x, &mut gradient);
    let mut pairs: VecDeque<(Vec<f64>, Vec<f64>, f64)> = VecDeque::with_capacity(MEMORY);
    let mut next = vec![0.0; x.len()];
    let mut next_gradient = vec![0.0; x.len()];
    for _ in 0..iterations {
        deadline.check()?;
        if gradient.iter().fold(0.0f64, |top, g| top.max(g.abs())) <= tolerance {
            break;
        }
        let mut direction = two_loops(&gradient, &pairs);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            pairs.clear();
            direction = gradient.iter().map(|g| -g).collect();
            slope = -dot(&gradient, &gradient);
        }
        let mut step = if pairs.is_empty() {
            1.0 / dot(&gradient, &gradient).sqrt().max(1.0)
        } else {
            1.0
        };
        let mut moved = false;
        for _ in 0..40 {
            for ((target, from), along) in next.iter_mut().zip(&x).zip(&direction) {
                *target = from + step * along;
            }
            let next_value = function(&next, &mut next_gradient);
            if next_value.is_finite() && next_value <= value + 1e-4 * step * slope {
                let s: Vec<f64> = next.iter().zip(&x).map(|(a, b)| a - b).collect();
                let y: Vec<f64> = next_gradient
                    .iter()
                    .zip(&gradient)
                    .map(|(a, b)| a - b)
                    .collect();
                let curvature = dot(&s, &y);
                if curvature > 1e-12 * dot(&y, &y).sqrt() * dot(&s, &s).sqrt() {
                    if pairs.len() == MEMORY {
                        pairs.pop_front();
                    }
                    pairs.push_back((s, y, 1.0 / curvature));
                }
                std::mem::swap(&mut x, &mut next);
                std::mem::swap(&mut gradient, &mut next_gradient);
                moved = value - next_value > 1e-14 * value.abs();
                value = next_value;
                break;
            }
            step *= 0.5;
        }
        if !moved {
            break;
        }
    }
    Ok(x)
}

fn two_loops(gradient: &[f64], pairs: &VecDeque<(Vec<f64>, Vec<f64>, f64)>) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = Vec::with_capacity(pairs.len());
    for (s, y, rho) in pairs.iter().rev() {
        let alpha = rho * dot(s, &q);
        for (target, value) in q.iter_mut().zip(y) {
            *target -= alpha * value;
        }
        alphas.push(alpha);
    }
    if let Some((_, y, rho)) = pairs.back() {
        let scale = 1.0 / (rho * dot(y, y));
        q.iter_mut().for_each(|value| *value *= scale);
    }
    for ((s, y, rho), alpha) in pairs.iter().zip(alphas.into_iter().rev()) {
        let beta = rho * dot(y, &q);
        for (target, value) in q.iter_mut().zip(s) {
            *target += (alpha - beta) * value;
        }
    }
    q
}
