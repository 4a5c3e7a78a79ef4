//! What can go wrong with a query.

use ondol_types::{Classified, ErrorKind};

use super::ast::Range;
use crate::series::SourceError;

/// A text that is no query.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{line}:{column}: parse error: {message}")]
pub struct ParseError {
    /// What is wrong.
    pub message: String,
    /// Which bytes of the query.
    pub range: Range,
    /// The line, counted from 1.
    pub line: usize,
    /// The byte within the line, counted from 1.
    pub column: usize,
}

impl ParseError {
    pub(super) fn new(query: &str, range: Range, message: impl Into<String>) -> Self {
        let (line, column) = position(query, range.start);
        Self {
            message: message.into(),
            range,
            line,
            column,
        }
    }
}

/// Line and column of a byte, both counted from 1.
pub(super) fn position(query: &str, at: usize) -> (usize, usize) {
    let before = &query.as_bytes()[..at.min(query.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(before.len(), |end| before.len() - end - 1)
        + 1;
    (line, column)
}

/// A query without a result.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The text is no query.
    #[error("invalid parameter \"query\": {0}")]
    Parse(#[from] ParseError),
    /// Another parameter is wrong.
    #[error("invalid parameter \"{parameter}\": {reason}")]
    Parameter {
        /// Which.
        parameter: &'static str,
        /// Why.
        reason: String,
    },
    /// It took longer than it may.
    #[error("query timed out in {0}")]
    Timeout(&'static str),
    /// Whoever asked no longer wants the answer.
    #[error("query was canceled in {0}")]
    Canceled(&'static str),
    /// It cannot be evaluated on the data there is.
    #[error("{0}")]
    Execution(String),
    /// It needs more than it may have.
    #[error("{offender} needs more than {limit} {what} ({setting})")]
    Limit {
        /// The part of the query that is too large.
        offender: String,
        /// The ceiling.
        limit: usize,
        /// What there is too much of.
        what: &'static str,
        /// The setting that holds the ceiling.
        setting: &'static str,
    },
    /// The store failed.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// The kinds of errors that Prometheus' HTTP API knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryErrorKind {
    /// `bad_data`
    BadData,
    /// `timeout`
    Timeout,
    /// `canceled`
    Canceled,
    /// `execution`
    Execution,
    /// `internal`
    Internal,
}

impl QueryErrorKind {
    /// As the API names it in `errorType`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadData => "bad_data",
            Self::Timeout => "timeout",
            Self::Canceled => "canceled",
            Self::Execution => "execution",
            Self::Internal => "internal",
        }
    }
}

impl QueryError {
    /// How Prometheus' HTTP API classifies it.
    #[must_use]
    pub fn query_kind(&self) -> QueryErrorKind {
        match self {
            Self::Parse(_) | Self::Parameter { .. } => QueryErrorKind::BadData,
            Self::Timeout(_) => QueryErrorKind::Timeout,
            Self::Canceled(_) => QueryErrorKind::Canceled,
            Self::Execution(_) | Self::Limit { .. } | Self::Source(SourceError::Limited(_)) => {
                QueryErrorKind::Execution
            }
            Self::Source(SourceError::Failed(_)) => QueryErrorKind::Internal,
        }
    }
}

impl Classified for QueryError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Parse(_) | Self::Parameter { .. } | Self::Execution(_) => ErrorKind::InvalidInput,
            Self::Limit { .. } | Self::Source(SourceError::Limited(_)) => ErrorKind::TooLarge,
            Self::Timeout(_) => ErrorKind::Timeout,
            Self::Canceled(_) => ErrorKind::Cancelled,
            Self::Source(SourceError::Failed(_)) => ErrorKind::Unavailable,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Parse(_) => "promql.parse",
            Self::Parameter { .. } => "promql.parameter",
            Self::Timeout(_) => "promql.timeout",
            Self::Canceled(_) => "promql.canceled",
            Self::Execution(_) => "promql.execution",
            Self::Limit { .. } => "promql.limit",
            Self::Source(_) => "promql.source",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Limit { .. } | Self::Timeout(_) => Some(
                "select fewer series, a shorter time or a larger step, or record the expression as a series of its own"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
