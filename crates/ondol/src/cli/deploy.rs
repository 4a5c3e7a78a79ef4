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

/// Show, pause, resume or abort a rollout.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ondol rollout\n  ondol rollout show 12\n  ondol rollout resume\n  ondol rollout abort"
)]
pub(crate) struct Rollout {
    /// What to do.
    #[arg(value_enum, default_value = "show")]
    action: RolloutAction,
    /// The rollout's number (default: the newest).
    number: Option<i64>,
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

/// Waits until a rollout has ended or waits for a person. `heir` goes on with what took its
/// place, for those whose wish that one carries.
pub(super) async fn wait(api: &Api, project: &str, id: &str, heir: bool) -> Outcome<Value> {
    let mut id = id.to_owned();
    loop {
        let rollout = api
            .get(&format!("/projects/{project}/rollouts/{}", encode(&id)))
            .await?;
        if rollout["finishedAt"].is_string() {
            match rollout["supersededBy"].as_str().filter(|_| heir) {
                Some(by) => id = by.to_owned(),
                None => return Ok(rollout),
            }
            continue;
        }
        let waits = match rollout["state"].as_str() {
            Some("paused" | "held") => true,
            Some("pending") => behind_a_pause(api, project, &rollout).await?,
            _ => false,
        };
        if waits {
            return Ok(rollout);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// Whether the turn of a rollout comes only when a person lets another one go on.
async fn behind_a_pause(api: &Api, project: &str, rollout: &Value) -> Outcome<bool> {
    let environment = rollout["environment"].as_str().unwrap_or("production");
    let path = format!(
        "/projects/{project}/rollouts?environment={}",
        encode(environment)
    );
    let newest = api.list(&path, 10).await?;
    let Some(paused) = newest
        .as_array()
        .into_iter()
        .flatten()
        .find(|other| other["state"] == "paused")
    else {
        return Ok(false);
    };
    // What is not a restart takes the place of a paused one in a moment.
    let waits = rollout["kind"] == "restart";
    if waits && !output::style().json {
        output::note(format!(
            "waits behind rollout {}, which is paused: {}",
            paused["number"],
            remedy(project, environment)
        ));
    }
    Ok(waits)
}

/// How a person lets a paused rollout go on, or gives it up.
pub(super) fn remedy(project: &str, environment: &str) -> String {
    let place = place(project, environment);
    format!(
        "`ondol rollout resume {place}` lets it go on, `ondol rollout abort {place}` gives it up"
    )
}

fn place(project: &str, environment: &str) -> String {
    if environment == "production" {
        format!("--project {project}")
    } else {
        format!("--project {project} --environment {environment}")
    }
}

/// Prints where a rollout is, and what a person can do about one that waits for them.
pub(super) fn verdict(project: &str, rollout: &Value) -> Outcome<Exit> {
    if output::style().json {
        output::json(rollout);
    } else {
        let state = rollout["state"].as_str().unwrap_or("");
        let reason = rollout["message"]
            .as_str()
            .filter(|text| !text.is_empty())
            .map(|reason| format!(": {}", output::printable(reason)))
            .unwrap_or_default();
        let release = match rollout["toNumber"].as_i64() {
            Some(release) => format!(" of release #{release}"),
            None => String::new(),
        };
        output::line(format!(
            "rollout {}{release} {}{reason}",
            rollout["number"],
            output::state(state)
        ));
        let environment = rollout["environment"].as_str().unwrap_or("production");
        match state {
            "paused" => output::note(remedy(project, environment)),
            "held" => output::note(format!(
                "`ondol rollout resume {}` lets it begin",
                place(project, environment)
            )),
            _ => {}
        }
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
            return verdict(project.as_str(), &rollout).map(|_| Exit::Success);
        }
        let id = rollout["id"].as_str().unwrap_or_default();
        let ended = wait(api, project.as_str(), id, false).await?;
        let exit = verdict(project.as_str(), &ended)?;
        if exit == Exit::Success && !output::style().json {
            output::note("automatic rollouts wait until the next push or `ondol rollout resume`");
        }
        Ok(exit)
    }
}

impl Rollout {
    /// The rollout that is meant, with its probes.
    async fn find(&self, api: &Api, project: &str) -> Outcome<Value> {
        let mut path = format!(
            "/projects/{project}/rollouts?environment={}",
            encode(&self.environment)
        );
        if let Some(number) = self.number {
            path.push_str(&format!("&cursor={}", number.saturating_add(1)));
        }
        let most = if self.number.is_some() { 1 } else { 20 };
        let rollouts = api.list(&path, most).await?;
        let state = |wanted: &dyn Fn(&str) -> bool| {
            rollouts
                .as_array()
                .into_iter()
                .flatten()
                .find(|rollout| wanted(rollout["state"].as_str().unwrap_or_default()))
        };
        // What waits behind the one that runs is not the one that a person means.
        let meant = match self.action {
            RolloutAction::Show => None,
            RolloutAction::Resume => state(&|state| state == "paused"),
            RolloutAction::Pause | RolloutAction::Abort => {
                state(&|state| !["pending", "held", "done", "failed", "aborted"].contains(&state))
            }
        };
        let found = meant.filter(|_| most > 1).unwrap_or(&rollouts[0]);
        let id = found["id"]
            .as_str()
            .filter(|_| self.number.is_none_or(|number| found["number"] == number))
            .ok_or_else(|| {
                let which = self
                    .number
                    .map(|number| format!(" {number}"))
                    .unwrap_or_default();
                Failure::new(
                    Exit::NotFound,
                    format!("`{project}` has no rollout{which} in {}", self.environment),
                )
            })?;
        api.get(&format!("/projects/{project}/rollouts/{}", encode(id)))
            .await
    }

    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        let project = self.target.resolve()?;
        let found = self.find(api, project.as_str()).await?;
        let newest = &found;
        let id = newest["id"].as_str().unwrap_or_default();
        let verb = match self.action {
            RolloutAction::Show => {
                if output::style().json {
                    output::json(newest);
                    return Ok(Exit::Success);
                }
                verdict(project.as_str(), newest)?;
                for probe in newest["probes"].as_array().into_iter().flatten() {
                    output::line(format!("  {}", output::printable(&probe.to_string())));
                }
                return Ok(Exit::Success);
            }
            RolloutAction::Pause => "pause",
            RolloutAction::Resume if self.number.is_none() && newest["state"] != "paused" => {
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
        verdict(project.as_str(), &rollout).map(|_| Exit::Success)
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
        let ended = wait(api, project.as_str(), id, true).await?;
        verdict(project.as_str(), &ended)
    }
}
