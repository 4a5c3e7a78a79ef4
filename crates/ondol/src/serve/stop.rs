//! The end of a platform: asked of a living control plane by signal, or done in its place when
//! it is dead.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ondol_gateway::{GatewayControl, KeeperClient};
use ondol_store::DataDir;
use ondol_types::{NoCrash, SystemClock};
use ondol_workload::container::NoImages;
use ondol_workload::{Engine, Engines, ProcessEngine, StopPolicy};
use rustix::process::{Pid, Signal, kill_process};

use super::engines::EngineSettings;
use crate::cli::EngineChoice;
use crate::environment::Environment;
use crate::error::{Exit, Failure, Outcome};
use crate::output;

const GATEWAY_DEADLINE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

/// Stops every workload and the gateway.
pub(super) async fn end_everything(engine: &dyn Engine, data: &Path) {
    let observations = engine.list().await.unwrap_or_default();
    let running = observations
        .iter()
        .filter(|observation| observation.state.exit().is_none());
    let stops = running.map(|observation| engine.stop(&observation.id, StopPolicy::default()));
    let gateway = async {
        match KeeperClient::connect(&data.join("run")).await {
            Ok(Some(keeper)) => {
                if let Err(error) = keeper.stop(GATEWAY_DEADLINE).await {
                    tracing::warn!(error = %error, "the gateway did not stop");
                }
            }
            _ => end_orphans(data).await,
        }
    };
    for outcome in futures_util::future::join(futures_util::future::join_all(stops), gateway)
        .await
        .0
    {
        if let Err(error) = outcome {
            tracing::warn!(error = %error, "a workload did not stop");
        }
    }
}

/// Ends gateways whose keeper is dead: nobody else would.
async fn end_orphans(data: &Path) {
    let Ok(control) = GatewayControl::new(&data.join("run")) else {
        return;
    };
    let began = Instant::now();
    while began.elapsed() < GATEWAY_DEADLINE * 2 {
        let alive = control.status().await.unwrap_or_default();
        if alive.is_empty() {
            return;
        }
        let signal = if began.elapsed() < GATEWAY_DEADLINE {
            Signal::TERM
        } else {
            Signal::KILL
        };
        for gateway in alive {
            let pid = i32::try_from(gateway.process).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid {
                let _ = kill_process(pid, signal);
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// `ondol stop`: works without the API.
pub(crate) fn stop(
    data: &Path,
    control_plane_only: bool,
    environment: &Environment,
) -> Outcome<Exit> {
    if !data.join("ondol.lock").exists() {
        return Err(Failure::new(
            Exit::NotFound,
            format!("{} is not a data directory of Ondol", data.display()),
        )
        .hint("name it with --data"));
    }
    match DataDir::open(data) {
        Err(ondol_store::StoreError::InUse { holder, .. }) => {
            let pid = holder
                .and_then(|text| text.parse().ok())
                .and_then(Pid::from_raw)
                .ok_or_else(|| {
                    Failure::new(
                        Exit::Internal,
                        "the data directory is locked by a process that does not say who it is",
                    )
                })?;
            let signal = if control_plane_only {
                Signal::TERM
            } else {
                Signal::INT
            };
            kill_process(pid, signal).map_err(|error| {
                Failure::new(
                    Exit::Denied,
                    format!("cannot signal process {}", pid.as_raw_nonzero()),
                )
                .because(error)
            })?;
            let began = Instant::now();
            while matches!(
                DataDir::open(data),
                Err(ondol_store::StoreError::InUse { .. })
            ) {
                if began.elapsed() > PATIENCE {
                    return Err(Failure::new(
                        Exit::Timeout,
                        format!(
                            "process {} did not end within {} s",
                            pid.as_raw_nonzero(),
                            PATIENCE.as_secs()
                        ),
                    ));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Err(error) => return Err(error.into()),
        Ok(held) if control_plane_only => {
            drop(held);
            output::note("the control plane is not running");
        }
        Ok(held) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(Failure::io("start the runtime"))?;
            let program = std::env::current_exe().map_err(Failure::io("find this program"))?;
            runtime.block_on(async {
                let config = ondol_workload::Config::new(held.folder("workloads"), &program);
                let (clock, crash) = (Arc::new(SystemClock), Arc::new(NoCrash));
                let processes = ProcessEngine::open(config, clock.clone(), crash.clone()).await?;
                let engines = EngineSettings::new(EngineChoice::Process, None, environment)?;
                let images = Arc::new(NoImages);
                let containers = engines.open(&held, &program, images, clock, crash).await?;
                end_everything(&Engines::new(processes, containers), held.root()).await;
                Ok::<(), Failure>(())
            })?;
        }
    }
    output::note("stopped");
    Ok(Exit::Success)
}
