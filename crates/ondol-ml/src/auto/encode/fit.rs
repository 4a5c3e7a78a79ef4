//! Fitting the encoding of one feature on some rows. Each function returns the encoding and the
//! rows as it encodes them.

use super::{MeansPart, NumberPart, OneHotPart, Part, Value, moments, scaled};
use crate::auto::prepare::{MISSING, Target};
use crate::learn::Random;

/// Above so many classes, the share of a category stands for its targets.
const TARGET_CLASSES: usize = 10;
/// How many imagined rows with the overall mean each category gets.
const SMOOTHING: f64 = 10.0;
const INNER_FOLDS: usize = 5;

pub(super) fn number(values: &[f64], rows: &[u32]) -> (Part, Vec<f64>) {
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

pub(super) fn one_hot(codes: &[u32], categories: usize, rows: &[u32]) -> (Part, Vec<f64>) {
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

pub(super) fn means(
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
        return shares(codes, &all.counts, rows, missing);
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
fn shares(codes: &[u32], counts: &[f64], rows: &[u32], missing: bool) -> (Part, Vec<f64>) {
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
