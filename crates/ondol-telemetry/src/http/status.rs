//! `status/…`, `targets`, `rules` and what else the API tells about the server itself.

use std::fmt::Write as _;
use std::time::Duration;

use ondol_auth::Action;
use ondol_types::Timestamp;
use serde_json::{Value, json};

use super::answer::{self, ApiError};
use super::discover::blocking;
use super::params::Params;
use super::scope::{PROJECT, Scope};
use super::{ApiResult, Call, PROTOCOL};
use crate::ingest::scrape::TargetState;
use crate::promql::format_duration;
use crate::series::Count;

/// Entries of a list of `status/tsdb` at most.
const MAX_COUNTS: usize = 10_000;

fn duration(time: Duration) -> String {
    format_duration(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

/// What needs nothing but memory.
pub(super) fn fixed(call: &Call, rest: &str, params: &Params) -> ApiResult {
    let scope = Scope::of(call)?;
    let config = &call.door().config;
    let data = match rest {
        "status/buildinfo" => json!({
            "application": "Ondol",
            "version": PROTOCOL,
            "revision": env!("CARGO_PKG_VERSION"),
            "branch": "",
            "buildUser": "",
            "buildDate": "",
            "goVersion": "",
        }),
        "status/runtimeinfo" => json!({
            "startTime": moment(call.shared.started),
            "serverTime": moment(call.now),
            "CWD": "",
            "hostname": "",
            "reloadConfigSuccess": true,
            "lastConfigTime": moment(call.shared.started),
        }),
        "status/flags" => json!({
            "query.lookback-delta": duration(config.query.lookback),
            "query.max-concurrency": config.max_queries.to_string(),
            "query.max-samples": config.query.max_samples.to_string(),
            "query.timeout": duration(config.query.timeout),
            "web.enable-otlp-receiver": "true",
            "web.enable-remote-write-receiver": "true",
        }),
        "status/config" => {
            let (interval, timeout) = call.door().targets.pace();
            let mut yaml = String::new();
            let _ = write!(
                yaml,
                "global:\n  scrape_interval: {}\n  scrape_timeout: {}\n",
                duration(interval),
                duration(timeout)
            );
            json!({ "yaml": yaml })
        }
        "targets" => targets(call, &scope, params),
        "scrape_pools" => {
            let mut pools: Vec<String> = visible(call, &scope).map(|target| target.pool).collect();
            pools.sort();
            pools.dedup();
            json!({ "scrapePools": pools })
        }
        "rules" => json!({ "groups": [] }),
        "alerts" => json!({ "alerts": [] }),
        "alertmanagers" => json!({ "activeAlertmanagers": [], "droppedAlertmanagers": [] }),
        _ => return Err(ApiError::not_found(&format!("/api/v1/{rest}"))),
    };
    Ok(answer::success(&data.to_string(), &[]))
}

fn moment(time: Timestamp) -> String {
    time.to_string()
}

fn visible(call: &Call, scope: &Scope) -> impl Iterator<Item = TargetState> {
    let targets = call.door().targets.targets();
    targets
        .into_iter()
        .filter(|target| scope.shows(target.labels.get(PROJECT)))
}

fn targets(call: &Call, scope: &Scope, params: &Params) -> Value {
    let wanted = params.get("state");
    let pool = params.get("scrapePool");
    let active: Vec<Value> = visible(call, scope)
        .filter(|target| pool.is_empty() || target.pool == pool)
        .filter(|_| wanted != "dropped")
        .map(|target| {
            let labels: serde_json::Map<String, Value> = target
                .labels
                .iter()
                .map(|label| (label.name.to_string(), label.value.to_string().into()))
                .collect();
            json!({
                "discoveredLabels": labels,
                "labels": labels,
                "scrapePool": target.pool,
                "scrapeUrl": target.url,
                "globalUrl": target.url,
                "lastError": target.error.clone().unwrap_or_default(),
                "lastScrape": target.last.map_or_else(
                    || "0001-01-01T00:00:00Z".to_owned(),
                    moment,
                ),
                "lastScrapeDuration": target.took.as_secs_f64(),
                "health": match (&target.last, &target.error) {
                    (None, _) => "unknown",
                    (Some(_), None) => "up",
                    (Some(_), Some(_)) => "down",
                },
                "scrapeInterval": duration(target.interval),
                "scrapeTimeout": duration(target.timeout),
            })
        })
        .collect();
    json!({
        "activeTargets": active,
        "droppedTargets": [],
        "droppedTargetCounts": {},
    })
}

/// What the store is made of. The names of other projects' series are in it, so it is shown to
/// those who may read everything.
pub(super) async fn tsdb(call: &Call, params: &Params) -> ApiResult {
    if !Scope::of(call)?.is_everything() {
        ondol_auth::decide(
            &call.principal,
            Action::Read,
            &ondol_auth::Resource::Installation,
            call.now,
        )?;
    }
    let limit = params.limit("limit")?.unwrap_or(10);
    if limit > MAX_COUNTS {
        return Err(ApiError::parameter(
            "limit",
            format!("limit must not exceed {MAX_COUNTS}"),
        ));
    }
    let found = blocking(call, move |index| index.statistics(limit)).await?;
    let counts = |counts: &[Count]| -> Vec<Value> {
        counts
            .iter()
            .take(limit)
            .map(|count| json!({ "name": count.name, "value": count.value }))
            .collect()
    };
    let data = json!({
        "headStats": {
            "numSeries": found.series,
            "numLabelPairs": found.label_pairs,
            "chunkCount": found.chunks,
            "minTime": found.min_time,
            "maxTime": found.max_time,
        },
        "seriesCountByMetricName": counts(&found.by_metric),
        "labelValueCountByLabelName": counts(&found.values_by_label),
        "memoryInBytesByLabelName": counts(&found.bytes_by_label),
        "seriesCountByLabelValuePair": counts(&found.by_pair),
    });
    Ok(answer::success(&data.to_string(), &[]))
}
