//! Runs queries, within limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::ast::{Expr, ValueType};
use super::error::QueryError;
use super::eval::{Evaluator, Grid, Times};
use super::parser::{self, ParseLimits};
use super::value::Answer;
use crate::series::SeriesSource;

/// What a query may at most be and use, and how the language is read.
#[derive(Clone, Debug)]
pub struct Config {
    /// Samples in memory at once; a sample takes 16 bytes, a histogram counts as many.
    pub max_samples: usize,
    /// Series that one selector may find.
    pub max_series: usize,
    /// Evaluations of one range query.
    pub max_steps: usize,
    /// How long one query may run.
    pub timeout: Duration,
    /// How far back an instant selector looks for the last sample.
    pub lookback: Duration,
    /// The step of subqueries that name none.
    pub subquery_step: Duration,
    /// Whether the name of a metric is dropped at the end of the query instead of at the
    /// function that drops it, so that `label_replace` can still read it. Prometheus has this
    /// behind a feature flag.
    pub delayed_name_removal: bool,
    /// Size and depth of a query.
    pub parse: ParseLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_samples: 20_000_000,
            max_series: 500_000,
            max_steps: 11_000,
            timeout: Duration::from_secs(120),
            lookback: Duration::from_secs(300),
            subquery_step: Duration::from_secs(60),
            delayed_name_removal: false,
            parse: ParseLimits::default(),
        }
    }
}

/// Ends queries that nobody waits for any more.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the queries this was given to.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_canceled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Answers queries. Cheap to clone; holds no state between queries.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    config: Arc<Config>,
}

/// Times beyond this, in milliseconds, could overflow when durations are added.
const TIME_CEILING: i64 = 9_000_000_000_000_000;

impl Engine {
    /// An engine with these limits.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config: Arc::new(config),
        }
    }

    /// The limits.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Evaluates a query at one time, in milliseconds since the Unix epoch.
    ///
    /// This computes and may block on the store: call it where blocking is allowed.
    ///
    /// # Errors
    /// The text is no query, the data do not fit it, or a limit is reached.
    pub fn instant(
        &self,
        source: &dyn SeriesSource,
        query: &str,
        time: i64,
        cancel: &Cancel,
    ) -> Result<Answer, QueryError> {
        let expr = parser::parse(query, self.config.parse)?;
        check_time("time", time)?;
        let times = Times {
            start: time,
            end: time,
            step: 0,
        };
        self.evaluator(source, cancel, times)
            .run_instant(&expr, Grid::single(time))
    }

    /// Evaluates a query at `start`, `start + step`, … up to `end`, in milliseconds since the
    /// Unix epoch.
    ///
    /// # Errors
    /// As for [`Self::instant`]; also when the times make no sense or more steps than allowed.
    pub fn range(
        &self,
        source: &dyn SeriesSource,
        query: &str,
        start: i64,
        end: i64,
        step: i64,
        cancel: &Cancel,
    ) -> Result<Answer, QueryError> {
        let expr = parser::parse(query, self.config.parse)?;
        check_time("start", start)?;
        check_time("end", end)?;
        let refuse = |parameter, reason: String| QueryError::Parameter { parameter, reason };
        if end < start {
            return Err(refuse(
                "end",
                "end timestamp must not be before start time".to_owned(),
            ));
        }
        if step <= 0 {
            return Err(refuse(
                "step",
                "zero or negative query resolution step widths are not accepted. Try a positive integer"
                    .to_owned(),
            ));
        }
        let steps = (end - start) / step + 1;
        if steps > self.config.max_steps as i64 {
            return Err(refuse(
                "step",
                format!(
                    "exceeded maximum resolution of {} points per timeseries. Try decreasing the query resolution (?step=XX)",
                    self.config.max_steps
                ),
            ));
        }
        if !matches!(expr.value_type(), ValueType::Scalar | ValueType::Vector) {
            return Err(refuse(
                "query",
                format!(
                    "invalid expression type \"{}\" for range query, must be Scalar or instant Vector",
                    expr.value_type().describe()
                ),
            ));
        }
        let times = Times { start, end, step };
        self.evaluator(source, cancel, times)
            .run_range(&expr, Grid::new(start, end, step))
    }

    /// Reads a query within the limits of this engine.
    ///
    /// # Errors
    /// The text is no query.
    pub fn parse(&self, query: &str) -> Result<Expr, QueryError> {
        Ok(parser::parse(query, self.config.parse)?)
    }

    fn evaluator<'a>(
        &'a self,
        source: &'a dyn SeriesSource,
        cancel: &'a Cancel,
        times: Times,
    ) -> Evaluator<'a> {
        Evaluator::new(
            source,
            &self.config,
            times,
            cancel,
            Instant::now().checked_add(self.config.timeout),
        )
    }
}

fn check_time(parameter: &'static str, time: i64) -> Result<(), QueryError> {
    if (-TIME_CEILING..=TIME_CEILING).contains(&time) {
        return Ok(());
    }
    Err(QueryError::Parameter {
        parameter,
        reason: format!("{time} ms is out of range"),
    })
}
