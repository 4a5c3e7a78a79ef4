//! One `ondol serve` with everything it starts, from the outside.

mod answer;
mod client;
mod command;
mod roles;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

pub use answer::{Answer, Output};
pub use command::{Spawned, run};

use crate::process;
use crate::wait::{eventually, holds_within};

/// How long anything may take that a user would call immediate. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a platform is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A data directory made by the caller, such as a mounted file system.
    pub data: Option<PathBuf>,
    /// More arguments of `ondol serve`.
    pub arguments: Vec<String>,
    /// A program with arguments that starts it, such as `taskset -c 0`.
    pub launcher: Vec<String>,
}

/// A running platform; dropping it ends everything of its data directory and checks that nothing
/// is left.
#[derive(Debug)]
pub struct Platform {
    folder: TempDir,
    data: PathBuf,
    home: PathBuf,
    binary: PathBuf,
    arguments: Vec<String>,
    launcher: Vec<String>,
    serve: Option<Child>,
    said: Arc<Mutex<Vec<String>>>,
    control: String,
    gateway: String,
    ready_after: Duration,
    http: reqwest::Client,
    transcript: Mutex<Vec<u8>>,
}

impl Platform {
    /// Starts a platform on a fresh data directory.
    ///
    /// # Panics
    /// When it does not become ready.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// Starts a platform as told.
    ///
    /// # Panics
    /// When it does not become ready.
    #[track_caller]
    pub fn start_with(options: Options) -> Self {
        let mut platform = Self::prepare(options);
        platform.launch(&[]);
        platform
    }

    /// The folders and the environment of a platform that was not started yet.
    ///
    /// # Panics
    /// When the folders cannot be made.
    pub fn prepare(options: Options) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("ondol-e2e-")
            .tempdir()
            .expect("a folder");
        let root = folder.path().canonicalize().expect("the folder exists");
        let home = root.join("home");
        fs::create_dir_all(&home).expect("a home");
        fs::write(
            home.join(".gitconfig"),
            "[user]\n\tname = Tester\n\temail = tester@example.org\n[init]\n\tdefaultBranch = main\n[advice]\n\tdetachedHead = false\n",
        )
        .expect("a git configuration");
        // The provider must stand before the first client is made.
        let _ = crate::wait::runtime();
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(120))
            .build()
            .expect("an HTTP client");
        Self {
            data: options.data.unwrap_or_else(|| root.join("data")),
            home,
            binary: crate::binary().to_owned(),
            arguments: options.arguments,
            launcher: options.launcher,
            serve: None,
            said: Arc::default(),
            control: "http://127.0.0.1:0".to_owned(),
            gateway: "http://127.0.0.1:0".to_owned(),
            ready_after: Duration::ZERO,
            http,
            transcript: Mutex::default(),
            folder,
        }
    }

    /// `ondol serve` with its usual arguments, not started.
    pub fn serve_command(&self, more: &[&str]) -> Command {
        let address = |url: &str| {
            url.trim_start_matches("http://")
                .trim_end_matches('/')
                .to_owned()
        };
        let mut command = match self.launcher.split_first() {
            None => self.command(&self.binary, self.folder.path()),
            Some((program, arguments)) => {
                let mut command = self.command(program, self.folder.path());
                command.args(arguments).arg(&self.binary);
                command
            }
        };
        command
            .arg("serve")
            .arg("--data")
            .arg(&self.data)
            .args([
                "--listen",
                &address(&self.control),
                "--gateway-listen",
                &address(&self.gateway),
            ])
            .args(&self.arguments)
            .args(more)
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn launch(&mut self, more: &[&str]) {
        assert!(self.serve.is_none(), "serve runs already");
        let errors = File::options()
            .create(true)
            .append(true)
            .open(self.errors_path())
            .expect("a log file");
        let began = Instant::now();
        let mut child = self
            .serve_command(more)
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        let lines = Arc::new(Mutex::new(Vec::new()));
        self.said = lines.clone();
        let stdout = child.stdout.take().expect("stdout is piped");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                lines.lock().expect("the lines").push(line);
            }
        });
        self.serve = Some(child);
        let ready = loop {
            if let Some(line) = self.said().first() {
                break line.clone();
            }
            if let Some(status) = self.exited() {
                self.serve = None;
                panic!(
                    "serve ended before it was ready: {status}\n{}",
                    self.errors()
                );
            }
            assert!(
                began.elapsed() < PATIENCE,
                "serve did not become ready\n{}",
                self.errors()
            );
            std::thread::sleep(Duration::from_millis(2));
        };
        self.ready_after = began.elapsed();
        let words: Vec<&str> = ready.split(' ').collect();
        let [word, control, gateway] = words[..] else {
            panic!("serve said `{ready}` instead of `ready <control> <gateway>`")
        };
        assert_eq!(word, "ready", "serve said `{ready}`");
        self.control = control.trim_end_matches('/').to_owned();
        self.gateway = gateway.trim_end_matches('/').to_owned();
    }

    /// Starts the control plane again, with the same data directory and addresses.
    ///
    /// # Panics
    /// When it still runs or does not become ready.
    #[track_caller]
    pub fn restart(&mut self) {
        let before = (self.control.clone(), self.gateway.clone());
        self.launch(&[]);
        assert_eq!(
            (self.control.clone(), self.gateway.clone()),
            before,
            "the addresses changed"
        );
    }

    /// Stops the control plane if it runs and starts it so that it dies at `point`. Says whether
    /// it got ready; it may meet the point earlier.
    pub fn crash_at(&mut self, point: &str) -> bool {
        if self.serve.is_some() {
            self.kill9();
        }
        let errors = File::options()
            .create(true)
            .append(true)
            .open(self.errors_path())
            .expect("a log file");
        let mut child = self
            .serve_command(&["--crash-at", point])
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .spawn()
            .expect("serve starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut line = String::new();
        let mut reader = BufReader::new(stdout);
        let ready = reader.read_line(&mut line).is_ok() && line.starts_with("ready ");
        // Nothing more is said on stdout; a reader keeps the pipe open for as long as it lives.
        std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        self.serve = Some(child);
        ready
    }

    /// Starts again if the control plane is gone; says whether it had to.
    pub fn revive(&mut self) -> bool {
        if self.exited().is_none() && self.serve.is_some() {
            return false;
        }
        self.serve = None;
        self.restart();
        true
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.serve
            .as_mut()
            .and_then(|child| child.try_wait().ok().flatten())
    }

    /// Whether the control plane has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.serve.is_none() || self.exited().is_some()
    }

    /// How the control plane ended, if it does so before `deadline`.
    pub fn wait_for_end(&mut self, deadline: Duration) -> Option<ExitStatus> {
        holds_within(deadline, || self.has_ended());
        let status = self.exited()?;
        self.serve = None;
        Some(status)
    }

    /// Kills the control plane as a machine does.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.serve.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM: stops the control plane alone. Says how it ended.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM)
    }

    /// SIGINT: stops everything, as Ctrl-C does. Says how it ended.
    #[track_caller]
    pub fn interrupt(&mut self) -> ExitStatus {
        self.signal(Signal::INT)
    }

    #[track_caller]
    fn signal(&mut self, signal: Signal) -> ExitStatus {
        let pid = self.serve_pid();
        process::send(pid, signal);
        self.wait_for_end(PATIENCE)
            .unwrap_or_else(|| panic!("serve did not end after {signal:?}"))
    }

    /// Process id of `ondol serve`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn serve_pid(&self) -> i32 {
        self.serve.as_ref().expect("serve runs").id() as i32
    }

    /// The address of the control plane, without a slash at the end.
    pub fn control(&self) -> &str {
        &self.control
    }

    /// The address of the gateway, without a slash at the end.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A folder for whatever else the test needs; repositories are made here.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The home of everything this platform starts.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// How long the last start took until `ready` was said.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// The lines that `serve` has written to stdout.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().expect("the lines").clone()
    }

    /// The first token.
    ///
    /// # Panics
    /// When there is none.
    pub fn token(&self) -> String {
        let path = self.data.join("admin.token");
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim()
            .to_owned()
    }

    fn errors_path(&self) -> PathBuf {
        self.folder.path().join("serve.log")
    }

    /// The last part of what every `serve` of this platform wrote to stderr.
    pub fn errors(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(self.errors_path()) {
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            let _ = file.seek(SeekFrom::Start(length.saturating_sub(24_000)));
            let mut bytes = Vec::new();
            let _ = file.read_to_end(&mut bytes);
            text = String::from_utf8_lossy(&bytes).into_owned();
        }
        text
    }

    /// Everything that `serve` wrote to stderr, and everything that clients were told.
    pub fn everything_said(&self) -> Vec<u8> {
        let mut all = fs::read(self.errors_path()).unwrap_or_default();
        all.extend_from_slice(&self.transcript.lock().expect("the transcript"));
        all
    }

    fn stop_everything(&mut self) {
        if self.serve.is_some() && !self.has_ended() {
            process::send(self.serve_pid(), Signal::INT);
            if self.wait_for_end(PATIENCE).is_none() {
                self.kill9();
            }
        } else if self.data.join("format").exists() {
            self.serve = None;
            let mut command = self.command(&self.binary, self.folder.path());
            command.arg("stop").arg("--data").arg(&self.data);
            let _ = run(command, None, PATIENCE);
        }
    }

    /// Waits until nothing of the data directory runs.
    ///
    /// # Panics
    /// When something still does.
    #[track_caller]
    pub fn assert_nothing_runs(&self) {
        eventually(
            "nothing of the data directory runs",
            Duration::from_secs(30),
            || process::of_directory(&self.data).is_empty(),
        );
    }
}

impl Drop for Platform {
    #[expect(
        clippy::print_stderr,
        reason = "a failed test shows what the server said"
    )]
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if failing {
            eprintln!(
                "--- the server's log, {}\n{}",
                self.errors_path().display(),
                self.errors()
            );
        }
        self.stop_everything();
        let left = !holds_within(Duration::from_secs(30), || {
            process::of_directory(&self.data).is_empty()
        });
        let ended = process::end_all_of(self.folder.path());
        process::end_all_of(&self.data);
        if failing && crate::environment("ONDOL_KEEP").is_some() {
            self.folder.disable_cleanup(true);
            eprintln!("--- kept: {}", self.folder.path().display());
        }
        if left && !failing {
            panic!(
                "left running after everything was stopped: {ended:#?}\n{}",
                self.errors()
            );
        }
    }
}
