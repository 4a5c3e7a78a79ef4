//! What an operator makes of two values, and of a vector and a scalar.

use super::super::annotations::Remark;
use super::super::ast::{BinaryOp, Expr, Range, ValueType};
use super::{Cell, Evaluator, Grid, Result, Sink, compare, misplaced};
use crate::series::histogram::Sum;
use crate::series::{CounterReset, Histogram};

/// An operator between two numbers; a comparison results in 0 or 1.
pub(super) fn scalar_op(op: BinaryOp, left: f64, right: f64) -> f64 {
    match op {
        BinaryOp::Add => left + right,
        BinaryOp::Sub => left - right,
        BinaryOp::Mul => left * right,
        BinaryOp::Div => left / right,
        BinaryOp::Mod => left % right,
        BinaryOp::Pow => power(left, right),
        BinaryOp::Atan2 => left.atan2(right),
        _ if op.is_comparison() => f64::from(u8::from(compare(op, left, right))),
        _ => f64::NAN,
    }
}

/// Go defines that 1 to any power and any number to the power of 0 is 1, as Rust does, and that
/// −1 to an infinite power is 1.
fn power(base: f64, exponent: f64) -> f64 {
    if base == -1.0 && exponent.is_infinite() {
        return 1.0;
    }
    base.powf(exponent)
}

/// The result for one pair: the value, and whether a comparison keeps it.
pub(super) struct Outcome {
    pub(super) value: Cell,
    pub(super) keep: bool,
}

fn kept(value: Cell) -> Option<Outcome> {
    Some(Outcome { value, keep: true })
}

impl<'a> Evaluator<'a> {
    /// An operator between two samples; `None` when it does not exist for them, with a remark.
    pub(super) fn pair(
        &mut self,
        op: BinaryOp,
        left: &Cell,
        right: &Cell,
        range: Range,
    ) -> Option<Outcome> {
        match (left, right) {
            (Cell::Empty, _) | (_, Cell::Empty) => None,
            (Cell::Float(left_value), Cell::Float(right_value)) => match op {
                BinaryOp::TrimUpper | BinaryOp::TrimLower => {
                    self.incompatible("float", op, "float", range)
                }
                _ if op.is_comparison() => Some(Outcome {
                    value: left.clone(),
                    keep: compare(op, *left_value, *right_value),
                }),
                _ => kept(Cell::Float(scalar_op(op, *left_value, *right_value))),
            },
            (Cell::Float(factor), Cell::Histogram(histogram)) => match op {
                BinaryOp::Mul => kept(Cell::histogram(histogram.multiplied(*factor))),
                _ => self.incompatible("float", op, "histogram", range),
            },
            (Cell::Histogram(histogram), Cell::Float(value)) => match op {
                BinaryOp::Mul => kept(Cell::histogram(histogram.multiplied(*value))),
                BinaryOp::Div => kept(Cell::histogram(histogram.divided(*value))),
                BinaryOp::TrimUpper => kept(Cell::histogram(histogram.trimmed_above(*value))),
                BinaryOp::TrimLower => kept(Cell::histogram(histogram.trimmed_below(*value))),
                _ => self.incompatible("histogram", op, "float", range),
            },
            (Cell::Histogram(left_value), Cell::Histogram(right_value)) => match op {
                BinaryOp::Add | BinaryOp::Sub => {
                    self.combine(op == BinaryOp::Sub, left_value, right_value, range)
                }
                BinaryOp::Equal | BinaryOp::NotEqual => Some(Outcome {
                    value: left.clone(),
                    keep: left_value.equals(right_value) == (op == BinaryOp::Equal),
                }),
                _ => self.incompatible("histogram", op, "histogram", range),
            },
        }
    }

    fn incompatible(
        &mut self,
        left: &str,
        op: BinaryOp,
        right: &str,
        range: Range,
    ) -> Option<Outcome> {
        self.remark(Remark::IncompatibleTypes(left, op.as_str(), right), range);
        None
    }

    fn combine(
        &mut self,
        subtract: bool,
        left: &Histogram,
        right: &Histogram,
        range: Range,
    ) -> Option<Outcome> {
        let mut sum = Sum::from(left);
        let (name, added) = if subtract {
            ("subtraction", sum.subtract(right))
        } else {
            ("addition", sum.add(right))
        };
        let Ok(added) = added else {
            self.remark(
                Remark::IncompatibleBuckets(if subtract { "-" } else { "+" }),
                range,
            );
            return None;
        };
        if added.reset_collision {
            self.remark(Remark::ResetCollision(name), range);
        }
        if added.bounds_reconciled {
            self.remark(Remark::BoundsReconciled(name), range);
        }
        let mut result = sum.finish();
        if subtract {
            result.counter_reset = CounterReset::Gauge;
        }
        kept(Cell::histogram(result))
    }

    /// The columns of an operator between a vector and a scalar.
    pub(super) fn scalar_binary_each(
        &mut self,
        expr: &Expr,
        grid: Grid,
        sink: &mut Sink<'_, 'a>,
    ) -> Result<()> {
        let Expr::Binary {
            op,
            lhs,
            rhs,
            return_bool,
            range,
            ..
        } = expr
        else {
            return Err(misplaced(expr));
        };
        let (op, return_bool, range) = (*op, *return_bool, *range);
        let scalar_left = lhs.value_type() == ValueType::Scalar;
        let (scalar, vector) = if scalar_left { (lhs, rhs) } else { (rhs, lhs) };
        let scalars = self.scalar(scalar, grid)?;
        let only = self.only_sum_and_count;
        if matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower) {
            self.only_sum_and_count = false;
        }
        let result = self.each(vector, grid, &mut |evaluator, mut column| {
            for (cell, &scalar) in column.cells.iter_mut().zip(&scalars) {
                if cell.is_empty() {
                    continue;
                }
                let scalar = Cell::Float(scalar);
                let outcome = if scalar_left {
                    evaluator.pair(op, &scalar, cell, range)
                } else {
                    evaluator.pair(op, cell, &scalar, range)
                };
                let Some(outcome) = outcome else {
                    *cell = Cell::Empty;
                    continue;
                };
                if return_bool {
                    *cell = Cell::Float(f64::from(u8::from(outcome.keep)));
                } else if !outcome.keep {
                    *cell = Cell::Empty;
                } else if !op.is_comparison() {
                    *cell = outcome.value;
                }
                // A comparison leaves the sample of the vector, on whichever side it is.
            }
            if column.is_empty() {
                return Ok(());
            }
            if return_bool || op.changes_metric() {
                evaluator.drop_name(&mut column);
            }
            sink(evaluator, column)
        });
        self.only_sum_and_count = only;
        result
    }
}
