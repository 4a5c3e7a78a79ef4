//! From features to the numbers that learners see.
//!
//! Numbers: median for missing ones, zero mean and unit variance. Categories: one column each;
//! rare ones share a column; with many categories, the smoothed mean of the target instead, which
//! in training is always that of other rows (so a row never sees its own target). A column that
//! had missing values in training gets one more that says so.

use serde::{Deserialize, Serialize};

use super::prepare::{FeatureColumn, MISSING, Target};
use crate::learn::{Matrix, Random};

/// One value of a row that is asked about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    /// There is none.
    Missing,
    /// A finite number, or 0 and 1 for truth values.
    Number(f64),
    /// The place of a category.
    Category(u32),
    /// A category that was not there in training.
    Unknown,
}

/// More categories than this are encoded by their target.
const ONE_HOT: usize = 24;
/// Above so many classes, the share of a category stands for its targets.
const TARGET_CLASSES: usize = 10;
/// How many imagined rows with the overall mean each category gets.
const SMOOTHING: f64 = 10.0;
const INNER_FOLDS: usize = 5;
/// Encoded numbers are held within this, so that sums stay finite.
const BOUND: f64 = 1e9;

/// The encoding of one feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Part {
    Number(NumberPart),
    OneHot(OneHotPart),
    Means(MeansPart),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NumberPart {
    fill: f64,
    mean: f64,
    scale: f64,
    missing: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OneHotPart {
    /// The category that stands for a missing one.
    fill: u32,
    /// Per category its column, or -1 for none.
    slots: Vec<i32>,
    /// The column of rare and unknown categories, or -1.
    other: i32,
    width: u32,
    missing: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeansPart {
    /// Numbers per category.
    width: u32,
    /// Category after category, scaled.
    values: Vec<f64>,
    /// For missing and unknown ones.
    other: Vec<f64>,
    missing: bool,
}

/// The encoding of all features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Encoder {
    parts: Vec<Part>,
}

fn scaled(value: f64, mean: f64, scale: f64) -> f64 {
    ((value - mean) / scale).clamp(-BOUND, BOUND)
}

fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / n;
    let variance = values
        .map(|value| (value - mean) * (value - mean))
        .sum::<f64>()
        / n;
    let scale = variance.sqrt();
    // Rounding alone can leave a trace of variance in a constant.
    (
        mean,
        if scale > 1e-12 * mean.abs().max(1e-200) {
            scale
        } else {
            1.0
        },
    )
}

impl Encoder {
    /// Fits the encoding on some rows and encodes them. What a row gets here can differ from what
    /// [`Encoder::encode`] gives it later, by the targets of its own inner fold.
    pub(crate) fn fit(
        columns: &[FeatureColumn],
        target: &Target,
        rows: &[u32],
        seed: u64,
    ) -> (Self, Matrix) {
        let mut parts = Vec::with_capacity(columns.len());
        let mut blocks: Vec<(usize, Vec<f64>)> = Vec::with_capacity(columns.len());
        for (index, column) in columns.iter().enumerate() {
            let (part, block) = match column {
                FeatureColumn::Number(values) => fit_number(values, rows),
                FeatureColumn::Category(codes) => {
                    let categories = codes
                        .iter()
                        .filter(|&&code| code != MISSING)
                        .max()
                        .map_or(1, |&code| code as usize + 1);
                    if categories <= ONE_HOT {
                        fit_one_hot(codes, categories, rows)
                    } else {
                        fit_means(
                            codes,
                            categories,
                            target,
                            rows,
                            Random::new(seed, 50_000 + index as u64),
                        )
                    }
                }
            };
            blocks.push((part.width(), block));
            parts.push(part);
        }
        let width = blocks.iter().map(|(width, _)| width).sum();
        let mut matrix = Matrix::with_capacity(rows.len(), width);
        matrix.width = width;
        for row in 0..rows.len() {
            for (width, block) in &blocks {
                matrix
                    .data
                    .extend_from_slice(&block[row * width..(row + 1) * width]);
            }
        }
        (Self { parts }, matrix)
    }

    /// How many numbers a row becomes.
    pub(crate) fn width(&self) -> usize {
        self.parts.iter().map(Part::width).sum()
    }

    /// Appends the numbers of a row to `out`.
    pub(crate) fn encode(&self, row: &[Value], out: &mut Vec<f64>) {
        for (part, value) in self.parts.iter().zip(row) {
            part.encode(*value, out);
        }
    }

    /// Encodes some rows of training columns as rows that are asked about.
    pub(crate) fn encode_rows(&self, columns: &[FeatureColumn], rows: &[u32]) -> Matrix {
        let mut matrix = Matrix::with_capacity(rows.len(), self.width());
        matrix.width = self.width();
        for &row in rows {
            for (part, column) in self.parts.iter().zip(columns) {
                part.encode(value_at(column, row), &mut matrix.data);
            }
        }
        matrix
    }

    /// Checks that encoding a row of these kinds cannot fail. `categories` has the number of
    /// categories of each feature, 0 for numbers.
    pub(crate) fn validate(&self, categories: &[usize]) -> Result<(), String> {
        if self.parts.len() != categories.len() {
            return Err("the encoding has not one part per feature".to_owned());
        }
        for (index, (part, &categories)) in self.parts.iter().zip(categories).enumerate() {
            let sound = match part {
                Part::Number(part) => {
                    categories == 0
                        && [part.fill, part.mean, part.scale]
                            .iter()
                            .all(|v| v.is_finite())
                        && part.scale > 0.0
                }
                Part::OneHot(part) => {
                    let inside = |slot: i32| slot >= -1 && slot < part.width as i32;
                    let slots = part.slots.iter().all(|&slot| inside(slot)) && inside(part.other);
                    categories > 0 && part.slots.len() == categories && part.width <= 1_000 && slots
                }
                Part::Means(part) => {
                    let width = part.width as usize;
                    let lengths =
                        part.other.len() == width && part.values.len() == width * categories;
                    categories > 0
                        && width <= 1_000
                        && lengths
                        && part.values.iter().chain(&part.other).all(|v| v.is_finite())
                }
            };
            if !sound {
                return Err(format!(
                    "the encoding of feature {} does not fit it",
                    index + 1
                ));
            }
        }
        Ok(())
    }
}

/// The value of a training column as one that is asked about.
pub(crate) fn value_at(column: &FeatureColumn, row: u32) -> Value {
    match column {
        FeatureColumn::Number(values) => {
            let value = values[row as usize];
            if value.is_nan() {
                Value::Missing
            } else {
                Value::Number(value)
            }
        }
        FeatureColumn::Category(codes) => match codes[row as usize] {
            MISSING => Value::Missing,
            code => Value::Category(code),
        },
    }
}

impl Part {
    fn width(&self) -> usize {
        match self {
            Self::Number(part) => 1 + usize::from(part.missing),
            Self::OneHot(part) => part.width as usize + usize::from(part.missing),
            Self::Means(part) => part.width as usize + usize::from(part.missing),
        }
    }

    fn encode(&self, value: Value, out: &mut Vec<f64>) {
        let flag = f64::from(u8::from(value == Value::Missing));
        let missing = match self {
            Self::Number(part) => {
                let number = if let Value::Number(number) = value {
                    number
                } else {
                    part.fill
                };
                out.push(scaled(number, part.mean, part.scale));
                part.missing
            }
            Self::OneHot(part) => {
                let start = out.len();
                out.resize(start + part.width as usize, 0.0);
                let slot = match value {
                    Value::Category(code) => {
                        part.slots.get(code as usize).copied().unwrap_or(part.other)
                    }
                    Value::Missing => part
                        .slots
                        .get(part.fill as usize)
                        .copied()
                        .unwrap_or(part.other),
                    Value::Number(_) | Value::Unknown => part.other,
                };
                if slot >= 0 {
                    out[start + slot as usize] = 1.0;
                }
                part.missing
            }
            Self::Means(part) => {
                let width = part.width as usize;
                let values = match value {
                    Value::Category(code) => part
                        .values
                        .get(code as usize * width..(code as usize + 1) * width),
                    _ => None,
                };
                out.extend_from_slice(values.unwrap_or(&part.other));
                part.missing
            }
        };
        if missing {
            out.push(flag);
        }
    }
}

fn fit_number(values: &[f64], rows: &[u32]) -> (Part, Vec<f64>) {
    let mut present: Vec<f64> = rows
        .iter()
        .map(|&row| values[row as usize])
        .filter(|value| !value.is_nan())
        .collect();
    present.sort_unstable_by(f64::total_cmp);
    let middle = present.len() / 2;
    let fill = match present.len() {
        0 => 0.0,
        n if n % 2 == 1 => present[middle],
        _ => present[middle - 1] + (present[middle] - present[middle - 1]) / 2.0,
    };
    let filled = rows
        .iter()
        .map(|&row| values[row as usize])
        .map(|value| if value.is_nan() { fill } else { value });
    let (mean, scale) = moments(filled);
    let part = Part::Number(NumberPart {
        fill,
        mean,
        scale,
        missing: present.len() < rows.len(),
    });
    let mut block = Vec::with_capacity(rows.len() * part.width());
    for &row in rows {
        let value = values[row as usize];
        part.encode(
            if value.is_nan() {
                Value::Missing
            } else {
                Value::Number(value)
            },
            &mut block,
        );
    }
    (part, block)
}

fn fit_one_hot(codes: &[u32], categories: usize, rows: &[u32]) -> (Part, Vec<f64>) {
    let mut counts = vec![0usize; categories];
    let mut missing = 0;
    for &row in rows {
        match codes[row as usize] {
            MISSING => missing += 1,
            code => counts[code as usize] += 1,
        }
    }
    let fill = (0..categories)
        .rev()
        .max_by_key(|&code| counts[code])
        .unwrap_or(0) as u32;
    let rare = (rows.len() / 500).max(1);
    let mut slots = vec![-1; categories];
    let mut width = 0;
    let mut others = false;
    for (slot, &count) in slots.iter_mut().zip(&counts) {
        if count > rare || (count == rare && rare == 1) {
            *slot = width;
            width += 1;
        } else {
            others |= count > 0;
        }
    }
    let other = if others { width } else { -1 };
    width += i32::from(others);
    slots
        .iter_mut()
        .filter(|slot| **slot < 0)
        .for_each(|slot| *slot = other);
    let part = Part::OneHot(OneHotPart {
        fill,
        slots,
        other,
        width: width as u32,
        missing: missing > 0,
    });
    let mut block = Vec::with_capacity(rows.len() * part.width());
    for &row in rows {
        let code = codes[row as usize];
        part.encode(
            if code == MISSING {
                Value::Missing
            } else {
                Value::Category(code)
            },
            &mut block,
        );
    }
    (part, block)
}

/// Sums of targets per category, from which means of any subset follow by subtraction.
struct Sums {
    width: usize,
    /// Category after category: counts.
    counts: Vec<f64>,
    sums: Vec<f64>,
    total: f64,
    totals: Vec<f64>,
}

impl Sums {
    fn new(width: usize, categories: usize) -> Self {
        Self {
            width,
            counts: vec![0.0; categories],
            sums: vec![0.0; categories * width],
            total: 0.0,
            totals: vec![0.0; width],
        }
    }

    fn add(&mut self, code: u32, target: &[f64]) {
        self.total += 1.0;
        for (total, value) in self.totals.iter_mut().zip(target) {
            *total += value;
        }
        if code != MISSING {
            self.counts[code as usize] += 1.0;
            let at = code as usize * self.width;
            for (sum, value) in self.sums[at..at + self.width].iter_mut().zip(target) {
                *sum += value;
            }
        }
    }

    /// The smoothed means of a category over the rows of `self` that are not in `without`.
    fn means(&self, code: u32, without: Option<&Self>, out: &mut Vec<f64>) {
        let less = |pick: fn(&Self, usize) -> f64, at: usize| {
            pick(self, at) - without.map_or(0.0, |other| pick(other, at))
        };
        let total = less(|sums, _| sums.total, 0).max(1.0);
        for k in 0..self.width {
            let prior = less(|sums, k| sums.totals[k], k) / total;
            out.push(if code == MISSING {
                prior
            } else {
                let count = less(|sums, at| sums.counts[at], code as usize);
                let sum = less(|sums, at| sums.sums[at], code as usize * self.width + k);
                (sum + SMOOTHING * prior) / (count + SMOOTHING)
            });
        }
    }
}

fn fit_means(
    codes: &[u32],
    categories: usize,
    target: &Target,
    rows: &[u32],
    mut random: Random,
) -> (Part, Vec<f64>) {
    let width = match target {
        Target::Values(_) => 1,
        Target::Classes { labels, .. } if labels.len() == 2 => 1,
        Target::Classes { labels, .. } if labels.len() <= TARGET_CLASSES => labels.len(),
        Target::Classes { .. } => 0,
    };
    let missing = rows.iter().any(|&row| codes[row as usize] == MISSING);
    let target_of = |row: u32, out: &mut [f64]| match target {
        Target::Values(values) => out[0] = values[row as usize],
        Target::Classes { of, .. } if out.len() == 1 => out[0] = f64::from(of[row as usize]),
        Target::Classes { of, .. } => {
            out.fill(0.0);
            if let Some(slot) = out.get_mut(of[row as usize] as usize) {
                *slot = 1.0;
            }
        }
    };
    let mut all = Sums::new(width, categories);
    let mut folds: Vec<Sums> = (0..INNER_FOLDS)
        .map(|_| Sums::new(width, categories))
        .collect();
    let mut fold_of: Vec<u8> = (0..rows.len())
        .map(|index| (index % INNER_FOLDS) as u8)
        .collect();
    random.shuffle(&mut fold_of);
    let mut one = vec![0.0; width];
    for (&row, &fold) in rows.iter().zip(&fold_of) {
        target_of(row, &mut one);
        all.add(codes[row as usize], &one);
        folds[fold as usize].add(codes[row as usize], &one);
    }
    if width == 0 {
        return fit_shares(codes, &all.counts, rows, missing);
    }
    let mut raw = Vec::with_capacity(rows.len() * width);
    for (&row, &fold) in rows.iter().zip(&fold_of) {
        all.means(codes[row as usize], Some(&folds[fold as usize]), &mut raw);
    }
    let scales: Vec<(f64, f64)> = (0..width)
        .map(|k| moments(raw.iter().skip(k).step_by(width).copied()))
        .collect();
    let mut values = Vec::with_capacity(categories * width);
    (0..categories as u32).for_each(|code| all.means(code, None, &mut values));
    let mut other = Vec::with_capacity(width);
    all.means(MISSING, None, &mut other);
    let scale_all = |numbers: &mut [f64]| {
        for (at, number) in numbers.iter_mut().enumerate() {
            let (mean, scale) = scales[at % width];
            *number = scaled(*number, mean, scale);
        }
    };
    scale_all(&mut values);
    scale_all(&mut other);
    scale_all(&mut raw);
    let block = if missing {
        with_flags(&raw, width, codes, rows)
    } else {
        raw
    };
    (
        Part::Means(MeansPart {
            width: width as u32,
            values,
            other,
            missing,
        }),
        block,
    )
}

/// The logarithm of how often a category stands in training.
fn fit_shares(codes: &[u32], counts: &[f64], rows: &[u32], missing: bool) -> (Part, Vec<f64>) {
    let share = |count: f64| (count + 1.0).ln();
    let of = |code: u32| {
        if code == MISSING {
            0.0
        } else {
            share(counts[code as usize])
        }
    };
    let raw: Vec<f64> = rows.iter().map(|&row| of(codes[row as usize])).collect();
    let (mean, scale) = moments(raw.iter().copied());
    let values = counts
        .iter()
        .map(|&count| scaled(share(count), mean, scale))
        .collect();
    let raw: Vec<f64> = raw
        .iter()
        .map(|&value| scaled(value, mean, scale))
        .collect();
    let block = if missing {
        with_flags(&raw, 1, codes, rows)
    } else {
        raw
    };
    (
        Part::Means(MeansPart {
            width: 1,
            values,
            other: vec![scaled(0.0, mean, scale)],
            missing,
        }),
        block,
    )
}

fn with_flags(raw: &[f64], width: usize, codes: &[u32], rows: &[u32]) -> Vec<f64> {
    let mut block = Vec::with_capacity(rows.len() * (width + 1));
    for (index, &row) in rows.iter().enumerate() {
        block.extend_from_slice(&raw[index * width..(index + 1) * width]);
        block.push(f64::from(u8::from(codes[row as usize] == MISSING)));
    }
    block
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(encoder: &Encoder, value: Value) -> Vec<f64> {
        let mut out = Vec::new();
        encoder.encode(&[value], &mut out);
        out
    }

    #[test]
    fn missing_numbers_become_the_median_and_a_flag() {
        let column = [FeatureColumn::Number(vec![1.0, f64::NAN, 3.0, 10.0])];
        let target = Target::Values(vec![0.0; 4]);
        let (encoder, matrix) = Encoder::fit(&column, &target, &[0, 1, 2, 3], 1);
        assert_eq!(encoder.width(), 2);
        assert_eq!(
            matrix.row(1),
            encoded(&encoder, Value::Number(3.0))
                .iter()
                .zip([0.0, 1.0])
                .map(|(a, b)| a + b)
                .collect::<Vec<_>>()
        );
        let mean: f64 = (0..4).map(|row| matrix.at(row, 0)).sum::<f64>() / 4.0;
        let variance: f64 = (0..4).map(|row| matrix.at(row, 0).powi(2)).sum::<f64>() / 4.0;
        assert!(mean.abs() < 1e-12 && (variance - 1.0).abs() < 1e-12);
        assert!(encoded(&encoder, Value::Number(f64::MAX))[0].is_finite());
    }

    #[test]
    fn categories_get_columns_and_the_unknown_gets_none() {
        let column = [FeatureColumn::Category(vec![0, 1, 1, MISSING])];
        let target = Target::Values(vec![0.0; 4]);
        let (encoder, matrix) = Encoder::fit(&column, &target, &[0, 1, 2, 3], 1);
        assert_eq!(
            matrix.data,
            [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0]
        );
        assert_eq!(encoded(&encoder, Value::Unknown), [0.0, 0.0, 0.0]);
    }

    #[test]
    fn rare_categories_share_a_column_with_the_unknown() {
        let codes: Vec<u32> = (0..2_000)
            .map(|row| if row == 0 { 2 } else { row % 2 })
            .collect();
        let rows: Vec<u32> = (0..2_000).collect();
        let target = Target::Values(vec![0.0; 2_000]);
        let (encoder, _) = Encoder::fit(&[FeatureColumn::Category(codes)], &target, &rows, 1);
        assert_eq!(encoded(&encoder, Value::Category(2)), [0.0, 0.0, 1.0]);
        assert_eq!(encoded(&encoder, Value::Unknown), [0.0, 0.0, 1.0]);
    }

    #[test]
    fn target_means_do_not_leak_a_rows_own_target() {
        // Every category stands once, so that a leaking encoder would give the target away.
        let codes: Vec<u32> = (0..1_000).collect();
        let values: Vec<f64> = (0..1_000)
            .map(|row| f64::from(row * 7_919 % 1_000))
            .collect();
        let rows: Vec<u32> = (0..1_000).collect();
        let (_, matrix) = Encoder::fit(
            &[FeatureColumn::Category(codes)],
            &Target::Values(values.clone()),
            &rows,
            1,
        );
        let mean = values.iter().sum::<f64>() / 1_000.0;
        let covariance: f64 = (0..1_000)
            .map(|row| matrix.at(row, 0) * (values[row] - mean))
            .sum::<f64>()
            / 1_000.0;
        let spread = (values
            .iter()
            .map(|value| (value - mean).powi(2))
            .sum::<f64>()
            / 1_000.0)
            .sqrt();
        assert!((covariance / spread).abs() < 0.2, "{}", covariance / spread);
    }

    proptest! {
        #[test]
        fn encoding_is_always_finite(
            values in proptest::collection::vec(prop_oneof![Just(f64::NAN), -1e100..1e100f64, -1.0..1.0f64], 3..40),
            asked in proptest::num::f64::NORMAL,
        ) {
            let rows: Vec<u32> = (0..values.len() as u32).collect();
            let target = Target::Values(vec![0.0; values.len()]);
            let (encoder, matrix) = Encoder::fit(&[FeatureColumn::Number(values.clone())], &target, &rows, 1);
            prop_assert!(matrix.data.iter().all(|value| value.is_finite()));
            prop_assert!(encoded(&encoder, Value::Number(asked)).iter().all(|value| value.is_finite()));
            let missing = values.iter().any(|value| value.is_nan());
            prop_assert_eq!(encoder.width(), 1 + usize::from(missing));
            prop_assert_eq!(encoder.encode_rows(&[FeatureColumn::Number(values)], &rows), matrix);
            prop_assert!(encoder.validate(&[0]).is_ok());
        }
    }
}
