//! `ondol events`: the log of facts.

use futures_util::StreamExt;
use serde_json::Value;

use crate::client::{Api, encode};
use crate::error::{Exit, Outcome};
use crate::output;

/// Print the event log (CDEvents), oldest first; follow it with -f.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ondol events -f\n  ondol events --project shop --type dev.cdevents.service --json"
)]
pub(crate) struct Events {
    /// Only this project's events.
    #[arg(long, short)]
    project: Option<String>,
    /// Only types that begin so.
    #[arg(long = "type")]
    event_type: Option<String>,
    /// Only this chain: everything that followed from one push.
    #[arg(long)]
    chain: Option<String>,
    /// Follow new events as they come.
    #[arg(long, short)]
    follow: bool,
    /// The last so many.
    #[arg(long, short = 'n', default_value_t = 50)]
    limit: usize,
}

impl Events {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        let mut query = String::from("?order=newest");
        for (key, value) in [
            ("project", &self.project),
            ("type", &self.event_type),
            ("chain", &self.chain),
        ] {
            if let Some(value) = value {
                query.push_str(&format!("&{key}={}", encode(value)));
            }
        }
        let mut newest = api.list(&format!("/events{query}"), self.limit).await?;
        if let Some(items) = newest.as_array_mut() {
            items.reverse();
        }
        if output::style().json && !self.follow {
            output::json(&newest);
            return Ok(Exit::Success);
        }
        let mut last = 0;
        for event in newest.as_array().into_iter().flatten() {
            last = event["seq"].as_i64().unwrap_or(last);
            print(event);
        }
        if self.follow {
            let mut events = std::pin::pin!(
                api.stream(&format!("/events{query}&follow=true&after={last}"))
                    .await?
            );
            while let Some(event) = events.next().await {
                let (name, event) = event?;
                if name == "event" {
                    print(&event);
                }
            }
        }
        Ok(Exit::Success)
    }
}

fn print(event: &Value) {
    if output::style().json {
        output::json_line(event);
        return;
    }
    let text = |key: &str| event[key].as_str().unwrap_or("");
    // `dev.cdevents.service.deployed.0.3.0` reads as `service.deployed`.
    let kind = text("type");
    let short = kind
        .split('.')
        .skip(2)
        .take(2)
        .collect::<Vec<_>>()
        .join(".")
        .replace("ondol-", "");
    let time: String = text("time").chars().take(19).collect();
    let custom = &event["document"]["customData"];
    let outcome = custom["outcome"]
        .as_str()
        .or(event["document"]["subject"]["content"]["outcome"].as_str())
        .unwrap_or("");
    output::line(format!(
        "{} {} {} {} {}",
        output::dim(&format!("{:>6}", event["seq"])),
        output::dim(&time),
        output::bold(&short),
        text("project"),
        output::state(outcome)
    ));
}
