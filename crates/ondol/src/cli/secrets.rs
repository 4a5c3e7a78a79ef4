//! `ondol secret`: values that go in and never come out.

use std::io::{IsTerminal, Read};

use serde_json::{Value, json};

use super::{Target, deploy};
use crate::client::{Api, encode};
use crate::error::{Exit, Failure, Outcome};
use crate::output;

/// Set, list and remove a project's secrets. Values are never printed again.
#[derive(Debug, clap::Args)]
pub(crate) struct Secret {
    #[command(subcommand)]
    command: SecretCommand,
}

#[derive(Debug, clap::Subcommand)]
enum SecretCommand {
    /// Set a secret; the value is read from stdin or asked for, so that it stays out of the
    /// shell's history. Rolls the project out with it unless `--stage` is given.
    #[command(
        after_help = "Examples:\n  ondol secret set DATABASE_URL < url.txt\n  printf %s \"$KEY\" | ondol secret set API_KEY --stage\n  ondol secret set API_KEY --wait < key.txt"
    )]
    Set {
        /// Its name: the environment variable that carries it.
        name: String,
        #[command(flatten)]
        target: Target,
        /// Wait for the next rollout instead of starting one.
        #[arg(long)]
        stage: bool,
        /// Wait until the rollouts with it have ended.
        #[arg(long, conflicts_with = "stage")]
        wait: bool,
    },
    /// List names and versions.
    #[command(after_help = "Examples:\n  ondol secret list")]
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Remove a secret.
    #[command(after_help = "Examples:\n  ondol secret rm API_KEY")]
    Rm {
        /// Its name.
        name: String,
        #[command(flatten)]
        target: Target,
    },
}

impl Secret {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        match self.command {
            SecretCommand::Set {
                name,
                target,
                stage,
                wait,
            } => {
                let name = parse_name(&name)?.to_string();
                let project = target.resolve()?;
                let value = read_value(&name)?;
                let body = json!({ "value": value.expose(), "stage": stage });
                let set = api
                    .put(
                        &format!("/projects/{project}/secrets/{}", encode(&name)),
                        &body,
                    )
                    .await?;
                if output::style().json {
                    output::json(&set);
                } else {
                    output::note(format!(
                        "{name} is version {}{}",
                        set["version"],
                        consequence(&set, stage)
                    ));
                    for rollout in set["rollouts"].as_array().into_iter().flatten() {
                        output::note(rolls_out(project.as_str(), rollout));
                    }
                }
                if wait {
                    return wait_for(api, project.as_str(), &set).await;
                }
            }
            SecretCommand::List { target } => {
                let project = target.resolve()?;
                let secrets = api
                    .list(&format!("/projects/{project}/secrets"), 1_000)
                    .await?;
                if output::style().json {
                    output::json(&secrets);
                    return Ok(Exit::Success);
                }
                let rows: Vec<Vec<String>> = secrets
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|secret| {
                        vec![
                            secret["name"].as_str().unwrap_or_default().to_owned(),
                            secret["version"].to_string(),
                            secret["updatedAt"].as_str().unwrap_or_default().to_owned(),
                            secret["updatedBy"].as_str().unwrap_or_default().to_owned(),
                        ]
                    })
                    .collect();
                output::table(&["NAME", "VERSION", "SET", "BY"], &rows);
            }
            SecretCommand::Rm { name, target } => {
                let name = parse_name(&name)?;
                let project = target.resolve()?;
                let path = format!("/projects/{project}/secrets/{}", encode(name.as_str()));
                api.delete(&path).await?;
                output::note(format!("{name} is removed"));
                // A warning is not worth failing for: the secret is gone already.
                if let Ok(status) = api.get(&format!("/status?project={project}")).await {
                    for environment in users(&status, &name) {
                        output::note(format!(
                            "note: the release that serves in {environment} uses it; set it again, or take it out of `secrets:` in ondol.yaml before the next push"
                        ));
                    }
                }
            }
        }
        Ok(Exit::Success)
    }
}

/// What follows when no rollout is named.
fn consequence(set: &Value, stage: bool) -> &'static str {
    let none = set["rollouts"].as_array().map(Vec::is_empty);
    match (stage, set["changed"].as_bool(), none) {
        (_, Some(false), _) => ", as before: nothing rolls out",
        (true, ..) => "; it waits for the next rollout or restart",
        (false, _, Some(true)) => "; no environment that runs receives it, so nothing rolls out",
        (false, _, None) => "; it is about to roll out: see `ondol rollout`",
        (false, _, Some(false)) => "",
    }
}

fn rolls_out(project: &str, rollout: &Value) -> String {
    let number = &rollout["number"];
    let environment = rollout["environment"].as_str().unwrap_or_default();
    let place = if environment == "production" {
        format!("--project {project}")
    } else {
        format!("--project {project} --environment {environment}")
    };
    if rollout["state"] == "held" {
        return format!(
            "rollout {number} with it waits, because {environment} is held: `ondol rollout resume {place}`"
        );
    }
    format!("rolls out as rollout {number}; follow with `ondol rollout show {number} {place}`")
}

async fn wait_for(api: &Api, project: &str, set: &Value) -> Outcome<Exit> {
    let mut exit = Exit::Success;
    for rollout in set["rollouts"].as_array().into_iter().flatten() {
        let id = rollout["id"].as_str().unwrap_or_default();
        let ended = deploy::wait(api, project, id, true).await?;
        if deploy::verdict(project, &ended)? != Exit::Success {
            exit = Exit::Failed;
        }
    }
    Ok(exit)
}

fn read_value(name: &str) -> Outcome<ondol_types::Secret> {
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() {
        let echo = rustix::termios::tcgetattr(&stdin).ok();
        if let Some(before) = &echo {
            let mut hidden = before.clone();
            hidden.local_modes.remove(rustix::termios::LocalModes::ECHO);
            let _ =
                rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, &hidden);
        }
        output::note(format!("value of {name} (not shown), then Enter:"));
        let mut line = String::new();
        let outcome = stdin.read_line(&mut line);
        if let Some(before) = &echo {
            let _ =
                rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, before);
        }
        outcome.map_err(Failure::io("read the value"))?;
        return Ok(ondol_types::Secret::new(
            line.trim_end_matches(['\n', '\r']).to_owned(),
        ));
    }
    let mut text = String::new();
    stdin
        .by_ref()
        .take(65_537)
        .read_to_string(&mut text)
        .map_err(Failure::io("read the value from stdin"))?;
    if text.len() > 65_536 {
        return Err(Failure::usage("a secret may have at most 64 KiB"));
    }
    // A file made by an editor ends with a newline that is not part of the value.
    if text.ends_with('\n') && text.matches('\n').count() == 1 {
        text.pop();
    }
    Ok(ondol_types::Secret::new(text))
}

/// The environments whose current release uses a secret.
fn users<'s>(status: &'s serde_json::Value, name: &ondol_types::SecretName) -> Vec<&'s str> {
    let projects = status["projects"].as_array().into_iter().flatten();
    projects
        .flat_map(|project| project["environments"].as_array().into_iter().flatten())
        .filter(|environment| environment["current"]["secrets"][name.as_str()].is_number())
        .filter_map(|environment| environment["environment"]["name"].as_str())
        .collect()
}

/// Checks a name before anything is sent: what somebody typed in its place may be the value, which
/// belongs neither into an address, which logs keep, nor into a message.
fn parse_name(text: &str) -> Outcome<ondol_types::SecretName> {
    if let Some((name, _)) = text.split_once('=') {
        let name = match name.parse::<ondol_types::SecretName>() {
            Ok(name) => name.to_string(),
            Err(_) => "NAME".to_owned(),
        };
        return Err(
            Failure::usage("a secret's value is not part of its name; nothing was sent").hint(
                format!("give the value on stdin: printf %s \"$VALUE\" | ondol secret set {name}"),
            ),
        );
    }
    super::named(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_removes_a_secret_learns_who_uses_it() {
        let status = json!({ "projects": [{ "environments": [
            { "environment": { "name": "production" }, "current": { "secrets": { "KEY": 2 } } },
            { "environment": { "name": "staging" }, "current": { "secrets": { "OTHER": 1 } } },
            { "environment": { "name": "empty" }, "current": null },
        ] }] });
        assert_eq!(users(&status, &"KEY".parse().unwrap()), ["production"]);
        assert!(users(&status, &"NONE".parse().unwrap()).is_empty());
    }

    #[test]
    fn a_value_in_the_place_of_a_name_is_neither_sent_nor_repeated() {
        assert_eq!(parse_name("API_KEY").unwrap().as_str(), "API_KEY");
        for text in ["API_KEY=hunter2", "=hunter2", "../x=hunter2", "A B=hunter2"] {
            let refused = parse_name(text).unwrap_err();
            assert_eq!(refused.exit, Exit::Usage);
            let hint = refused.hint.unwrap();
            assert!(hint.contains("stdin"), "{hint}");
            assert!(!format!("{}{hint}", refused.message).contains("hunter2"));
        }
        for text in ["", "a-b", "../x", "PATH"] {
            assert!(parse_name(text).is_err(), "{text}");
        }
    }
}
