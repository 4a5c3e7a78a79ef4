//! The syntax tree of a query.
//!
//! Every node knows the bytes of the query it was read from, for error messages and
//! annotations. Durations stay expressions until a query runs, because they may name its step.

use crate::series::Matcher;

use super::functions::Function;

/// Bytes of the query, from `start` up to and without `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub start: usize,
    /// The byte after the last one.
    pub end: usize,
}

/// What an expression results in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// A number.
    Scalar,
    /// A text.
    String,
    /// One sample of each of many series.
    Vector,
    /// A stretch of each of many series.
    Matrix,
}

impl ValueType {
    /// As error messages name it.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::String => "string",
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
        }
    }
}

/// An operator between two expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named after its operator")]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    /// `</`: keeps the observations of a histogram up to a value.
    TrimUpper,
    /// `>/`: keeps the observations of a histogram from a value on.
    TrimLower,
    And,
    Or,
    Unless,
}

impl BinaryOp {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
            Self::Atan2 => "atan2",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::TrimUpper => "</",
            Self::TrimLower => ">/",
            Self::And => "and",
            Self::Or => "or",
            Self::Unless => "unless",
        }
    }

    /// Whether it keeps or drops samples by comparing them.
    #[must_use]
    pub fn is_comparison(self) -> bool {
        matches!(
            self,
            Self::Equal
                | Self::NotEqual
                | Self::Less
                | Self::LessEqual
                | Self::Greater
                | Self::GreaterEqual
        )
    }

    /// Whether it works on sets of series.
    #[must_use]
    pub fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }

    /// Whether the result is no longer the same metric.
    #[must_use]
    pub fn changes_metric(self) -> bool {
        matches!(
            self,
            Self::Add | Self::Sub | Self::Mul | Self::Div | Self::Mod | Self::Pow | Self::Atan2
        )
    }

    /// How tightly it binds; more binds tighter.
    pub(super) fn precedence(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And | Self::Unless => 2,
            Self::Equal
            | Self::NotEqual
            | Self::Less
            | Self::LessEqual
            | Self::Greater
            | Self::GreaterEqual
            | Self::TrimUpper
            | Self::TrimLower => 3,
            Self::Add | Self::Sub => 4,
            Self::Mul | Self::Div | Self::Mod | Self::Atan2 => 5,
            Self::Pow => 7,
        }
    }
}

/// How tightly a sign before an expression binds: less than `^`, more than `*`.
pub(super) const UNARY_PRECEDENCE: u8 = 6;

/// An aggregation over series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named after its operator")]
pub enum AggregateOp {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    TopK,
    BottomK,
    CountValues,
    Quantile,
    LimitK,
    LimitRatio,
}

impl AggregateOp {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Count => "count",
            Self::Min => "min",
            Self::Max => "max",
            Self::Group => "group",
            Self::Stddev => "stddev",
            Self::Stdvar => "stdvar",
            Self::TopK => "topk",
            Self::BottomK => "bottomk",
            Self::CountValues => "count_values",
            Self::Quantile => "quantile",
            Self::LimitK => "limitk",
            Self::LimitRatio => "limit_ratio",
        }
    }

    /// The aggregation of this name, in any case of letters.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        const ALL: [AggregateOp; 14] = [
            AggregateOp::Sum,
            AggregateOp::Avg,
            AggregateOp::Count,
            AggregateOp::Min,
            AggregateOp::Max,
            AggregateOp::Group,
            AggregateOp::Stddev,
            AggregateOp::Stdvar,
            AggregateOp::TopK,
            AggregateOp::BottomK,
            AggregateOp::CountValues,
            AggregateOp::Quantile,
            AggregateOp::LimitK,
            AggregateOp::LimitRatio,
        ];
        ALL.into_iter()
            .find(|op| op.as_str().eq_ignore_ascii_case(name))
    }

    /// The type of its parameter, when it has one.
    #[must_use]
    pub fn parameter(self) -> Option<ValueType> {
        match self {
            Self::TopK | Self::BottomK | Self::Quantile | Self::LimitK | Self::LimitRatio => {
                Some(ValueType::Scalar)
            }
            Self::CountValues => Some(ValueType::String),
            _ => None,
        }
    }
}

/// Which series of one side match how many of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each says it in its name")]
pub enum Cardinality {
    OneToOne,
    ManyToOne,
    OneToMany,
    ManyToMany,
}

/// How the series of two vectors are brought together.
#[derive(Clone, Debug, PartialEq)]
pub struct Matching {
    /// How many match how many.
    pub cardinality: Cardinality,
    /// Whether `labels` are those that are compared (`on`) or those that are not (`ignoring`).
    pub on: bool,
    /// The labels of `on` or `ignoring`.
    pub labels: Vec<String>,
    /// The labels that the many take over from the one.
    pub include: Vec<String>,
    /// What a missing sample on the left counts as.
    pub fill_left: Option<f64>,
    /// What a missing sample on the right counts as.
    pub fill_right: Option<f64>,
}

/// When a selector is evaluated, when not at the time of the evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// At this time, in milliseconds.
    Time(i64),
    /// At the start of the query.
    Start,
    /// At the end of the query.
    End,
}

/// A duration, in seconds, that may depend on the step and the range of the query.
#[derive(Clone, Debug, PartialEq)]
pub enum Duration {
    /// A number of seconds, and whether it was written with units.
    Seconds(f64, bool),
    /// `step()`
    Step,
    /// `range()`
    Range,
    /// `-x`
    Negated(Box<Duration>),
    /// `x op y`, with one of `+ - * / % ^`.
    Binary(BinaryOp, Box<Duration>, Box<Duration>),
    /// `min_of(x, y)`
    Min(Box<Duration>, Box<Duration>),
    /// `max_of(x, y)`
    Max(Box<Duration>, Box<Duration>),
    /// `(x)`
    Paren(Box<Duration>),
}

/// What is done at the ends of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extension {
    /// Nothing: only samples inside count.
    #[default]
    None,
    /// The last sample before the range stands for its start.
    Anchored,
    /// Values at both ends are interpolated.
    Smoothed,
}

/// Chooses series.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSelector {
    /// The name before the braces, when it stands there.
    pub name: Option<String>,
    /// Every condition, that on the name included.
    pub matchers: Vec<Matcher>,
    /// Shift into the past.
    pub offset: Option<Duration>,
    /// Fixed time.
    pub at: Option<At>,
    /// What is done at the ends.
    pub extension: Extension,
    /// Where it was read from.
    pub range: Range,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A number.
    Number {
        /// Its value; seconds when it was written as a duration.
        value: f64,
        /// Whether it was written as a duration.
        duration: bool,
        /// Where it was read from.
        range: Range,
    },
    /// A text.
    String {
        /// Its value.
        value: String,
        /// The text as an error message shows it, when it is no valid UTF-8.
        invalid: Option<String>,
        /// Where it was read from.
        range: Range,
    },
    /// Series, one sample each.
    Selector(VectorSelector),
    /// Series, a stretch each.
    Matrix {
        /// Which.
        selector: VectorSelector,
        /// How long a stretch.
        window: Duration,
        /// Where it was read from.
        range: Range,
    },
    /// A stretch of the results of an expression.
    Subquery {
        /// The expression.
        expr: Box<Expr>,
        /// How long a stretch.
        window: Duration,
        /// Time between two evaluations; the engine's default when absent.
        step: Option<Duration>,
        /// Shift into the past.
        offset: Option<Duration>,
        /// Fixed time.
        at: Option<At>,
        /// Where it was read from.
        range: Range,
    },
    /// A function with its arguments.
    Call {
        /// The function.
        function: &'static Function,
        /// The arguments.
        args: Vec<Expr>,
        /// Where it was read from.
        range: Range,
    },
    /// An aggregation.
    Aggregate {
        /// Which.
        op: AggregateOp,
        /// Over what.
        expr: Box<Expr>,
        /// With which parameter.
        param: Option<Box<Expr>>,
        /// The labels of `by` or `without`.
        grouping: Vec<String>,
        /// Whether `grouping` are the labels that go.
        without: bool,
        /// Where it was read from.
        range: Range,
    },
    /// A sign before an expression.
    Unary {
        /// Whether it is a minus.
        negative: bool,
        /// The expression.
        expr: Box<Expr>,
        /// Where it was read from.
        range: Range,
    },
    /// Two expressions with an operator between them.
    Binary {
        /// The operator.
        op: BinaryOp,
        /// Left of it.
        lhs: Box<Expr>,
        /// Right of it.
        rhs: Box<Expr>,
        /// How vectors are matched; absent when a side is a scalar.
        matching: Option<Matching>,
        /// Whether a comparison results in 0 and 1.
        return_bool: bool,
        /// Where it was read from.
        range: Range,
    },
    /// An expression in parentheses.
    Paren {
        /// The expression.
        expr: Box<Expr>,
        /// Where it was read from.
        range: Range,
    },
}

impl Expr {
    /// Where it was read from.
    #[must_use]
    pub fn range(&self) -> Range {
        match self {
            Self::Selector(selector) => selector.range,
            Self::Number { range, .. }
            | Self::String { range, .. }
            | Self::Matrix { range, .. }
            | Self::Subquery { range, .. }
            | Self::Call { range, .. }
            | Self::Aggregate { range, .. }
            | Self::Unary { range, .. }
            | Self::Binary { range, .. }
            | Self::Paren { range, .. } => *range,
        }
    }

    /// What it results in.
    #[must_use]
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::Number { .. } => ValueType::Scalar,
            Self::String { .. } => ValueType::String,
            Self::Selector(_) | Self::Aggregate { .. } => ValueType::Vector,
            Self::Matrix { .. } | Self::Subquery { .. } => ValueType::Matrix,
            Self::Call { function, .. } => function.returns,
            Self::Unary { expr, .. } | Self::Paren { expr, .. } => expr.value_type(),
            Self::Binary { lhs, rhs, .. } => {
                if lhs.value_type() == ValueType::Scalar && rhs.value_type() == ValueType::Scalar {
                    ValueType::Scalar
                } else {
                    ValueType::Vector
                }
            }
        }
    }

    /// The expression inside all parentheses around it.
    #[must_use]
    pub fn unparenthesized(&self) -> &Self {
        let mut expr = self;
        while let Self::Paren { expr: inner, .. } = expr {
            expr = inner;
        }
        expr
    }

    /// The expressions directly inside it.
    #[must_use]
    pub fn children(&self) -> Vec<&Self> {
        match self {
            Self::Number { .. } | Self::String { .. } | Self::Selector(_) | Self::Matrix { .. } => {
                Vec::new()
            }
            Self::Subquery { expr, .. } | Self::Unary { expr, .. } | Self::Paren { expr, .. } => {
                vec![expr]
            }
            Self::Call { args, .. } => args.iter().collect(),
            Self::Aggregate { expr, param, .. } => {
                let mut children: Vec<&Self> = param.iter().map(AsRef::as_ref).collect();
                children.push(expr);
                children
            }
            Self::Binary { lhs, rhs, .. } => vec![lhs, rhs],
        }
    }
}
