//! Columns that are too good to be true: row numbers, and copies of the target.

use std::collections::HashMap;

use super::prepare::{FeatureColumn, MISSING, Prepared, Target};
use crate::model_file::FeatureKind;

/// Leaves out row numbers, and warns of columns that alone give the target away.
pub(super) fn warn(prepared: &mut Prepared) {
    let mut kept = Vec::new();
    for index in 0..prepared.features.len() {
        let name = &prepared.features[index].name;
        if prepared.features.len() > 1
            && let FeatureColumn::Number(values) = &prepared.columns[index]
            && prepared.features[index].kind == FeatureKind::Number
            && is_row_number(name, values)
        {
            prepared
                .warnings
                .push(format!("column `{name}` numbers the rows and is left out"));
            continue;
        }
        if gives_away(&prepared.columns[index], &prepared.target) {
            prepared.warnings.push(format!(
                "column `{name}` alone predicts the target almost perfectly: if it is not known when predictions are \
                 asked for, exclude it"
            ));
        }
        kept.push(index);
    }
    if kept.is_empty() || kept.len() == prepared.features.len() {
        return;
    }
    prepared.features = kept
        .iter()
        .map(|&index| prepared.features[index].clone())
        .collect();
    prepared.columns = kept
        .iter()
        .map(|&index| prepared.columns[index].clone())
        .collect();
}

/// Whether distinct whole numbers count the rows: in steps of one in file order, or by their name.
fn is_row_number(name: &str, values: &[f64]) -> bool {
    if values.len() < 20 || values.iter().any(|value| value.fract() != 0.0) {
        return false;
    }
    let ascending = values
        .windows(2)
        .filter(|pair| pair[1] - pair[0] == 1.0)
        .count();
    let name = name.to_ascii_lowercase();
    let named = matches!(
        name.as_str(),
        "id" | "index" | "row" | "rowid" | "row_id" | "uuid" | "unnamed: 0"
    ) || name.ends_with("_id")
        || name.ends_with(" id");
    if ascending + 1 == values.len() {
        return true;
    }
    let mut bits: Vec<u64> = values.iter().map(|value| value.to_bits()).collect();
    bits.sort_unstable();
    bits.dedup();
    named && bits.len() == values.len()
}

/// Whether the best guess from this column alone is right in 99.9 % of the rows (classes), or
/// whether it is a line through the target (values).
fn gives_away(column: &FeatureColumn, target: &Target) -> bool {
    match (column, target) {
        (FeatureColumn::Number(values), Target::Values(target)) => {
            correlation(values, target).abs() > 0.9999
        }
        (FeatureColumn::Category(_), Target::Values(_)) => false,
        (column, Target::Classes { of, labels }) => {
            if of.len() < 50 {
                return false;
            }
            let groups = groups(column);
            // With few rows in each group, any column looks as if it knew the target.
            let mut counts: HashMap<u32, Vec<u32>> = HashMap::new();
            for (group, class) in groups.iter().zip(of) {
                counts
                    .entry(*group)
                    .or_insert_with(|| vec![0; labels.len()])[*class as usize] += 1;
            }
            if counts.len() * 5 > of.len() {
                return false;
            }
            let right: u32 = counts
                .values()
                .map(|classes| classes.iter().max().copied().unwrap_or(0))
                .sum();
            let mut totals = vec![0u32; labels.len()];
            of.iter().for_each(|&class| totals[class as usize] += 1);
            let base = totals.iter().max().copied().unwrap_or(0) as usize;
            right as usize * 1_000 >= of.len() * 999 && base * 100 < of.len() * 95
        }
    }
}

/// Rows by category, or by eighths of the order.
fn groups(column: &FeatureColumn) -> Vec<u32> {
    match column {
        FeatureColumn::Category(codes) => codes.clone(),
        FeatureColumn::Number(values) => {
            let mut sorted: Vec<f64> = values
                .iter()
                .copied()
                .filter(|value| !value.is_nan())
                .collect();
            sorted.sort_unstable_by(f64::total_cmp);
            let mut distinct = sorted.clone();
            distinct.dedup();
            let bounds: Vec<f64> = if distinct.len() <= 10 {
                distinct
            } else {
                (1..8)
                    .map(|eighth| sorted[sorted.len() * eighth / 8])
                    .collect()
            };
            let group = |value: &f64| {
                if value.is_nan() {
                    MISSING
                } else {
                    bounds.partition_point(|bound| bound < value) as u32
                }
            };
            values.iter().map(group).collect()
        }
    }
}

fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let pairs: Vec<(f64, f64)> = x
        .iter()
        .copied()
        .zip(y.iter().copied())
        .filter(|(x, _)| !x.is_nan())
        .collect();
    if pairs.len() < 10 {
        return 0.0;
    }
    let n = pairs.len() as f64;
    let (mx, my) = (
        pairs.iter().map(|p| p.0).sum::<f64>() / n,
        pairs.iter().map(|p| p.1).sum::<f64>() / n,
    );
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        xy += (x - mx) * (y - my);
        xx += (x - mx) * (x - mx);
        yy += (y - my) * (y - my);
    }
    if xx > 0.0 && yy > 0.0 {
        xy / (xx * yy).sqrt()
    } else {
        0.0
    }
}
