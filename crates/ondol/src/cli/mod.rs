//! The command tree. Each noun has a file; a command's doc comment is its manual.

mod artifacts;
mod chart;
mod data;
mod deploy;
mod events;
mod explain;
mod init;
mod logs;
mod models;
mod new;
mod projects;
mod query;
mod reference;
mod runs;
mod secrets;
mod server;
pub(crate) use server::{EngineChoice, Serve};
mod status;
mod tests;
mod tokens;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::client::Api;
use crate::environment::Environment;
use crate::error::{Exit, Outcome};
use crate::{login, output};

/// From a push of code or data to a live, watched service.
#[derive(Debug, Parser)]
#[command(
    name = "ondol",
    version,
    arg_required_else_help = true,
    after_help = "Start with `ondol serve` in one terminal, then `ondol init` and `git push ondol main` in a repository."
)]
pub(crate) struct Cli {
    /// Print the API's own objects as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(server::Serve),
    Stop(server::Stop),
    Login(server::Login),
    New(new::New),
    Init(init::Init),
    Explain(explain::Explain),
    Open(status::Open),
    Status(status::Status),
    Projects(projects::Projects),
    Runs(runs::Runs),
    Run(runs::Run),
    Tests(tests::Tests),
    Releases(deploy::Releases),
    Rollback(deploy::Rollback),
    Rollout(deploy::Rollout),
    Restart(deploy::Restart),
    Logs(logs::Logs),
    Query(query::Query),
    Events(events::Events),
    Data(data::Data),
    Models(models::Models),
    Model(models::Model),
    Secret(secrets::Secret),
    Token(tokens::Token),
    Completions(reference::Completions),
    Schema(reference::Schema),
    #[command(hide = true)]
    Reference(reference::Reference),
    #[command(hide = true)]
    Credential(init::Credential),
    #[command(hide = true)]
    StaticServer(crate::roles::StaticServer),
    #[command(hide = true)]
    ModelServer(crate::roles::ModelServer),
    #[command(hide = true)]
    TrainAuto(crate::roles::TrainAuto),
}

/// Which project; `--project` wins over the `ondol` git remote of this folder.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// The project (default: the `ondol` git remote of this folder).
    #[arg(long, short)]
    pub(crate) project: Option<String>,
}

impl Target {
    pub(crate) fn resolve(&self) -> Outcome<ondol_types::ProjectName> {
        crate::project::resolve(self.project.as_deref())
    }
}

/// Checks a name or id that a person typed, before it becomes part of an address.
pub(crate) fn named<T>(text: &str) -> Outcome<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error: T::Err| crate::error::Failure::usage(error.to_string()))
}

/// Runs the command line and says how the process ends.
pub(crate) fn main(environment: Environment, arguments: Vec<OsString>) -> ExitCode {
    let matches = match Cli::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(mut error) => {
            suggest_what_is_shown(&mut error);
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return Exit::Usage.into();
        }
    };
    output::init(cli.json, environment.no_color);
    match dispatch(cli.command, environment) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output::failure(&failure);
            failure.exit.into()
        }
    }
}

/// Leaves hidden commands out of what is suggested for a mistyped one: nobody types them.
fn suggest_what_is_shown(error: &mut clap::Error) {
    let command = Cli::command();
    let hidden = |name: &String| {
        let found = command.find_subcommand(name);
        found.is_some_and(|found| found.is_hide_set())
    };
    let suggested = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::Strings(names)) => names.clone(),
        Some(ContextValue::String(name)) => vec![name.clone()],
        _ => return,
    };
    let shown: Vec<String> = suggested.into_iter().filter(|name| !hidden(name)).collect();
    error.remove(ContextKind::SuggestedSubcommand);
    if !shown.is_empty() {
        error.insert(
            ContextKind::SuggestedSubcommand,
            ContextValue::Strings(shown),
        );
    }
}

fn dispatch(command: Command, environment: Environment) -> Outcome<Exit> {
    match command {
        Command::Serve(command) => return command.run(environment),
        Command::Stop(command) => return command.run(&environment),
        Command::StaticServer(command) => return command.run(),
        Command::ModelServer(command) => return command.run(),
        Command::TrainAuto(command) => return command.run(),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| {
            crate::error::Failure::new(Exit::Internal, "cannot start the runtime").because(error)
        })?;
    runtime.block_on(async move {
        tokio::select! {
            outcome = talk(command, &environment) => outcome,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
        }
    })
}

async fn talk(command: Command, environment: &Environment) -> Outcome<Exit> {
    let login = login::resolve(environment);
    let api = Api::new(login.clone())?;
    match command {
        Command::Login(command) => command.run(environment).await,
        Command::New(command) => command.run(),
        Command::Init(command) => command.run(&api),
        Command::Explain(command) => command.run(),
        Command::Open(command) => command.run(&api).await,
        Command::Status(command) => command.run(&api).await,
        Command::Projects(command) => command.run(&api).await,
        Command::Runs(command) => command.run(&api).await,
        Command::Run(command) => command.run(&api).await,
        Command::Tests(command) => command.run(&api).await,
        Command::Releases(command) => command.run(&api).await,
        Command::Rollback(command) => command.run(&api).await,
        Command::Rollout(command) => command.run(&api).await,
        Command::Restart(command) => command.run(&api).await,
        Command::Logs(command) => command.run(&api).await,
        Command::Query(command) => command.run(&api).await,
        Command::Events(command) => command.run(&api).await,
        Command::Data(command) => command.run(&api).await,
        Command::Models(command) => command.run(&api).await,
        Command::Model(command) => command.run(&api).await,
        Command::Secret(command) => command.run(&api).await,
        Command::Token(command) => command.run(&api).await,
        Command::Completions(command) => command.run(),
        Command::Schema(command) => command.run(),
        Command::Reference(command) => command.run(),
        Command::Credential(command) => command.run(&login),
        Command::Serve(_)
        | Command::Stop(_)
        | Command::StaticServer(_)
        | Command::ModelServer(_)
        | Command::TrainAuto(_) => {
            unreachable!("dispatched before the runtime")
        }
    }
}

#[cfg(test)]
mod parsing {
    use super::*;

    #[test]
    fn only_commands_that_are_shown_are_suggested() {
        for (typed, wanted) in [("statsu", "status"), ("servee", "serve")] {
            let mut error = Cli::command()
                .try_get_matches_from(["ondol", typed])
                .unwrap_err();
            suggest_what_is_shown(&mut error);
            let text = error.to_string();
            assert!(text.contains(&format!("'{wanted}'")), "{text}");
            assert!(!text.contains("-server"), "{text}");
        }
    }

    #[test]
    fn a_release_is_named_with_or_without_the_option() {
        for arguments in [
            &["ondol", "rollback", "4"][..],
            &["ondol", "rollback", "--to", "4"],
        ] {
            assert!(Cli::command().try_get_matches_from(arguments).is_ok());
        }
        let both = ["ondol", "rollback", "4", "--to", "5"];
        assert!(Cli::command().try_get_matches_from(both).is_err());
    }
}
