//! `ondol token`: who may do what.

use serde_json::json;

use crate::client::{Api, encode};
use crate::error::{Exit, Failure, Outcome};
use crate::output;

/// Issue, list and revoke access tokens.
#[derive(Debug, clap::Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TokenCommand {
    /// Issue a token; it is printed once and never again.
    #[command(
        after_help = "Examples:\n  ondol token create ci --role developer --project shop --days 90\n  ondol token create alice --role maintainer"
    )]
    Create {
        /// What the token is called in lists and in the audit.
        name: String,
        /// viewer, developer, maintainer or admin.
        #[arg(long, default_value = "developer")]
        role: String,
        /// Only for these projects (default: all).
        #[arg(long, short)]
        project: Vec<String>,
        /// Ends after so many days.
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
    /// List tokens, without their secret part.
    #[command(after_help = "Examples:\n  ondol token list")]
    List,
    /// Revoke a token by its id.
    #[command(after_help = "Examples:\n  ondol token revoke tok_01…")]
    Revoke {
        /// The id that `ondol token list` shows.
        id: String,
    },
}

impl Token {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        match self.command {
            TokenCommand::Create {
                name,
                role,
                project,
                days,
            } => {
                let body = json!({ "name": name, "role": role, "projects": project, "days": days });
                let created = api.post("/tokens", &body).await?;
                if output::style().json {
                    output::json(&created);
                } else {
                    output::note(format!(
                        "{} ends {}; it is shown once:",
                        created["id"].as_str().unwrap_or("the token"),
                        created["expiresAt"].as_str().unwrap_or("never")
                    ));
                    output::line(created["token"].as_str().unwrap_or_default());
                }
            }
            TokenCommand::List => {
                let tokens = api.list("/tokens", 1_000).await?;
                if output::style().json {
                    output::json(&tokens);
                    return Ok(Exit::Success);
                }
                let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
                let rows: Vec<Vec<String>> = tokens
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|token| {
                        vec![
                            text(&token["id"]),
                            text(&token["name"]),
                            grant(&token["grant"]),
                            text(&token["expiresAt"]),
                            text(&token["lastUsedAt"]),
                        ]
                    })
                    .collect();
                output::table(&["ID", "NAME", "GRANT", "EXPIRES", "LAST USED"], &rows);
            }
            TokenCommand::Revoke { id } => {
                // The text of a token is not repeated: somebody may have typed it for the id.
                let id: ondol_types::TokenId = id.parse().map_err(|_| {
                    Failure::usage("this is not the id of a token: an id begins with `tok_`")
                        .hint("`ondol token list` shows ids")
                })?;
                api.delete(&format!("/tokens/{}", encode(&id.to_string())))
                    .await?;
                output::note(format!("{id} no longer opens anything"));
            }
        }
        Ok(Exit::Success)
    }
}

/// A grant in words: `admin`, or `developer on shop`.
fn grant(value: &serde_json::Value) -> String {
    let mut parts: Vec<String> = value["everywhere"]
        .as_str()
        .map(str::to_owned)
        .into_iter()
        .collect();
    for (project, role) in value["projects"].as_object().into_iter().flatten() {
        parts.push(format!("{} on {project}", role.as_str().unwrap_or("?")));
    }
    if parts.is_empty() {
        "nothing".to_owned()
    } else {
        parts.join(", ")
    }
}
