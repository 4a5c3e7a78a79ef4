//! `ondol projects`.

use std::time::Duration;

use serde_json::json;

use crate::client::{Api, encode};
use crate::error::{Exit, Failure, Outcome};
use crate::output;

/// List, create and delete projects.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ondol projects\n  ondol projects create shop\n  ondol projects delete shop --yes\n  ondol projects delete shop --yes --no-wait"
)]
pub(crate) struct Projects {
    #[command(subcommand)]
    command: Option<ProjectsCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum ProjectsCommand {
    /// List the projects you may see.
    List,
    /// Create an empty project; a first push does it too.
    Create {
        /// Its name: a DNS label.
        name: String,
    },
    /// Delete a project with its repository, releases, data and models, and wait until its name
    /// is free again.
    Delete {
        /// Its name.
        name: String,
        /// Really do it.
        #[arg(long)]
        yes: bool,
        /// Do not wait until every part of it is gone.
        #[arg(long)]
        no_wait: bool,
    },
}

impl Projects {
    pub(crate) async fn run(self, api: &Api) -> Outcome<Exit> {
        match self.command.unwrap_or(ProjectsCommand::List) {
            ProjectsCommand::List => {
                let projects = api.list("/projects", 10_000).await?;
                if output::style().json {
                    output::json(&projects);
                    return Ok(Exit::Success);
                }
                let rows: Vec<Vec<String>> = projects
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|project| {
                        let text = |key: &str| project[key].as_str().unwrap_or("-").to_owned();
                        vec![text("name"), text("defaultBranch"), text("url")]
                    })
                    .collect();
                output::table(&["NAME", "BRANCH", "URL"], &rows);
            }
            ProjectsCommand::Create { name } => {
                let name = crate::project::parse(&name)?;
                let project = api.post("/projects", &json!({ "name": name })).await?;
                if output::style().json {
                    output::json(&project);
                } else {
                    output::note(format!(
                        "{name} exists; push to {}/git/{name}.git",
                        api.url()
                    ));
                }
            }
            ProjectsCommand::Delete { name, yes, no_wait } => {
                let name = crate::project::parse(&name)?;
                if !yes {
                    return Err(Failure::usage(format!(
                        "this deletes `{name}` with its repository, releases, data and models"
                    ))
                    .hint("add --yes to do it"));
                }
                let path = format!("/projects/{}", encode(name.as_str()));
                let deletion = api.delete(&path).await?;
                if no_wait {
                    if output::style().json {
                        output::json(&deletion);
                    } else {
                        output::note(format!(
                            "{name} is being deleted; its name is free when all of it is gone"
                        ));
                    }
                } else {
                    wait_until_gone(api, &path).await?;
                    output::note(format!("{name} is deleted"));
                }
            }
        }
        Ok(Exit::Success)
    }
}

/// Waits until nothing is left of a project, telling what it waits for whenever that changes.
async fn wait_until_gone(api: &Api, path: &str) -> Outcome<()> {
    let mut told = String::new();
    let mut pause = Duration::from_millis(50);
    loop {
        let deletion = match api.get(&format!("{path}/deletion")).await {
            Ok(deletion) => deletion,
            // A token that opened this project alone ends with it.
            Err(failure) if matches!(failure.exit, Exit::NotFound | Exit::Denied) => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let remains: Vec<&str> = deletion["remains"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|what| what.as_str())
            .collect();
        let remains = remains.join("; ");
        if !remains.is_empty() && remains != told {
            output::note(format!("waiting: {remains}"));
            told = remains;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}
