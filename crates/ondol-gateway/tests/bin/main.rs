//! The gateway and its keeper as processes of their own, for tests and measurements.
//!
//! `gateway RUN_DIR [ADDRESS]`, `keeper RUN_DIR ADDRESS`, `apply RUN_DIR GENERATION BACKEND…`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ondol_gateway::{
    AccessLogConfig, Backend, GatewayConfig, GatewayControl, KeeperConfig, Limits, Listen, Replica,
    Route, Snapshot, gateway_main, keeper_main,
};
use ondol_types::{EnvironmentName, NoCrash, ReleaseId, ReplicaId, SystemClock};

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.len() < 2 {
        return ExitCode::from(2);
    }
    let rest = args.split_off(2);
    let run_dir = PathBuf::from(&args[1]);
    let first = rest.first().and_then(|text| text.to_str());
    match args[0].to_str() {
        Some("gateway") => {
            let listen = first.map_or(Listen::Inherited, |text| {
                Listen::Address(text.parse().expect("an address"))
            });
            gateway_main(GatewayConfig {
                access_log: Some(AccessLogConfig::new(run_dir.join("access.log"))),
                run_dir,
                listen,
                workers: None,
                limits: Limits::default(),
                trust_forwarded: false,
                clock: Arc::new(SystemClock),
                crash: Arc::new(NoCrash),
                version: "test".into(),
            })
        }
        Some("keeper") => keeper_main(KeeperConfig {
            gateway_args: vec!["gateway".into(), run_dir.clone().into_os_string()],
            run_dir,
            listen: first
                .and_then(|text| text.parse().ok())
                .expect("an address"),
            gateway_exe: std::env::current_exe().expect("this program"),
            version: "test".into(),
            ready_timeout: Duration::from_secs(10),
        }),
        Some("apply") => apply(
            run_dir,
            first
                .and_then(|text| text.parse().ok())
                .expect("a generation"),
            &rest[1..],
        ),
        _ => ExitCode::from(2),
    }
}

fn apply(run_dir: PathBuf, generation: u64, backends: &[OsString]) -> ExitCode {
    let replicas = backends
        .iter()
        .filter_map(|text| text.to_str())
        .map(|text| Replica {
            id: ReplicaId::derived(text),
            address: text.parse().expect("an address"),
        })
        .collect();
    let routes = Route::pair(
        &"web".parse().expect("a name"),
        &EnvironmentName::production(),
        vec!["web.localhost".into(), "127.0.0.1".into()],
        vec!["localhost".into()],
        vec![Backend {
            release: ReleaseId::derived("bench"),
            weight: 1,
            replicas,
        }],
    );
    let snapshot = Snapshot {
        routes: routes.to_vec(),
        ..Snapshot::empty(generation)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let control = GatewayControl::new(&run_dir).expect("a run directory");
    match runtime.block_on(control.apply(&snapshot)) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
