//! Aggregations that need all series of a group at once: `topk`, `bottomk`, `limitk`,
//! `limit_ratio`, `quantile`, `count_values`.

use std::collections::HashMap;

use super::super::annotations::Remark;
use super::super::ast::{AggregateOp, Expr};
use super::super::error::QueryError;
use super::super::float::format_plain;
use super::super::quantile::quantile_sorted;
use super::aggregate::Grouping;
use super::{Cell, Column, Evaluator, Grid, Result, text};
use crate::series::{Labels, LabelsBuilder};

/// The series of one group, by their places.
struct Members {
    labels: Labels,
    places: Vec<usize>,
}

impl Evaluator<'_> {
    pub(super) fn rank(
        &mut self,
        op: AggregateOp,
        inner: &Expr,
        param: &Expr,
        grouping: &Grouping<'_>,
        grid: Grid,
    ) -> Result<Vec<Column>> {
        if op == AggregateOp::CountValues {
            return self.count_values(inner, param, grouping, grid);
        }
        let params = self.scalar(param, grid)?;
        self.check_params(op, &params, param)?;
        let columns = self.vector(inner, grid)?;
        let groups = members(&columns, grouping);
        match op {
            AggregateOp::Quantile => self.quantiles(inner, &columns, &groups, &params),
            AggregateOp::TopK | AggregateOp::BottomK => {
                self.top(op, inner, columns, &groups, &params, grid)
            }
            _ => Ok(limit(op, columns, &groups, &params)),
        }
    }

    fn check_params(&mut self, op: AggregateOp, params: &[f64], param: &Expr) -> Result<()> {
        for &value in params {
            match op {
                AggregateOp::TopK | AggregateOp::BottomK | AggregateOp::LimitK => {
                    if value.is_nan() {
                        return Err(QueryError::Execution("Parameter value is NaN".to_owned()));
                    }
                    if value.abs() >= 9.223_372_036_854_775e18 {
                        return Err(QueryError::Execution(format!(
                            "Scalar value {value:?} {}flows int64",
                            if value > 0.0 { "over" } else { "under" }
                        )));
                    }
                }
                AggregateOp::LimitRatio => {
                    if value.is_nan() {
                        return Err(QueryError::Execution("Ratio value is NaN".to_owned()));
                    }
                    let capped = value.clamp(-1.0, 1.0);
                    if capped != value {
                        self.remark(Remark::InvalidRatio(value, capped), param.range());
                    }
                }
                _ => {
                    if !(0.0..=1.0).contains(&value) {
                        self.remark(Remark::InvalidQuantile(value), param.range());
                    }
                }
            }
        }
        Ok(())
    }

    fn quantiles(
        &mut self,
        inner: &Expr,
        columns: &[Column],
        groups: &[Members],
        params: &[f64],
    ) -> Result<Vec<Column>> {
        let mut ignored = false;
        let mut result = Vec::new();
        for group in groups {
            self.tick()?;
            let mut drop_name = false;
            let mut cells = Vec::with_capacity(params.len());
            for (at, &q) in params.iter().enumerate() {
                let mut values: Vec<f64> = Vec::with_capacity(group.places.len());
                for &place in &group.places {
                    drop_name |= columns[place].drop_name;
                    match &columns[place].cells[at] {
                        // NaN sorts before everything else.
                        Cell::Float(value) if value.is_nan() => values.push(-f64::NAN.abs()),
                        Cell::Float(value) => values.push(*value),
                        Cell::Histogram(_) => ignored = true,
                        Cell::Empty => {}
                    }
                }
                values.sort_by(f64::total_cmp);
                cells.push(if values.is_empty() {
                    Cell::Empty
                } else {
                    Cell::Float(quantile_sorted(q, &values))
                });
            }
            let column = Column {
                labels: group.labels.clone(),
                drop_name,
                cells,
            };
            if !column.is_empty() {
                result.push(column);
            }
        }
        if ignored {
            self.remark(
                Remark::HistogramIgnoredInAggregation("quantile"),
                inner.range(),
            );
        }
        Ok(result)
    }

    fn top(
        &mut self,
        op: AggregateOp,
        inner: &Expr,
        mut columns: Vec<Column>,
        groups: &[Members],
        params: &[f64],
        grid: Grid,
    ) -> Result<Vec<Column>> {
        let mut ignored = false;
        // The order of the result, which has a meaning when there is one time only.
        let mut order: Vec<usize> = Vec::new();
        let mut chosen = vec![false; columns.len()];
        for group in groups {
            self.tick()?;
            for (at, &k) in params.iter().enumerate() {
                let k = if k < 1.0 { 0 } else { k as usize };
                let mut ranked: Vec<(f64, usize)> = Vec::new();
                for &place in &group.places {
                    match columns[place].cells[at] {
                        Cell::Float(value) => ranked.push((value, place)),
                        Cell::Histogram(_) => ignored = true,
                        Cell::Empty => {}
                    }
                }
                ranked.sort_by(|a, b| {
                    let (a, b) = if op == AggregateOp::TopK {
                        (b.0, a.0)
                    } else {
                        (a.0, b.0)
                    };
                    // NaN comes last in both directions.
                    match (a.is_nan(), b.is_nan()) {
                        (false, false) => a.total_cmp(&b),
                        (a_nan, b_nan) if op == AggregateOp::TopK => b_nan.cmp(&a_nan),
                        (a_nan, b_nan) => a_nan.cmp(&b_nan),
                    }
                });
                for &(_, place) in ranked.iter().take(k) {
                    chosen[place] = true;
                    if grid.len == 1 {
                        order.push(place);
                    }
                }
                for &place in &group.places {
                    if !std::mem::take(&mut chosen[place]) {
                        columns[place].cells[at] = Cell::Empty;
                    }
                }
            }
        }
        if ignored {
            self.remark(
                Remark::HistogramIgnoredInAggregation(op.as_str()),
                inner.range(),
            );
        }
        if grid.len == 1 {
            let mut slots: Vec<Option<Column>> = columns.into_iter().map(Some).collect();
            return Ok(order
                .into_iter()
                .filter_map(|place| slots[place].take())
                .collect());
        }
        columns.retain(|column| !column.is_empty());
        Ok(columns)
    }

    fn count_values(
        &mut self,
        inner: &Expr,
        param: &Expr,
        grouping: &Grouping<'_>,
        grid: Grid,
    ) -> Result<Vec<Column>> {
        let label = text(param);
        let invalid = match param.unparenthesized() {
            Expr::String {
                invalid: Some(shown),
                ..
            } => Some(shown.clone()),
            _ if label.is_empty() => Some("\"\"".to_owned()),
            _ => None,
        };
        if let Some(shown) = invalid {
            return Err(QueryError::Execution(format!("invalid label name {shown}")));
        }
        let columns = self.vector(inner, grid)?;
        let mut places: HashMap<Labels, usize> = HashMap::new();
        let mut counted: Vec<Column> = Vec::new();
        for column in columns {
            self.tick()?;
            let group = grouping.key(&column.labels);
            for (at, cell) in column.cells.iter().enumerate() {
                let value = match cell {
                    Cell::Empty => continue,
                    Cell::Float(value) => format_plain(*value),
                    Cell::Histogram(histogram) => histogram.to_string(),
                };
                let mut builder = LabelsBuilder::from_labels(&group);
                builder.set(label, &value);
                let labels = builder.build();
                let place = match places.get(&labels) {
                    Some(&place) => place,
                    None => {
                        self.charge(grid.len, &|| format!("count_values of {inner}"))?;
                        places.insert(labels.clone(), counted.len());
                        counted.push(Column {
                            labels,
                            drop_name: false,
                            cells: vec![Cell::Empty; grid.len],
                        });
                        counted.len() - 1
                    }
                };
                counted[place].drop_name |= column.drop_name;
                let slot = &mut counted[place].cells[at];
                *slot = Cell::Float(match slot {
                    Cell::Float(count) => *count + 1.0,
                    _ => 1.0,
                });
            }
        }
        Ok(counted)
    }
}

fn members(columns: &[Column], grouping: &Grouping<'_>) -> Vec<Members> {
    let mut places: HashMap<Labels, usize> = HashMap::new();
    let mut groups: Vec<Members> = Vec::new();
    for (at, column) in columns.iter().enumerate() {
        let key = grouping.key(&column.labels);
        let group = *places.entry(key.clone()).or_insert_with(|| {
            groups.push(Members {
                labels: key,
                places: Vec::new(),
            });
            groups.len() - 1
        });
        groups[group].places.push(at);
    }
    groups
}

/// `limitk` and `limit_ratio`.
fn limit(
    op: AggregateOp,
    mut columns: Vec<Column>,
    groups: &[Members],
    params: &[f64],
) -> Vec<Column> {
    for group in groups {
        for (at, &param) in params.iter().enumerate() {
            let mut left = if param < 1.0 { 0 } else { param as usize };
            for &place in &group.places {
                if columns[place].cells[at].is_empty() {
                    continue;
                }
                let keep = if op == AggregateOp::LimitK {
                    let keep = left > 0;
                    left = left.saturating_sub(1);
                    keep
                } else {
                    // Where the hash of a series lies decides, so that the same series are chosen
                    // each time, and those of `r` and `r - 1` are together all of them.
                    let position = columns[place].labels.hash64() as f64 / u64::MAX as f64;
                    let ratio = param.clamp(-1.0, 1.0);
                    (ratio >= 0.0 && position < ratio) || (ratio < 0.0 && position >= 1.0 + ratio)
                };
                if !keep {
                    columns[place].cells[at] = Cell::Empty;
                }
            }
        }
    }
    columns.retain(|column| !column.is_empty());
    columns
}
