//! `ondol serve`: the composition root. Every listener is bound and every room built here, the
//! traits that rooms declare are wired to each other, and one signal stops all of it.

mod adapters;
mod compose;
mod crash;
mod engines;
mod http;
mod listen;
mod metrics;
mod patience;
mod registry_file;
mod series;
mod signals;
pub(crate) mod stop;
pub(crate) mod tree;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ondol_store::DataDir;
use ondol_store::events::ArchiveConfig;
use ondol_types::{Clock, CrashPoints, SystemClock};

use crate::cli::Serve;
use crate::environment::Environment;
use crate::error::{Exit, Failure, Outcome};
use crate::{login, output};

pub(crate) use crash::CRASH_POINTS;
use signals::Ending;

/// What the command line decided.
pub(super) struct Settings {
    pub(super) data: DataDir,
    pub(super) listen: SocketAddr,
    pub(super) gateway_listen: SocketAddr,
    pub(super) database: Option<String>,
    pub(super) hosts: Vec<String>,
    pub(super) registry: ondol_registry::Config,
    engines: engines::EngineSettings,
    pub(super) events: ArchiveConfig,
    series: series::Kept,
    pub(super) program: PathBuf,
    pub(super) program_path: String,
    pub(super) tool_variables: BTreeMap<String, String>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) crash: Arc<dyn CrashPoints>,
}

/// How long running ticks may take when the control plane stops.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the platform until a signal.
pub(crate) fn main(command: Serve, environment: Environment) -> Outcome<Exit> {
    let filter = environment
        .log
        .clone()
        .unwrap_or_else(|| "warn,ondol=info".to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(&filter).map_err(|error| {
        Failure::usage(format!("ONDOL_LOG=`{filter}` is not a log filter")).because(error)
    })?;
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let data = DataDir::open(
        &command
            .data
            .clone()
            .unwrap_or_else(|| environment.data_dir()),
    )?;
    let settings = Settings {
        data,
        listen: command.listen,
        gateway_listen: command.gateway_listen,
        database: command.database,
        hosts: command.host,
        engines: engines::EngineSettings::new(
            command.engine,
            command.engine_address.as_deref(),
            &environment,
        )?,
        registry: registry_file::read(command.registry.as_deref())?,
        events: ArchiveConfig {
            keep: Duration::from_secs(u64::from(command.events_keep_days) * 24 * 3_600),
            max_rows: command.events_max_rows,
            max_bytes: command.events_archive_mib.saturating_mul(1 << 20),
            ..ArchiveConfig::default()
        },
        series: series::Kept {
            days: command.metrics_keep_days,
            mib: command.metrics_mib,
        },
        program: std::env::current_exe().map_err(Failure::io("find this program"))?,
        program_path: environment.program_path(),
        tool_variables: environment.tool_variables(),
        clock: Arc::new(SystemClock),
        crash: crash::wire(command.crash_at)?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .map_err(Failure::io("start the runtime"))?;
    runtime.block_on(run(settings, environment))
}

async fn run(settings: Settings, environment: Environment) -> Outcome<Exit> {
    // Signals are caught before anything starts, so that none is lost.
    let ending = signals::listen().map_err(Failure::io("listen for signals"))?;
    let listener = tokio::net::TcpListener::bind(settings.listen)
        .await
        .map_err(|error| {
            let failure = Failure::new(
                Exit::Conflict,
                format!("cannot listen on {}", settings.listen),
            )
            .because(&error);
            match error.kind() {
                std::io::ErrorKind::AddrInUse => failure
                    .hint("another program has this port: choose one with --listen, 0 takes any"),
                _ => failure,
            }
        })?;
    let control = url_of(
        listener
            .local_addr()
            .map_err(Failure::io("read the address"))?,
    );
    let platform = compose::build(&settings, &control).await?;
    let token_file = settings.data.root().join("admin.token");
    let first = platform.tokens.ensure_admin(&token_file).await?;
    remember(
        &environment,
        &control,
        &token_file,
        matches!(first, ondol_auth::FirstToken::Made(_)),
    );
    platform.start();
    let serving = tokio::spawn(listen::serve(
        listener,
        platform.router(),
        listen::Limits::default(),
        platform.stopping.clone(),
    ));
    output::line(format!("ready {control} {}", platform.places.gateway));
    let how = ending.wait().await;
    tracing::info!(ending = ?how, "stopping");
    platform.stopping.cancel();
    platform.stop(PATIENCE).await;
    if how == Ending::Everything {
        stop::end_everything(&*platform.engine, settings.data.root()).await;
    }
    let _ = tokio::time::timeout(PATIENCE, serving).await;
    platform.series.stop(PATIENCE).await;
    platform.runs.close().await;
    platform.store.close().await;
    Ok(Exit::Success)
}

/// The address that a client on this machine uses.
fn url_of(address: SocketAddr) -> String {
    let ip = match address.ip() {
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

/// Saves the first token for the CLI of whoever started the server.
fn remember(environment: &Environment, control: &str, token_file: &std::path::Path, first: bool) {
    let known = login::knows(environment, control);
    if known && !first {
        return;
    }
    let Ok(token) = std::fs::read_to_string(token_file) else {
        return;
    };
    if let Err(failure) = login::save(
        environment,
        control,
        &ondol_types::Secret::new(token.trim().to_owned()),
    ) {
        tracing::warn!(error = %failure.message, "the login was not saved; set ONDOL_TOKEN");
    }
}
