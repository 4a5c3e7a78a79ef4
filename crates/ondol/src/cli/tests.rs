//! `ondol tests`: what is known of tests beyond one run.

use serde_json::Value;

use super::Target;
use crate::client::Api;
use crate::error::{Exit, Outcome};
use crate::output;

/// What is known of tests beyond one run.
#[derive(Debug, clap::Args)]
pub(crate) struct Tests {
    #[command(subcommand)]
    command: TestsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TestsCommand {
    /// List tests that passed and failed on the same commit.
    #[command(
        after_help = "Examples:\n  ondol tests flaky\n  ondol tests flaky --project shop --json"
    )]
    Flaky {
        #[command(flatten)]
        target: Target,
    },
}

impl Tests {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        let TestsCommand::Flaky { target } = self.command;
        let project = target.resolve()?;
        let found = api
            .list(&format!("/projects/{project}/tests/flaky"), 1_000)
            .await?;
        if output::style().json {
            output::json(&found);
            return Ok(Exit::Success);
        }
        let text = |value: &Value| output::printable(value.as_str().unwrap_or_default());
        let rows: Vec<Vec<String>> = found
            .as_array()
            .into_iter()
            .flatten()
            .map(|test| {
                vec![
                    text(&test["stage"]),
                    test["times"].to_string(),
                    text(&test["lastAt"]).chars().take(19).collect(),
                    text(&test["name"]),
                ]
            })
            .collect();
        if rows.is_empty() {
            output::note("no test has passed and failed on the same commit");
        } else {
            output::table(&["STAGE", "TIMES", "LAST", "TEST"], &rows);
            output::note("keep one from failing runs with `quarantine` under `test` in ondol.yaml");
        }
        Ok(Exit::Success)
    }
}
