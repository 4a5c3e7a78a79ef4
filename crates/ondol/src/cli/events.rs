//! `ondol events`: the log of facts.

use futures_util::StreamExt;
use serde_json::Value;

use crate::client::{Api, encode};
use crate::error::{Exit, Failure, Outcome};
use crate::output;

/// Print the event log (CDEvents), oldest first; follow it with -f.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ondol events -f\n  ondol events --project shop --type service --json\n  ondol events --type rollout.finished"
)]
pub(crate) struct Events {
    /// Only this project's events.
    #[arg(long, short)]
    project: Option<String>,
    /// Only types that begin so: a word as it is printed, or a full CDEvents type.
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
        let project = match self.project.as_deref() {
            Some(name) => Some(crate::project::parse(name)?.to_string()),
            None => None,
        };
        let kind = self.event_type.as_deref().map(full_prefix).transpose()?;
        for (key, value) in [
            ("project", &project),
            ("type", &kind),
            ("chain", &self.chain),
        ] {
            if let Some(value) = value {
                query.push_str(&format!("&{key}={}", encode(value)));
            }
        }
        // Who follows and wants nothing of the past still has to know where the present begins.
        let limit = if self.follow {
            self.limit.max(1)
        } else {
            self.limit
        };
        let mut newest = api.list(&format!("/events{query}"), limit).await?;
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
            if self.limit > 0 {
                print(event);
            }
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
    let short = short(text("type"));
    let time: String = text("time").chars().take(19).collect();
    let document = &event["document"];
    let (content, custom) = (&document["subject"]["content"], &document["customData"]);
    let word = ["outcome", "state"]
        .iter()
        .find_map(|key| custom[*key].as_str().or(content[*key].as_str()))
        .unwrap_or("");
    let mut rest: Vec<String> = vec![subject(&short, text("subject"), content, custom)];
    if !word.is_empty() {
        rest.push(output::state(word));
    }
    let reason = ["reason", "errors", "message", "detail"]
        .iter()
        .find_map(|key| custom[*key].as_str().or(content[*key].as_str()))
        .unwrap_or("");
    if !reason.is_empty() {
        let first = reason.lines().next().unwrap_or_default();
        let cut: String = output::printable(first).chars().take(120).collect();
        rest.push(output::dim(&cut));
    }
    let line = format!(
        "{} {} {} {:<12} {}",
        output::dim(&format!("{:>6}", event["seq"])),
        output::dim(&time),
        output::bold(&format!("{short:<22}")),
        text("project"),
        rest.join("  ")
    );
    output::line(line.trim_end());
}

/// `dev.cdevents.service.deployed.0.3.0` reads as `service.deployed`.
fn short(kind: &str) -> String {
    let words: Vec<&str> = kind.split('.').skip(2).take(2).collect();
    let words = words.join(".");
    words.strip_prefix("ondol-").unwrap_or(&words).to_owned()
}

/// The prefix of full types that a person means: theirs, or the word that this command prints.
fn full_prefix(given: &str) -> Outcome<String> {
    if given.starts_with("dev.") {
        return Ok(given.to_owned());
    }
    let mut found: Vec<String> = ondol_types::event::ALL
        .iter()
        .filter_map(|kind| {
            let at = kind.len() - after_namespace(kind).len();
            let plain = after_namespace(kind);
            plain
                .starts_with(given)
                .then(|| format!("{}{given}", &kind[..at]))
        })
        .collect();
    found.sort();
    found.dedup();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(
            Failure::usage(format!("no event is called `{given}`")).hint(
                "say a word that `ondol events` prints, such as `taskrun` or `rollout.finished`",
            ),
        ),
        several => Err(Failure::usage(format!("`{given}` begins several names"))
            .hint(format!("say one of: {}", several.join(", ")))),
    }
}

/// A type without what every type begins with.
fn after_namespace(kind: &str) -> &str {
    let plain = kind.splitn(3, '.').nth(2).unwrap_or(kind);
    plain.strip_prefix("ondol-").unwrap_or(plain)
}

/// Which thing an event is about, as the other commands name it.
fn subject(short: &str, id: &str, content: &Value, custom: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let commit = |value: &Value| text(value).chars().take(7).collect::<String>();
    // `what #12`, or the end of the id where no number is known.
    let numbered = |what: &str, number: &Value, id: &str| match number.as_i64() {
        Some(number) => format!("{what} #{number}"),
        None => format!(
            "{what} …{}",
            id.get(id.len().saturating_sub(6)..).unwrap_or(id)
        ),
    };
    let kind = short.split('.').next().unwrap_or_default();
    let words = match kind {
        "push" => {
            let branch = text(&content["refName"]);
            let branch = branch.trim_start_matches("refs/heads/").to_owned();
            format!(
                "{branch} {} by {}",
                commit(&content["new"]),
                text(&content["pusher"])
            )
        }
        "pipelinerun" => {
            let name = text(&content["pipelineName"]);
            let trigger = name.split_once('/').map_or("", |(_, trigger)| trigger);
            format!("{} {trigger}", numbered("run", &custom["number"], id))
        }
        "taskrun" => {
            let run = text(&content["pipelineRun"]["id"]);
            let run = numbered("run", &custom["runNumber"], &run);
            format!("{run} {}", text(&content["taskName"]))
        }
        "testsuiterun" => format!(
            "{}: {} tests, {} failed",
            text(&content["testSuite"]["name"]),
            custom["tests"],
            custom["failed"].as_i64().unwrap_or(0) + custom["errored"].as_i64().unwrap_or(0)
        ),
        "release" => format!(
            "{} {}",
            numbered("release", &content["number"], id),
            commit(&content["commit"])
        ),
        "rollout" => format!(
            "{} {}",
            numbered("rollout", &content["number"], id),
            text(&content["environment"])
        ),
        "service" => numbered("release", &custom["number"], id),
        "replica" => format!(
            "replica …{} {}",
            id.get(id.len().saturating_sub(6)..).unwrap_or(id),
            text(&content["environment"])
        ),
        "dataset" => format!("{} v{}", text(&content["dataset"]), content["number"]),
        "modelversion" => format!("{} v{}", text(&content["model"]), content["version"]),
        "environment" | "token" | "volume" if content["name"].is_string() => text(&content["name"]),
        _ => id.to_owned(),
    };
    output::printable(words.trim_end())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_words_that_are_printed_select_what_they_name() {
        for kind in ondol_types::event::ALL {
            let prefix = full_prefix(&short(kind)).unwrap();
            assert!(kind.starts_with(&prefix), "{kind}: {prefix}");
        }
        assert_eq!(
            full_prefix("pipelinerun").unwrap(),
            "dev.cdevents.pipelinerun"
        );
        assert_eq!(
            full_prefix("rollout").unwrap(),
            "dev.cdeventsx.ondol-rollout"
        );
        assert_eq!(full_prefix("dev.cdevents.x").unwrap(), "dev.cdevents.x");
        assert_eq!(full_prefix("nothing").unwrap_err().exit, Exit::Usage);
        let several = full_prefix("re").unwrap_err().hint.unwrap();
        assert!(
            several.contains("repository") || several.contains("ondol-re"),
            "{several}"
        );
    }

    #[test]
    fn an_event_says_which_thing_it_is_about() {
        let about = |short: &str, content: Value, custom: Value| {
            subject(short, "xyz_0123456789", &content, &custom)
        };
        assert_eq!(
            about(
                "taskrun.finished",
                json!({ "taskName": "test", "pipelineRun": { "id": "run_01abcdefg" } }),
                json!({ "runNumber": 12 }),
            ),
            "run #12 test"
        );
        // Logs of earlier versions have no number of the run.
        assert_eq!(
            about(
                "taskrun.finished",
                json!({ "taskName": "test", "pipelineRun": { "id": "run_01abcdefg" } }),
                json!({}),
            ),
            "run …bcdefg test"
        );
        assert_eq!(
            about(
                "push.received",
                json!({ "refName": "refs/heads/main", "new": "0123456789", "pusher": "ana" }),
                Value::Null,
            ),
            "main 0123456 by ana"
        );
        assert_eq!(
            about(
                "release.created",
                json!({ "number": 4, "commit": null }),
                Value::Null
            ),
            "release #4"
        );
        assert_eq!(
            about("secret.set", json!({}), Value::Null),
            "xyz_0123456789"
        );
    }
}
