//! `absent` and `absent_over_time`: 1 where an expression has no samples.

use super::super::ast::Expr;
use super::window::{Bounds, selector_of};
use super::{Cell, Column, Evaluator, Grid, Result};
use crate::series::{Labels, LabelsBuilder, METRIC_NAME, Operation};

impl Evaluator<'_> {
    pub(super) fn absent(&mut self, arg: &Expr, grid: Grid) -> Result<Vec<Column>> {
        let mut present = vec![false; grid.len];
        self.each(arg, grid, &mut |_, column| {
            for (present, cell) in present.iter_mut().zip(&column.cells) {
                *present |= !cell.is_empty();
            }
            Ok(())
        })?;
        Ok(missing(arg, &present))
    }

    pub(super) fn absent_over_time(&mut self, arg: &Expr, grid: Grid) -> Result<Vec<Column>> {
        let inner = arg.unparenthesized();
        let stretch = self.stretch(inner)?;
        let ends = self.ends(&stretch, grid);
        let mut present = vec![false; grid.len];
        self.each_stretch(
            inner,
            &stretch,
            &ends,
            "absent_over_time",
            &mut |_, _, _, samples| {
                let mut bounds = Bounds::default();
                for (present, &end) in present.iter_mut().zip(&ends) {
                    bounds.move_to(samples, end - stretch.window, end);
                    *present |= !bounds.floats.is_empty() || !bounds.histograms.is_empty();
                }
                Ok(())
            },
        )?;
        Ok(missing(arg, &present))
    }
}

fn missing(arg: &Expr, present: &[bool]) -> Vec<Column> {
    let column = Column {
        labels: labels_of_absent(arg),
        drop_name: false,
        cells: present
            .iter()
            .map(|&present| {
                if present {
                    Cell::Empty
                } else {
                    Cell::Float(1.0)
                }
            })
            .collect(),
    };
    if column.is_empty() {
        Vec::new()
    } else {
        vec![column]
    }
}

/// The labels that a selector asks for with a single `=`.
fn labels_of_absent(arg: &Expr) -> Labels {
    let Some(selector) = selector_of(arg) else {
        return Labels::default();
    };
    let mut builder = LabelsBuilder::default();
    let mut seen: Vec<&str> = Vec::new();
    for matcher in &selector.matchers {
        let name = matcher.name.as_ref();
        if name == METRIC_NAME {
            continue;
        }
        if matcher.operation == Operation::Equal && !seen.contains(&name) {
            builder.set(name, &matcher.value);
        } else {
            builder.remove(name);
        }
        seen.push(name);
    }
    builder.build()
}
