//! From a table to features and a goal: what is predicted, from what, and what a person should
//! know about it. Looks at values, never at how well they predict (that is for the folds).

use std::collections::BTreeMap;

use super::{AutoOptions, Task};
use crate::error::{MlError, MlResult};
use crate::learn::Goal;
use crate::model_file::{Feature, FeatureKind, Labels, Summary};
use crate::table::{Column, Table, TextValues, Values};

/// The code of a category that is not there, or not known.
pub(crate) const MISSING: u32 = u32::MAX;

/// Numbers beyond this cannot be squared and summed safely; they count as missing.
const LARGEST: f64 = 1e100;
/// Most classes.
pub(crate) const MAX_CLASSES: usize = 200;
/// Most categories that a column keeps; rarer ones count as unknown.
pub(crate) const MAX_CATEGORIES: usize = 5_000;

/// The values of a feature in training.
#[derive(Clone, Debug)]
pub(crate) enum FeatureColumn {
    /// Missing as NaN.
    Number(Vec<f64>),
    /// Places in the categories of the feature, or [`MISSING`].
    Category(Vec<u32>),
}

/// What a model is trained towards.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Classes { of: Vec<u32>, labels: Labels },
    Values(Vec<f64>),
}

impl Target {
    pub(crate) fn goal(&self) -> Goal<'_> {
        match self {
            Self::Classes { of, labels } => Goal::Classes {
                of,
                count: labels.len(),
            },
            Self::Values(values) => Goal::Values(values),
        }
    }

    /// The target of some of the rows.
    pub(crate) fn select(&self, rows: &[u32]) -> Self {
        match self {
            Self::Classes { of, labels } => Self::Classes {
                of: rows.iter().map(|&row| of[row as usize]).collect(),
                labels: labels.clone(),
            },
            Self::Values(values) => {
                Self::Values(rows.iter().map(|&row| values[row as usize]).collect())
            }
        }
    }
}

/// A table made ready.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) features: Vec<Feature>,
    pub(crate) columns: Vec<FeatureColumn>,
    pub(crate) target: Target,
    pub(crate) rows: usize,
    pub(crate) warnings: Vec<String>,
}

impl Prepared {
    pub(crate) fn task(&self) -> Task {
        match self.target {
            Target::Classes { .. } => Task::Classification,
            Target::Values(_) => Task::Regression,
        }
    }
}

/// Least rows with a target.
pub(crate) const MIN_ROWS: usize = 10;

/// Makes a table ready.
pub(crate) fn prepare(table: &Table, options: &AutoOptions) -> MlResult<Prepared> {
    let mut warnings = Vec::new();
    let target = table.column(&options.target).ok_or_else(|| {
        let names: Vec<_> = table
            .names()
            .take(20)
            .map(|name| format!("`{name}`"))
            .collect();
        let what = format!(
            "the data has no column `{}`, the target; it has {}",
            options.target,
            names.join(", ")
        );
        MlError::training(what, "set train.auto.target to the column to predict")
    })?;
    for name in &options.features {
        if table.column(name).is_none() || *name == options.target {
            let what =
                format!("the feature `{name}` is not a column of the data besides the target");
            return Err(MlError::training(
                what,
                "name columns of the data under train.auto.features",
            ));
        }
    }
    for name in &options.exclude {
        if table.column(name).is_none() {
            warnings.push(format!("the excluded column `{name}` is not in the data"));
        }
    }
    let kept = rows_with_target(target);
    if kept.len() < table.rows {
        warnings.push(format!(
            "{} rows without a target were left out",
            table.rows - kept.len()
        ));
    }
    if kept.len() < MIN_ROWS {
        let what = format!(
            "{} rows have a target; at least {MIN_ROWS} are needed",
            kept.len()
        );
        return Err(MlError::training(what, "push more rows"));
    }
    let target = read_target(target, &kept, options, &mut warnings)?;
    let (mut features, mut columns) = (Vec::new(), Vec::new());
    for column in &table.columns {
        let chosen = options.features.is_empty() || options.features.contains(&column.name);
        if column.name == options.target || options.exclude.contains(&column.name) || !chosen {
            continue;
        }
        if let Some((feature, values)) = read_feature(column, &kept, &mut warnings) {
            features.push(feature);
            columns.push(values);
        }
    }
    if features.is_empty() {
        return Err(MlError::training(
            "no column is left to learn from",
            "add columns that say something about the target",
        ));
    }
    let mut prepared = Prepared {
        features,
        columns,
        target,
        rows: kept.len(),
        warnings,
    };
    super::suspects::warn(&mut prepared);
    Ok(prepared)
}

fn usable(number: f64) -> bool {
    number.is_finite() && number.abs() <= LARGEST
}

fn rows_with_target(column: &Column) -> Vec<usize> {
    match &column.values {
        Values::Empty => Vec::new(),
        Values::Number(values) => (0..values.len())
            .filter(|&row| usable(values[row]))
            .collect(),
        Values::Bool(values) => (0..values.len())
            .filter(|&row| values[row].is_some())
            .collect(),
        Values::Text(values) => (0..values.codes.len())
            .filter(|&row| values.codes[row] != TextValues::MISSING)
            .collect(),
    }
}

/// Whether distinct numbers look like classes: whole, few, and each of them often.
fn looks_like_classes(distinct: &BTreeMap<u64, (f64, usize)>, rows: usize) -> bool {
    let whole = distinct.values().all(|(value, _)| value.fract() == 0.0);
    distinct.len() == 2 || (whole && distinct.len() <= 20 && distinct.len() * 5 <= rows)
}

fn read_target(
    column: &Column,
    kept: &[usize],
    options: &AutoOptions,
    warnings: &mut Vec<String>,
) -> MlResult<Target> {
    let name = &column.name;
    let target = match &column.values {
        Values::Empty => {
            return Err(MlError::training(
                format!("the target `{name}` has no values"),
                "fill in the target",
            ));
        }
        Values::Bool(values) => {
            let of = kept
                .iter()
                .map(|&row| u32::from(values[row] == Some(true)))
                .collect();
            Target::Classes {
                of,
                labels: Labels::Boolean(vec![false, true]),
            }
        }
        Values::Number(values) => {
            let mut distinct: BTreeMap<u64, (f64, usize)> = BTreeMap::new();
            for &row in kept {
                // Adding zero makes -0 and 0 the same.
                let value = values[row] + 0.0;
                if distinct.len() <= MAX_CLASSES {
                    distinct.entry(ordered_bits(value)).or_insert((value, 0)).1 += 1;
                }
            }
            let classes = options.task.map_or_else(
                || looks_like_classes(&distinct, kept.len()),
                |task| task == Task::Classification,
            );
            if !classes {
                let values: Vec<f64> = kept.iter().map(|&row| values[row]).collect();
                if values.iter().any(|value| value.abs() > 1e30) {
                    let what = format!("the target `{name}` has values beyond 1e30");
                    return Err(MlError::training(
                        what,
                        "bring the target to a smaller unit",
                    ));
                }
                if distinct.len() < 2 {
                    let what = format!("the target `{name}` has the same value in every row");
                    return Err(MlError::training(what, "push rows with other values"));
                }
                return Ok(Target::Values(values));
            }
            if distinct.len() > MAX_CLASSES {
                return Err(too_many_classes(name));
            }
            let places: BTreeMap<u64, u32> = distinct
                .keys()
                .zip(0..)
                .map(|(&bits, place)| (bits, place))
                .collect();
            let of = kept
                .iter()
                .map(|&row| places[&ordered_bits(values[row] + 0.0)])
                .collect();
            Target::Classes {
                of,
                labels: Labels::Number(distinct.values().map(|(value, _)| *value).collect()),
            }
        }
        Values::Text(values) => {
            let used: BTreeMap<&str, ()> = kept
                .iter()
                .filter_map(|&row| values.get(row))
                .map(|text| (text, ()))
                .collect();
            if used.len() > MAX_CLASSES {
                return Err(too_many_classes(name));
            }
            let places: BTreeMap<&str, u32> = used
                .keys()
                .zip(0..)
                .map(|(&text, place)| (text, place))
                .collect();
            let of = kept
                .iter()
                .filter_map(|&row| values.get(row))
                .map(|text| places[text])
                .collect();
            Target::Classes {
                of,
                labels: Labels::Text(used.keys().map(|text| (*text).to_owned()).collect()),
            }
        }
    };
    if options.task == Some(Task::Regression) {
        let what = format!("the target `{name}` is not a number, so it cannot be regressed");
        return Err(MlError::training(
            what,
            "leave the task out, or choose another target",
        ));
    }
    if let Target::Classes { of, labels } = &target {
        let mut counts = vec![0usize; labels.len()];
        of.iter().for_each(|&class| counts[class as usize] += 1);
        if counts.iter().filter(|&&count| count > 0).count() < 2 {
            let what = format!("the target `{name}` has the same class in every row");
            return Err(MlError::training(what, "push rows of other classes"));
        }
        for (class, count) in counts.iter().enumerate().filter(|&(_, &count)| count < 5) {
            warnings.push(format!(
                "class `{}` has only {count} rows",
                labels.text(class)
            ));
        }
    }
    Ok(target)
}

fn too_many_classes(name: &str) -> MlError {
    let what = format!(
        "the target `{name}` has more than {MAX_CLASSES} classes: it looks like an identifier"
    );
    MlError::training(what, "choose another target, or merge rare classes")
}

/// Bits that sort as the numbers do.
fn ordered_bits(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits >> 63 == 1 {
        !bits
    } else {
        bits | (1 << 63)
    }
}

fn read_feature(
    column: &Column,
    kept: &[usize],
    warnings: &mut Vec<String>,
) -> Option<(Feature, FeatureColumn)> {
    let name = column.name.clone();
    match &column.values {
        Values::Empty => {
            warnings.push(format!("column `{name}` has no values and is left out"));
            None
        }
        Values::Number(values) => {
            let unusable = kept
                .iter()
                .filter(|&&row| !values[row].is_nan() && !usable(values[row]))
                .count();
            if unusable > 0 {
                warnings.push(format!("column `{name}` has {unusable} infinite or huge numbers, which count as missing"));
            }
            let values: Vec<f64> = kept
                .iter()
                .map(|&row| {
                    if usable(values[row]) {
                        values[row] + 0.0
                    } else {
                        f64::NAN
                    }
                })
                .collect();
            let missing = values.iter().filter(|value| value.is_nan()).count();
            let mut sorted: Vec<f64> = values
                .iter()
                .copied()
                .filter(|value| !value.is_nan())
                .collect();
            sorted.sort_unstable_by(f64::total_cmp);
            let constant = sorted.first() == sorted.last();
            if sorted.is_empty() || (constant && missing == 0) {
                warnings.push(format!(
                    "column `{name}` is the same in every row and is left out"
                ));
                return None;
            }
            let summary = Summary::of_sorted(&sorted);
            let feature = Feature {
                name,
                kind: FeatureKind::Number,
                required: missing == 0,
                summary: Some(summary),
            };
            Some((feature, FeatureColumn::Number(values)))
        }
        Values::Bool(values) => {
            let values: Vec<f64> = kept
                .iter()
                .map(|&row| values[row].map_or(f64::NAN, |truth| f64::from(u8::from(truth))))
                .collect();
            let missing = values.iter().filter(|value| value.is_nan()).count();
            let truths = values.iter().filter(|value| **value == 1.0).count();
            if missing == 0 && (truths == 0 || truths == values.len()) || missing == values.len() {
                warnings.push(format!(
                    "column `{name}` is the same in every row and is left out"
                ));
                return None;
            }
            let feature = Feature {
                name,
                kind: FeatureKind::Boolean,
                required: missing == 0,
                summary: None,
            };
            Some((feature, FeatureColumn::Number(values)))
        }
        Values::Text(values) => read_category(name, values, kept, warnings),
    }
}

fn read_category(
    name: String,
    values: &TextValues,
    kept: &[usize],
    warnings: &mut Vec<String>,
) -> Option<(Feature, FeatureColumn)> {
    let mut counts = vec![0usize; values.dictionary.len()];
    let mut missing = 0;
    for &row in kept {
        match values.codes[row] {
            TextValues::MISSING => missing += 1,
            code => counts[code as usize] += 1,
        }
    }
    let mut used: Vec<u32> = (0..counts.len() as u32)
        .filter(|&code| counts[code as usize] > 0)
        .collect();
    if used.is_empty() || (used.len() == 1 && missing == 0) {
        warnings.push(format!(
            "column `{name}` is the same in every row and is left out"
        ));
        return None;
    }
    let filled = kept.len() - missing;
    if used.len() > 30 && used.len() * 2 > filled {
        let spaces: usize = used
            .iter()
            .map(|&code| values.dictionary[code as usize].matches(' ').count())
            .sum();
        let kind = if spaces >= 3 * used.len() {
            "free text"
        } else {
            "an identifier"
        };
        warnings.push(format!(
            "column `{name}` has {} different texts in {filled} rows, looks like {kind}, and is left out",
            used.len()
        ));
        return None;
    }
    let text = |code: u32| &*values.dictionary[code as usize];
    if used.len() > MAX_CATEGORIES {
        warnings.push(format!(
            "column `{name}`: only its {MAX_CATEGORIES} most frequent texts are told apart"
        ));
        used.sort_by(|&a, &b| {
            counts[b as usize]
                .cmp(&counts[a as usize])
                .then(text(a).cmp(text(b)))
        });
        used.truncate(MAX_CATEGORIES);
    }
    used.sort_by(|&a, &b| text(a).cmp(text(b)));
    let mut places = vec![MISSING; counts.len()];
    for (place, &code) in used.iter().enumerate() {
        places[code as usize] = place as u32;
    }
    let codes = kept
        .iter()
        .map(|&row| {
            places
                .get(values.codes[row] as usize)
                .copied()
                .unwrap_or(MISSING)
        })
        .collect();
    let categories = used.iter().map(|&code| text(code).to_owned()).collect();
    let feature = Feature {
        name,
        kind: FeatureKind::Category { values: categories },
        required: missing == 0,
        summary: None,
    };
    Some((feature, FeatureColumn::Category(codes)))
}
