//! Words between operators and operands: which labels are matched, grouped or kept.

use super::super::ast::{BinaryOp, Cardinality, Matching, Range};
use super::super::lexer::Kind;
use super::{Parser, Result};

impl Parser<'_> {
    /// `on (…)`, `ignoring (…)`, `group_left (…)`, `fill (…)` after an operator.
    pub(super) fn matching(&mut self, op: BinaryOp) -> Result<Option<(Matching, Range)>> {
        let start = self.peek().range.start;
        let mut matching = Matching {
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
        };
        let mut present = false;
        let opens = matches!(self.peek_after().kind, Kind::Sign("("));
        if opens && (self.is_word("on") || self.is_word("ignoring")) {
            matching.on = self.is_word("on");
            self.at += 1;
            matching.labels = self.label_list()?;
            present = true;
            for (word, cardinality) in [
                ("group_left", Cardinality::ManyToOne),
                ("group_right", Cardinality::OneToMany),
            ] {
                if self.is_word(word) {
                    let range = self.advance().range;
                    if op.is_set() {
                        return Err(self.error(
                            range,
                            format!("no grouping allowed for \"{}\" operation", op.as_str()),
                        ));
                    }
                    matching.cardinality = cardinality;
                    if self.is_sign("(") {
                        matching.include = self.label_list()?;
                    }
                    break;
                }
            }
            if matching.on {
                for label in &matching.include {
                    if matching.labels.contains(label) {
                        return Err(self.error(
                            Range {
                                start,
                                end: self.last_end(),
                            },
                            format!(
                                "label \"{label}\" must not occur in ON and GROUP clause at once"
                            ),
                        ));
                    }
                }
            }
        }
        loop {
            let word = ["fill_left", "fill_right", "fill"]
                .into_iter()
                .find(|word| self.is_word(word));
            let Some(word) = word else { break };
            // `fill` is also a name: only `fill(number)` is the modifier.
            if !matches!(self.peek_after().kind, Kind::Sign("(")) {
                break;
            }
            let range = self.advance().range;
            if op.is_set() {
                return Err(self.error(
                    range,
                    format!(
                        "filling in missing series not allowed for set operator \"{}\"",
                        op.as_str()
                    ),
                ));
            }
            self.expect("(", word)?;
            let negative = if self.accept("-") {
                true
            } else {
                self.accept("+");
                false
            };
            let Kind::Number(value) = self.peek().kind else {
                return Err(self.unexpected(word, "expected a number"));
            };
            self.at += 1;
            self.expect(")", word)?;
            let value = if negative { -value } else { value };
            if word != "fill_right" {
                matching.fill_left = Some(value);
            }
            if word != "fill_left" {
                matching.fill_right = Some(value);
            }
            present = true;
        }
        Ok(present.then(|| {
            (
                matching,
                Range {
                    start,
                    end: self.last_end(),
                },
            )
        }))
    }

    /// Names in parentheses, which may be quoted.
    pub(super) fn label_list(&mut self) -> Result<Vec<String>> {
        self.expect("(", "grouping")?;
        let mut labels = Vec::new();
        while !self.is_sign(")") {
            match self.peek().kind.clone() {
                Kind::Ident => {
                    let name = self.text(self.peek().range);
                    if name.contains(':') {
                        return Err(self.unexpected("grouping", "expected a label"));
                    }
                    labels.push(name.to_owned());
                }
                Kind::Text(name, None) if !name.is_empty() => labels.push(name),
                Kind::Number(_) if self.text(self.peek().range).is_ascii() => {
                    // `inf` and `nan` are labels here.
                    let name = self.text(self.peek().range);
                    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
                        return Err(self.unexpected("grouping", "expected a label"));
                    }
                    labels.push(name.to_owned());
                }
                _ => return Err(self.unexpected("grouping", "expected a label")),
            }
            self.at += 1;
            if !self.accept(",") {
                break;
            }
        }
        self.expect(")", "grouping")?;
        Ok(labels)
    }

    pub(super) fn grouping(&mut self) -> Result<(bool, Vec<String>)> {
        let without = self.is_word("without");
        if !without && !self.is_word("by") {
            return Err(self.unexpected("aggregation", "expected \"by\", \"without\" or \"(\""));
        }
        self.at += 1;
        Ok((without, self.label_list()?))
    }
}
