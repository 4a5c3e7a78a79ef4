//! What may stand together, by type.

use super::super::ast::{BinaryOp, Cardinality, Expr, Matching, Range, ValueType};
use super::super::functions::Function;
use super::{ParseError, Parser, Result};

impl Parser<'_> {
    pub(super) fn check_type(&self, expr: &Expr, wanted: ValueType, context: &str) -> Result<()> {
        let found = expr.value_type();
        if found == wanted {
            return Ok(());
        }
        Err(self.error(
            expr.range(),
            format!(
                "expected type {} in {context}, got {}",
                wanted.describe(),
                found.describe()
            ),
        ))
    }

    pub(super) fn check_unary(&self, expr: &Expr) -> Result<()> {
        match expr.value_type() {
            ValueType::Scalar | ValueType::Vector => Ok(()),
            other => Err(self.error(
                expr.range(),
                format!(
                    "unary expression only allowed on expressions of type scalar or instant vector, got {}",
                    other.describe()
                ),
            )),
        }
    }

    pub(super) fn binary(
        &self,
        op: BinaryOp,
        lhs: Expr,
        rhs: Expr,
        matching: Option<(Matching, Range)>,
        return_bool: bool,
        range: Range,
    ) -> Result<Expr, ParseError> {
        for side in [&lhs, &rhs] {
            if !matches!(side.value_type(), ValueType::Scalar | ValueType::Vector) {
                return Err(self.error(
                    side.range(),
                    "binary expression must contain only scalar and instant vector types",
                ));
            }
        }
        if return_bool && !op.is_comparison() {
            return Err(self.error(
                range,
                "bool modifier can only be used on comparison operators",
            ));
        }
        let scalars = [&lhs, &rhs].map(|side| side.value_type() == ValueType::Scalar);
        if op.is_comparison() && !return_bool && scalars == [true, true] {
            return Err(self.error(range, "comparisons between scalars must use BOOL modifier"));
        }
        if op.is_set() && scalars.contains(&true) {
            return Err(self.error(
                range,
                format!(
                    "set operator \"{}\" not allowed in binary scalar expression",
                    op.as_str()
                ),
            ));
        }
        let matching = if scalars == [false, false] {
            Some(matching.map_or(
                Matching {
                    cardinality: if op.is_set() {
                        Cardinality::ManyToMany
                    } else {
                        Cardinality::OneToOne
                    },
                    on: false,
                    labels: Vec::new(),
                    include: Vec::new(),
                    fill_left: None,
                    fill_right: None,
                },
                |(matching, _)| matching,
            ))
        } else {
            if let Some((matching, at)) = matching {
                let message = if matching.fill_left.is_some() || matching.fill_right.is_some() {
                    "filling in missing series only allowed between instant vectors"
                } else {
                    "vector matching only allowed between instant vectors"
                };
                return Err(self.error(at, message));
            }
            None
        };
        Ok(Expr::Binary {
            op,
            lhs: Box::new(lhs),
            rhs: Box::new(rhs),
            matching,
            return_bool,
            range,
        })
    }

    fn check_all_selective(&self, expr: &Expr) -> Result<()> {
        if let Expr::Selector(selector) | Expr::Matrix { selector, .. } = expr {
            self.check_selective(&selector.matchers, selector.range)?;
        }
        expr.children()
            .into_iter()
            .try_for_each(|child| self.check_all_selective(child))
    }

    pub(super) fn check_call(
        &self,
        function: &'static Function,
        args: &[Expr],
        range: Range,
    ) -> Result<()> {
        let name = function.name;
        let (least, most) = (function.min_args(), function.max_args());
        let count = args.len();
        if count < least || most.is_some_and(|most| count > most) {
            let expected = match most {
                Some(most) if most == least => format!("expected {least} argument(s)"),
                Some(most) if count > most => format!("expected at most {most} argument(s)"),
                _ => format!("expected at least {least} argument(s)"),
            };
            return Err(self.error(
                range,
                format!("{expected} in call to \"{name}\", got {count}"),
            ));
        }
        for (at, arg) in args.iter().enumerate() {
            self.check_type(
                arg,
                function.arg(at),
                &format!("call to function \"{name}\""),
            )?;
        }
        if name == "info" {
            if let Some(vector) = args.first() {
                self.check_all_selective(vector)?;
            }
            if let Some(labels) = args.get(1) {
                match labels {
                    Expr::Selector(selector)
                        if selector.name.is_none()
                            && selector.offset.is_none()
                            && selector.at.is_none() => {}
                    _ => {
                        return Err(self.error(
                            labels.range(),
                            "expected label selectors only, such as {job=\"node\"}",
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
