//! Where a series goes: `deriv`, `predict_linear`, `double_exponential_smoothing`.

use super::super::error::QueryError;
use super::over_time::floats_only;
use super::window::{Remarks, Rolling, Window};
use super::{Cell, Result};
use crate::series::histogram::Kahan;

/// `deriv` and `predict_linear`: least squares.
pub(super) struct Regression {
    pub(super) predict: bool,
}

impl Rolling for Regression {
    fn at(&mut self, window: &Window<'_>, remarks: &mut Remarks<'_>) -> Result<Cell> {
        if !floats_only(window, remarks) || window.floats.len() < 2 {
            return Ok(Cell::Empty);
        }
        let (times, values) = (window.float_times(), window.float_values());
        let origin = if self.predict { window.time } else { times[0] };
        let (slope, intercept) = regression(times, values, origin);
        Ok(Cell::Float(if self.predict {
            slope * window.params[0] + intercept
        } else {
            slope
        }))
    }
}

fn regression(times: &[i64], values: &[f64], origin: i64) -> (f64, f64) {
    let first = values[0];
    if values.iter().all(|&value| value == first) {
        return if first.is_infinite() {
            (f64::NAN, f64::NAN)
        } else {
            (0.0, first)
        };
    }
    let [mut x, mut y, mut xy, mut xx] = [Kahan::default(); 4];
    for (&time, &value) in times.iter().zip(values) {
        let seconds = (time - origin) as f64 / 1000.0;
        x.add(seconds);
        y.add(value);
        xy.add(seconds * value);
        xx.add(seconds * seconds);
    }
    let n = values.len() as f64;
    let [x, y, xy, xx] = [x, y, xy, xx].map(|sum| sum.value());
    let slope = (xy - x * y / n) / (xx - x * x / n);
    (slope, y / n - slope * x / n)
}

/// `double_exponential_smoothing`.
pub(super) struct Smoothing;

impl Rolling for Smoothing {
    fn at(&mut self, window: &Window<'_>, remarks: &mut Remarks<'_>) -> Result<Cell> {
        let [smoothing, trend] = window.params;
        for (name, factor) in [("smoothing", smoothing), ("trend", trend)] {
            if factor <= 0.0 || factor >= 1.0 {
                return Err(QueryError::Execution(format!(
                    "invalid {name} factor. Expected: 0 < {}f < 1, got: {factor:.6}",
                    &name[..1]
                )));
            }
        }
        if !floats_only(window, remarks) || window.floats.len() < 2 {
            return Ok(Cell::Empty);
        }
        let values = window.float_values();
        let mut level = values[0];
        let mut slope = values[1] - values[0];
        let mut before = 0.0;
        for (at, &value) in values.iter().enumerate().skip(1) {
            if at > 1 {
                slope = trend * (level - before) + (1.0 - trend) * slope;
            }
            let next = smoothing * value + (1.0 - smoothing) * (level + slope);
            before = level;
            level = next;
        }
        Ok(Cell::Float(level))
    }
}
