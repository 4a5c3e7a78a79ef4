//! Reads a query into a syntax tree.
//!
//! A Pratt parser over the tokens of [`super::lexer`]. It never panics and never recurses deeper
//! than its limit, whatever the text is: the length of the text and the depth of the tree are
//! bounded before anything is built from them.

mod check;
mod duration;
mod selector;
mod words;

use super::ast::{AggregateOp, BinaryOp, Expr, Range, UNARY_PRECEDENCE, ValueType};
use super::error::ParseError;
use super::functions;
use super::lexer::{self, Kind, Token};

/// What a query may at most be.
#[derive(Clone, Copy, Debug)]
pub struct ParseLimits {
    /// Bytes of the text.
    pub length: usize,
    /// Expressions inside each other. The evaluator recurses as deep.
    pub depth: usize,
}

impl Default for ParseLimits {
    fn default() -> Self {
        Self {
            length: 64 << 10,
            depth: 100,
        }
    }
}

/// Reads a query.
///
/// # Errors
/// The text is no query, or larger than the limits; the error says where.
pub fn parse(query: &str, limits: ParseLimits) -> Result<Expr, ParseError> {
    let mut parser = Parser::new(query, limits)?;
    let parsed = parser.expression(0)?;
    parser.end()?;
    Ok(parsed.expr)
}

/// Reads what stands in the braces of a selector, such as `up{job="node"}`, for the parameters
/// `match[]` of the API.
///
/// # Errors
/// The text is no selector.
pub fn parse_selector(
    text: &str,
    limits: ParseLimits,
) -> Result<Vec<crate::series::Matcher>, ParseError> {
    let mut parser = Parser::new(text, limits)?;
    let parsed = parser.expression(0)?;
    parser.end()?;
    match parsed.expr {
        Expr::Selector(selector)
            if selector.offset.is_none()
                && selector.at.is_none()
                && selector.extension == super::ast::Extension::None =>
        {
            Ok(selector.matchers)
        }
        other => Err(ParseError::new(
            text,
            other.range(),
            "expected a selector such as up{job=\"node\"}",
        )),
    }
}

/// An expression and how deep it is.
struct Parsed {
    expr: Expr,
    depth: usize,
}

struct Parser<'a> {
    query: &'a str,
    tokens: Vec<Token>,
    at: usize,
    limits: ParseLimits,
    nesting: usize,
    /// Inside a call of `info`, whose second argument may be a selector that matches anything.
    any_selector: bool,
}

type Result<T, E = ParseError> = std::result::Result<T, E>;

impl<'a> Parser<'a> {
    fn new(query: &'a str, limits: ParseLimits) -> Result<Self> {
        if query.len() > limits.length {
            return Err(ParseError::new(
                query,
                Range {
                    start: limits.length,
                    end: query.len(),
                },
                format!("a query has at most {} bytes", limits.length),
            ));
        }
        let tokens = lexer::tokens(query)?;
        if tokens.len() == 1 {
            return Err(ParseError::new(
                query,
                Range::default(),
                "no expression found in input",
            ));
        }
        Ok(Self {
            query,
            tokens,
            at: 0,
            limits,
            nesting: 0,
            any_selector: false,
        })
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn peek_after(&self) -> &Token {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)]
    }

    fn advance(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    /// The end of the token read last.
    fn last_end(&self) -> usize {
        self.at
            .checked_sub(1)
            .map_or(0, |at| self.tokens[at.min(self.tokens.len() - 1)].range.end)
    }

    fn text(&self, range: Range) -> &'a str {
        &self.query[range.start..range.end]
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek().kind, Kind::Sign(found) if found == sign)
    }

    fn accept(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        if found {
            self.at += 1;
        }
        found
    }

    fn is_word(&self, word: &str) -> bool {
        let token = self.peek();
        token.kind == Kind::Ident && self.text(token.range).eq_ignore_ascii_case(word)
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, sign: &str, context: &str) -> Result<Range> {
        if self.is_sign(sign) {
            return Ok(self.advance().range);
        }
        Err(self.unexpected(context, &format!("expected \"{sign}\"")))
    }

    fn error(&self, range: Range, message: impl Into<String>) -> ParseError {
        ParseError::new(self.query, range, message)
    }

    fn unexpected(&self, context: &str, expected: &str) -> ParseError {
        let token = self.peek();
        let found = match &token.kind {
            Kind::End => "end of input".to_owned(),
            _ => format!("{:?}", self.text(token.range)),
        };
        self.error(
            token.range,
            format!("unexpected {found} in {context}, {expected}"),
        )
    }

    fn end(&self) -> Result<()> {
        if self.peek().kind == Kind::End {
            return Ok(());
        }
        Err(self.unexpected("query", "expected an operator or the end"))
    }

    fn deeper(&mut self) -> Result<()> {
        self.nesting += 1;
        if self.nesting > self.limits.depth {
            return Err(self.too_deep());
        }
        Ok(())
    }

    fn too_deep(&self) -> ParseError {
        self.error(
            self.peek().range,
            format!(
                "expressions are at most {} deep in each other",
                self.limits.depth
            ),
        )
    }

    fn node(&self, expr: Expr, inside: usize) -> Result<Parsed> {
        if inside >= self.limits.depth {
            return Err(self.too_deep());
        }
        Ok(Parsed {
            expr,
            depth: inside + 1,
        })
    }

    /// An expression whose operators bind at least this tightly.
    fn expression(&mut self, tightness: u8) -> Result<Parsed> {
        self.deeper()?;
        let mut left = self.operand()?;
        while let Some(op) = self.operator() {
            let precedence = op.precedence();
            if precedence < tightness {
                break;
            }
            self.at += 1;
            let return_bool = self.accept_word("bool");
            let matching = self.matching(op)?;
            // Powers bind to the right: a^b^c is a^(b^c).
            let right = self.expression(if op == BinaryOp::Pow {
                precedence
            } else {
                precedence + 1
            })?;
            let range = Range {
                start: left.expr.range().start,
                end: right.expr.range().end,
            };
            let depth = left.depth.max(right.depth);
            let expr = self.binary(op, left.expr, right.expr, matching, return_bool, range)?;
            left = self.node(expr, depth)?;
        }
        self.nesting -= 1;
        Ok(left)
    }

    fn operator(&self) -> Option<BinaryOp> {
        let token = self.peek();
        Some(match &token.kind {
            Kind::Sign(sign) => match *sign {
                "+" => BinaryOp::Add,
                "-" => BinaryOp::Sub,
                "*" => BinaryOp::Mul,
                "/" => BinaryOp::Div,
                "%" => BinaryOp::Mod,
                "^" => BinaryOp::Pow,
                "==" => BinaryOp::Equal,
                "!=" => BinaryOp::NotEqual,
                "<" => BinaryOp::Less,
                "<=" => BinaryOp::LessEqual,
                ">" => BinaryOp::Greater,
                ">=" => BinaryOp::GreaterEqual,
                "</" => BinaryOp::TrimUpper,
                ">/" => BinaryOp::TrimLower,
                _ => return None,
            },
            Kind::Ident => {
                let word = self.text(token.range);
                [
                    BinaryOp::And,
                    BinaryOp::Or,
                    BinaryOp::Unless,
                    BinaryOp::Atan2,
                ]
                .into_iter()
                .find(|op| op.as_str().eq_ignore_ascii_case(word))?
            }
            _ => return None,
        })
    }

    /// What stands between operators: a sign with its operand, or a primary with its modifiers.
    fn operand(&mut self) -> Result<Parsed> {
        let start = self.peek().range.start;
        if self.is_sign("-") || self.is_sign("+") {
            let negative = self.is_sign("-");
            self.at += 1;
            let inner = self.expression(UNARY_PRECEDENCE)?;
            let range = Range {
                start,
                end: inner.expr.range().end,
            };
            if let Expr::Number { value, .. } = inner.expr {
                let duration = matches!(inner.expr, Expr::Number { duration: true, .. });
                let value = if negative { -value } else { value };
                return self.node(
                    Expr::Number {
                        value,
                        duration,
                        range,
                    },
                    0,
                );
            }
            self.check_unary(&inner.expr)?;
            return self.node(
                Expr::Unary {
                    negative,
                    expr: Box::new(inner.expr),
                    range,
                },
                inner.depth,
            );
        }
        let mut parsed = self.primary()?;
        loop {
            match self.postfix(parsed)? {
                Ok(more) => parsed = more,
                Err(done) => return Ok(done),
            }
        }
    }

    fn primary(&mut self) -> Result<Parsed> {
        let token = self.peek().clone();
        let range = token.range;
        match token.kind {
            Kind::Number(value) => {
                self.at += 1;
                self.node(
                    Expr::Number {
                        value,
                        duration: false,
                        range,
                    },
                    0,
                )
            }
            Kind::Duration(milliseconds) => {
                self.at += 1;
                self.node(
                    Expr::Number {
                        value: milliseconds as f64 / 1000.0,
                        duration: true,
                        range,
                    },
                    0,
                )
            }
            Kind::Text(value, invalid) => {
                self.at += 1;
                self.node(
                    Expr::String {
                        value,
                        invalid,
                        range,
                    },
                    0,
                )
            }
            Kind::Sign("(") => {
                self.at += 1;
                let inner = self.expression(0)?;
                let end = self.expect(")", "parenthesized expression")?.end;
                self.node(
                    Expr::Paren {
                        expr: Box::new(inner.expr),
                        range: Range {
                            start: range.start,
                            end,
                        },
                    },
                    inner.depth,
                )
            }
            Kind::Sign("{") => self.selector(None),
            Kind::Ident => {
                let name = self.text(range);
                let opens = matches!(self.peek_after().kind, Kind::Sign("("));
                if let Some(op) = AggregateOp::from_name(name) {
                    let after = self.peek_after();
                    let grouped = after.kind == Kind::Ident
                        && ["by", "without"]
                            .iter()
                            .any(|word| self.text(after.range).eq_ignore_ascii_case(word));
                    if opens || grouped {
                        return self.aggregate(op);
                    }
                }
                if opens {
                    return self.call(name);
                }
                self.at += 1;
                self.selector(Some(range))
            }
            _ => Err(self.unexpected("query", "expected an expression")),
        }
    }

    fn aggregate(&mut self, op: AggregateOp) -> Result<Parsed> {
        let start = self.advance().range.start;
        let mut grouping = None;
        if !self.is_sign("(") {
            grouping = Some(self.grouping()?);
        }
        self.expect("(", "aggregation")?;
        let mut args = self.arguments("aggregation")?;
        if grouping.is_none() && (self.is_word("by") || self.is_word("without")) {
            grouping = Some(self.grouping()?);
        }
        let range = Range {
            start,
            end: self.last_end(),
        };
        let wanted = 1 + usize::from(op.parameter().is_some());
        if args.len() != wanted {
            return Err(self.error(
                range,
                format!(
                    "wrong number of arguments for aggregate expression provided, expected {wanted}, got {}",
                    args.len()
                ),
            ));
        }
        let depth = args.iter().map(|arg| arg.depth).max().unwrap_or(0);
        let Some(expr) = args.pop() else {
            return Err(self.error(range, "no arguments for aggregate expression provided"));
        };
        self.check_type(&expr.expr, ValueType::Vector, "aggregation expression")?;
        let param = args.pop();
        if let (Some(param), Some(wanted)) = (&param, op.parameter()) {
            self.check_type(&param.expr, wanted, "aggregation parameter")?;
        }
        let (without, grouping) = grouping.unwrap_or((false, Vec::new()));
        self.node(
            Expr::Aggregate {
                op,
                expr: Box::new(expr.expr),
                param: param.map(|param| Box::new(param.expr)),
                grouping,
                without,
                range,
            },
            depth,
        )
    }

    /// Arguments up to and with the closing parenthesis.
    fn arguments(&mut self, context: &str) -> Result<Vec<Parsed>> {
        let mut args = Vec::new();
        if self.accept(")") {
            return Ok(args);
        }
        loop {
            args.push(self.expression(0)?);
            if self.accept(",") {
                continue;
            }
            self.expect(")", context)?;
            return Ok(args);
        }
    }

    fn call(&mut self, name: &str) -> Result<Parsed> {
        let start = self.advance().range;
        let function = functions::find(name)
            .or_else(|| functions::find(&name.to_ascii_lowercase()).filter(|f| f.args.is_empty()));
        let Some(function) = function else {
            return Err(self.error(start, format!("unknown function with name \"{name}\"")));
        };
        self.expect("(", "function call")?;
        let outer = std::mem::replace(&mut self.any_selector, function.name == "info");
        let args = self.arguments("function call")?;
        self.any_selector = outer;
        let range = Range {
            start: start.start,
            end: self.last_end(),
        };
        let depth = args.iter().map(|arg| arg.depth).max().unwrap_or(0);
        let args: Vec<Expr> = args.into_iter().map(|arg| arg.expr).collect();
        self.check_call(function, &args, range)?;
        self.node(
            Expr::Call {
                function,
                args,
                range,
            },
            depth,
        )
    }
}
