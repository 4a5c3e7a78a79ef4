//! What a query results in.

use std::sync::Arc;

use super::annotations::Annotations;
use crate::series::{Histogram, Labels};

/// The value of a sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Number {
    /// A number.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

/// One sample of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSample {
    /// The series.
    pub labels: Labels,
    /// Milliseconds since the Unix epoch.
    pub time: i64,
    /// The value.
    pub value: Number,
}

/// Samples of one series, sorted by time.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The series.
    pub labels: Labels,
    /// Milliseconds since the Unix epoch, and the value.
    pub points: Vec<(i64, Number)>,
}

/// The result of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number at a time.
    Scalar {
        /// Milliseconds since the Unix epoch.
        time: i64,
        /// The number.
        value: f64,
    },
    /// A text at a time.
    String {
        /// Milliseconds since the Unix epoch.
        time: i64,
        /// The text.
        value: String,
    },
    /// One sample of each series. Sorted by labels, unless the query sorts.
    Vector(Vec<VectorSample>),
    /// Samples of each series, sorted by labels.
    Matrix(Vec<Series>),
}

impl Value {
    /// As the API names it in `resultType`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Scalar { .. } => "scalar",
            Self::String { .. } => "string",
            Self::Vector(_) => "vector",
            Self::Matrix(_) => "matrix",
        }
    }
}

/// A result with the remarks on it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The result.
    pub value: Value,
    /// The remarks; they need the text of the query to say where.
    pub annotations: Annotations,
    /// The most samples that were in memory at once.
    pub peak_samples: usize,
    /// All samples that were read from the store.
    pub read_samples: usize,
}
