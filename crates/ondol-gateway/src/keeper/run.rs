//! The keeper's loop.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::adopt::{Survivor, find_survivor};
use super::backoff::Backoff;
use super::control::{self, KeeperOrder, KeeperReply};
use super::process;
use super::setting::{bind_as_before, say, signal, silence_output, watch_signals};
use super::{ADDRESS, KeeperConfig, KeeperStatus, LOCK, SOCKET};
use crate::client::GatewayControl;
use crate::control::RequestBody;
use crate::error::GatewayError;
use crate::gateway::describe;
use crate::run_dir::RunDir;
use crate::server::RetireOrder;

const END_WITHIN: Duration = Duration::from_secs(5);

/// What happens to a keeper.
pub(super) enum Event {
    /// A gateway process ended.
    Ended { process: u32, how: String },
    /// Somebody asks for something.
    Order {
        order: KeeperOrder,
        answer: oneshot::Sender<KeeperReply>,
    },
    /// The system asks us to end.
    Terminate,
}

/// Runs a keeper until it is told to end. Prints one line when it is ready or cannot start:
/// `ready ADDRESS` or `error REASON`.
pub fn keeper_main(config: KeeperConfig) -> ExitCode {
    // A session of its own, so that a terminal that closes takes only what it started itself. It
    // fails only where we are a session's leader already.
    let _ = rustix::process::setsid();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("no runtime: {error}")),
    };
    let ended = runtime.block_on(async {
        let mut keeper = Keeper::begin(config).await?;
        keeper.run().await;
        Ok::<(), GatewayError>(())
    });
    // A thread that waits for a survivor's end would never let the runtime go.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&describe(&error)),
    }
}

fn refuse(reason: &str) -> ExitCode {
    tracing::error!(reason, "the keeper cannot start");
    say(&format!("error {reason}"));
    ExitCode::FAILURE
}

struct Gateway {
    process: u32,
    started: Instant,
}

struct Keeper {
    config: KeeperConfig,
    run_dir: RunDir,
    control: GatewayControl,
    listener: TcpListener,
    current: Option<Gateway>,
    backoff: Backoff,
    restart_at: Option<Instant>,
    started: Instant,
    status: Arc<Mutex<KeeperStatus>>,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
    _lock: File,
}

impl Keeper {
    async fn begin(config: KeeperConfig) -> Result<Self, GatewayError> {
        let run_dir = RunDir::open(&config.run_dir)?;
        let Some(lock) = run_dir.try_lock(LOCK)? else {
            return Err(GatewayError::KeeperRunning {
                run_dir: config.run_dir,
            });
        };
        let survivor = find_survivor(&run_dir)?;
        let (listener, adopted) = match survivor {
            Some(Survivor {
                instance,
                process,
                listener,
            }) => (listener, Some((instance, process))),
            None => (bind_as_before(&run_dir, config.listen)?, None),
        };
        let address = listener
            .local_addr()
            .map_err(|source| GatewayError::Listen {
                address: config.listen,
                source,
            })?;
        run_dir.write_atomic(ADDRESS, address.to_string().as_bytes(), false)?;
        run_dir.remove(SOCKET);
        let socket = run_dir.bind(SOCKET)?;
        let served = socket
            .set_nonblocking(true)
            .and_then(|()| tokio::net::UnixListener::from_std(socket))
            .map_err(|source| GatewayError::io("serve", run_dir.join(SOCKET), source))?;
        let status = KeeperStatus {
            address,
            process: std::process::id(),
            version: config.version.clone(),
            gateway_process: None,
            gateway_exe: config.gateway_exe.clone(),
            restarts: 0,
            last_exit: None,
            retiring: Vec::new(),
            uptime_seconds: 0.0,
        };
        let status = Arc::new(Mutex::new(status));
        let (events, inbox) = mpsc::channel(64);
        let mut keeper = Self {
            control: GatewayControl::new(&config.run_dir)?,
            config,
            run_dir,
            listener,
            current: None,
            backoff: Backoff::default(),
            restart_at: None,
            started: Instant::now(),
            status: status.clone(),
            events: events.clone(),
            inbox,
            _lock: lock,
        };
        match adopted {
            Some((instance, process)) => {
                process::watch_survivor(
                    &keeper.run_dir,
                    &instance,
                    process,
                    keeper.events.clone(),
                )?;
                keeper.current = Some(Gateway {
                    process,
                    started: Instant::now(),
                });
                tracing::info!(gateway.process = process, gateway.address = %address, "keeper adopted a gateway");
            }
            None => {
                keeper
                    .start(&keeper.config.gateway_exe.clone())
                    .await
                    .map_err(|reason| {
                        keeper.run_dir.remove(SOCKET);
                        GatewayError::KeeperStart { reason }
                    })?;
            }
        }
        keeper.publish();
        tokio::spawn(control::serve(served, status, events.clone()));
        watch_signals(events);
        say(&format!("ready {address}"));
        silence_output();
        Ok(keeper)
    }

    async fn run(&mut self) {
        loop {
            let restart = self.restart_at;
            let event = tokio::select! {
                event = self.inbox.recv() => event,
                () = async {
                    match restart {
                        Some(moment) => tokio::time::sleep_until(moment).await,
                        None => std::future::pending().await,
                    }
                } => {
                    self.restart().await;
                    continue;
                }
            };
            match event {
                Some(Event::Ended { process, how }) => self.ended(process, how),
                Some(Event::Order {
                    order: KeeperOrder::Replace { exe },
                    answer,
                }) => {
                    let reply = match self.replace(exe).await {
                        Ok(()) => KeeperReply::Done,
                        Err(reason) => KeeperReply::ReplaceFailed { reason },
                    };
                    let _ = answer.send(reply);
                }
                Some(Event::Order {
                    order: KeeperOrder::Stop { deadline_ms },
                    answer,
                }) => {
                    self.stop(Duration::from_millis(deadline_ms)).await;
                    let _ = answer.send(KeeperReply::Done);
                    break;
                }
                Some(Event::Order {
                    order: KeeperOrder::Release,
                    answer,
                }) => {
                    self.run_dir.remove(SOCKET);
                    let _ = answer.send(KeeperReply::Done);
                    break;
                }
                Some(Event::Order {
                    order: KeeperOrder::Status,
                    answer,
                }) => {
                    let status = self
                        .status
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .clone();
                    let _ = answer.send(KeeperReply::Status {
                        status: Box::new(status),
                    });
                }
                Some(Event::Terminate) => {
                    self.stop(Duration::from_millis(RetireOrder::default().deadline_ms))
                        .await;
                    break;
                }
                None => break,
            }
            self.publish();
        }
        // The answer to the last order is still on its way out.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// Starts a gateway and makes it the current one.
    async fn start(&mut self, exe: &std::path::Path) -> Result<(), String> {
        let started = Instant::now();
        let child = process::start(
            exe,
            &self.config.gateway_args,
            &self.listener,
            self.config.ready_timeout,
        )
        .await?;
        let Some(process) = child.id() else {
            return Err("it ended at once".into());
        };
        process::watch_child(child, process, self.events.clone());
        tracing::info!(
            gateway.process = process,
            ready_seconds = started.elapsed().as_secs_f64(),
            "gateway started"
        );
        self.current = Some(Gateway { process, started });
        self.restart_at = None;
        Ok(())
    }

    async fn restart(&mut self) {
        self.restart_at = None;
        let exe = self.config.gateway_exe.clone();
        let began = Instant::now();
        if let Err(reason) = self.start(&exe).await {
            tracing::error!(reason, "the gateway cannot be restarted");
            self.note(|status| status.last_exit = Some(reason));
            self.restart_at = Some(
                Instant::now()
                    + self
                        .backoff
                        .after(began.elapsed().min(Duration::from_secs(1))),
            );
        }
        self.publish();
    }

    fn ended(&mut self, process: u32, how: String) {
        if self
            .current
            .as_ref()
            .is_none_or(|gateway| gateway.process != process)
        {
            self.note(|status| status.retiring.retain(|known| *known != process));
            return;
        }
        let lifetime = self
            .current
            .take()
            .map_or(Duration::ZERO, |gateway| gateway.started.elapsed());
        let wait = self.backoff.after(lifetime);
        tracing::warn!(
            gateway.process = process,
            how,
            wait_seconds = wait.as_secs_f64(),
            "gateway died"
        );
        self.note(|status| {
            status.restarts += 1;
            status.last_exit = Some(how);
        });
        self.restart_at = Some(Instant::now() + wait);
    }

    /// The new gateway serves before the old one stops accepting.
    async fn replace(&mut self, exe: PathBuf) -> Result<(), String> {
        let old = self.current.as_ref().map(|gateway| gateway.process);
        self.start(&exe).await?;
        self.config.gateway_exe = exe;
        if let Some(old) = old {
            self.note(|status| status.retiring.push(old));
            self.retire(old, RetireOrder::default()).await;
        }
        Ok(())
    }

    async fn retire(&self, process: u32, order: RetireOrder) {
        let prefix = format!("{process}-");
        let instance = self
            .control
            .living()
            .ok()
            .and_then(|all| all.into_iter().find(|name| name.starts_with(&prefix)));
        if let Some(instance) = instance
            && self
                .control
                .ask(&instance, RequestBody::Retire(order))
                .await
                .is_ok()
        {
            return;
        }
        signal(process, Signal::TERM);
    }

    async fn stop(&mut self, deadline: Duration) {
        self.run_dir.remove(SOCKET);
        self.restart_at = None;
        let deadline_ms = deadline.as_millis() as u64;
        let mut left: Vec<u32> = self
            .status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retiring
            .clone();
        if let Some(gateway) = self.current.take() {
            let grace = RetireOrder::default()
                .websocket_grace_ms
                .min(deadline_ms / 2);
            self.retire(
                gateway.process,
                RetireOrder {
                    deadline_ms,
                    websocket_grace_ms: grace,
                },
            )
            .await;
            left.push(gateway.process);
        }
        let until = Instant::now() + deadline + END_WITHIN;
        while !left.is_empty() {
            match tokio::time::timeout_at(until, self.inbox.recv()).await {
                Ok(Some(Event::Ended { process, .. })) => left.retain(|known| *known != process),
                Ok(Some(Event::Order { answer, .. })) => {
                    let _ = answer.send(KeeperReply::Refused {
                        reason: "the keeper is stopping".into(),
                    });
                }
                Ok(Some(Event::Terminate)) => {}
                Ok(None) => break,
                Err(_) => {
                    left.iter()
                        .for_each(|process| signal(*process, Signal::KILL));
                    break;
                }
            }
        }
    }

    fn note(&self, change: impl FnOnce(&mut KeeperStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn publish(&self) {
        let current = self.current.as_ref().map(|gateway| gateway.process);
        let (exe, uptime) = (
            self.config.gateway_exe.clone(),
            self.started.elapsed().as_secs_f64(),
        );
        self.note(|status| {
            status.gateway_process = current;
            status.gateway_exe = exe;
            status.uptime_seconds = uptime;
        });
    }
}
