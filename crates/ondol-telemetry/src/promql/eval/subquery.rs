//! Subqueries: an expression evaluated on a grid of its own, whose results are samples.

use std::sync::Arc;

use super::super::ast::Expr;
use super::window::Stretch;
use super::{Cell, Evaluator, Grid, Result, misplaced};
use crate::series::{CounterReset, Labels, Samples};

impl Evaluator<'_> {
    /// The series of a subquery whose stretches end between `first` and `last`.
    pub(super) fn subquery(
        &mut self,
        arg: &Expr,
        stretch: &Stretch,
        first: i64,
        last: i64,
        take: &mut dyn FnMut(&mut Self, Labels, bool, &Samples) -> Result<()>,
    ) -> Result<()> {
        let Expr::Subquery { expr, step, .. } = arg else {
            return Err(misplaced(arg));
        };
        let step = match step {
            Some(step) => self.duration(step, true)?,
            None => (self.config.subquery_step.as_millis() as i64).max(1),
        };
        // Evaluations are at multiples of the step, so that they do not depend on when the query
        // is asked.
        let start = first - stretch.window;
        let mut aligned = step * (start / step);
        if aligned <= start {
            aligned += step;
        }
        let grid = Grid::new(aligned, last, step);
        if grid.len == 0 {
            return Ok(());
        }
        self.check_grid(grid, &|| format!("subquery {arg}"))?;
        let only = std::mem::replace(&mut self.only_sum_and_count, false);
        let before = self.samples;
        let columns = self.vector(expr, grid);
        self.only_sum_and_count = only;
        let columns = super::merge(columns?)?;
        let held = self.samples.saturating_sub(before);
        let mut samples = Samples::default();
        for column in columns {
            self.tick()?;
            samples.clear();
            for (at, cell) in column.cells.into_iter().enumerate() {
                match cell {
                    Cell::Empty => {}
                    Cell::Float(value) => samples.push_float(grid.time(at), value),
                    Cell::Histogram(mut value) => {
                        // What is known about a restart is about the sample before in the store,
                        // which may be left out here.
                        if matches!(
                            value.counter_reset,
                            CounterReset::Reset | CounterReset::NotReset
                        ) {
                            Arc::make_mut(&mut value).counter_reset = CounterReset::Unknown;
                        }
                        samples.push_histogram(grid.time(at), value);
                    }
                }
            }
            if !samples.is_empty() {
                take(self, column.labels, column.drop_name, &samples)?;
            }
        }
        self.samples = self.samples.saturating_sub(held);
        Ok(())
    }
}
