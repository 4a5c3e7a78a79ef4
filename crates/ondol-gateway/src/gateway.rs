//! The gateway as a process, and as a value that tests run inside theirs.

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustix::net::sockopt;
use rustix::process::Resource;

use crate::access_log::{AccessLog, start_writer};
use crate::config::{GatewayConfig, Listen};
use crate::control;
use crate::error::GatewayError;
use crate::run_dir::RunDir;
use crate::server::{Core, CoreParts, RetireOrder, Shared, Worker, run_worker, stop_worker};
use crate::stats::counters_file_name;

/// Descriptors that are not client or upstream connections.
const RESERVED_DESCRIPTORS: u64 = 128;

/// A gateway that serves.
pub struct RunningGateway {
    core: Arc<Core>,
    threads: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<()>>,
    lock: File,
}

static STARTED: AtomicU64 = AtomicU64::new(0);

impl RunningGateway {
    /// Starts a gateway. It serves the last snapshot of its directory when this returns.
    pub fn start(config: GatewayConfig) -> Result<Self, GatewayError> {
        let run_dir = RunDir::open(&config.run_dir)?;
        let listener = open_listener(config.listen)?;
        let address = listener
            .local_addr()
            .map_err(|source| GatewayError::io("ask for the address of", "the listener", source))?;
        let sequence = STARTED.fetch_add(1, Ordering::Relaxed);
        let instance = format!(
            "{}-{:x}-{sequence}",
            std::process::id(),
            config.clock.now().as_micros()
        );
        let lock = run_dir.create_held(&format!("gateway-{instance}.lock"))?;
        // The socket is there before the snapshot is read: whoever applies one later finds us.
        let socket = run_dir.bind(&format!("gateway-{instance}.sock"))?;

        let workers = config
            .workers
            .map_or_else(default_workers, NonZeroUsize::get);
        let access_log = config
            .access_log
            .as_ref()
            .map(|_| Arc::new(AccessLog::new(workers)));
        let writer = match (&access_log, &config.access_log) {
            (Some(log), Some(settings)) => Some(start_writer(
                log.clone(),
                settings.clone(),
                config.clock.clone(),
            )?),
            _ => None,
        };
        let max_connections = config.limits.max_connections.min(descriptor_limit());
        let shared = Arc::new(Shared::new(
            config.limits,
            config.trust_forwarded,
            config.clock,
            access_log,
        ));
        let mut all = Vec::new();
        let mut inboxes = Vec::new();
        for index in 0..workers {
            let (worker, inbox) = Worker::new(index, workers, max_connections, shared.clone());
            all.push(Arc::new(worker));
            inboxes.push(inbox);
        }
        all.iter().for_each(|worker| worker.introduce(&all));
        let clone_listener = || {
            listener
                .try_clone()
                .map_err(|source| GatewayError::io("share", "the listening socket", source))
        };
        let core = Arc::new(Core::new(CoreParts {
            instance,
            version: config.version,
            run_dir,
            workers: all.clone(),
            shared,
            listener: clone_listener()?.into(),
            address,
            crash: config.crash,
        }));
        core.restore();
        core.fold();
        let mut threads = Vec::new();
        for (worker, inbox) in all.into_iter().zip(inboxes) {
            let listener = clone_listener()?;
            let name = format!("gateway-{}", worker.index);
            threads.push(spawn_runtime(&name, move || {
                run_worker(worker, listener, inbox)
            })?);
        }
        let control_core = core.clone();
        threads.push(spawn_runtime("gateway-control", move || {
            run_control(control_core, socket)
        })?);
        Ok(Self {
            core,
            threads,
            writer,
            lock,
        })
    }

    /// Where it takes connections.
    pub fn address(&self) -> SocketAddr {
        self.core.address
    }

    /// The generation it serves.
    pub fn generation(&self) -> u64 {
        *self.core.shared.generation.borrow()
    }

    /// Stops taking connections and ends when all work is done, or at the deadline.
    pub fn retire(&self, deadline: std::time::Duration) {
        let deadline_ms = deadline.as_millis() as u64;
        let grace = RetireOrder::default()
            .websocket_grace_ms
            .min(deadline_ms / 2);
        self.core.begin_retirement(RetireOrder {
            deadline_ms,
            websocket_grace_ms: grace,
        });
    }

    /// Waits until it has ended.
    pub fn join(self) {
        for thread in self.threads {
            let _ = thread.join();
        }
        if let Some(log) = &self.core.shared.access_log {
            log.stop();
        }
        if let Some(writer) = self.writer {
            let _ = writer.join();
        }
        self.core.persist();
        let instance = &self.core.instance;
        self.core
            .run_dir
            .remove(&format!("gateway-{instance}.sock"));
        // The lock goes last: until then the counters are a living gateway's.
        self.core
            .run_dir
            .remove(&format!("gateway-{instance}.lock"));
        drop(self.lock);
        tracing::debug!(file = %counters_file_name(instance), "gateway ended");
    }
}

async fn run_control(core: Arc<Core>, socket: std::os::unix::net::UnixListener) {
    let listener = match socket
        .set_nonblocking(true)
        .and_then(|()| tokio::net::UnixListener::from_std(socket))
    {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(error = %error, "the control socket cannot be served");
            return;
        }
    };
    let mut finished = core.finished.subscribe();
    tokio::spawn(control::serve(core.clone(), listener));
    tokio::spawn(core.clone().keep_counters());
    tokio::spawn(core.clone().retire_when_told());
    let _ = finished.wait_for(|finished| *finished).await;
    core.workers.iter().for_each(|worker| stop_worker(worker));
}

fn spawn_runtime<F>(
    name: &str,
    main: impl FnOnce() -> F + Send + 'static,
) -> Result<JoinHandle<()>, GatewayError>
where
    F: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| GatewayError::io("start the runtime of", name, source))?;
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || runtime.block_on(main()))
        .map_err(|source| GatewayError::io("start the thread", name, source))
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Raises the limit of open files as far as allowed; how many client connections fit. Each may
/// need an upstream connection too.
fn descriptor_limit() -> usize {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        let _ = rustix::process::setrlimit(Resource::Nofile, limit);
        limit = rustix::process::getrlimit(Resource::Nofile);
    }
    let files = limit.current.unwrap_or(u64::MAX);
    usize::try_from(files.saturating_sub(RESERVED_DESCRIPTORS) / 2)
        .unwrap_or(usize::MAX)
        .max(16)
}

/// Binds the gateway's address.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, GatewayError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with};

    let failed = |errno: rustix::io::Errno| match errno {
        rustix::io::Errno::ADDRINUSE => GatewayError::AddressInUse { address },
        other => GatewayError::Listen {
            address,
            source: other.into(),
        },
    };
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP)).map_err(failed)?;
    sockopt::set_socket_reuseaddr(&socket, true).map_err(failed)?;
    bind(&socket, &address).map_err(failed)?;
    // Requests that come while a gateway is replaced or restarted wait here.
    listen(&socket, 4_096).map_err(failed)?;
    Ok(TcpListener::from(socket))
}

fn open_listener(listen: Listen) -> Result<TcpListener, GatewayError> {
    let listener = match listen {
        Listen::Address(address) => bind(address)?,
        Listen::Inherited => {
            let inherited = rustix::stdio::stdin()
                .try_clone_to_owned()
                .map_err(|source| {
                    GatewayError::io("take over", "the inherited listening socket", source)
                })?;
            TcpListener::from(inherited)
        }
    };
    let prepared = (|| {
        listener.set_nonblocking(true)?;
        // Accepted connections inherit these, which saves system calls for each.
        sockopt::set_tcp_nodelay(&listener, true)?;
        sockopt::set_socket_keepalive(&listener, true)?;
        sockopt::set_tcp_keepidle(&listener, std::time::Duration::from_secs(60))?;
        sockopt::set_tcp_keepintvl(&listener, std::time::Duration::from_secs(15))?;
        listener.local_addr().map(drop)
    })();
    prepared.map_err(|source: std::io::Error| {
        GatewayError::io("prepare", "the listening socket", source)
    })?;
    Ok(listener)
}

/// Runs a gateway until it is told to end. Prints `ready GENERATION` when it serves.
pub fn gateway_main(config: GatewayConfig) -> ExitCode {
    let gateway = match RunningGateway::start(config) {
        Ok(gateway) => gateway,
        Err(error) => {
            tracing::error!(error = %describe(&error), "the gateway cannot start");
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "error {}", describe(&error));
            return ExitCode::FAILURE;
        }
    };
    let core = gateway.core.clone();
    let signals = spawn_runtime("gateway-signals", move || async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut terminate), Ok(mut interrupt)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) else {
            return;
        };
        let mut finished = core.finished.subscribe();
        loop {
            tokio::select! {
                _ = terminate.recv() => core.begin_retirement(RetireOrder::default()),
                _ = interrupt.recv() => core.begin_retirement(RetireOrder::default()),
                _ = finished.wait_for(|finished| *finished) => return,
            }
        }
    });
    if signals.is_err() {
        tracing::warn!("signals are not handled");
    }
    {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "ready {}", gateway.generation());
        let _ = out.flush();
    }
    tracing::info!(gateway.address = %gateway.address(), generation = gateway.generation(), "gateway serves");
    gateway.join();
    ExitCode::SUCCESS
}

/// An error with its causes.
pub(crate) fn describe(error: &GatewayError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
