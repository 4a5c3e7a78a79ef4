//! Selectors and what can follow an expression: braces, ranges, `offset`, `@`, `anchored`.

use super::super::ast::{Expr, Extension, Range, ValueType, VectorSelector};
use super::super::lexer::Kind;
use super::{Parsed, Parser, Result};
use crate::series::{METRIC_NAME, Matcher, Operation};

impl Parser<'_> {
    /// A selector whose name, when it has one, was read already.
    pub(super) fn selector(&mut self, name: Option<Range>) -> Result<Parsed> {
        let start = name.map_or(self.peek().range.start, |range| range.start);
        let mut matchers = Vec::new();
        let name = name.map(|range| self.text(range).to_owned());
        if let Some(name) = &name {
            matchers.push(Matcher::equal(METRIC_NAME, name));
        }
        if self.accept("{") {
            self.matchers(&mut matchers, name.is_some())?;
        }
        let range = Range {
            start,
            end: self.last_end(),
        };
        if !self.any_selector {
            self.check_selective(&matchers, range)?;
        }
        self.node(
            Expr::Selector(VectorSelector {
                name,
                matchers,
                offset: None,
                at: None,
                extension: Extension::None,
                range,
            }),
            0,
        )
    }

    /// Refuses a selector that every series fulfils.
    pub(super) fn check_selective(&self, matchers: &[Matcher], range: Range) -> Result<()> {
        if matchers.iter().all(|matcher| matcher.matches("")) {
            return Err(self.error(
                range,
                "vector selector must contain at least one non-empty matcher",
            ));
        }
        Ok(())
    }

    fn matchers(&mut self, matchers: &mut Vec<Matcher>, mut named: bool) -> Result<()> {
        while !self.is_sign("}") {
            let token = self.peek().clone();
            let (label, quoted) = match token.kind {
                Kind::Ident => (self.text(token.range).to_owned(), false),
                Kind::Number(_)
                    if self
                        .text(token.range)
                        .starts_with(|first: char| first.is_ascii_alphabetic()) =>
                {
                    (self.text(token.range).to_owned(), false)
                }
                Kind::Text(text, None) if !text.is_empty() => (text, true),
                _ => {
                    return Err(self.unexpected("label matching", "expected identifier or \"}\""));
                }
            };
            if !quoted && label.contains(':') {
                return Err(self.unexpected("label matching", "expected a label name"));
            }
            self.at += 1;
            let operation = match self.peek().kind {
                Kind::Sign("=") => Some(Operation::Equal),
                Kind::Sign("!=") => Some(Operation::NotEqual),
                Kind::Sign("=~") => Some(Operation::Regex),
                Kind::Sign("!~") => Some(Operation::NotRegex),
                _ => None,
            };
            let Some(operation) = operation else {
                // A quoted text alone is the name of the metric.
                if !quoted {
                    return Err(
                        self.unexpected("label matching", "expected label matching operator")
                    );
                }
                if named {
                    return Err(self.error(
                        token.range,
                        format!("metric name must not be set twice: {label:?}"),
                    ));
                }
                named = true;
                matchers.push(Matcher::equal(METRIC_NAME, &label));
                if !self.accept(",") {
                    break;
                }
                continue;
            };
            self.at += 1;
            let Kind::Text(value, None) = self.peek().kind.clone() else {
                return Err(self.unexpected("label matching", "expected a string in UTF-8"));
            };
            let range = self.advance().range;
            let matcher = Matcher::new(&label, operation, &value)
                .map_err(|error| self.error(range, error.to_string()))?;
            matchers.push(matcher);
            if !self.accept(",") {
                break;
            }
        }
        self.expect("}", "label matching")?;
        // The name before the braces and a matcher for another name exclude each other silently,
        // so they are refused.
        if named {
            let names: Vec<&Matcher> = matchers
                .iter()
                .filter(|matcher| {
                    matcher.name.as_ref() == METRIC_NAME && matcher.operation == Operation::Equal
                })
                .collect();
            if names.len() > 1 {
                let message = format!(
                    "metric name must not be set twice: {:?} or {:?}",
                    names[0].value, names[1].value
                );
                return Err(self.error(self.peek().range, message));
            }
        }
        Ok(())
    }

    /// One modifier after an expression. The inner error hands back what has none.
    pub(super) fn postfix(
        &mut self,
        mut parsed: Parsed,
    ) -> Result<std::result::Result<Parsed, Parsed>> {
        if self.is_sign("[") {
            return self.bracket(parsed).map(Ok);
        }
        let start = self.peek().range;
        let at_sign = self.is_sign("@");
        let offset_word = self.is_word("offset");
        if at_sign || offset_word {
            self.at += 1;
            let word = if at_sign { "@" } else { "offset" };
            let (at, offset) = if at_sign {
                (Some(self.at_time()?), None)
            } else {
                (None, Some(self.duration_operand()?))
            };
            let end = self.last_end();
            let (slot_at, slot_offset, range) = match &mut parsed.expr {
                Expr::Selector(selector) => {
                    (&mut selector.at, &mut selector.offset, &mut selector.range)
                }
                Expr::Matrix {
                    selector, range, ..
                } => (&mut selector.at, &mut selector.offset, range),
                Expr::Subquery {
                    at, offset, range, ..
                } => (at, offset, range),
                other => {
                    let range = other.range();
                    return Err(self.error(
                        range,
                        format!("{word} modifier must be preceded by an instant vector selector or range vector selector or a subquery"),
                    ));
                }
            };
            if (at_sign && slot_at.is_some()) || (offset_word && slot_offset.is_some()) {
                return Err(self.error(start, format!("{word} may not be set multiple times")));
            }
            if at.is_some() {
                *slot_at = at;
            }
            if offset.is_some() {
                *slot_offset = offset;
            }
            range.end = end;
            return Ok(Ok(parsed));
        }
        for (word, extension) in [
            ("anchored", Extension::Anchored),
            ("smoothed", Extension::Smoothed),
        ] {
            if !self.is_word(word) {
                continue;
            }
            let (slot, range) = match &mut parsed.expr {
                Expr::Selector(selector) if extension == Extension::Smoothed => {
                    (&mut selector.extension, &mut selector.range)
                }
                Expr::Matrix {
                    selector, range, ..
                } => (&mut selector.extension, range),
                other => {
                    let range = other.range();
                    return Err(self.error(range, format!("{word} modifier cannot be used here")));
                }
            };
            if *slot != Extension::None {
                return Err(self.error(
                    start,
                    "only one of anchored and smoothed may be set, and once",
                ));
            }
            *slot = extension;
            range.end = start.end;
            self.at += 1;
            return Ok(Ok(parsed));
        }
        Ok(Err(parsed))
    }

    fn bracket(&mut self, parsed: Parsed) -> Result<Parsed> {
        let open = self.advance().range;
        let window = self.duration(0)?;
        let step = if self.accept(":") {
            Some(if self.is_sign("]") {
                None
            } else {
                Some(self.duration(0)?)
            })
        } else {
            None
        };
        let end = self
            .expect("]", "subquery or range selector")
            .map(|range| range.end)?;
        let range = Range {
            start: parsed.expr.range().start,
            end,
        };
        if let Some(step) = step {
            self.check_type(&parsed.expr, ValueType::Vector, "subquery")?;
            return self.node(
                Expr::Subquery {
                    expr: Box::new(parsed.expr),
                    window,
                    step,
                    offset: None,
                    at: None,
                    range,
                },
                parsed.depth,
            );
        }
        let Expr::Selector(selector) = parsed.expr else {
            return Err(self.error(
                parsed.expr.range(),
                "ranges only allowed for vector selectors",
            ));
        };
        if selector.offset.is_some()
            || selector.at.is_some()
            || selector.extension != Extension::None
        {
            let word = if selector.offset.is_some() {
                "offset"
            } else if selector.at.is_some() {
                "@"
            } else {
                "anchored or smoothed"
            };
            return Err(self.error(open, format!("no {word} modifiers allowed before range")));
        }
        self.node(
            Expr::Matrix {
                selector,
                window,
                range,
            },
            parsed.depth,
        )
    }
}
