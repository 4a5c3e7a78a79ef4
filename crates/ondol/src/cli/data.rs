//! `ondol data`: push, look at, compare and check out datasets.

use std::path::PathBuf;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use ondol_data::Key;
use ondol_data::client::{Progress, PushOptions, Receiver, Transport, push};
use ondol_data::model::{PushSession, Pushed, UploadReceipt};
use ondol_data::wire::{MEDIA_TYPE, decode_keys, encode_keys};
use ondol_types::{DatasetName, ErrorKind, Problem, ProjectName, UploadId};
use reqwest::Method;
use serde_json::Value;

use super::Target;
use crate::client::{Api, encode};
use crate::error::{Exit, Failure, Outcome};
use crate::output;

/// Push, list, compare, verify and check out datasets.
#[derive(Debug, clap::Args)]
pub(crate) struct Data {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DataCommand {
    /// Push a file or folder as the next version of a dataset; only what changed travels.
    #[command(
        after_help = "Examples:\n  ondol data push sales sales.csv\n  ondol data push images ./images -m \"March\" --watch"
    )]
    Push(Push),
    /// List the datasets of the project.
    #[command(after_help = "Examples:\n  ondol data list")]
    List {
        #[command(flatten)]
        target: Target,
    },
    /// List the versions of a dataset, newest first.
    #[command(after_help = "Examples:\n  ondol data log sales")]
    Log {
        /// The dataset.
        name: DatasetName,
        #[command(flatten)]
        target: Target,
        /// At most so many.
        #[arg(long, short = 'n', default_value_t = 20)]
        limit: usize,
    },
    /// Show a version's schema and statistics.
    #[command(after_help = "Examples:\n  ondol data show sales\n  ondol data show sales 3")]
    Show {
        /// The dataset.
        name: DatasetName,
        /// The version: a number, a digest, or `latest`.
        #[arg(default_value = "latest")]
        version: String,
        #[command(flatten)]
        target: Target,
    },
    /// Show what changed between two versions, also row by row.
    #[command(after_help = "Examples:\n  ondol data diff sales 2 3 --rows")]
    Diff {
        /// The dataset.
        name: DatasetName,
        /// The earlier version.
        from: String,
        /// The later version.
        #[arg(default_value = "latest")]
        to: String,
        /// Compare tables row by row.
        #[arg(long)]
        rows: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Write the files of a version into a folder.
    #[command(
        after_help = "Examples:\n  ondol data checkout sales ./sales\n  ondol data checkout sales ./sales-2 --version 2"
    )]
    Checkout {
        /// The dataset.
        name: DatasetName,
        /// The folder, which must not exist or be empty.
        dir: PathBuf,
        /// The version.
        #[arg(long, default_value = "latest")]
        version: String,
        #[command(flatten)]
        target: Target,
    },
    /// Read and hash every byte of a version; exits 1 when something is damaged.
    #[command(after_help = "Examples:\n  ondol data verify sales")]
    Verify {
        /// The dataset.
        name: DatasetName,
        /// The version.
        #[arg(default_value = "latest")]
        version: String,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, clap::Args)]
struct Push {
    /// The dataset.
    name: DatasetName,
    /// The file or folder: the whole content of the new version.
    path: PathBuf,
    #[command(flatten)]
    target: Target,
    /// What changed.
    #[arg(long, short, default_value = "")]
    message: String,
    /// The name of the file in the dataset, when it is not its own.
    #[arg(long = "as", value_name = "NAME")]
    as_name: Option<String>,
    /// Follow whatever is newest, also when somebody pushed in between.
    #[arg(long)]
    force: bool,
    /// Follow the run that the push starts; exits 1 when it does not succeed.
    #[arg(long)]
    watch: bool,
}

/// The push protocol over the JSON API.
struct Http<'a> {
    api: &'a Api,
    base: String,
    failure: Mutex<Option<Failure>>,
}

impl Http<'_> {
    async fn bytes(&self, path: &str, body: Bytes) -> Result<Bytes, Problem> {
        let request = self
            .api
            .request(Method::POST, path)
            .header("content-type", MEDIA_TYPE)
            .body(body);
        let outcome = async {
            let response = self.api.send(request).await?;
            response.bytes().await.map_err(|error| {
                Failure::new(Exit::Unavailable, "the server broke off").because(error)
            })
        };
        outcome.await.map_err(|failure| self.keep(failure))
    }

    /// The failure keeps its exit code and hint; the protocol only learns that there was one.
    fn keep(&self, failure: Failure) -> Problem {
        let problem = Problem::new(
            ErrorKind::Unavailable,
            "cli.transport",
            failure.message.clone(),
        );
        *self
            .failure
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(failure);
        problem
    }

    fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
        serde_json::from_slice(bytes).map_err(|error| {
            Problem::internal("the server's answer is not what it should be", error)
        })
    }
}

#[async_trait]
impl Transport for Http<'_> {
    async fn begin(&self) -> Result<PushSession, Problem> {
        Self::read(
            &self
                .bytes(&format!("{}/pushes", self.base), Bytes::new())
                .await?,
        )
    }

    async fn missing(&self, session: UploadId, keys: &[Key]) -> Result<Vec<Key>, Problem> {
        let answer = self
            .bytes(
                &format!("/data/pushes/{session}/missing"),
                encode_keys(keys),
            )
            .await?;
        Ok(decode_keys(&answer)?)
    }

    async fn upload(&self, session: UploadId, body: Bytes) -> Result<UploadReceipt, Problem> {
        Self::read(
            &self
                .bytes(&format!("/data/pushes/{session}/chunks"), body)
                .await?,
        )
    }

    async fn commit(&self, session: UploadId, body: Bytes) -> Result<Pushed, Problem> {
        Self::read(
            &self
                .bytes(&format!("/data/pushes/{session}/commit"), body)
                .await?,
        )
    }
}

fn path(project: &ProjectName, name: &DatasetName) -> String {
    format!("/projects/{project}/data/{}", encode(name.as_str()))
}

impl Push {
    async fn run(self, api: &Api) -> Outcome<Exit> {
        let project = self.target.resolve()?;
        std::fs::metadata(&self.path)
            .map_err(Failure::io(format!("read {}", self.path.display())))?;
        // A file under another name is pushed from a folder of its own.
        let renamed = match &self.as_name {
            None => None,
            Some(name) => Some(Renamed::make(&self.path, name)?),
        };
        let source = renamed.as_ref().map_or(&self.path, |renamed| &renamed.path);
        let transport = Http {
            api,
            base: path(&project, &self.name),
            failure: Mutex::default(),
        };
        let bar = if output::style().terminal && !output::style().json {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template(
                "{msg} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}",
            ) {
                bar.set_style(style);
            }
            bar
        } else {
            ProgressBar::hidden()
        };
        let shown = bar.clone();
        let progress = move |step: Progress| match step {
            Progress::Found { files, bytes } => {
                shown.set_length(bytes);
                shown.set_message(format!("hashing {files} files"));
            }
            Progress::Hashed { bytes } => shown.inc(bytes),
            Progress::Missing { bytes, .. } => {
                shown.set_length(bytes);
                shown.set_position(0);
                shown.set_message("sending");
            }
            Progress::Sent { bytes } => shown.inc(bytes),
        };
        let options = PushOptions {
            message: self.message,
            force: self.force,
            ..PushOptions::default()
        };
        let outcome = push(&transport, source, &options, std::sync::Arc::new(progress)).await;
        bar.finish_and_clear();
        let pushed = outcome.map_err(|problem| {
            let kept = transport
                .failure
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .take();
            kept.unwrap_or_else(|| problem.into())
        })?;
        let version = &pushed.version;
        if output::style().json {
            output::json(&serde_json::to_value(&pushed).unwrap_or_default());
        } else if pushed.changed {
            output::note(format!(
                "{} version {}: {} files, {}, {} new",
                self.name,
                version.number,
                version.files,
                output::bytes(version.bytes as f64),
                output::bytes(version.new_bytes as f64)
            ));
        } else {
            output::note(format!(
                "nothing changed: version {} is the newest",
                version.number
            ));
        }
        if !pushed.changed {
            return Ok(Exit::Success);
        }
        let Some(run) = started_run(api, &project, &self.name, version.number).await? else {
            return Ok(Exit::Success);
        };
        let id = run["id"].as_str().unwrap_or_default().to_owned();
        if self.watch {
            return super::runs::watch(api, &format!("/runs/{id}")).await;
        }
        if !output::style().json {
            output::note(format!(
                "run #{} has started; follow it with `ondol run watch {}`",
                run["number"], run["number"]
            ));
        }
        Ok(Exit::Success)
    }
}

/// The run that a version started; it appears as soon as the pipeline has read the event.
async fn started_run(
    api: &Api,
    project: &ProjectName,
    name: &DatasetName,
    number: i64,
) -> Outcome<Option<Value>> {
    for _ in 0..100 {
        let runs = api.list(&format!("/projects/{project}/runs"), 10).await?;
        let found = runs.as_array().into_iter().flatten().find(|run| {
            let trigger = &run["trigger"];
            trigger["kind"] == "data"
                && trigger["dataset"] == name.as_str()
                && trigger["number"] == number
        });
        if let Some(run) = found {
            return Ok(Some(run.clone()));
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(None)
}

/// A link to one file under another name, in a temporary folder.
struct Renamed {
    path: PathBuf,
    folder: PathBuf,
}

impl Renamed {
    fn make(source: &std::path::Path, name: &str) -> Outcome<Self> {
        let name: ondol_types::RelPath = name
            .parse()
            .map_err(|error: ondol_types::PathError| Failure::usage(error.to_string()))?;
        if !source.is_file() {
            return Err(Failure::usage(format!(
                "--as renames one file, and {} is not a file",
                source.display()
            )));
        }
        let folder = std::env::temp_dir().join(format!("ondol-push-{}", std::process::id()));
        let target = name.below(&folder);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(Failure::io("make a temporary folder"))?;
        }
        if std::fs::hard_link(source, &target).is_err() {
            std::fs::copy(source, &target)
                .map_err(Failure::io(format!("copy {}", source.display())))?;
        }
        Ok(Self {
            path: folder.clone(),
            folder,
        })
    }
}

impl Drop for Renamed {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

impl Data {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        match self.command {
            DataCommand::Push(push) => return push.run(api).await,
            DataCommand::List { target } => {
                let project = target.resolve()?;
                let found = api
                    .list(&format!("/projects/{project}/data"), 1_000)
                    .await?;
                if output::style().json {
                    output::json(&found);
                    return Ok(Exit::Success);
                }
                let rows: Vec<Vec<String>> = found
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|dataset| {
                        vec![
                            text(dataset, "name"),
                            dataset["number"].to_string(),
                            text(dataset, "updatedAt"),
                        ]
                    })
                    .collect();
                output::table(&["DATASET", "VERSION", "UPDATED"], &rows);
            }
            DataCommand::Log {
                name,
                target,
                limit,
            } => {
                let found = api
                    .list(
                        &format!("{}/versions", path(&target.resolve()?, &name)),
                        limit,
                    )
                    .await?;
                if output::style().json {
                    output::json(&found);
                    return Ok(Exit::Success);
                }
                let rows: Vec<Vec<String>> = found
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(version_row)
                    .collect();
                output::table(
                    &[
                        "VERSION", "ID", "FILES", "ROWS", "SIZE", "NEW", "CREATED", "BY", "MESSAGE",
                    ],
                    &rows,
                );
            }
            DataCommand::Show {
                name,
                version,
                target,
            } => {
                let found = api
                    .get(&format!(
                        "{}/versions/{}",
                        path(&target.resolve()?, &name),
                        encode(&version)
                    ))
                    .await?;
                if output::style().json {
                    output::json(&found);
                } else {
                    show(&found);
                }
            }
            DataCommand::Diff {
                name,
                from,
                to,
                rows,
                target,
            } => {
                let query = format!("from={}&to={}&rows={rows}", encode(&from), encode(&to));
                let found = api
                    .get(&format!("{}/diff?{query}", path(&target.resolve()?, &name)))
                    .await?;
                if output::style().json {
                    output::json(&found);
                } else {
                    show_diff(&found);
                }
            }
            DataCommand::Checkout {
                name,
                dir,
                version,
                target,
            } => {
                let route = format!(
                    "{}/versions/{}/export",
                    path(&target.resolve()?, &name),
                    encode(&version)
                );
                let response = api.send(api.request(Method::GET, &route)).await?;
                let mut receiver = Receiver::new(&dir)?;
                let mut body = response.bytes_stream();
                while let Some(chunk) = body.next().await {
                    let chunk = chunk.map_err(|error| {
                        Failure::new(Exit::Unavailable, "the server broke off").because(error)
                    })?;
                    receiver.feed(&chunk)?;
                }
                let (files, bytes) = receiver.finish()?;
                if output::style().json {
                    output::json(&serde_json::json!({ "files": files, "bytes": bytes }));
                } else {
                    output::note(format!(
                        "{files} files, {} in {}",
                        output::bytes(bytes as f64),
                        dir.display()
                    ));
                }
            }
            DataCommand::Verify {
                name,
                version,
                target,
            } => {
                let route = format!(
                    "{}/versions/{}/verify",
                    path(&target.resolve()?, &name),
                    encode(&version)
                );
                let found = api.post(&route, &serde_json::json!({})).await?;
                let bad = found["bad"].as_u64().unwrap_or(0);
                if output::style().json {
                    output::json(&found);
                } else {
                    output::line(format!(
                        "{} files, {} chunks, {}: {}",
                        found["files"],
                        found["chunks"],
                        output::bytes(found["bytes"].as_f64().unwrap_or(0.0)),
                        if bad == 0 {
                            output::green("all good")
                        } else {
                            output::red(&format!("{bad} damaged"))
                        }
                    ));
                    for finding in found["findings"].as_array().into_iter().flatten() {
                        output::line(format!("  {finding}"));
                    }
                }
                return Ok(if bad == 0 {
                    Exit::Success
                } else {
                    Exit::Failed
                });
            }
        }
        Ok(Exit::Success)
    }
}

fn version_row(version: &Value) -> Vec<String> {
    let id: String = text(version, "id")
        .chars()
        .skip("blake3:".len())
        .take(12)
        .collect();
    vec![
        version["number"].to_string(),
        id,
        version["files"].to_string(),
        version["rows"]
            .as_u64()
            .map_or("-".to_owned(), |rows| rows.to_string()),
        output::bytes(version["bytes"].as_f64().unwrap_or(0.0)),
        output::bytes(version["newBytes"].as_f64().unwrap_or(0.0)),
        text(version, "createdAt").chars().take(19).collect(),
        text(version, "author"),
        output::printable(&text(version, "message")),
    ]
}

fn show(detail: &Value) {
    output::table(
        &[
            "VERSION", "ID", "FILES", "ROWS", "SIZE", "NEW", "CREATED", "BY", "MESSAGE",
        ],
        &[version_row(&detail["version"])],
    );
    for table in detail["tables"].as_array().into_iter().flatten() {
        output::line(format!(
            "\n{}  {} rows",
            output::bold(&text(table, "path")),
            table["rows"]
        ));
        let rows: Vec<Vec<String>> = table["columns"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|column| {
                let number = |key: &str| match &column[key] {
                    Value::Number(number) => number
                        .as_f64()
                        .map_or(number.to_string(), |value| format!("{value:.4}")),
                    Value::String(text) => text.chars().take(20).collect(),
                    _ => "-".to_owned(),
                };
                vec![
                    format!("  {}", text(column, "name")),
                    text(column, "type"),
                    column["nulls"].to_string(),
                    column["distinct"].to_string(),
                    number("min"),
                    number("max"),
                    number("mean"),
                ]
            })
            .collect();
        output::table(
            &[
                "  COLUMN", "TYPE", "NULLS", "DISTINCT", "MIN", "MAX", "MEAN",
            ],
            &rows,
        );
    }
}

fn show_diff(diff: &Value) {
    output::line(format!(
        "{} added, {} removed, {} modified",
        diff["added"], diff["removed"], diff["modified"]
    ));
    for file in diff["files"].as_array().into_iter().flatten() {
        let sign = match file["change"].as_str() {
            Some("added") => output::green("+"),
            Some("removed") => output::red("-"),
            _ => output::yellow("~"),
        };
        output::line(format!(
            "{sign} {}  {} new",
            text(file, "path"),
            output::bytes(file["newBytes"].as_f64().unwrap_or(0.0))
        ));
        let rows = &file["rows"];
        if rows.is_object() {
            output::line(format!(
                "    rows: {} added, {} removed, {} changed",
                rows["added"], rows["removed"], rows["changed"]
            ));
        }
    }
}
