//! `ondol models` and `ondol model`.

use serde_json::{Value, json};

use super::Target;
use crate::client::{Api, encode};
use crate::error::{Exit, Outcome};
use crate::output;

/// List model versions, newest first, with metrics and lineage.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ondol models\n  ondol models --json")]
pub(crate) struct Models {
    #[command(flatten)]
    target: Target,
    /// At most so many.
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: usize,
}

/// Promote a model version by hand.
#[derive(Debug, clap::Args)]
pub(crate) struct Model {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ModelCommand {
    /// Make a version champion; the service that uses it is rolled out.
    #[command(after_help = "Examples:\n  ondol model promote iris 3")]
    Promote {
        /// The model's name.
        model: String,
        /// The version.
        version: i64,
        #[command(flatten)]
        target: Target,
    },
}

impl Models {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        let project = self.target.resolve()?;
        let models = api
            .list(&format!("/projects/{project}/models"), 1_000)
            .await?;
        let mut versions = Vec::new();
        for model in models.as_array().into_iter().flatten() {
            let name = encode(model["name"].as_str().unwrap_or_default());
            let path = format!("/projects/{project}/models/{name}/versions");
            let found = api.list(&path, self.limit).await?;
            versions.extend(found.as_array().into_iter().flatten().cloned());
        }
        let versions = Value::Array(versions);
        if output::style().json {
            output::json(&versions);
            return Ok(Exit::Success);
        }
        let rows: Vec<Vec<String>> = versions
            .as_array()
            .into_iter()
            .flatten()
            .map(|version| {
                let text = |key: &str| version[key].as_str().unwrap_or("").to_owned();
                vec![
                    format!("{} v{}", text("model"), version["version"]),
                    output::state(&text("state")),
                    metrics(&version["metrics"]),
                    text("createdAt").chars().take(19).collect(),
                    output::printable(&text("reason")),
                ]
            })
            .collect();
        output::table(&["MODEL", "STATE", "METRICS", "CREATED", "DECISION"], &rows);
        Ok(Exit::Success)
    }
}

fn metrics(value: &Value) -> String {
    let named = |key: &str| {
        value[key]
            .as_f64()
            .map(|number| format!("{key} {number:.3}"))
    };
    let chosen: Vec<String> = ["accuracy", "f1", "r2", "rmse"]
        .iter()
        .filter_map(|key| named(key))
        .take(3)
        .collect();
    chosen.join(", ")
}

impl Model {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        let ModelCommand::Promote {
            model,
            version,
            target,
        } = self.command;
        let model: ondol_types::ModelName = super::named(&model)?;
        let project = target.resolve()?;
        let path = format!(
            "/projects/{project}/models/{}/versions/{version}/promote",
            encode(model.as_str())
        );
        let promoted = api.post(&path, &json!({})).await?;
        if output::style().json {
            output::json(&promoted);
        } else {
            output::note(format!("{model} v{version} is champion"));
        }
        Ok(Exit::Success)
    }
}
