//! Durations, which may be calculated: `[5m]`, `[2 * step()]`, `offset -min_of(step(), 1h)`.

use super::super::ast::{At, BinaryOp, Duration, Range, UNARY_PRECEDENCE};
use super::super::lexer::Kind;
use super::{Parser, Result};

fn signed(negative: bool, inner: Duration) -> Duration {
    match inner {
        Duration::Seconds(value, units) if negative => Duration::Seconds(-value, units),
        inner if negative => Duration::Negated(Box::new(inner)),
        inner => inner,
    }
}

impl Parser<'_> {
    /// A duration with operators, as it stands between brackets.
    pub(super) fn duration(&mut self, tightness: u8) -> Result<Duration> {
        self.deeper()?;
        let mut left = if self.is_sign("-") || self.is_sign("+") {
            let negative = self.is_sign("-");
            self.at += 1;
            signed(negative, self.duration(UNARY_PRECEDENCE)?)
        } else {
            self.duration_operand()?
        };
        let mut chained = 0;
        while let Some(op) = self.operator() {
            let arithmetic = matches!(
                op,
                BinaryOp::Add
                    | BinaryOp::Sub
                    | BinaryOp::Mul
                    | BinaryOp::Div
                    | BinaryOp::Mod
                    | BinaryOp::Pow
            );
            if !arithmetic || op.precedence() < tightness {
                break;
            }
            chained += 1;
            if chained > self.limits.depth {
                return Err(self.too_deep());
            }
            self.at += 1;
            let right = self.duration(if op == BinaryOp::Pow {
                op.precedence()
            } else {
                op.precedence() + 1
            })?;
            left = Duration::Binary(op, Box::new(left), Box::new(right));
        }
        self.nesting -= 1;
        Ok(left)
    }

    /// A signed duration without operators outside parentheses, as it follows `offset`.
    pub(super) fn duration_operand(&mut self) -> Result<Duration> {
        if self.is_sign("-") || self.is_sign("+") {
            let negative = self.is_sign("-");
            self.at += 1;
            self.deeper()?;
            let inner = self.duration_operand()?;
            self.nesting -= 1;
            return Ok(signed(negative, inner));
        }
        let token = self.peek().clone();
        match token.kind {
            Kind::Number(value) => {
                self.at += 1;
                Ok(Duration::Seconds(value, false))
            }
            Kind::Duration(milliseconds) => {
                self.at += 1;
                Ok(Duration::Seconds(milliseconds as f64 / 1000.0, true))
            }
            Kind::Sign("(") => {
                self.at += 1;
                let inner = self.duration(0)?;
                self.expect(")", "duration")?;
                Ok(Duration::Paren(Box::new(inner)))
            }
            Kind::Ident => {
                let word = self.text(token.range).to_ascii_lowercase();
                match word.as_str() {
                    "step" | "range" => {
                        self.at += 1;
                        self.expect("(", "duration")?;
                        self.expect(")", "duration")?;
                        Ok(if word == "step" {
                            Duration::Step
                        } else {
                            Duration::Range
                        })
                    }
                    "min_of" | "max_of" => {
                        self.at += 1;
                        self.expect("(", "duration")?;
                        let first = Box::new(self.duration(0)?);
                        self.expect(",", "duration")?;
                        let second = Box::new(self.duration(0)?);
                        self.expect(")", "duration")?;
                        Ok(if word == "min_of" {
                            Duration::Min(first, second)
                        } else {
                            Duration::Max(first, second)
                        })
                    }
                    _ => Err(self.unexpected("duration", "expected a duration")),
                }
            }
            _ => Err(self.unexpected("duration", "expected a duration")),
        }
    }

    /// What follows `@`: a time in seconds, `start()` or `end()`.
    pub(super) fn at_time(&mut self) -> Result<At> {
        for (word, at) in [("start", At::Start), ("end", At::End)] {
            if self.accept_word(word) {
                self.expect("(", "@ modifier")?;
                self.expect(")", "@ modifier")?;
                return Ok(at);
            }
        }
        let start = self.peek().range.start;
        let negative = if self.accept("-") {
            true
        } else {
            self.accept("+");
            false
        };
        let seconds = match self.peek().kind {
            Kind::Number(value) => value,
            Kind::Duration(milliseconds) => milliseconds as f64 / 1000.0,
            _ => return Err(self.unexpected("@ modifier", "expected a timestamp")),
        };
        self.at += 1;
        let milliseconds = (if negative { -seconds } else { seconds }) * 1000.0;
        // Beyond this a time and a duration could not be added any more.
        if milliseconds.is_nan() || milliseconds.abs() >= 9e15 {
            return Err(self.error(
                Range {
                    start,
                    end: self.last_end(),
                },
                format!("timestamp out of bounds for @ modifier: {seconds}"),
            ));
        }
        Ok(At::Time(milliseconds.round() as i64))
    }
}
