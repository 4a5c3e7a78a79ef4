//! Partial results over a stretch that only moves forward.

use std::ops::Range;

/// Folds a stretch with an operation that need not be undone.
///
/// The stretch is cut in two: before the cut, results from each place up to the cut are kept;
/// after it, one result that grows. When the start passes the cut, the cut moves to the end.
/// Each sample is folded twice at most.
#[derive(Default)]
pub(super) struct TwoStacks<T> {
    /// Results from each place up to the cut, the nearest to the cut first.
    front: Vec<T>,
    back: Option<T>,
    start: usize,
    cut: usize,
    end: usize,
}

impl<T: Copy> TwoStacks<T> {
    /// The fold over a stretch, which is not empty and neither of whose ends moves backward.
    pub(super) fn over(
        &mut self,
        range: Range<usize>,
        value: impl Fn(usize) -> T,
        fold: impl Fn(T, T) -> T,
    ) -> T {
        if range.start >= self.end || range.start < self.start || range.end < self.end {
            self.front.clear();
            self.back = None;
            (self.start, self.cut, self.end) = (range.start, range.start, range.start);
        }
        while self.end < range.end {
            let next = value(self.end);
            self.back = Some(self.back.map_or(next, |back| fold(back, next)));
            self.end += 1;
        }
        if range.start <= self.cut {
            self.front.truncate(self.cut - range.start);
        } else {
            self.front.clear();
            for at in (range.start..self.end).rev() {
                let here = value(at);
                let folded = self.front.last().map_or(here, |&rest| fold(here, rest));
                self.front.push(folded);
            }
            self.cut = self.end;
            self.back = None;
        }
        self.start = range.start;
        match (self.front.last().copied(), self.back) {
            (Some(front), Some(back)) => fold(front, back),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => value(range.start),
        }
    }
}

/// The largest or smallest value; NaN only where there is nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extreme(pub(super) f64);

impl Extreme {
    pub(super) fn better(self, other: Self, max: bool) -> Self {
        let wins = if max {
            other.0 > self.0
        } else {
            other.0 < self.0
        };
        if wins || self.0.is_nan() { other } else { self }
    }
}

/// Count, mean and squared distances from it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    pub(super) fn new(value: f64) -> Self {
        Self {
            count: 1.0,
            mean: value,
            // Of what is no finite number the distance from the mean is no number.
            squares: value * 0.0,
        }
    }

    /// Both together.
    pub(super) fn merged(self, other: Self) -> Self {
        let count = self.count + other.count;
        let delta = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + delta * (other.count / count),
            squares: self.squares
                + other.squares
                + delta * delta * (self.count * other.count / count),
        }
    }

    pub(super) fn variance(&self) -> f64 {
        self.squares / self.count
    }
}

/// The values of a stretch in order, NaN first.
#[derive(Default)]
pub(super) struct SortedWindow {
    sorted: Vec<f64>,
    range: Range<usize>,
}

/// NaN before everything else.
fn key(value: f64) -> f64 {
    if value.is_nan() {
        -f64::NAN.abs()
    } else {
        value
    }
}

impl SortedWindow {
    pub(super) fn over(&mut self, range: Range<usize>, values: &[f64]) -> &[f64] {
        let moved = range.start.abs_diff(self.range.start) + range.end.abs_diff(self.range.end);
        let forward = range.start >= self.range.start
            && range.start < self.range.end
            && range.end >= self.range.end;
        if !forward || moved * 8 > self.sorted.len() {
            self.sorted = values[range.clone()].iter().copied().map(key).collect();
            self.sorted.sort_by(f64::total_cmp);
        } else {
            for &value in &values[self.range.end..range.end] {
                let value = key(value);
                let place = self.place(value);
                self.sorted.insert(place, value);
            }
            for &value in &values[self.range.start..range.start] {
                let place = self.place(key(value));
                self.sorted.remove(place);
            }
        }
        self.range = range;
        &self.sorted
    }

    fn place(&self, value: f64) -> usize {
        self.sorted
            .partition_point(|known| known.total_cmp(&value).is_lt())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn partial_results_are_those_of_folding_anew(
            values in proptest::collection::vec(-100i32..100, 1..60),
            moves in proptest::collection::vec((0usize..4, 0usize..4), 1..60),
        ) {
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            let mut stacks = TwoStacks::<f64>::default();
            let mut sorted = SortedWindow::default();
            let (mut start, mut end) = (0, 0);
            for (grow, shrink) in moves {
                end = (end + grow).min(values.len());
                start = (start + shrink).min(end);
                if start == end {
                    continue;
                }
                let sum = stacks.over(start..end, |at| values[at], |a, b| a + b);
                prop_assert_eq!(sum, values[start..end].iter().sum::<f64>());
                let mut anew = values[start..end].to_vec();
                anew.sort_by(f64::total_cmp);
                prop_assert_eq!(sorted.over(start..end, &values), anew.as_slice());
            }
        }

        #[test]
        fn moments_merge_as_they_are_defined(values in proptest::collection::vec(-1e6f64..1e6, 2..50)) {
            let merged = values.iter().map(|&v| Moments::new(v)).reduce(Moments::merged).unwrap();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            prop_assert!((merged.variance() - variance).abs() <= 1e-9 * variance.max(1.0));
        }
    }
}
