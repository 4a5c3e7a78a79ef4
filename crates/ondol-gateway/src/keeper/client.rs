//! How the control plane finds its keeper, or starts it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::Instant;

use super::control::{KeeperOrder, KeeperReply, KeeperRequest};
use super::{KeeperStatus, LOCK, SOCKET};
use crate::control::{CONTROL_VERSION, read_frame, write_frame};
use crate::error::GatewayError;
use crate::run_dir::RunDir;

const START_WAIT: Duration = Duration::from_secs(20);
const ANSWER_WAIT: Duration = Duration::from_secs(5);
const REPLACE_WAIT: Duration = Duration::from_secs(30);
const STOP_EXTRA: Duration = Duration::from_secs(15);
const MAX_LOG_BYTES: u64 = 4 * 1024 * 1024;

/// How a keeper is started when none runs.
#[derive(Debug, Clone)]
pub struct KeeperSpawn {
    /// The run directory.
    pub run_dir: PathBuf,
    /// The program that is the keeper.
    pub exe: PathBuf,
    /// Its arguments, complete.
    pub args: Vec<OsString>,
    /// The address it will listen at, as in its arguments. A keeper that runs with another one is
    /// stopped first; port 0 fits any port of the same address.
    pub listen: SocketAddr,
    /// Where the messages of keeper and gateway go.
    pub log: PathBuf,
}

/// Finds or starts keepers.
#[derive(Debug)]
pub struct KeeperClient;

/// A running keeper.
#[derive(Debug, Clone)]
pub struct KeeperHandle {
    run_dir: RunDir,
    address: SocketAddr,
}

impl KeeperClient {
    /// The keeper that runs in a directory, if one does.
    pub async fn connect(run_dir: &Path) -> Result<Option<KeeperHandle>, GatewayError> {
        let run_dir = RunDir::open(run_dir)?;
        if !run_dir.is_held(LOCK) {
            return Ok(None);
        }
        let status = status_of(&run_dir).await?;
        Ok(Some(KeeperHandle {
            run_dir,
            address: status.address,
        }))
    }

    /// Adopts the keeper that runs, or starts one. When this returns, a gateway serves.
    pub async fn connect_or_spawn(spawn: KeeperSpawn) -> Result<KeeperHandle, GatewayError> {
        let run_dir = RunDir::open(&spawn.run_dir)?;
        let deadline = Instant::now() + START_WAIT;
        loop {
            let failure = if run_dir.is_held(LOCK) {
                match status_of(&run_dir).await {
                    Ok(status) if fits(spawn.listen, status.address) => {
                        return Ok(KeeperHandle {
                            run_dir,
                            address: status.address,
                        });
                    }
                    Ok(status) => {
                        tracing::info!(old = %status.address, new = %spawn.listen, "the gateway moves");
                        let handle = KeeperHandle {
                            run_dir: run_dir.clone(),
                            address: status.address,
                        };
                        handle.stop(Duration::from_secs(10)).await?;
                        wait_until_gone(&run_dir, deadline).await;
                        continue;
                    }
                    // It is just starting, or just ending.
                    Err(error) => error,
                }
            } else {
                match start(&spawn).await {
                    Ok(address) => return Ok(KeeperHandle { run_dir, address }),
                    // Another one was quicker; it is found in the next round.
                    Err(_) if run_dir.is_held(LOCK) => continue,
                    Err(error) => return Err(error),
                }
            };
            if Instant::now() >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn wait_until_gone(run_dir: &RunDir, deadline: Instant) {
    while run_dir.is_held(LOCK) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn fits(wanted: SocketAddr, found: SocketAddr) -> bool {
    wanted.ip() == found.ip() && (wanted.port() == 0 || wanted.port() == found.port())
}

async fn start(spawn: &KeeperSpawn) -> Result<SocketAddr, GatewayError> {
    let failed = |reason: String| GatewayError::KeeperStart { reason };
    let log = open_log(&spawn.log)?;
    let mut child = Command::new(&spawn.exe)
        .args(&spawn.args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log))
        .spawn()
        .map_err(|error| failed(format!("cannot start `{}`: {error}", spawn.exe.display())))?;
    let Some(output) = child.stdout.take() else {
        return Err(failed("its output is not connected".into()));
    };
    let mut lines = BufReader::new(output).lines();
    let said = tokio::time::timeout(START_WAIT, async {
        while let Ok(Some(line)) = lines.next_line().await {
            if line.starts_with("ready ") || line.starts_with("error ") {
                return Some(line);
            }
        }
        None
    })
    .await;
    let line = match said {
        Ok(Some(line)) => line,
        Ok(None) => {
            return Err(failed(format!(
                "it ended without a word; see {}",
                spawn.log.display()
            )));
        }
        Err(_) => {
            let _ = child.start_kill();
            return Err(failed(format!("no word within {} s", START_WAIT.as_secs())));
        }
    };
    // Takes note of its end, whenever that is, so that it does not stay in the process table.
    tokio::spawn(async move { drop(child.wait().await) });
    if let Some(address) = line.strip_prefix("ready ") {
        return address
            .trim()
            .parse()
            .map_err(|_| failed(format!("it said `{line}`")));
    }
    let reason = line.trim_start_matches("error ").to_owned();
    if reason.contains("is in use by another program") {
        return Err(GatewayError::AddressInUse {
            address: spawn.listen,
        });
    }
    Err(failed(reason))
}

fn open_log(path: &Path) -> Result<File, GatewayError> {
    let opened = (|| {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        if fs::metadata(path).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
            let mut aside = path.to_owned().into_os_string();
            aside.push(".1");
            fs::rename(path, aside)?;
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
    })();
    opened.map_err(|source| GatewayError::io("open the log", path, source))
}

async fn status_of(run_dir: &RunDir) -> Result<KeeperStatus, GatewayError> {
    match ask(run_dir, KeeperOrder::Status, ANSWER_WAIT).await? {
        KeeperReply::Status { status } => Ok(*status),
        other => Err(GatewayError::protocol(format!(
            "an answer to another question: {other:?}"
        ))),
    }
}

async fn ask(
    run_dir: &RunDir,
    order: KeeperOrder,
    wait: Duration,
) -> Result<KeeperReply, GatewayError> {
    let silent = |reason: String| GatewayError::NotAnswering {
        instance: "keeper".into(),
        operation: "order",
        reason,
    };
    let conversation = async {
        let stream = UnixStream::connect(run_dir.socket_path(SOCKET))
            .await
            .map_err(|error| silent(error.to_string()))?;
        let mut stream = BufReader::new(stream);
        write_frame(
            &mut stream,
            &KeeperRequest {
                version: CONTROL_VERSION,
                body: order,
            },
        )
        .await?;
        match read_frame(&mut stream).await? {
            Some(reply) => Ok(reply),
            None => Err(silent("it closed the connection".into())),
        }
    };
    match tokio::time::timeout(wait, conversation).await {
        Ok(Ok(KeeperReply::ReplaceFailed { reason })) => {
            Err(GatewayError::ReplaceFailed { reason })
        }
        Ok(Ok(KeeperReply::Refused { reason })) => Err(GatewayError::Refused {
            code: "gateway.keeper.refused".into(),
            message: reason,
        }),
        Ok(other) => other,
        Err(_) => Err(silent(format!("no answer for {} s", wait.as_secs_f64()))),
    }
}

impl KeeperHandle {
    /// Where the gateway listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the keeper says of itself and its gateway.
    pub async fn status(&self) -> Result<KeeperStatus, GatewayError> {
        status_of(&self.run_dir).await
    }

    /// Puts another gateway program in the present one's place without refusing a connection. On
    /// [`GatewayError::ReplaceFailed`] the old one keeps serving.
    pub async fn replace(&self, exe: &Path) -> Result<(), GatewayError> {
        ask(
            &self.run_dir,
            KeeperOrder::Replace {
                exe: exe.to_owned(),
            },
            REPLACE_WAIT,
        )
        .await
        .map(drop)
    }

    /// Ends the gateway, at the latest at the deadline, and then the keeper.
    pub async fn stop(&self, deadline: Duration) -> Result<(), GatewayError> {
        let order = KeeperOrder::Stop {
            deadline_ms: deadline.as_millis() as u64,
        };
        ask(&self.run_dir, order, deadline + STOP_EXTRA).await?;
        wait_until_gone(&self.run_dir, Instant::now() + ANSWER_WAIT).await;
        Ok(())
    }

    /// Ends the keeper and leaves the gateway serving: the next keeper, perhaps of a newer
    /// version, takes the socket over from it.
    pub async fn release(&self) -> Result<(), GatewayError> {
        ask(&self.run_dir, KeeperOrder::Release, ANSWER_WAIT).await?;
        wait_until_gone(&self.run_dir, Instant::now() + ANSWER_WAIT).await;
        Ok(())
    }
}
