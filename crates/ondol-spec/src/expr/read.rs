//! From CEL's tree to ours: everything that a gate may not use ends here, with a reason.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators as op};

use super::{ExprError, MAX_CHARS, MAX_DEPTH, Number, Operator, Test};

/// Stack of the thread that parses. Only what is used of it takes memory.
const STACK_BYTES: usize = 64 << 20;

pub(super) fn read(text: &str) -> Result<Test, ExprError> {
    let length = text.chars().count();
    if length > MAX_CHARS {
        return Err(ExprError::TooLong(length));
    }
    let text = text.trim();
    if text.is_empty() {
        return Err(ExprError::Syntax {
            character: 1,
            message: "it is empty".to_owned(),
        });
    }
    if let Some(at) = deepest_place(text) {
        return Err(ExprError::Syntax {
            character: at,
            message: format!("nested deeper than {MAX_DEPTH} levels"),
        });
    }
    // The generated parser needs up to 200 KiB of stack per level, more than the thread of a
    // caller may have, and a stack that overflows ends the whole process. So it gets its own.
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new()
            .name("cel".to_owned())
            .stack_size(STACK_BYTES);
        let handle = parser
            .spawn_scoped(scope, || parse(text))
            .map_err(|_| ExprError::Unavailable)?;
        handle.join().unwrap_or(Err(ExprError::Unavailable))
    })
}

fn parse(text: &str) -> Result<Test, ExprError> {
    let parsed = cel::parser::Parser::new()
        .max_recursion_depth(MAX_DEPTH * 2)
        .parse(text);
    let tree = parsed.map_err(|errors| syntax(text, &errors))?;
    test(&tree, 0)
}

/// Where nesting by parentheses and prefixes first exceeds the limit. Checked before the parser
/// sees the text, so that its stack does not depend on what people write.
fn deepest_place(text: &str) -> Option<usize> {
    let mut open = 0u16;
    let mut prefixes = 0u16;
    for (index, c) in text.chars().enumerate() {
        match c {
            '(' | '[' | '{' | '?' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
        prefixes = if matches!(c, '!' | '-') {
            prefixes + 1
        } else {
            0
        };
        if open > MAX_DEPTH || prefixes > MAX_DEPTH {
            return Some(index + 1);
        }
    }
    None
}

fn syntax(text: &str, errors: &cel::ParseErrors) -> ExprError {
    let Some(first) = errors.errors.first() else {
        return ExprError::Syntax {
            character: 1,
            message: "it cannot be read".to_owned(),
        };
    };
    let (line, column) = (first.pos.0.max(1) as usize, first.pos.1.max(1) as usize);
    let before: usize = text
        .split_inclusive('\n')
        .take(line - 1)
        .map(|line| line.chars().count())
        .sum();
    let message = first.msg.lines().next().unwrap_or_default();
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    // The parser goes on to list every token that could have followed; people need the one it met.
    let met = [
        "mismatched input '",
        "extraneous input '",
        "no viable alternative at input '",
    ]
    .iter()
    .find_map(|start| {
        message
            .strip_prefix(start)?
            .split_once('\'')
            .map(|(token, _)| token)
    });
    let message = match met {
        Some("<EOF>") => "it ends where something is missing".to_owned(),
        Some(token) => format!("`{token}` is not expected there"),
        None => message.chars().take(160).collect(),
    };
    ExprError::Syntax {
        character: (before + column).min(text.chars().count() + 1),
        message,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Test,
}

impl Kind {
    const fn words(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::Test => "true or false",
        }
    }
}

fn kind(expr: &IdedExpr, depth: u16) -> Result<Kind, ExprError> {
    deeper(depth)?;
    Ok(match &expr.expr {
        Expr::Literal(LiteralValue::Boolean(_)) => Kind::Test,
        Expr::Select(select) if select.test => Kind::Test,
        Expr::Call(call) => match call.func_name.as_str() {
            op::CONDITIONAL => match call.args.get(1) {
                Some(branch) => kind(branch, depth + 1)?,
                None => Kind::Test,
            },
            op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::NEGATE | op::MODULO => {
                Kind::Number
            }
            _ => Kind::Test,
        },
        _ => Kind::Number,
    })
}

fn deeper(depth: u16) -> Result<(), ExprError> {
    // A chain such as `a + b + c` nests to the left without any parenthesis.
    if depth > MAX_CHARS as u16 / 2 {
        Err(ExprError::Unsupported("an expression this deep".to_owned()))
    } else {
        Ok(())
    }
}

fn two(call: &CallExpr) -> Result<(&IdedExpr, &IdedExpr), ExprError> {
    match call.args.as_slice() {
        [left, right] if call.target.is_none() => Ok((left, right)),
        _ => Err(ExprError::Unsupported(format!(
            "`{}` in this form",
            call.func_name
        ))),
    }
}

fn three(call: &CallExpr) -> Result<(&IdedExpr, &IdedExpr, &IdedExpr), ExprError> {
    match call.args.as_slice() {
        [first, second, third] if call.target.is_none() => Ok((first, second, third)),
        _ => Err(ExprError::Unsupported(format!(
            "`{}` in this form",
            call.func_name
        ))),
    }
}

fn test(expr: &IdedExpr, depth: u16) -> Result<Test, ExprError> {
    deeper(depth)?;
    let wrong = |part: String| ExprError::Type {
        part,
        found: Kind::Number.words(),
        expected: Kind::Test.words(),
    };
    let next = depth + 1;
    match &expr.expr {
        Expr::Literal(LiteralValue::Boolean(value)) => Ok(Test::Literal(*value.inner())),
        Expr::Select(select) if select.test => {
            let group = name_of(&select.operand)
                .ok_or_else(|| ExprError::Unsupported("`has()` of this".to_owned()))?;
            Ok(Test::Has(format!("{group}.{}", select.field)))
        }
        Expr::Call(call) => match call.func_name.as_str() {
            op::LOGICAL_AND | op::LOGICAL_OR => {
                let (left, right) = two(call)?;
                let (left, right) = (Box::new(test(left, next)?), Box::new(test(right, next)?));
                Ok(if call.func_name == op::LOGICAL_AND {
                    Test::And(left, right)
                } else {
                    Test::Or(left, right)
                })
            }
            op::LOGICAL_NOT => match call.args.as_slice() {
                [inner] => Ok(Test::Not(Box::new(test(inner, next)?))),
                _ => Err(ExprError::Unsupported("`!` in this form".to_owned())),
            },
            op::CONDITIONAL => {
                let (condition, yes, no) = three(call)?;
                Ok(Test::Choice(
                    Box::new(test(condition, next)?),
                    Box::new(test(yes, next)?),
                    Box::new(test(no, next)?),
                ))
            }
            op::EQUALS | op::NOT_EQUALS => {
                let (left, right) = two(call)?;
                let equal = call.func_name == op::EQUALS;
                if kind(left, next)? == Kind::Test {
                    return Ok(Test::Same(
                        equal,
                        Box::new(test(left, next)?),
                        Box::new(test(right, next)?),
                    ));
                }
                let operator = if equal {
                    Operator::Equal
                } else {
                    Operator::NotEqual
                };
                compare(operator, left, right, next)
            }
            op::LESS => {
                two(call).and_then(|(left, right)| compare(Operator::Less, left, right, next))
            }
            op::LESS_EQUALS => two(call)
                .and_then(|(left, right)| compare(Operator::LessOrEqual, left, right, next)),
            op::GREATER => {
                two(call).and_then(|(left, right)| compare(Operator::Greater, left, right, next))
            }
            op::GREATER_EQUALS => two(call)
                .and_then(|(left, right)| compare(Operator::GreaterOrEqual, left, right, next)),
            _ => Err(match number(expr, depth) {
                Ok(number) => wrong(number.to_string()),
                Err(error) => error,
            }),
        },
        _ => Err(match number(expr, depth) {
            Ok(number) => wrong(number.to_string()),
            Err(error) => error,
        }),
    }
}

fn compare(
    operator: Operator,
    left: &IdedExpr,
    right: &IdedExpr,
    depth: u16,
) -> Result<Test, ExprError> {
    Ok(Test::Compare(
        operator,
        Box::new(number(left, depth)?),
        Box::new(number(right, depth)?),
    ))
}

fn number(expr: &IdedExpr, depth: u16) -> Result<Number, ExprError> {
    deeper(depth)?;
    let next = depth + 1;
    let unsupported = |what: &str| Err(ExprError::Unsupported(what.to_owned()));
    match &expr.expr {
        Expr::Literal(LiteralValue::Double(value)) => Ok(Number::Literal(*value.inner())),
        Expr::Literal(LiteralValue::Int(value)) => Ok(Number::Literal(*value.inner() as f64)),
        Expr::Literal(LiteralValue::UInt(value)) => Ok(Number::Literal(*value.inner() as f64)),
        Expr::Literal(LiteralValue::Boolean(value)) => Err(ExprError::Type {
            part: value.inner().to_string(),
            found: Kind::Test.words(),
            expected: Kind::Number.words(),
        }),
        Expr::Literal(LiteralValue::String(_) | LiteralValue::Bytes(_)) => unsupported("text"),
        Expr::Literal(LiteralValue::Null) => unsupported("`null`"),
        Expr::Ident(_) | Expr::Select(_) => match name_of(expr) {
            Some(name) => Ok(Number::Name(name)),
            None => unsupported("this selection"),
        },
        Expr::Call(call) => match call.func_name.as_str() {
            op::ADD => arithmetic('+', call, next),
            op::SUBSTRACT => arithmetic('-', call, next),
            op::MULTIPLY => arithmetic('*', call, next),
            op::DIVIDE => arithmetic('/', call, next),
            op::NEGATE => match call.args.as_slice() {
                [inner] => Ok(match number(inner, next)? {
                    Number::Literal(value) => Number::Literal(-value),
                    other => Number::Negative(Box::new(other)),
                }),
                _ => unsupported("`-` in this form"),
            },
            op::CONDITIONAL => {
                let (condition, yes, no) = three(call)?;
                Ok(Number::Choice(
                    Box::new(test(condition, next)?),
                    Box::new(number(yes, next)?),
                    Box::new(number(no, next)?),
                ))
            }
            op::INDEX => match name_of(expr) {
                Some(name) => Ok(Number::Name(name)),
                None => unsupported("an index"),
            },
            op::MODULO => unsupported("`%`"),
            op::IN => unsupported("`in`"),
            op::LOGICAL_AND
            | op::LOGICAL_OR
            | op::LOGICAL_NOT
            | op::LESS
            | op::LESS_EQUALS
            | op::GREATER
            | op::GREATER_EQUALS
            | op::EQUALS
            | op::NOT_EQUALS => Err(ExprError::Type {
                part: test(expr, depth)?.to_string(),
                found: Kind::Test.words(),
                expected: Kind::Number.words(),
            }),
            other => Err(ExprError::Unsupported(format!(
                "the function `{}()`",
                other.trim_start_matches('@')
            ))),
        },
        Expr::List(_) => unsupported("a list"),
        Expr::Map(_) | Expr::Struct(_) => unsupported("a map"),
        Expr::Comprehension(_) => unsupported("a macro over a list"),
        Expr::Unspecified => unsupported("this"),
    }
}

fn arithmetic(symbol: char, call: &CallExpr, depth: u16) -> Result<Number, ExprError> {
    let (left, right) = two(call)?;
    Ok(Number::Arithmetic(
        symbol,
        Box::new(number(left, depth)?),
        Box::new(number(right, depth)?),
    ))
}

/// `a`, `a.b`, and `a["b"]` for names that CEL cannot spell.
fn name_of(expr: &IdedExpr) -> Option<String> {
    match &expr.expr {
        Expr::Ident(name) => Some(name.trim_start_matches('.').to_owned()),
        Expr::Select(select) if !select.test => {
            Some(format!("{}.{}", name_of(&select.operand)?, select.field))
        }
        Expr::Call(call) if call.func_name == op::INDEX => match call.args.as_slice() {
            [
                group,
                IdedExpr {
                    expr: Expr::Literal(LiteralValue::String(key)),
                    ..
                },
            ] => Some(super::cel_name(&format!(
                "{}.{}",
                name_of(group)?,
                key.inner()
            ))),
            _ => None,
        },
        _ => None,
    }
}
