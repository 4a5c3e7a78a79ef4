//! `ondol init`: connects a repository to a server, and the git credential helper behind it.

use std::io::Read;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::client::Api;
use crate::error::{Exit, Failure, Outcome};
use crate::login::Login;
use crate::output;

/// Connect this repository: adds the git remote `ondol` and a credential helper for it.
///
/// Writes nothing else; with `--yaml` also a commented `ondol.yaml` of the detected values.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ondol init\n  ondol init --project shop\n  git push ondol main"
)]
pub(crate) struct Init {
    /// The project's name (default: `project:` of ondol.yaml, else the folder's name).
    #[arg(long, short)]
    project: Option<String>,
    /// Also write an `ondol.yaml` with the detected values, unless there is one.
    #[arg(long)]
    yaml: bool,
}

fn git(arguments: &[&str]) -> Outcome<String> {
    let output = Command::new("git")
        .args(arguments)
        .output()
        .map_err(|error| {
            Failure::usage("cannot run git")
                .because(error)
                .hint("install git")
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(
        Failure::usage(format!("`git {}` failed", arguments.join(" ")))
            .because(String::from_utf8_lossy(&output.stderr).trim()),
    )
}

impl Init {
    pub(crate) fn run(self, api: &Api) -> Outcome<Exit> {
        git(&["rev-parse", "--git-dir"]).map_err(|failure| {
            failure.hint("run `git init --initial-branch=main` first, or change to a repository")
        })?;
        let here = Path::new(".");
        let written = crate::project::from_file(here);
        let name = self
            .project
            .or_else(|| written.clone())
            .or_else(|| crate::project::from_folder(here))
            .ok_or_else(|| {
                Failure::usage("this folder's name does not make a project name")
                    .hint("say --project NAME")
            })?;
        let project = crate::project::parse(&name)?;
        let url = format!("{}/git/{project}.git", api.url());
        let before = git(&["remote", "get-url", "ondol"]).ok();
        let verb = if before.is_some() { "set-url" } else { "add" };
        git(&["remote", verb, "ondol", &url])?;
        let program = std::env::current_exe().map_err(Failure::io("find this program"))?;
        let helper = format!("!{} credential", shell_quote(&program.to_string_lossy()));
        // The empty value first: helpers configured elsewhere must not keep a token of ours.
        let key = format!("credential.{}.helper", api.url());
        git(&["config", "--local", "--replace-all", &key, ""])?;
        git(&["config", "--local", "--add", &key, &helper])?;
        if self.yaml {
            super::explain::write_yaml(here, &project)?;
        }
        if output::style().json {
            output::json(&json!({
                "project": project, "remote": "ondol", "url": url, "before": before,
            }));
            return Ok(Exit::Success);
        }
        output::note(told(&url, before.as_deref()));
        if let Some(written) = written.filter(|written| *written != project.as_str()) {
            output::note(format!(
                "note: `project: {written}` of ondol.yaml is not used: pushes go to `{project}`"
            ));
        }
        output::note("next: git push ondol main");
        Ok(Exit::Success)
    }
}

/// What happened to the remote.
fn told(url: &str, before: Option<&str>) -> String {
    let remote = output::bold("ondol");
    match before {
        Some(before) if before != url => {
            format!("remote {remote} was {before} and is {url} now: pushes go there")
        }
        _ => format!("remote {remote} is {url}"),
    }
}

fn shell_quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What git calls to learn the token (git-credential protocol on stdin and stdout).
#[derive(Debug, clap::Args)]
pub(crate) struct Credential {
    /// `get`, `store` or `erase`; only `get` does something.
    operation: String,
}

impl Credential {
    pub(crate) fn run(self, login: &Login) -> Outcome<Exit> {
        if self.operation != "get" {
            return Ok(Exit::Success);
        }
        let mut request = String::new();
        std::io::stdin()
            .take(16_384)
            .read_to_string(&mut request)
            .map_err(Failure::io("read git's request"))?;
        let field = |name: &str| {
            request
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        };
        let asked = format!(
            "{}://{}",
            field("protocol").unwrap_or(""),
            field("host").unwrap_or("")
        );
        // A token goes to the server it belongs to and to nobody else.
        if login.url == asked
            && let Some(token) = &login.token
        {
            output::line(format!("username=ondol\npassword={}", token.expose()));
        }
        Ok(Exit::Success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_that_changes_is_told_with_what_it_was() {
        let (here, there) = ("http://a/git/shop.git", "http://a/git/other.git");
        assert_eq!(told(here, None), format!("remote ondol is {here}"));
        assert_eq!(told(here, Some(here)), format!("remote ondol is {here}"));
        let changed = told(there, Some(here));
        assert!(
            changed.contains(here) && changed.contains(there),
            "{changed}"
        );
    }
}
