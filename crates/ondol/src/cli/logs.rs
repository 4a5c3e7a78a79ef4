//! `ondol logs`: what a service says.

use futures_util::StreamExt;

use super::Target;
use crate::client::{Api, encode};
use crate::error::{Exit, Outcome};
use crate::output;

/// Print the logs of a project's replicas and steps; follow them with -f.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ondol logs -f\n  ondol logs --since 10m --grep timeout\n  ondol logs --step test"
)]
pub(crate) struct Logs {
    #[command(flatten)]
    target: Target,
    /// Follow new lines as they come.
    #[arg(long, short)]
    follow: bool,
    /// Only lines that contain this text.
    #[arg(long, short = 'g')]
    grep: Option<String>,
    /// Only lines after this moment: RFC 3339, or an age such as 10m, 2h, 1d.
    #[arg(long)]
    since: Option<String>,
    /// Only lines before this moment.
    #[arg(long)]
    until: Option<String>,
    /// Only steps of this name instead of the service.
    #[arg(long)]
    step: Option<String>,
    /// Only this release.
    #[arg(long)]
    release: Option<i64>,
    /// The last so many lines.
    #[arg(long, short = 'n', default_value_t = 200)]
    lines: usize,
}

impl Logs {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        let project = self.target.resolve()?;
        let mut query = format!("?tail={}", self.lines.min(100_000));
        let mut add = |key: &str, value: &Option<String>| {
            if let Some(value) = value {
                query.push_str(&format!("&{key}={}", encode(value)));
            }
        };
        add("contains", &self.grep);
        add("since", &self.since);
        add("until", &self.until);
        add("step", &self.step);
        add("release", &self.release.map(|number| number.to_string()));
        if self.follow {
            query.push_str("&follow=true");
        }
        let mut lines = std::pin::pin!(
            api.stream(&format!("/projects/{project}/logs{query}"))
                .await?
        );
        while let Some(entry) = lines.next().await {
            let (name, entry) = entry?;
            match name.as_str() {
                "log" => print(&entry),
                "end" => break,
                _ => {}
            }
        }
        Ok(Exit::Success)
    }
}

fn print(entry: &serde_json::Value) {
    if output::style().json {
        output::json_line(entry);
        return;
    }
    let text = |key: &str| entry[key].as_str().unwrap_or("");
    let time: String = text("time").chars().skip(11).take(12).collect();
    let label = match text("stream") {
        "stderr" => output::yellow(text("source")),
        _ => output::dim(text("source")),
    };
    output::line(format!(
        "{} {label} {}",
        output::dim(&time),
        output::printable(text("text"))
    ));
}
