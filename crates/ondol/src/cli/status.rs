//! `ondol status` and `ondol open`.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::Target;
use crate::client::Api;
use crate::error::{Exit, Failure, Outcome};
use crate::output;

/// Show what serves, how well, and what is under way.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ondol status\n  ondol status --project shop --json")]
pub(crate) struct Status {
    /// Only this project (default: all that you may see).
    #[arg(long, short)]
    project: Option<String>,
}

/// Open the service in a browser.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ondol open\n  ondol open --print")]
pub(crate) struct Open {
    #[command(flatten)]
    target: Target,
    /// Only print the address.
    #[arg(long)]
    print: bool,
}

impl Status {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        let path = match &self.project {
            Some(project) => format!("/status?project={}", crate::project::parse(project)?),
            None => "/status".to_owned(),
        };
        let status = api.get(&path).await?;
        if output::style().json {
            output::json(&status);
            return Ok(Exit::Success);
        }
        let projects = status["projects"].as_array().cloned().unwrap_or_default();
        if projects.is_empty() {
            output::line(
                "nothing here yet; in a repository: `ondol init`, then `git push ondol main`",
            );
        }
        for project in &projects {
            show(project, status["gateway"].as_str().unwrap_or_default());
        }
        for notice in status["notices"].as_array().into_iter().flatten() {
            output::note(format!("note: {}", notice.as_str().unwrap_or_default()));
        }
        Ok(Exit::Success)
    }
}

fn show(project: &Value, gateway: &str) {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or("").to_owned();
    output::line(format!(
        "{}  {}",
        output::bold(&text(project, "name")),
        output::dim(&text(project, "url"))
    ));
    if let Some(run) = project["lastRun"].as_object() {
        let run = Value::Object(run.clone());
        let word = match text(&run, "outcome").as_str() {
            "" => text(&run, "state"),
            outcome => outcome.to_owned(),
        };
        output::line(format!(
            "  last run #{} {} ({})",
            run["number"],
            output::state(&word),
            super::runs::trigger(&run)
        ));
    }
    let mut rows = Vec::new();
    for status in project["environments"].as_array().into_iter().flatten() {
        let name = text(&status["environment"], "name");
        if name != "production" {
            output::line(format!(
                "  {name}  {}",
                output::dim(&format!("{gateway}{}", text(status, "path")))
            ));
        }
        let hold = &status["environment"]["hold"];
        if hold.is_object() {
            output::line(format!(
                "  {name} is held: {}; `ondol rollout resume` lets automation go on",
                output::printable(&text(hold, "reason"))
            ));
        }
        let scaling = &status["scaling"];
        if scaling.is_object() {
            output::line(format!(
                "  {name} runs {} of {} to {} replicas: {}",
                scaling["replicas"],
                scaling["min"],
                scaling["max"],
                output::printable(&text(scaling, "reason"))
            ));
        }
        for rollout in status["open"].as_array().into_iter().flatten() {
            output::line(format!(
                "  rollout {}: {}",
                output::state(&text(rollout, "state")),
                output::printable(&text(rollout, "message"))
            ));
            if text(rollout, "state") == "paused" {
                output::line(format!(
                    "    {}",
                    super::deploy::remedy(&text(project, "name"), &name)
                ));
            }
        }
        rows.extend(release_rows(&name, status));
    }
    if !rows.is_empty() {
        output::table(
            &[
                "  ENVIRONMENT",
                "RELEASE",
                "",
                "READY",
                "REQ/S",
                "ERRORS",
                "P50",
                "P95",
                "P99",
                "CPU",
                "MEMORY",
            ],
            &rows,
        );
    }
}

/// One row per release that has replicas.
fn release_rows(name: &str, status: &Value) -> Vec<Vec<String>> {
    let number = |value: &Value| value.as_f64().map_or("-".to_owned(), |n| format!("{n:.1}"));
    let share = |value: &Value| {
        value
            .as_f64()
            .map_or("-".to_owned(), |n| format!("{:.2} %", n * 100.0))
    };
    let seconds = |value: &Value| value.as_f64().map_or("-".to_owned(), output::seconds);
    let current = &status["current"];
    let empty = serde_json::Map::new();
    let replicas = status["replicas"].as_array().cloned().unwrap_or_default();
    let mut releases: Vec<&String> = status["traffic"]
        .as_object()
        .unwrap_or(&empty)
        .keys()
        .collect();
    releases.sort();
    releases.reverse();
    releases
        .into_iter()
        .map(|id| {
            let traffic = &status["traffic"][id];
            let own: Vec<&Value> = replicas
                .iter()
                .filter(|entry| entry["replica"]["release"] == id.as_str())
                .collect();
            let ready = own
                .iter()
                .filter(|entry| entry["replica"]["state"] == "ready")
                .count();
            let is_current = current["id"] == id.as_str();
            let shown = if is_current {
                format!("#{}", current["number"])
            } else {
                id.chars()
                    .rev()
                    .take(6)
                    .collect::<String>()
                    .chars()
                    .rev()
                    .collect()
            };
            let role = match own
                .first()
                .and_then(|entry| entry["replica"]["state"].as_str())
            {
                _ if is_current => "current",
                Some(state) => state,
                None => "",
            };
            vec![
                format!("  {name}"),
                shown,
                output::state(role),
                format!("{ready}/{}", own.len()),
                number(&traffic["rps"]),
                share(&traffic["errorRate"]),
                seconds(&traffic["p50"]),
                seconds(&traffic["p95"]),
                seconds(&traffic["p99"]),
                traffic["cpuCores"]
                    .as_f64()
                    .map_or("-".to_owned(), |cores| format!("{cores:.2}")),
                traffic["memoryBytes"]
                    .as_f64()
                    .map_or("-".to_owned(), output::bytes),
            ]
        })
        .collect()
}

impl Open {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        let project = self.target.resolve()?;
        let found = api.get(&format!("/projects/{project}")).await?;
        let url = found["url"].as_str().ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("`{project}` has no address yet"))
                .hint("git push ondol main")
        })?;
        if output::style().json {
            output::json(&serde_json::json!({ "url": url }));
        } else {
            output::line(url);
        }
        if !self.print {
            // What these say of their attempts is no answer to a person who asked for a page.
            let opened = ["xdg-open", "open"].iter().any(|program| {
                Command::new(program)
                    .arg(url)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()
                    .is_ok_and(|status| status.success())
            });
            if !opened {
                output::note("no program here opens a browser: use the address above");
            }
        }
        Ok(Exit::Success)
    }
}
