//! `series`, `labels`, `label/<name>/values`, `metadata`, `query_exemplars`: what there is.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::answer::{self, ApiError, TRUNCATED};
use super::params::Params;
use super::scope::Scope;
use super::{ApiResult, Call};
use crate::promql::Expr;
use crate::promql::format_plain;
use crate::promql::json::{list, write_labels, write_text, write_time};
use crate::series::{
    Extent, Listing, Matcher, Metadata, SeriesExemplars, SeriesIndex, SourceError,
};

/// The first and the last moment, for questions without a time.
const BEGINNING: i64 = -9_000_000_000_000_000;
const END: i64 = 9_000_000_000_000_000;
/// Metrics whose metadata is listed at most.
const MAX_METADATA: usize = 100_000;
/// Exemplars that are listed at most.
const MAX_EXEMPLARS: usize = 20_000;

/// What a question about the index asks for.
struct Ask {
    sets: Vec<Vec<Matcher>>,
    start: i64,
    end: i64,
    /// What the caller asked for, and what the door allows.
    limit: Option<usize>,
    ceiling: usize,
}

impl Ask {
    fn read(call: &Call, params: &Params, needs_match: bool) -> Result<Self, ApiError> {
        let scope = Scope::of(call)?;
        let sets = params.matchers(call.shared.engine.config().parse)?;
        if needs_match && sets.is_empty() {
            return Err(ApiError::bad_data("no match[] parameter provided"));
        }
        let start = params.time("start")?.unwrap_or(BEGINNING);
        let end = params.time("end")?.unwrap_or(END);
        if end < start {
            return Err(ApiError::parameter(
                "end",
                "end timestamp must not be before start timestamp",
            ));
        }
        Ok(Self {
            sets: scope.narrow(sets),
            start,
            end,
            limit: params.limit("limit")?,
            ceiling: call.door().config.max_listed,
        })
    }

    /// Asks the index where blocking is allowed.
    async fn of_index<T: Send + 'static>(
        self,
        call: &Call,
        ask: impl FnOnce(&dyn SeriesIndex, Extent<'_>) -> Result<Listing<T>, SourceError>
        + Send
        + 'static,
    ) -> Result<(Vec<T>, Vec<String>), ApiError> {
        let (limit, ceiling) = (self.limit, self.ceiling);
        let found = blocking(call, move |index| {
            let limit = limit.unwrap_or(ceiling).min(ceiling);
            let extent = Extent {
                sets: &self.sets,
                start: self.start,
                end: self.end,
                limit,
            };
            let mut found = ask(index, extent)?;
            if found.items.len() > limit {
                found.items.truncate(limit);
                found.cut = true;
            }
            Ok(found)
        })
        .await?;
        let warnings = match (found.cut, limit) {
            (false, _) => Vec::new(),
            (true, Some(limit)) if limit <= ceiling => vec![TRUNCATED.to_owned()],
            (true, _) => vec![format!(
                "results truncated at {ceiling} (max_listed): ask with match[]"
            )],
        };
        Ok((found.items, warnings))
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    call: &Call,
    ask: impl FnOnce(&dyn SeriesIndex) -> Result<T, SourceError> + Send + 'static,
) -> Result<T, ApiError> {
    let index = call.door().index.clone();
    tokio::task::spawn_blocking(move || ask(&*index))
        .await
        .map_err(|error| ApiError::internal(format!("the store ended unexpectedly: {error}")))?
        .map_err(ApiError::from)
}

pub(super) async fn series(call: &Call, params: &Params) -> ApiResult {
    let ask = Ask::read(call, params, true)?;
    let (found, warnings) = ask
        .of_index(call, |index, extent| index.series(extent))
        .await?;
    let mut data = String::new();
    list(&found, &mut data, write_labels);
    Ok(answer::success(&data, &warnings))
}

fn texts(found: &[Arc<str>], warnings: &[String]) -> axum::response::Response {
    let mut data = String::new();
    list(found, &mut data, |text, out| write_text(text, out));
    answer::success(&data, warnings)
}

pub(super) async fn labels(call: &Call, params: &Params) -> ApiResult {
    let ask = Ask::read(call, params, false)?;
    let (found, warnings) = ask
        .of_index(call, |index, extent| index.label_names(extent))
        .await?;
    Ok(texts(&found, &warnings))
}

pub(super) async fn values(call: &Call, name: &str, params: &Params) -> ApiResult {
    let name = unescape_name(name);
    if name.is_empty() {
        return Err(ApiError::bad_data(format!("invalid label name: {name:?}")));
    }
    let ask = Ask::read(call, params, false)?;
    let (found, warnings) = ask
        .of_index(call, move |index, extent| index.label_values(&name, extent))
        .await?;
    Ok(texts(&found, &warnings))
}

/// The name behind `U__…`, in which `_2e_` stands for the character U+002E and `__` for an
/// underscore. What is not escaped like this is the name itself.
fn unescape_name(name: &str) -> String {
    let Some(escaped) = name.strip_prefix("U__") else {
        return name.to_owned();
    };
    let mut out = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.find('_') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('_') {
            out.push('_');
            rest = after;
            continue;
        }
        let code = rest.find('_').filter(|end| *end <= 6).and_then(|end| {
            let character = u32::from_str_radix(&rest[..end], 16)
                .ok()
                .and_then(char::from_u32)?;
            Some((character, end))
        });
        let Some((character, end)) = code else {
            return name.to_owned();
        };
        out.push(character);
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    out
}

pub(super) async fn metadata(call: &Call, params: &Params) -> ApiResult {
    // Names and meanings of metrics are the same for every project.
    Scope::of(call)?;
    let limit = params.limit("limit")?.unwrap_or(MAX_METADATA);
    let each = params.limit("limit_per_metric")?.unwrap_or(usize::MAX);
    let metric = Some(params.get("metric").to_owned()).filter(|metric| !metric.is_empty());
    let found: BTreeMap<Arc<str>, Vec<Metadata>> = blocking(call, move |index| {
        index.metadata(metric.as_deref(), limit.min(MAX_METADATA))
    })
    .await?;
    let mut data = String::from("{");
    for (at, (metric, said)) in found.iter().take(limit).enumerate() {
        if at > 0 {
            data.push(',');
        }
        write_text(metric, &mut data);
        data.push(':');
        list(&said[..said.len().min(each)], &mut data, |said, out| {
            out.push_str("{\"type\":");
            write_text(said.kind.as_str(), out);
            out.push_str(",\"help\":");
            write_text(&said.help, out);
            out.push_str(",\"unit\":");
            write_text(&said.unit, out);
            out.push('}');
        });
    }
    data.push('}');
    Ok(answer::success(&data, &[]))
}

/// The matchers of every selector of an expression.
fn selectors(expr: &Expr, into: &mut Vec<Vec<Matcher>>) {
    match expr {
        Expr::Selector(selector) | Expr::Matrix { selector, .. } => {
            into.push(selector.matchers.clone());
        }
        _ => {
            for child in expr.children() {
                selectors(child, into);
            }
        }
    }
}

pub(super) async fn exemplars(call: &Call, params: &Params) -> ApiResult {
    let scope = Scope::of(call)?;
    let start = params.required_time("start")?;
    let end = params.required_time("end")?;
    if end < start {
        return Err(ApiError::parameter(
            "end",
            "end timestamp must not be before start timestamp",
        ));
    }
    let expr = call.shared.engine.parse(params.get("query"))?;
    let mut sets = Vec::new();
    selectors(&expr, &mut sets);
    if sets.is_empty() {
        return Ok(answer::success("[]", &[]));
    }
    let sets = scope.narrow(sets);
    let found = blocking(call, move |index| {
        index.exemplars(Extent {
            sets: &sets,
            start,
            end,
            limit: MAX_EXEMPLARS,
        })
    })
    .await?;
    let mut data = String::new();
    list(&found, &mut data, write_exemplars);
    Ok(answer::success(&data, &[]))
}

fn write_exemplars(series: &SeriesExemplars, out: &mut String) {
    out.push_str("{\"seriesLabels\":");
    write_labels(&series.labels, out);
    out.push_str(",\"exemplars\":");
    list(&series.exemplars, out, |exemplar, out| {
        out.push_str("{\"labels\":");
        write_labels(&exemplar.labels, out);
        out.push_str(",\"value\":");
        write_text(&format_plain(exemplar.value), out);
        out.push_str(",\"timestamp\":");
        write_time(exemplar.time, out);
        out.push('}');
    });
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::unescape_name;

    #[test]
    fn escaped_names_are_read() {
        assert_eq!(unescape_name("U__http_2e_status__code"), "http.status_code");
        assert_eq!(unescape_name("U___6e29__5ea6_"), "温度");
        assert_eq!(unescape_name("job"), "job");
        for wrong in ["U__a_zz_", "U__a_2e", "U__a_d800_"] {
            assert_eq!(unescape_name(wrong), wrong);
        }
    }
}
