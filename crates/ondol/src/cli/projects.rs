//! `ondol projects`.

use serde_json::json;

use crate::client::{Api, encode};
use crate::error::{Exit, Failure, Outcome};
use crate::output;

/// List, create and delete projects.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ondol projects\n  ondol projects create shop\n  ondol projects delete shop --yes"
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
    /// Delete a project with its repository, releases, data and models.
    Delete {
        /// Its name.
        name: String,
        /// Really do it.
        #[arg(long)]
        yes: bool,
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
            ProjectsCommand::Delete { name, yes } => {
                let name = crate::project::parse(&name)?;
                if !yes {
                    return Err(Failure::usage(format!(
                        "this deletes `{name}` with its repository, releases, data and models"
                    ))
                    .hint("add --yes to do it"));
                }
                api.delete(&format!("/projects/{}", encode(name.as_str())))
                    .await?;
                output::note(format!("{name} is deleted"));
            }
        }
        Ok(Exit::Success)
    }
}
