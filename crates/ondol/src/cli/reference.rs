//! What is generated from the command tree: completions and the reference pages.

use clap::CommandFactory;

use super::Cli;
use crate::environment::VARIABLES;
use crate::error::{Exit, Outcome};
use crate::output;

/// Print shell completions.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ondol completions bash > ~/.local/share/bash-completion/completions/ondol\n  ondol completions zsh > ~/.zfunc/_ondol\n  ondol completions fish > ~/.config/fish/completions/ondol.fish"
)]
pub(crate) struct Completions {
    /// Which shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Outcome<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "ondol", &mut script);
        output::line(String::from_utf8_lossy(&script).trim_end());
        Ok(Exit::Success)
    }
}

/// Print the JSON Schema of ondol.yaml.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ondol schema > ondol.schema.json")]
pub(crate) struct Schema {}

impl Schema {
    pub(crate) fn run(self) -> Outcome<Exit> {
        output::line(ondol_spec::json_schema().trim_end());
        Ok(Exit::Success)
    }
}

/// Print a generated reference page: `cli`, `configuration`, `openapi` or `crash-points`.
#[derive(Debug, clap::Args)]
pub(crate) struct Reference {
    /// Which page.
    page: String,
}

impl Reference {
    pub(crate) fn run(self) -> Outcome<Exit> {
        let text = match self.page.as_str() {
            "cli" => cli_reference(),
            "configuration" => ondol_spec::reference(),
            "openapi" => ondol_api::openapi_json(),
            "crash-points" => crate::serve::CRASH_POINTS.concat().join("\n"),
            other => {
                return Err(crate::error::Failure::usage(format!(
                    "there is no page `{other}`"
                )));
            }
        };
        output::line(text.trim_end());
        Ok(Exit::Success)
    }
}

const EXITS: &[(Exit, &str)] = &[
    (Exit::Success, "what was asked for happened"),
    (
        Exit::Failed,
        "what was watched or checked ended badly: a failed run, a refused model",
    ),
    (Exit::Usage, "the command line or an input is wrong"),
    (Exit::Denied, "no token, or one that may not do this"),
    (Exit::NotFound, "the thing does not exist"),
    (
        Exit::Conflict,
        "the thing exists already, or is in a state that does not allow this",
    ),
    (
        Exit::Unavailable,
        "the server cannot be reached, or cannot do it now",
    ),
    (Exit::Timeout, "it took longer than its deadline"),
    (
        Exit::Internal,
        "a mistake of ours, or stored bytes that are not what they were",
    ),
    (Exit::Interrupted, "Ctrl-C"),
];

fn cli_reference() -> String {
    let mut page = String::from(
        "# Command line\n\nGenerated from the program by `ondol reference cli`; do not edit.\n\n## Exit codes\n\n| code | meaning |\n|---|---|\n",
    );
    for (exit, meaning) in EXITS {
        page.push_str(&format!("| {} | {meaning} |\n", *exit as u8));
    }
    page.push_str("\n## Environment\n\n| variable | meaning |\n|---|---|\n");
    for (name, meaning) in VARIABLES {
        page.push_str(&format!("| `{name}` | {meaning} |\n"));
    }
    page.push_str("\n## Commands\n");
    let mut root = Cli::command().term_width(100);
    root.build();
    describe(&mut page, &mut root);
    page
}

fn describe(page: &mut String, command: &mut clap::Command) {
    let name = command
        .get_bin_name()
        .unwrap_or(command.get_name())
        .to_owned();
    page.push_str(&format!(
        "\n### {name}\n\n```text\n{}\n```\n",
        command.render_long_help().to_string().trim_end()
    ));
    let names: Vec<String> = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for sub in names {
        if let Some(sub) = command.find_subcommand_mut(&sub) {
            describe(page, sub);
        }
    }
}
