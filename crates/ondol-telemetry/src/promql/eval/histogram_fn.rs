//! `histogram_quantile`, `histogram_quantiles` and `histogram_fraction`, of native histograms and
//! of classic buckets, and the simple functions on native histograms.

use std::collections::HashMap;

use super::super::annotations::Remark;
use super::super::ast::{Expr, Range};
use super::super::float::format_open_metrics;
use super::super::quantile::{
    ClassicBucket, Forced, Note, bucket_fraction, bucket_quantile, histogram_fraction,
    histogram_quantile,
};
use super::{Cell, Column, Evaluator, Grid, Result, merge, text};
use crate::series::histogram::Kahan;
use crate::series::{Histogram, Labels, LabelsBuilder};

/// The label of classic buckets that holds their bound.
const BUCKET: &str = "le";

/// What is asked of each histogram.
enum Question {
    /// A quantile, and the label that says which, when there are several.
    Quantile(Vec<f64>, Option<String>),
    Fraction(Vec<f64>, Vec<f64>),
}

/// A histogram as it comes: a native one, or the buckets of a classic one.
struct Source {
    labels: Labels,
    drop_name: bool,
    /// The place of the column with native histograms.
    native: Option<usize>,
    /// The bounds and the places of the columns with their counts.
    classic: Vec<(f64, usize)>,
}

impl Evaluator<'_> {
    pub(super) fn quantiles_of(
        &mut self,
        name: &str,
        args: &[Expr],
        grid: Grid,
    ) -> Result<Vec<Column>> {
        let (vector, questions) = match (name, args) {
            ("histogram_quantile", [q, vector]) => (
                vector,
                vec![Question::Quantile(self.quantile_param(q, grid)?, None)],
            ),
            ("histogram_fraction", [lower, upper, vector]) => (
                vector,
                vec![Question::Fraction(
                    self.scalar(lower, grid)?,
                    self.scalar(upper, grid)?,
                )],
            ),
            (_, [vector, label, quantiles @ ..]) => {
                let label = text(label).to_owned();
                let questions = quantiles
                    .iter()
                    .map(|q| {
                        Ok(Question::Quantile(
                            self.quantile_param(q, grid)?,
                            Some(label.clone()),
                        ))
                    })
                    .collect::<Result<Vec<Question>>>()?;
                (vector, questions)
            }
            _ => return Ok(Vec::new()),
        };
        let only = std::mem::replace(&mut self.only_sum_and_count, false);
        let columns = self.vector(vector, grid);
        self.only_sum_and_count = only;
        let columns = columns?;
        let sources = self.sources(&columns, vector.range());
        let mut results = Vec::new();
        for question in &questions {
            for source in &sources {
                self.tick()?;
                self.answer_question(
                    question,
                    source,
                    &columns,
                    vector.range(),
                    grid,
                    &mut results,
                );
            }
        }
        merge(results)
    }

    fn quantile_param(&mut self, q: &Expr, grid: Grid) -> Result<Vec<f64>> {
        let values = self.scalar(q, grid)?;
        for &value in &values {
            if !(0.0..=1.0).contains(&value) {
                self.remark(Remark::InvalidQuantile(value), q.range());
            }
        }
        Ok(values)
    }

    /// Brings the buckets of each classic histogram together.
    fn sources(&mut self, columns: &[Column], range: Range) -> Vec<Source> {
        let mut places: HashMap<Labels, usize> = HashMap::new();
        let mut sources: Vec<Source> = Vec::new();
        let mut source_of = |labels: Labels, sources: &mut Vec<Source>| {
            *places.entry(labels.clone()).or_insert_with(|| {
                sources.push(Source {
                    labels,
                    drop_name: false,
                    native: None,
                    classic: Vec::new(),
                });
                sources.len() - 1
            })
        };
        for (at, column) in columns.iter().enumerate() {
            let has = |wanted: fn(&Cell) -> bool| column.cells.iter().any(wanted);
            if has(|cell| matches!(cell, Cell::Histogram(_))) {
                let source = source_of(column.labels.clone(), &mut sources);
                sources[source].native = Some(at);
                sources[source].drop_name |= column.drop_name;
            }
            if has(|cell| matches!(cell, Cell::Float(_))) {
                let bound = column.labels.get(BUCKET);
                let Ok(upper) = bound.parse::<f64>() else {
                    self.remark(
                        Remark::BadBucketLabel(column.labels.metric_name(), bound),
                        range,
                    );
                    continue;
                };
                let labels = column.labels.without(|name| name == BUCKET);
                let source = source_of(labels, &mut sources);
                sources[source].classic.push((upper, at));
                sources[source].drop_name |= column.drop_name;
            }
        }
        sources
    }

    fn answer_question(
        &mut self,
        question: &Question,
        source: &Source,
        columns: &[Column],
        range: Range,
        grid: Grid,
        results: &mut Vec<Column>,
    ) {
        let metric = source.labels.metric_name();
        let mut cells: Vec<Cell> = Vec::with_capacity(grid.len);
        // The label that says which quantile it is changes with the quantile.
        let mut named: HashMap<String, Vec<Cell>> = HashMap::new();
        for at in 0..grid.len {
            let native = source
                .native
                .and_then(|place| match &columns[place].cells[at] {
                    Cell::Histogram(histogram) => Some(histogram.clone()),
                    _ => None,
                });
            let buckets: Vec<ClassicBucket> = source
                .classic
                .iter()
                .filter_map(|&(upper, place)| match columns[place].cells[at] {
                    Cell::Float(count) => Some(ClassicBucket { upper, count }),
                    _ => None,
                })
                .collect();
            let value = match (native, buckets.is_empty()) {
                (Some(_), false) => {
                    self.remark(Remark::MixedClassicNative(metric), range);
                    Cell::Empty
                }
                (Some(histogram), true) => {
                    let (value, note) = native_answer(question, at, &histogram);
                    if let Some(note) = note {
                        self.remark(note(metric), range);
                    }
                    Cell::Float(value)
                }
                (None, false) => {
                    let (value, forced) = classic_answer(question, at, buckets);
                    if let Some(forced) = forced {
                        let shown = if self.config.delayed_name_removal {
                            metric
                        } else {
                            ""
                        };
                        self.remark(
                            Remark::ForcedMonotonicity(
                                shown,
                                grid.time(at),
                                forced.low,
                                forced.high,
                                forced.difference,
                            ),
                            range,
                        );
                    }
                    Cell::Float(value)
                }
                (None, true) => Cell::Empty,
            };
            match question {
                Question::Quantile(quantiles, Some(_)) => {
                    if value.is_empty() {
                        continue;
                    }
                    let column = named
                        .entry(format_open_metrics(quantiles[at]))
                        .or_insert_with(|| vec![Cell::Empty; grid.len]);
                    column[at] = value;
                }
                _ => cells.push(value),
            }
        }
        let mut push = |labels: Labels, cells: Vec<Cell>| {
            let mut column = Column {
                labels,
                drop_name: source.drop_name,
                cells,
            };
            if !column.is_empty() {
                self.drop_name(&mut column);
                results.push(column);
            }
        };
        if let Question::Quantile(_, Some(label)) = question {
            let mut named: Vec<(String, Vec<Cell>)> = named.into_iter().collect();
            named.sort_by(|a, b| a.0.cmp(&b.0));
            for (quantile, cells) in named {
                let mut builder = LabelsBuilder::from_labels(&source.labels);
                builder.set(label, &quantile);
                push(builder.build(), cells);
            }
        } else {
            push(source.labels.clone(), cells);
        }
    }
}

fn native_answer(question: &Question, at: usize, histogram: &Histogram) -> (f64, Option<Note>) {
    match question {
        Question::Quantile(quantiles, _) => histogram_quantile(quantiles[at], histogram),
        Question::Fraction(lower, upper) => histogram_fraction(lower[at], upper[at], histogram),
    }
}

fn classic_answer(
    question: &Question,
    at: usize,
    buckets: Vec<ClassicBucket>,
) -> (f64, Option<Forced>) {
    match question {
        Question::Quantile(quantiles, _) => bucket_quantile(quantiles[at], buckets),
        Question::Fraction(lower, upper) => (bucket_fraction(lower[at], upper[at], buckets), None),
    }
}

/// The value of a simple function on a histogram.
pub(super) fn simple(name: &str, histogram: &Histogram) -> f64 {
    match name {
        "histogram_count" => histogram.count,
        "histogram_sum" => histogram.sum,
        "histogram_avg" => histogram.sum / histogram.count,
        "histogram_stdvar" => variance(histogram),
        _ => variance(histogram).sqrt(),
    }
}

fn variance(histogram: &Histogram) -> f64 {
    let mean = histogram.sum / histogram.count;
    let mut squares = Kahan::default();
    for bucket in histogram.all_buckets() {
        if bucket.count == 0.0 {
            continue;
        }
        let value = if histogram.is_custom() {
            f64::midpoint(bucket.upper, bucket.lower)
        } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            0.0
        } else {
            let middle = (bucket.upper * bucket.lower).sqrt();
            if bucket.upper < 0.0 { -middle } else { middle }
        };
        let delta = value - mean;
        squares.add(bucket.count * delta * delta);
    }
    squares.value() / histogram.count
}
