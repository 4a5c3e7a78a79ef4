//! `ondol query`: metrics by PromQL, as a table or drawn.

use ondol_telemetry::promql::ast::Expr;
use ondol_telemetry::promql::{ParseLimits, parse};
use ondol_telemetry::series::Matcher;
use ondol_types::{Clock, ProjectName, SystemClock};
use reqwest::Method;
use serde_json::Value;

use super::chart;
use crate::client::{Api, encode};
use crate::error::{Exit, Failure, Outcome};
use crate::output;

/// Series that are drawn; the others are counted.
const DRAWN: usize = 20;

/// Ask for metrics with PromQL: what they are now, or over a range.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ondol query 'up'\n  ondol query 'sum by (project) (rate(ondol_gateway_requests_total[5m]))' --range 1h\n  ondol query 'process_resident_memory_bytes' --range 6h --step 1m --json"
)]
pub(crate) struct Query {
    /// The query.
    #[arg(value_name = "EXPR")]
    expression: String,
    /// Show the time from so long ago until now, such as 30m, 1h or 1d.
    #[arg(long, value_name = "DURATION")]
    range: Option<String>,
    /// Time between two values of a range (default: a 120th of it).
    #[arg(long, value_name = "DURATION", requires = "range")]
    step: Option<String>,
    /// Only series of this project.
    #[arg(long, short)]
    project: Option<ProjectName>,
}

impl Query {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        let query = match &self.project {
            None => self.expression,
            Some(project) => of_project(&self.expression, project)?,
        };
        let mut form = format!("query={}", encode(&query));
        let path = match &self.range {
            None => "query",
            Some(range) => {
                let range = seconds(range)?;
                let step = match &self.step {
                    Some(step) => seconds(step)?,
                    None => (range / chart::POINTS as f64).ceil(),
                };
                let end = SystemClock.now().as_millis() as f64 / 1e3;
                form.push_str(&format!("&start={}&end={end}&step={step}", end - range));
                "query_range"
            }
        };
        let request = api
            .prometheus(Method::POST, path)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        let answer = api.json(request).await?;
        for key in ["warnings", "infos"] {
            for text in answer[key].as_array().into_iter().flatten() {
                output::note(format!("note: {}", text.as_str().unwrap_or("")));
            }
        }
        let data = &answer["data"];
        if output::style().json {
            output::json(data);
            return Ok(Exit::Success);
        }
        match (data["resultType"].as_str(), self.range.is_some()) {
            (Some("matrix"), true) if output::style().terminal => draw(data),
            (Some("matrix"), _) => list(data),
            (Some("vector"), _) => table(data),
            _ => output::line(data["result"][1].as_str().unwrap_or("")),
        }
        Ok(Exit::Success)
    }
}

/// A duration as the query language writes it, in seconds.
fn seconds(text: &str) -> Outcome<f64> {
    match parse(text, ParseLimits::default()) {
        Ok(Expr::Number { value, .. }) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err(Failure::usage(format!(
            "`{text}` is not a duration: say 30s, 15m, 1h or 1d"
        ))),
    }
}

/// The query with a condition on the project in each of its selectors.
fn of_project(query: &str, project: &ProjectName) -> Outcome<String> {
    let mut expression = parse(query, ParseLimits::default())
        .map_err(|error| Failure::usage(format!("not a query: {error}")))?;
    narrow(
        &mut expression,
        &Matcher::equal("project", project.as_str()),
    );
    Ok(expression.to_string())
}

fn narrow(expression: &mut Expr, condition: &Matcher) {
    match expression {
        Expr::Selector(selector) | Expr::Matrix { selector, .. } => {
            selector.matchers.push(condition.clone());
        }
        Expr::Subquery { expr, .. } | Expr::Unary { expr, .. } | Expr::Paren { expr, .. } => {
            narrow(expr, condition);
        }
        Expr::Call { args, .. } => {
            for argument in args {
                narrow(argument, condition);
            }
        }
        Expr::Aggregate { expr, param, .. } => {
            narrow(expr, condition);
            if let Some(param) = param {
                narrow(param, condition);
            }
        }
        Expr::Binary { lhs, rhs, .. } => {
            narrow(lhs, condition);
            narrow(rhs, condition);
        }
        Expr::Number { .. } | Expr::String { .. } => {}
    }
}

fn series(data: &Value) -> &[Value] {
    data["result"].as_array().map_or(&[], Vec::as_slice)
}

/// A series as the query language writes it.
fn name(metric: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let labels: Vec<String> = metric
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(label, _)| *label != "__name__")
        .map(|(label, value)| format!("{label}={}", Value::String(text(value))))
        .collect();
    let name = text(&metric["__name__"]);
    if labels.is_empty() && !name.is_empty() {
        return name;
    }
    format!("{name}{{{}}}", labels.join(", "))
}

/// A value, or what a histogram comes to.
fn value(point: &Value) -> String {
    match &point[1] {
        Value::String(text) => text.clone(),
        histogram => format!(
            "count {} sum {}",
            histogram["count"].as_str().unwrap_or("?"),
            histogram["sum"].as_str().unwrap_or("?")
        ),
    }
}

fn table(data: &Value) {
    let rows: Vec<Vec<String>> = series(data)
        .iter()
        .map(|one| {
            let point = if one["value"].is_null() {
                &one["histogram"]
            } else {
                &one["value"]
            };
            vec![name(&one["metric"]), value(point)]
        })
        .collect();
    if rows.is_empty() {
        output::note("no series");
        return;
    }
    output::table(&["SERIES", "VALUE"], &rows);
}

/// One line per sample, for programs.
fn list(data: &Value) {
    for one in series(data) {
        let name = name(&one["metric"]);
        for key in ["values", "histograms"] {
            for point in one[key].as_array().into_iter().flatten() {
                output::line(format!("{name}\t{}\t{}", point[0], value(point)));
            }
        }
    }
}

fn draw(data: &Value) {
    let all = series(data);
    if all.is_empty() {
        output::note("no series");
    }
    let numbers = |one: &Value| -> Vec<(f64, f64)> {
        let points = one["values"].as_array().into_iter().flatten();
        points
            .filter_map(|point| Some((point[0].as_f64()?, point[1].as_str()?.parse().ok()?)))
            .collect()
    };
    let drawn: Vec<Vec<(f64, f64)>> = all.iter().take(DRAWN).map(numbers).collect();
    // All share the axis of time, so that what happens together stands together.
    let times = || drawn.iter().flatten().map(|(time, _)| *time);
    let (start, end) = (
        times().fold(f64::INFINITY, f64::min),
        times().fold(f64::NEG_INFINITY, f64::max),
    );
    for (one, points) in all.iter().zip(&drawn) {
        output::line(output::bold(&name(&one["metric"])));
        for line in chart::draw(points, start, end) {
            output::line(line);
        }
    }
    if all.len() > DRAWN {
        output::note(format!(
            "{} more series: narrow the query, or ask topk({DRAWN}, …)",
            all.len() - DRAWN
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_a_condition_in_every_selector() {
        let project = "shop".parse().unwrap();
        let narrowed = |query: &str| of_project(query, &project).unwrap();
        assert_eq!(narrowed("up"), r#"up{project="shop"}"#);
        assert_eq!(
            narrowed("sum by (job) (rate(a[5m])) / -max_over_time((b > 1)[1h:1m])"),
            r#"sum by (job) (rate(a{project="shop"}[5m])) / -max_over_time((b{project="shop"} > 1)[1h:1m])"#
        );
        assert_eq!(
            narrowed(r#"topk(scalar(n), a{b="c"})"#),
            r#"topk(scalar(n{project="shop"}), a{b="c", project="shop"})"#
        );
        assert!(of_project("sum(", &project).is_err());
    }

    #[test]
    fn durations_are_those_of_the_language() {
        assert_eq!(seconds("1h30m").unwrap().to_bits(), 5400f64.to_bits());
        for bad in ["", "soon", "-1h", "0", "up"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
