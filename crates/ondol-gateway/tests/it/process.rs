//! Keeper and gateway as processes: killed, replaced, adopted.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use ondol_gateway::{GatewayControl, GatewayError, KeeperClient, KeeperHandle, KeeperSpawn};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;

use crate::support::*;

fn spawn_in(dir: &Path, listen: &str) -> KeeperSpawn {
    let args: [OsString; 3] = ["keeper".into(), dir.as_os_str().to_owned(), listen.into()];
    KeeperSpawn {
        run_dir: dir.to_owned(),
        exe: PathBuf::from(env!("CARGO_BIN_EXE_ondol-gateway-test")),
        args: args.into(),
        listen: listen.parse().unwrap(),
        log: dir.join("keeper.log"),
    }
}

fn kill(process: u32) {
    kill_process(Pid::from_raw(process as i32).unwrap(), Signal::KILL).unwrap();
}

/// A keeper that is stopped whatever becomes of its test.
struct Kept {
    dir: tempfile::TempDir,
    keeper: KeeperHandle,
    control: GatewayControl,
}

impl Kept {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keeper = KeeperClient::connect_or_spawn(spawn_in(dir.path(), "127.0.0.1:0"))
            .await
            .unwrap();
        let control = GatewayControl::new(dir.path()).unwrap();
        Self {
            dir,
            keeper,
            control,
        }
    }

    fn address(&self) -> SocketAddr {
        self.keeper.address()
    }

    async fn gateway_process(&self) -> Option<u32> {
        self.keeper.status().await.ok()?.gateway_process
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // What a failed test left alive holds a lock; the lock's name has its process id.
        let Ok(entries) = std::fs::read_dir(self.dir.path()) else {
            return;
        };
        let keeper = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    runtime.block_on(async {
                        self.keeper.status().await.map(|status| status.process).ok()
                    })
                })
                .join()
                .unwrap()
        });
        if let Some(keeper) = keeper {
            kill(keeper);
        }
        for entry in entries.flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let held = std::fs::File::open(entry.path()).is_ok_and(|file| {
                rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).is_err()
            });
            let process = name
                .strip_prefix("gateway-")
                .and_then(|rest| rest.split('-').next()?.parse().ok());
            if let (true, true, Some(process)) = (name.ends_with(".lock"), held, process) {
                kill(process);
            }
        }
    }
}

/// Opens connections all the time; counts those that were refused.
struct Knocking {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Knocking {
    fn at(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let [refused, answered, failed] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
        let (s, r, a, f) = (
            stop.clone(),
            refused.clone(),
            answered.clone(),
            failed.clone(),
        );
        let task = tokio::spawn(async move {
            while !s.load(Ordering::SeqCst) {
                if TcpStream::connect(address).await.is_err() {
                    r.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let mut client = Client::connect(address).await;
                match client.get("/").await {
                    Ok((StatusCode::OK, _, _)) => a.fetch_add(1, Ordering::SeqCst),
                    _ => f.fetch_add(1, Ordering::SeqCst),
                };
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Self {
            stop,
            refused,
            answered,
            failed,
            task,
        }
    }

    async fn end(self) -> (usize, usize, usize) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        (
            self.refused.load(Ordering::SeqCst),
            self.failed.load(Ordering::SeqCst),
            self.answered.load(Ordering::SeqCst),
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_is_back_and_no_connection_was_refused() {
    let app = App::start("a").await;
    let kept = Kept::start().await;
    kept.control
        .apply(&snapshot(1, &[("r1", 1, &[app.address])]))
        .await
        .unwrap();
    let knocking = Knocking::at(kept.address());
    for round in 1..=3 {
        until("requests", || async {
            knocking.answered.load(Ordering::SeqCst) > round * 5
        })
        .await;
        let before = kept.gateway_process().await.unwrap();
        kill(before);
        until("the restart", || async {
            kept.gateway_process()
                .await
                .is_some_and(|now| now != before)
        })
        .await;
        assert_eq!(kept.keeper.status().await.unwrap().restarts, round as u64);
    }
    let seen = knocking.answered.load(Ordering::SeqCst);
    until("requests", || async {
        knocking.answered.load(Ordering::SeqCst) > seen + 5
    })
    .await;
    let (refused, failed, _) = knocking.end().await;
    assert_eq!(refused, 0);
    // What was being answered when its gateway was killed is lost, and nothing else.
    assert!(failed <= 3, "{failed} failed");
    kept.control
        .wait_generation(1, Duration::from_secs(10))
        .await
        .unwrap();
    kept.keeper.stop(Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_gateway_costs_no_request() {
    let app = App::start("a").await;
    let kept = Kept::start().await;
    kept.control
        .apply(&snapshot(1, &[("r1", 1, &[app.address])]))
        .await
        .unwrap();
    let knocking = Knocking::at(kept.address());
    let exe = PathBuf::from(env!("CARGO_BIN_EXE_ondol-gateway-test"));
    for _ in 0..5 {
        let before = kept.gateway_process().await.unwrap();
        let mut slow = Client::connect(kept.address()).await;
        let slow = tokio::spawn(async move { slow.get("/slow?ms=700").await.unwrap() });
        until("the slow request", || async {
            kept.control
                .drain_status(replica_id(app.address))
                .await
                .unwrap()
                .in_flight
                > 0
        })
        .await;
        kept.keeper.replace(&exe).await.unwrap();
        assert_ne!(kept.gateway_process().await.unwrap(), before);
        assert_eq!(slow.await.unwrap().0, StatusCode::OK);
    }
    let error = kept
        .keeper
        .replace(Path::new("/nonexistent/gateway"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, GatewayError::ReplaceFailed { .. }),
        "{error}"
    );
    let error = kept
        .keeper
        .replace(Path::new("/bin/false"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("keeps serving"), "{error}");
    let seen = knocking.answered.load(Ordering::SeqCst);
    until("requests", || async {
        knocking.answered.load(Ordering::SeqCst) > seen + 5
    })
    .await;
    let (refused, failed, answered) = knocking.end().await;
    assert_eq!((refused, failed), (0, 0), "of {answered}");
    until("the old ones' end", || async {
        kept.keeper.status().await.unwrap().retiring.is_empty()
    })
    .await;
    until("all counts in one hand", || async {
        let counters = kept.control.counters().await.unwrap();
        counters
            .releases
            .iter()
            .map(|row| row.requests())
            .sum::<u64>()
            == answered as u64 + 5
    })
    .await;
    kept.keeper.stop(Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_keeper_leaves_the_gateway_serving_and_its_successor_adopts_it() {
    let app = App::start("a").await;
    let mut kept = Kept::start().await;
    kept.control
        .apply(&snapshot(1, &[("r1", 1, &[app.address])]))
        .await
        .unwrap();
    let address = kept.address();
    let knocking = Knocking::at(address);
    let status = kept.keeper.status().await.unwrap();
    kill(status.process);
    until("the keeper's end", || async {
        kept.keeper.status().await.is_err()
    })
    .await;
    kept.keeper = KeeperClient::connect_or_spawn(spawn_in(kept.dir.path(), "127.0.0.1:0"))
        .await
        .unwrap();
    let adopted = kept.keeper.status().await.unwrap();
    assert_eq!(
        (adopted.address, adopted.gateway_process),
        (address, status.gateway_process)
    );
    // The adopted gateway is watched like an own one.
    let before = adopted.gateway_process.unwrap();
    kill(before);
    until("the restart", || async {
        kept.gateway_process()
            .await
            .is_some_and(|now| now != before)
    })
    .await;
    kept.keeper.release().await.unwrap();
    kept.keeper = KeeperClient::connect_or_spawn(spawn_in(kept.dir.path(), "127.0.0.1:0"))
        .await
        .unwrap();
    assert_eq!(kept.address(), address);
    let seen = knocking.answered.load(Ordering::SeqCst);
    until("requests", || async {
        knocking.answered.load(Ordering::SeqCst) > seen + 5
    })
    .await;
    let (refused, failed, _) = knocking.end().await;
    assert!(
        refused == 0 && failed <= 1,
        "{refused} refused, {failed} failed"
    );
    kept.keeper.stop(Duration::ZERO).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    // After a full stop the same port is taken again.
    kept.keeper = KeeperClient::connect_or_spawn(spawn_in(kept.dir.path(), "127.0.0.1:0"))
        .await
        .unwrap();
    assert_eq!(kept.address(), address);
    kept.keeper.stop(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn one_directory_has_one_keeper_and_a_taken_port_is_named() {
    let kept = Kept::start().await;
    let again = KeeperClient::connect_or_spawn(spawn_in(kept.dir.path(), "127.0.0.1:0"))
        .await
        .unwrap();
    assert_eq!(
        again.status().await.unwrap().process,
        kept.keeper.status().await.unwrap().process
    );
    let spawn = spawn_in(kept.dir.path(), "127.0.0.1:0");
    let second = tokio::process::Command::new(&spawn.exe)
        .args(&spawn.args)
        .output()
        .await
        .unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stdout).starts_with("error another keeper owns"));

    let other = tempfile::tempdir().unwrap();
    let taken = kept.address().to_string();
    let error = KeeperClient::connect_or_spawn(spawn_in(other.path(), &taken))
        .await
        .unwrap_err();
    assert!(
        matches!(error, GatewayError::AddressInUse { .. }),
        "{error}"
    );
    assert!(KeeperClient::connect(other.path()).await.unwrap().is_none());
    kept.keeper.stop(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_keeper_that_is_asked_for_another_address_moves() {
    let mut kept = Kept::start().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let old = kept.address();
    kept.keeper = KeeperClient::connect_or_spawn(spawn_in(kept.dir.path(), &free))
        .await
        .unwrap();
    assert_eq!(kept.address().to_string(), free);
    assert!(TcpStream::connect(old).await.is_err());
    kept.keeper.stop(Duration::ZERO).await.unwrap();
}
