//! `ondol keeper` and `ondol gateway`. Their arguments are made and read here, in one place.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ondol_gateway::{AccessLogConfig, GatewayConfig, KeeperConfig, Limits, Listen};
use ondol_types::{NoCrash, SystemClock};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The complete arguments of a keeper.
pub(crate) fn keeper_arguments(data: &Path, listen: SocketAddr) -> Vec<OsString> {
    vec![
        "keeper".into(),
        "--data".into(),
        data.into(),
        "--listen".into(),
        listen.to_string().into(),
    ]
}

/// The complete arguments of a gateway.
fn gateway_arguments(data: &Path) -> Vec<OsString> {
    vec!["gateway".into(), "--data".into(), data.into()]
}

struct Arguments {
    data: PathBuf,
    listen: Option<SocketAddr>,
}

fn parse(arguments: &[OsString]) -> Option<Arguments> {
    let mut data = None;
    let mut listen = None;
    for pair in arguments.chunks(2) {
        match (pair[0].to_str()?, pair.get(1)?) {
            ("--data", value) => data = Some(PathBuf::from(value)),
            ("--listen", value) => listen = Some(value.to_str()?.parse().ok()?),
            _ => return None,
        }
    }
    Some(Arguments {
        data: data?,
        listen,
    })
}

fn log() {
    let format = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false);
    let _ = format.with_max_level(tracing::Level::INFO).try_init();
}

pub(super) fn keeper(arguments: &[OsString]) -> ExitCode {
    log();
    let Some(Arguments {
        data,
        listen: Some(listen),
    }) = parse(arguments)
    else {
        tracing::error!("usage: ondol keeper --data DIR --listen HOST:PORT");
        return ExitCode::from(2);
    };
    let gateway_exe = match std::env::current_exe() {
        Ok(exe) => exe,
        Err(error) => {
            tracing::error!(error = %error, "cannot find this program");
            return ExitCode::FAILURE;
        }
    };
    ondol_gateway::keeper_main(KeeperConfig {
        run_dir: data.join("run"),
        listen,
        gateway_exe,
        gateway_args: gateway_arguments(&data),
        version: VERSION.to_owned(),
        ready_timeout: Duration::from_secs(10),
    })
}

pub(super) fn gateway(arguments: &[OsString]) -> ExitCode {
    log();
    let Some(Arguments { data, listen }) = parse(arguments) else {
        tracing::error!("usage: ondol gateway --data DIR");
        return ExitCode::from(2);
    };
    ondol_gateway::gateway_main(GatewayConfig {
        run_dir: data.join("run"),
        listen: listen.map_or(Listen::Inherited, Listen::Address),
        workers: None,
        limits: Limits::default(),
        access_log: Some(AccessLogConfig::new(
            data.join("telemetry").join("access.log"),
        )),
        trust_forwarded: false,
        clock: Arc::new(SystemClock),
        crash: Arc::new(NoCrash),
        version: VERSION.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_they_are_made() {
        let listen = "127.0.0.1:8080".parse().unwrap();
        let read = parse(&keeper_arguments(Path::new("/d"), listen)[1..]).unwrap();
        assert_eq!(
            (read.data, read.listen),
            (PathBuf::from("/d"), Some(listen))
        );
        assert!(parse(&gateway_arguments(Path::new("/d"))[1..]).is_some());
        assert!(parse(&["--data".into()]).is_none());
    }
}
