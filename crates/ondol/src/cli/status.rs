//! `ondol status` and `ondol open`.

use std::process::Command;

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
        for notice in status["notices"].as_array().into_iter().flatten() {
            output::note(format!("note: {}", notice.as_str().unwrap_or_default()));
        }
        let projects = status["projects"].as_array().cloned().unwrap_or_default();
        if projects.is_empty() {
            output::line(
                "nothing here yet; in a repository: `ondol init`, then `git push ondol main`",
            );
        }
        for project in &projects {
            show(project);
        }
        Ok(Exit::Success)
    }
}

fn show(project: &Value) {
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
    let number = |value: &Value, digits: usize| {
        value
            .as_f64()
            .map_or("-".to_owned(), |n| format!("{n:.digits$}"))
    };
    let share = |value: &Value| {
        value
            .as_f64()
            .map_or("-".to_owned(), |n| format!("{:.2} %", n * 100.0))
    };
    let seconds = |value: &Value| value.as_f64().map_or("-".to_owned(), output::seconds);
    let mut rows = Vec::new();
    for environment in project["environments"].as_array().into_iter().flatten() {
        if environment["hold"].is_string() {
            output::line(format!(
                "  {} is held: {}",
                text(environment, "name"),
                text(environment, "hold")
            ));
        }
        if let Some(rollout) = environment["rollout"].as_object() {
            let rollout = Value::Object(rollout.clone());
            let reason = rollout["reason"]
                .as_str()
                .map(|reason| format!(": {reason}"))
                .unwrap_or_default();
            output::line(format!(
                "  rollout to #{} {}{reason}",
                rollout["toNumber"],
                output::state(&text(&rollout, "state"))
            ));
        }
        for release in environment["releases"].as_array().into_iter().flatten() {
            let traffic = &release["traffic"];
            rows.push(vec![
                format!("  {}", text(environment, "name")),
                format!("#{}", release["number"]),
                output::state(&text(release, "role")),
                format!("{}/{}", release["ready"], release["replicas"]),
                number(&traffic["requestsPerSecond"], 1),
                share(&traffic["errorShare"]),
                seconds(&traffic["p50"]),
                seconds(&traffic["p95"]),
                seconds(&traffic["p99"]),
                release["cpuCores"]
                    .as_f64()
                    .map_or("-".to_owned(), |cores| format!("{cores:.2}")),
                release["memoryBytes"]
                    .as_f64()
                    .map_or("-".to_owned(), output::bytes),
            ]);
        }
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

impl Open {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        let project = self.target.resolve()?;
        let found = api.get(&format!("/projects/{project}")).await?;
        let url = found["url"].as_str().ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("`{project}` has no address yet"))
                .hint("git push ondol main")
        })?;
        output::line(url);
        if !self.print {
            let opened = ["xdg-open", "open"]
                .iter()
                .any(|program| Command::new(program).arg(url).status().is_ok());
            if !opened {
                output::note("no program here opens a browser: use the address above");
            }
        }
        Ok(Exit::Success)
    }
}
