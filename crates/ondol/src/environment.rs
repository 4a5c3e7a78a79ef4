//! The documented registry of environment variables. Nothing else in Ondol reads the environment.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the one module that reads the environment"
)]

use std::collections::BTreeMap;
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
    (
        "HOME",
        "the home directory, when the two above are not set; `.rustup` in it, when RUSTUP_HOME is not set",
    ),
    (
        "PATH",
        "where steps and services find the programs of this host (`ondol serve` passes its own on)",
    ),
    (
        "DOCKER_HOST, CONTAINER_HOST",
        "where the container engine answers, when `--engine-address` does not say",
    ),
    (
        "XDG_RUNTIME_DIR",
        "where the socket of a user's own Podman or Docker is",
    ),
    (
        "RUSTUP_HOME, JAVA_HOME, PYENV_ROOT, NVM_DIR",
        "passed on by `ondol serve` to steps and services, so that tools kept there work",
    ),
];

/// What tools of this host need to find themselves, although workloads have a home of their own.
const TOOLS: [&str; 4] = ["RUSTUP_HOME", "JAVA_HOME", "PYENV_ROOT", "NVM_DIR"];

/// What was found there.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub(crate) url: Option<String>,
    pub(crate) token: Option<Secret>,
    pub(crate) log: Option<String>,
    pub(crate) no_color: bool,
    pub(crate) docker_host: Option<String>,
    pub(crate) container_host: Option<String>,
    pub(crate) runtime_dir: Option<PathBuf>,
    data: Option<PathBuf>,
    config_home: Option<PathBuf>,
    data_home: Option<PathBuf>,
    home: Option<PathBuf>,
    path: Option<String>,
    tools: BTreeMap<String, String>,
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
            docker_host: text("DOCKER_HOST"),
            container_host: text("CONTAINER_HOST"),
            runtime_dir: text("XDG_RUNTIME_DIR").map(PathBuf::from),
            data: text("ONDOL_DATA").map(PathBuf::from),
            config_home: text("XDG_CONFIG_HOME").map(PathBuf::from),
            data_home: text("XDG_DATA_HOME").map(PathBuf::from),
            home: text("HOME").map(PathBuf::from),
            path: text("PATH"),
            tools: TOOLS
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), text(name)?)))
                .collect(),
        }
    }

    /// The user's home directory.
    pub(crate) fn home(&self) -> Option<&std::path::Path> {
        self.home.as_deref()
    }

    /// Where logins are saved.
    pub(crate) fn config_dir(&self) -> Option<PathBuf> {
        self.config_home
            .clone()
            .or_else(|| self.home.as_ref().map(|home| home.join(".config")))
    }

    /// `PATH` of what this process runs for others: its own, without what depends on the work
    /// directory, then the usual places.
    pub(crate) fn program_path(&self) -> String {
        let own = self.path.as_deref().unwrap_or_default();
        let mut folders: Vec<&str> = Vec::new();
        for folder in own.split(':').chain(ondol_workload::USUAL_PATH.split(':')) {
            if folder.starts_with('/') && !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        folders.join(":")
    }

    /// Variables by which tools of this host find what they need.
    pub(crate) fn tool_variables(&self) -> BTreeMap<String, String> {
        let mut tools = self.tools.clone();
        let rustup = self.home.as_ref().map(|home| home.join(".rustup"));
        if let Some(folder) = rustup.filter(|folder| folder.is_dir()) {
            tools
                .entry("RUSTUP_HOME".to_owned())
                .or_insert_with(|| folder.display().to_string());
        }
        tools
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_workloads_depends_on_no_work_directory() {
        let environment = Environment {
            path: Some("bin:/opt/go/bin::/usr/bin:./x:/opt/go/bin".to_owned()),
            ..Environment::read()
        };
        assert_eq!(
            environment.program_path(),
            "/opt/go/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin"
        );
    }
}
