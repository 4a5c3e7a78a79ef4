//! `ondol runs` and `ondol run`: what the pipeline did and does.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures_util::StreamExt;
use ondol_types::StepName;
use serde_json::{Value, json};

use super::{Target, artifacts};
use crate::client::{Api, encode};
use crate::error::{Exit, Failure, Outcome};
use crate::output;

/// List runs, newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ondol runs\n  ondol runs --project shop --limit 50 --json")]
pub(crate) struct Runs {
    #[command(flatten)]
    target: Target,
    /// At most so many.
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: usize,
}

/// Show, watch, cancel or repeat one run.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(subcommand)]
    command: RunCommand,
}

#[derive(Debug, clap::Subcommand)]
enum RunCommand {
    /// Show a run with its steps and test results.
    #[command(after_help = "Examples:\n  ondol run show\n  ondol run show 12")]
    Show(Which),
    /// Follow a run until it ends; exits 1 when it does not succeed.
    #[command(after_help = "Examples:\n  ondol run watch\n  ondol run watch 12 || echo failed")]
    Watch(Which),
    /// Print the logs of a run's steps.
    #[command(after_help = "Examples:\n  ondol run logs 12\n  ondol run logs 12 --step test")]
    Logs {
        #[command(flatten)]
        which: Which,
        /// Only this step.
        #[arg(long)]
        step: Option<String>,
    },
    /// List the files that its steps left behind.
    #[command(after_help = "Examples:\n  ondol run artifacts\n  ondol run artifacts 12 pack")]
    Artifacts {
        #[command(flatten)]
        which: Which,
        /// Only those of this step.
        step: Option<StepName>,
    },
    /// Fetch the files that its steps left behind.
    #[command(
        after_help = "Examples:\n  ondol run download 12\n  ondol run download 12 pack -o dist\n\nWithout a step, the files of each are in a folder of its name."
    )]
    Download {
        #[command(flatten)]
        which: Which,
        /// Only those of this step.
        step: Option<StepName>,
        /// The folder to write to.
        #[arg(long, short, default_value = "artifacts")]
        output: PathBuf,
        /// Replace files that are there.
        #[arg(long)]
        force: bool,
    },
    /// Approve a step that waits for a person.
    #[command(
        after_help = "Examples:\n  ondol run approve 12 ship\n  ondol run approve 12 ship --comment 'staging looks fine'"
    )]
    Approve(Decision),
    /// Refuse a step that waits for a person; the run ends.
    #[command(after_help = "Examples:\n  ondol run reject 12 ship --comment 'not on a Friday'")]
    Reject(Decision),
    /// Cancel a run.
    #[command(after_help = "Examples:\n  ondol run cancel 12")]
    Cancel(Which),
    /// Start the same run again, as a new one.
    #[command(after_help = "Examples:\n  ondol run retry 12")]
    Retry(Which),
}

#[derive(Debug, clap::Args)]
struct Decision {
    /// The run's number or id.
    run: String,
    /// The step that waits.
    step: StepName,
    /// Kept with the step.
    #[arg(long, short = 'm', default_value = "")]
    comment: String,
    #[command(flatten)]
    target: Target,
}

impl Decision {
    async fn send(self, api: &Api, word: &str) -> Outcome<Exit> {
        let which = Which {
            run: Some(self.run),
            target: self.target,
        };
        let path = which.path(api).await?;
        let route = format!("{path}/steps/{}/{word}", encode(self.step.as_str()));
        let step = api
            .post(&route, &json!({ "comment": self.comment }))
            .await?;
        if output::style().json {
            output::json(&step);
        } else {
            let reason = output::printable(text(&step, "reason"));
            output::note(format!("`{}`: {reason}", self.step));
        }
        Ok(Exit::Success)
    }
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The run's number or id (default: the newest of the project).
    run: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Which {
    async fn path(&self, api: &Api) -> Outcome<String> {
        match &self.run {
            Some(id) if id.starts_with("run_") => Ok(format!("/runs/{}", encode(id))),
            Some(number) => {
                let number: i64 = number.trim_start_matches('#').parse().map_err(|_| {
                    Failure::usage(format!("`{number}` is neither a run's number nor its id"))
                })?;
                let project = self.target.resolve()?;
                let run = api
                    .get(&format!("/projects/{project}/runs/{number}"))
                    .await?;
                Ok(format!("/runs/{}", encode(text(&run, "id"))))
            }
            None => {
                let project = self.target.resolve()?;
                let newest = api.list(&format!("/projects/{project}/runs"), 1).await?;
                let id = newest[0]["id"].as_str().ok_or_else(|| {
                    Failure::new(Exit::NotFound, format!("`{project}` has no runs yet"))
                        .hint("git push ondol main")
                })?;
                Ok(format!("/runs/{id}"))
            }
        }
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or("")
}

/// What started a run, in a few words.
pub(crate) fn trigger(run: &Value) -> String {
    let trigger = &run["trigger"];
    let short = |commit: &str| commit.chars().take(7).collect::<String>();
    match text(trigger, "kind") {
        "data" => format!("data {} v{}", text(trigger, "dataset"), trigger["number"]),
        "push" => {
            let branch = text(trigger, "refName").trim_start_matches("refs/heads/");
            format!("{} {}", cut(branch), short(text(run, "commit")))
        }
        other => format!("{other} {}", short(text(run, "commit"))),
    }
}

/// A name that leaves room for the other columns of a table.
fn cut(name: &str) -> String {
    if name.chars().count() <= 40 {
        return name.to_owned();
    }
    let begin: String = name.chars().take(39).collect();
    format!("{begin}…")
}

fn result(value: &Value) -> String {
    let word = match text(value, "outcome") {
        "" => text(value, "state"),
        outcome => outcome,
    };
    output::state(word)
}

fn duration(value: &Value) -> String {
    value["durationSeconds"]
        .as_f64()
        .map_or_else(|| "-".to_owned(), output::seconds)
}

impl Runs {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        let project = self.target.resolve()?;
        let runs = api
            .list(&format!("/projects/{project}/runs"), self.limit)
            .await?;
        if output::style().json {
            output::json(&runs);
            return Ok(Exit::Success);
        }
        let rows: Vec<Vec<String>> = runs
            .as_array()
            .into_iter()
            .flatten()
            .map(|run| {
                vec![
                    format!("#{}", run["number"]),
                    result(run),
                    trigger(run),
                    duration(run),
                    text(run, "createdAt").chars().take(19).collect(),
                    output::printable(text(run, "reason"))
                        .chars()
                        .take(100)
                        .collect(),
                ]
            })
            .collect();
        output::table(&["RUN", "RESULT", "TRIGGER", "TOOK", "CREATED", ""], &rows);
        Ok(Exit::Success)
    }
}

impl Run {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        match self.command {
            RunCommand::Show(which) => {
                let run = api.get(&which.path(api).await?).await?;
                if output::style().json {
                    output::json(&run);
                } else {
                    show(&run);
                }
                Ok(Exit::Success)
            }
            RunCommand::Watch(which) => watch(api, &which.path(api).await?).await,
            RunCommand::Logs { which, step } => {
                let path = which.path(api).await?;
                let run = api.get(&path).await?;
                for found in run["steps"].as_array().into_iter().flatten() {
                    let name = text(found, "name");
                    if step.as_deref().is_some_and(|wanted| wanted != name) {
                        continue;
                    }
                    let logs = api
                        .list(&format!("{path}/steps/{}/logs", encode(name)), 100_000)
                        .await?;
                    for entry in logs.as_array().into_iter().flatten() {
                        print_log(name, entry);
                    }
                }
                Ok(Exit::Success)
            }
            RunCommand::Artifacts { which, step } => {
                artifacts::list(api, &which.path(api).await?, step.as_ref()).await
            }
            RunCommand::Download {
                which,
                step,
                output,
                force,
            } => {
                let path = which.path(api).await?;
                artifacts::download(api, &path, step.as_ref(), &output, force).await
            }
            RunCommand::Approve(decision) => decision.send(api, "approve").await,
            RunCommand::Reject(decision) => decision.send(api, "reject").await,
            RunCommand::Cancel(which) => {
                let run = api
                    .post(&format!("{}/cancel", which.path(api).await?), &json!({}))
                    .await?;
                finish(&run, "is being cancelled")
            }
            RunCommand::Retry(which) => {
                let run = api
                    .post(&format!("{}/retry", which.path(api).await?), &json!({}))
                    .await?;
                finish(&run, "is queued")
            }
        }
    }
}

fn finish(run: &Value, what: &str) -> Outcome<Exit> {
    if output::style().json {
        output::json(run);
    } else {
        output::note(format!(
            "run #{} {what}; follow it with `ondol run watch {}`",
            run["number"],
            text(run, "id")
        ));
    }
    Ok(Exit::Success)
}

pub(crate) fn print_log(step: &str, entry: &Value) {
    if output::style().json {
        output::json_line(entry);
        return;
    }
    let line = output::printable(text(entry, "text"));
    let label = if text(entry, "stream") == "stderr" {
        output::yellow(step)
    } else {
        output::dim(step)
    };
    output::line(format!("{label} {line}"));
}

fn show(run: &Value) {
    output::line(format!(
        "{} {}  {}  {}",
        output::bold(&format!("run #{}", run["number"])),
        result(run),
        trigger(run),
        output::dim(text(run, "id"))
    ));
    for note in run["notes"].as_array().into_iter().flatten() {
        output::line(format!("  note: {}", note.as_str().unwrap_or_default()));
    }
    let rows: Vec<Vec<String>> = run["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|step| {
            vec![
                format!("  {}", title(step)),
                result(step),
                duration(step),
                format!("{}{}", tries(step), output::printable(text(step, "reason"))),
            ]
        })
        .collect();
    output::table(&["  STEP", "RESULT", "TOOK", ""], &rows);
    let path: Vec<&str> = run["criticalPath"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if path.len() > 1 {
        output::line(format!("  longest way: {}", path.join(" → ")));
    }
    for suite in run["tests"].as_array().into_iter().flatten() {
        output::line(format!(
            "  tests of {}: {} in all, {} failed, {} broke, {} skipped",
            text(suite, "step"),
            suite["tests"],
            suite["failed"],
            suite["errored"],
            suite["skipped"]
        ));
        for case in suite["cases"].as_array().into_iter().flatten() {
            output::line(format!(
                "    {} {}: {}",
                output::red("✗"),
                text(case, "name"),
                output::printable(text(case, "message"))
            ));
        }
    }
}

/// What people call a step.
fn title(step: &Value) -> String {
    match text(step, "label") {
        "" => text(step, "name").to_owned(),
        label => output::printable(label),
    }
}

/// How often a step was tried, and how many attempts the platform lost, when that is worth a word.
fn tries(step: &Value) -> String {
    let count = |key: &str| step[key].as_u64().unwrap_or_default();
    match (count("attempt"), count("faults")) {
        (0 | 1, 0) => String::new(),
        (attempt, 0) => format!("attempt {attempt}; "),
        (attempt, lost) => format!("attempt {attempt}, {lost} lost to the platform; "),
    }
}

/// Follows a run and prints what changes. Resumes after a broken connection.
pub(crate) async fn watch(api: &Api, path: &str) -> Outcome<Exit> {
    let mut shown = Shown::default();
    let mut broken = 0;
    loop {
        let mut events = match api.stream(&format!("{path}/watch")).await {
            Ok(events) => std::pin::pin!(events.boxed()),
            Err(failure) if failure.exit == Exit::Unavailable && broken > 0 && broken < 30 => {
                broken += 1;
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        while let Some(event) = events.next().await {
            let Ok((name, value)) = event else { break };
            broken = 0;
            if output::style().json {
                output::json_line(&json!({ "event": name, "data": value }));
            }
            match name.as_str() {
                "log" if !output::style().json => {
                    let step = text(&value, "step");
                    shown
                        .lines
                        .insert(step.to_owned(), text(&value, "text").to_owned());
                    print_log(step, &value);
                }
                "run" => {
                    if !output::style().json {
                        print_progress(&value, &mut shown);
                    }
                    if text(&value, "state") == "finished" {
                        return Ok(if text(&value, "outcome") == "success" {
                            Exit::Success
                        } else {
                            Exit::Failed
                        });
                    }
                }
                _ => {}
            }
        }
        broken += 1;
        if broken > 30 {
            return Err(Failure::new(
                Exit::Unavailable,
                "the server went away and did not come back within 30 s",
            )
            .hint("the run goes on when the server is back; `ondol run watch` resumes the view"));
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

/// What a watcher has already seen, by step.
#[derive(Default)]
struct Shown {
    states: BTreeMap<String, String>,
    /// The last line of its log.
    lines: BTreeMap<String, String>,
}

fn print_progress(run: &Value, shown: &mut Shown) {
    for step in run["steps"].as_array().into_iter().flatten() {
        let name = text(step, "name").to_owned();
        let state = match text(step, "outcome") {
            "" => text(step, "state"),
            outcome => outcome,
        };
        if matches!(state, "pending" | "ready")
            || shown
                .states
                .get(&name)
                .is_some_and(|before| before == state)
        {
            continue;
        }
        shown.states.insert(name.clone(), state.to_owned());
        let took = step["durationSeconds"]
            .as_f64()
            .map(|value| format!(" in {}", output::seconds(value)))
            .unwrap_or_default();
        // The log of an action ends with its reason, which is not said twice.
        let said = |reason: &str| {
            let last = shown.lines.get(&name);
            last.is_some_and(|line| line.ends_with(reason))
        };
        let reason = match text(step, "reason") {
            "" => String::new(),
            reason if said(reason) => String::new(),
            reason => format!(": {}", output::printable(reason)),
        };
        output::line(format!(
            "{} {}{took}{reason}",
            output::bold(&title(step)),
            output::state(state)
        ));
    }
    if text(run, "state") == "finished" {
        let url = run["url"]
            .as_str()
            .map(|url| format!("  {url}"))
            .unwrap_or_default();
        output::line(format!(
            "run #{} {} in {}{url}",
            run["number"],
            result(run),
            duration(run)
        ));
    }
}
