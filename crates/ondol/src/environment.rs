//! The documented registry of environment variables. Nothing else in Ondol reads the environment.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the one module that reads the environment"
)]

use std::path::PathBuf;

use ondol_types::Secret;

/// Each variable that Ondol reads, with its meaning; `docs/cli.md` prints this table.
pub(crate) const VARIABLES: &[(&str, &str)] = &[
    (
        "ONDOL_URL",
        "address of the server the CLI talks to; wins over the saved login",
    ),
    (
        "ONDOL_TOKEN",
        "token the CLI shows; wins over the saved login",
    ),
    (
        "ONDOL_DATA",
        "data directory of `ondol serve` and `ondol stop`",
    ),
    (
        "ONDOL_LOG",
        "what `ondol serve` logs, such as `info` or `ondol_deploy=debug`",
    ),
    ("NO_COLOR", "any value: no colours"),
    (
        "XDG_CONFIG_HOME",
        "where the login is saved (default `~/.config`)",
    ),
    (
        "XDG_DATA_HOME",
        "where the default data directory is (default `~/.local/share`)",
    ),
    ("HOME", "the home directory, when the two above are not set"),
];

/// What was found there.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub(crate) url: Option<String>,
    pub(crate) token: Option<Secret>,
    pub(crate) log: Option<String>,
    pub(crate) no_color: bool,
    data: Option<PathBuf>,
    config_home: Option<PathBuf>,
    data_home: Option<PathBuf>,
    home: Option<PathBuf>,
}

impl Environment {
    /// Reads all of it, once.
    pub(crate) fn read() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            url: text("ONDOL_URL"),
            token: text("ONDOL_TOKEN").map(Secret::new),
            log: text("ONDOL_LOG"),
            no_color: text("NO_COLOR").is_some(),
            data: text("ONDOL_DATA").map(PathBuf::from),
            config_home: text("XDG_CONFIG_HOME").map(PathBuf::from),
            data_home: text("XDG_DATA_HOME").map(PathBuf::from),
            home: text("HOME").map(PathBuf::from),
        }
    }

    /// Where logins are saved.
    pub(crate) fn config_dir(&self) -> Option<PathBuf> {
        self.config_home
            .clone()
            .or_else(|| self.home.as_ref().map(|home| home.join(".config")))
    }

    /// The data directory when `--data` does not name one.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| {
            self.data_home
                .clone()
                .or_else(|| self.home.as_ref().map(|home| home.join(".local/share")))
                .unwrap_or_else(|| PathBuf::from("."))
                .join("ondol")
        })
    }
}
