//! `ondol serve`, `ondol stop`, `ondol login`.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;

use ondol_types::Secret;

use crate::environment::Environment;
use crate::error::{Exit, Failure, Outcome};
use crate::{client, login, output};

/// Run the platform: control plane, stores and gateway, in this terminal.
///
/// Prints one line on stdout when it is ready: `ready <control-url> <gateway-url>`. Ctrl-C stops
/// everything, applications too; SIGTERM stops the control plane alone, and applications go on.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ondol serve\n  ondol serve --data /srv/ondol --listen 127.0.0.1:7070 --gateway-listen 0.0.0.0:8080"
)]
pub(crate) struct Serve {
    /// Where everything is kept (default: $ONDOL_DATA, else ~/.local/share/ondol).
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// Address of the API, git and the registry; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:7070")]
    pub(crate) listen: SocketAddr,
    /// Address where applications answer; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub(crate) gateway_listen: SocketAddr,
    /// A PostgreSQL URL instead of the embedded database.
    #[arg(long)]
    pub(crate) database: Option<String>,
    /// A host name that this server is reached by, besides its address; may be repeated.
    #[arg(long)]
    pub(crate) host: Vec<String>,
    /// What runs services, steps and builds: `auto` runs processes, and containers for images with
    /// a root filesystem of their own; `container` runs no service as a process of the host.
    #[arg(long, value_enum, default_value_t, value_name = "ENGINE")]
    pub(crate) engine: EngineChoice,
    /// Where Docker or Podman answers (default: $DOCKER_HOST, $CONTAINER_HOST, then the usual
    /// sockets).
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) engine_address: Option<String>,
    /// A JSON file with the registry's retention, upstreams and private registries.
    #[arg(long, value_name = "FILE")]
    pub(crate) registry: Option<PathBuf>,
    /// Days that events stay in the database before they move into the archive.
    #[arg(long, default_value_t = 30, value_name = "DAYS")]
    pub(crate) events_keep_days: u32,
    /// The most events in the database; older ones move into the archive before their time.
    #[arg(long, default_value_t = 500_000, value_name = "COUNT")]
    pub(crate) events_max_rows: u64,
    /// The most MiB of archived events; the oldest are given up first.
    #[arg(long, default_value_t = 2_048, value_name = "MIB")]
    pub(crate) events_archive_mib: u64,
    /// Days that metrics are kept.
    #[arg(long, default_value_t = 15, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) metrics_keep_days: u32,
    /// The most MiB of metrics on the disk; the oldest are given up first.
    #[arg(long, default_value_t = 4_096, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..))]
    pub(crate) metrics_mib: u64,
    /// End the process with SIGKILL at this crash point (for the kill harness).
    #[arg(long, hide = true)]
    pub(crate) crash_at: Option<String>,
}

impl Serve {
    pub(crate) fn run(self, environment: Environment) -> Outcome<Exit> {
        crate::serve::main(self, environment)
    }
}

/// What `--engine` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EngineChoice {
    /// Processes, and containers where an image needs one.
    #[default]
    Auto,
    /// Processes alone.
    Process,
    /// Containers alone, but for Ondol's own servers.
    Container,
}

/// Stop a server and its applications, also when its API does not answer.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ondol stop\n  ondol stop --data /srv/ondol --control-plane-only"
)]
pub(crate) struct Stop {
    /// The data directory it runs on.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Leave the gateway and the applications running.
    #[arg(long)]
    control_plane_only: bool,
}

impl Stop {
    pub(crate) fn run(self, environment: &Environment) -> Outcome<Exit> {
        let data = self.data.unwrap_or_else(|| environment.data_dir());
        crate::serve::stop::stop(&data, self.control_plane_only, environment)
    }
}

/// Save a server's address and a token for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ondol login http://127.0.0.1:7070 < token.txt")]
pub(crate) struct Login {
    /// The server's address.
    #[arg(default_value = login::DEFAULT_URL)]
    url: String,
}

impl Login {
    pub(crate) async fn run(self, environment: &Environment) -> Outcome<Exit> {
        if !(self.url.starts_with("http://") || self.url.starts_with("https://")) {
            return Err(Failure::usage(format!(
                "`{}` is not an http or https address",
                self.url
            )));
        }
        let mut token = String::new();
        if std::io::stdin().is_terminal() {
            output::note("token, then Enter:");
        }
        std::io::stdin()
            .read_line(&mut token)
            .map_err(Failure::io("read the token"))?;
        let token = Secret::new(token.trim().to_owned());
        let url = self.url.trim_end_matches('/').to_owned();
        let api = client::Api::new(login::Login {
            url: url.clone(),
            token: Some(token.clone()),
        })?;
        let me = api.get("/whoami").await?;
        login::save(environment, &url, &token)?;
        output::note(format!(
            "logged in to {url} as {}",
            me["name"].as_str().unwrap_or("somebody")
        ));
        Ok(Exit::Success)
    }
}
