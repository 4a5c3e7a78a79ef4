//! From features to the numbers that learners see.
//!
//! Numbers: median for missing ones, zero mean and unit variance. Categories: one column each;
//! rare ones share a column; with many categories, the smoothed mean of the target instead, which
//! in training is always that of other rows (so a row never sees its own target). A column that
//! had missing values in training gets one more that says so.

mod fit;

use serde::{Deserialize, Serialize};

use crate::auto::prepare::{FeatureColumn, MISSING, Target};
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
                FeatureColumn::Number(values) => fit::number(values, rows),
                FeatureColumn::Category(codes) => {
                    let categories = codes
                        .iter()
                        .filter(|&&code| code != MISSING)
                        .max()
                        .map_or(1, |&code| code as usize + 1);
                    if categories <= ONE_HOT {
                        fit::one_hot(codes, categories, rows)
                    } else {
                        fit::means(
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
