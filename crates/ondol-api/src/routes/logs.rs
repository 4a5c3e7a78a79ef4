//! Logs of a project's service and steps.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use futures_util::{StreamExt, stream};
use ondol_telemetry::{LogSearch, TelemetryError};
use ondol_types::{ProjectName, Timestamp};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::extract::{Caller, Path, Query};
use crate::live;
use crate::problem::Answer;
use crate::rooms::Rooms;

pub(super) fn routes() -> OpenApiRouter<Rooms> {
    OpenApiRouter::new().routes(routes!(search))
}

/// Which lines.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LogsQuery {
    /// The last so many lines (default 200).
    tail: Option<usize>,
    /// Only lines with this text.
    contains: Option<String>,
    /// Only lines after this moment: RFC 3339, or an age such as `10m`.
    since: Option<String>,
    /// Only lines before this moment.
    until: Option<String>,
    /// Steps of this name instead of the service.
    step: Option<String>,
    /// Only this release.
    release: Option<i64>,
    /// Wait for further lines.
    #[serde(default)]
    follow: bool,
}

/// A moment as people give it.
fn moment(text: &str, now: Timestamp) -> Result<Timestamp, TelemetryError> {
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    let bad = || TelemetryError::Moment(text.chars().take(60).collect());
    let split = text
        .len()
        .checked_sub(1)
        .filter(|at| text.is_char_boundary(*at))
        .ok_or_else(bad)?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    Ok(now.minus(Duration::from_secs(number.saturating_mul(seconds))))
}

/// Lines of the service's replicas, or of steps, oldest first, as server-sent events `log`,
/// then `end`; with `follow` new ones as they come.
#[utoipa::path(get, path = "/projects/{project}/logs", tag = "logs", params(("project" = ProjectName, Path), LogsQuery),
    responses((status = 200, description = "server-sent events", content_type = "text/event-stream")))]
async fn search(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(project): Path<ProjectName>,
    Query(query): Query<LogsQuery>,
) -> Answer<Response> {
    let now = ctx.clock.now();
    let mut labels = BTreeMap::new();
    match (&query.step, query.release) {
        (Some(step), _) => labels.insert("step".to_owned(), step.clone()),
        (None, Some(release)) => labels.insert("release".to_owned(), release.to_string()),
        (None, None) => labels.insert("release".to_owned(), String::new()),
    };
    let search = LogSearch {
        contains: query.contains,
        since: query
            .since
            .as_deref()
            .map(|text| moment(text, now))
            .transpose()?,
        until: query
            .until
            .as_deref()
            .map(|text| moment(text, now))
            .transpose()?,
        labels,
        tail: query.tail.unwrap_or(200),
        follow: query.follow,
    };
    let lines = rooms.logs.search(&ctx, &project, search).await?;
    let lines =
        lines.filter_map(|entry| async move { entry.ok().map(|entry| live::event("log", &entry)) });
    let end = stream::once(async { live::event("end", &serde_json::json!({})) });
    Ok(live::answer(lines.chain(end), rooms.stopping.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_moments_are_read() {
        let now = Timestamp::from_micros(10_000_000_000);
        assert_eq!(
            moment("10m", now).unwrap(),
            now.minus(Duration::from_secs(600))
        );
        assert_eq!(
            moment("1970-01-01T00:00:01Z", now).unwrap(),
            Timestamp::from_micros(1_000_000)
        );
        for bad in ["", "m", "10", "10y", "한"] {
            assert!(moment(bad, now).is_err(), "{bad}");
        }
    }
}
