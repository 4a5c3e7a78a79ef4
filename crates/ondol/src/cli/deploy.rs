//! `ondol releases`, `ondol rollback`, `ondol rollout`, `ondol restart`.

use serde_json::{Value, json};

use super::Target;
use crate::client::{Api, encode};
use crate::error::{Exit, Failure, Outcome};
use crate::output;

/// List releases, newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ondol releases\n  ondol releases --json")]
pub(crate) struct Releases {
    #[command(flatten)]
    target: Target,
    /// Which environment.
    #[arg(long, default_value = "production")]
    environment: String,
    /// At most so many.
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: usize,
}

/// Serve an earlier release again: its image, configuration, secrets and model.
///
/// Automatic rollouts wait until the next push or command. What a release command migrated is
/// not undone.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ondol rollback\n  ondol rollback 12")]
pub(crate) struct Rollback {
    #[command(flatten)]
    target: Target,
    /// Which environment.
    #[arg(long, default_value = "production")]
    environment: String,
    /// The release's number (default: the one before the current).
    #[arg(conflicts_with = "to")]
    release: Option<i64>,
    /// The same as an option.
    #[arg(long, value_name = "RELEASE")]
    to: Option<i64>,
    /// Do not wait for the end.
    #[arg(long)]
    no_wait: bool,
}

/// Show, pause, resume or abort the newest rollout.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ondol rollout\n  ondol rollout resume\n  ondol rollout abort")]
pub(crate) struct Rollout {
    /// What to do.
    #[arg(value_enum, default_value = "show")]
    action: RolloutAction,
    #[command(flatten)]
    target: Target,
    /// Which environment.
    #[arg(long, default_value = "production")]
    environment: String,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum RolloutAction {
    /// Print its state and probes.
    Show,
    /// Hold it where it is.
    Pause,
    /// Let it go on.
    Resume,
    /// Give it up; the old release keeps serving.
    Abort,
}

/// Replace every replica of the current release, without downtime.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ondol restart")]
pub(crate) struct Restart {
    #[command(flatten)]
    target: Target,
    /// Which environment.
    #[arg(long, default_value = "production")]
    environment: String,
}

impl Releases {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        let project = self.target.resolve()?;
        let path = format!(
            "/projects/{project}/releases?environment={}",
            encode(&self.environment)
        );
        let releases = api.list(&path, self.limit).await?;
        if output::style().json {
            output::json(&releases);
            return Ok(Exit::Success);
        }
        let rows: Vec<Vec<String>> = releases
            .as_array()
            .into_iter()
            .flatten()
            .map(|release| {
                let text = |key: &str| release[key].as_str().unwrap_or("").to_owned();
                let model = match release["model"]["name"].as_str() {
                    Some(name) => format!("{name} v{}", release["model"]["version"]),
                    None => String::new(),
                };
                vec![
                    format!("#{}", release["number"]),
                    if release["current"].as_bool() == Some(true) {
                        output::state("current")
                    } else {
                        String::new()
                    },
                    text("reason"),
                    text("commit").chars().take(7).collect(),
                    model,
                    text("createdAt").chars().take(19).collect(),
                    text("author"),
                ]
            })
            .collect();
        output::table(
            &["RELEASE", "", "REASON", "COMMIT", "MODEL", "CREATED", "BY"],
            &rows,
        );
        Ok(Exit::Success)
    }
}

/// Waits for a rollout and says how it ended.
async fn wait(api: &Api, project: &str, id: &str) -> Outcome<Value> {
    loop {
        let rollout = api
            .get(&format!("/projects/{project}/rollouts/{}", encode(id)))
            .await?;
        if rollout["finishedAt"].is_string() {
            return Ok(rollout);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

fn verdict(rollout: &Value) -> Outcome<Exit> {
    if output::style().json {
        output::json(rollout);
    } else {
        let state = rollout["state"].as_str().unwrap_or("");
        let reason = rollout["message"]
            .as_str()
            .filter(|text| !text.is_empty())
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        output::line(format!(
            "rollout of release #{} {}{reason}",
            rollout["toNumber"],
            output::state(state)
        ));
    }
    Ok(if rollout["state"] == "done" {
        Exit::Success
    } else {
        Exit::Failed
    })
}

impl Rollback {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        let project = self.target.resolve()?;
        let body = json!({ "environment": self.environment, "to": self.to.or(self.release) });
        let rollout = api
            .post(&format!("/projects/{project}/rollback"), &body)
            .await?;
        if self.no_wait {
            return verdict(&rollout).map(|_| Exit::Success);
        }
        let id = rollout["id"].as_str().unwrap_or_default();
        let ended = wait(api, project.as_str(), id).await?;
        let exit = verdict(&ended)?;
        if exit == Exit::Success && !output::style().json {
            output::note("automatic rollouts wait until the next push or `ondol rollout resume`");
        }
        Ok(exit)
    }
}

impl Rollout {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        let project = self.target.resolve()?;
        let rollouts = api
            .list(
                &format!(
                    "/projects/{project}/rollouts?environment={}",
                    encode(&self.environment)
                ),
                1,
            )
            .await?;
        let newest = &rollouts[0];
        let id = newest["id"].as_str().ok_or_else(|| {
            Failure::new(
                Exit::NotFound,
                format!("`{project}` has no rollout in {}", self.environment),
            )
        })?;
        let verb = match self.action {
            RolloutAction::Show => {
                if output::style().json {
                    output::json(newest);
                    return Ok(Exit::Success);
                }
                verdict(newest)?;
                for probe in newest["probes"].as_array().into_iter().flatten() {
                    output::line(format!("  {}", output::printable(&probe.to_string())));
                }
                return Ok(Exit::Success);
            }
            RolloutAction::Pause => "pause",
            RolloutAction::Resume if newest["state"] != "paused" => {
                let body = json!({ "environment": self.environment });
                api.post(&format!("/projects/{project}/unhold"), &body)
                    .await?;
                output::note("automatic rollouts go on");
                return Ok(Exit::Success);
            }
            RolloutAction::Resume => "resume",
            RolloutAction::Abort => "abort",
        };
        let rollout = api
            .post(
                &format!("/projects/{project}/rollouts/{id}/{verb}"),
                &json!({}),
            )
            .await?;
        verdict(&rollout).map(|_| Exit::Success)
    }
}

impl Restart {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        let project = self.target.resolve()?;
        let rollout = api
            .post(
                &format!("/projects/{project}/restart"),
                &json!({ "environment": self.environment }),
            )
            .await?;
        let id = rollout["id"].as_str().unwrap_or_default();
        verdict(&wait(api, project.as_str(), id).await?)
    }
}
