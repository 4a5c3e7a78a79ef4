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

/// Runs the command line and says how the process ends.
pub(crate) fn main(environment: Environment, arguments: Vec<OsString>) -> ExitCode {
    let matches = match Cli::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
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
