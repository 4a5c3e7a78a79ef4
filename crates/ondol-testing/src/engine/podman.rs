//! A Podman for tests: storage, networks and socket in a folder of their own, shared by all tests
//! of this program and gone with it, also when it is killed.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// The Podman of this program.
pub struct Podman {
    dir: PathBuf,
    socket: PathBuf,
    next_socket: AtomicUsize,
    importing: Mutex<()>,
    /// Cleans up when its standard input ends, which is with this program.
    guard: OnceLock<Child>,
}

/// The Podman of this program, started when it is first asked for. `None`, with a word and a number
/// in the output, where there cannot be one; with `ONDOL_REQUIRE_ENGINE` that is a failure.
pub fn podman() -> Option<&'static Podman> {
    static PODMAN: OnceLock<Result<Podman, String>> = OnceLock::new();
    static SKIPPED: AtomicUsize = AtomicUsize::new(0);
    match PODMAN.get_or_init(Podman::start) {
        Ok(podman) => Some(podman),
        Err(why) => {
            #[expect(clippy::disallowed_methods, reason = "tests read the environment")]
            let required = std::env::var_os("ONDOL_REQUIRE_ENGINE").is_some();
            assert!(!required, "tests need a container engine: {why}");
            let number = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
            let text = format!("skipped without a container engine: {number} tests ({why})\n");
            // Straight to the terminal: what passing tests print is not shown.
            let _ = std::io::stderr().write_all(text.as_bytes());
            None
        }
    }
}

impl Podman {
    fn start() -> Result<Self, String> {
        for program in ["/usr/bin/podman", "/usr/bin/busybox", "/bin/bash"] {
            if !Path::new(program).is_file() {
                return Err(format!("there is no {program}"));
            }
        }
        // Below /tmp, because sockets have short paths.
        let dir = tempfile::Builder::new()
            .prefix("ondol-podman-")
            .tempdir_in("/tmp")
            .map_err(|error| error.to_string())?
            .keep();
        let config = format!(
            "[containers]\ndefault_ulimits = [\"nofile=10000:20000\", \"nproc=1000:1000\"]\n\
             [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             [network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = \"{}\"\n",
            dir.join("networks").display()
        );
        std::fs::write(dir.join("containers.conf"), config).map_err(|error| error.to_string())?;
        let podman = Self {
            socket: dir.join("podman.sock"),
            dir,
            next_socket: AtomicUsize::new(1),
            importing: Mutex::new(()),
            guard: OnceLock::new(),
        };
        podman.guard()?;
        // Not a child of a test's thread, with which it would end.
        let service = podman.service(&podman.socket)?;
        drop(service);
        Ok(podman)
    }

    /// Cleans up when this program has ended, however it did: then its end of the pipe is closed.
    fn guard(&self) -> Result<(), String> {
        let script = format!(
            // One that waits for a build which nobody reads any more does not end by itself.
            "cat; for signal in TERM KILL; do for pid in $(cat '{dir}'/*.pid); do kill -$signal $pid; done; sleep 1; done 2>/dev/null
             {podman} rm --all --force --time 0 >/dev/null 2>&1
             {podman} network ls -q | grep -v '^podman$' | xargs -r {podman} network rm -f >/dev/null 2>&1
             umount -R '{dir}'/root/overlay 2>/dev/null; rm -rf '{dir}'",
            dir = self.dir.display(),
            podman = self.words().join(" "),
        );
        let mut guard = Command::new("sh");
        guard
            .args(["-c", &script])
            .env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C ends the tests, and not what cleans up behind them.
            .process_group(0);
        let child = guard.spawn().map_err(|error| error.to_string())?;
        let _ = self.guard.set(child);
        Ok(())
    }

    fn words(&self) -> Vec<String> {
        let path = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        vec![
            "podman".into(),
            "--root".into(),
            path("root"),
            "--runroot".into(),
            path("run"),
            "--tmpdir".into(),
            path("tmp"),
            "--storage-driver".into(),
            "overlay".into(),
        ]
    }

    /// Runs a command of Podman's own program and returns what it says.
    ///
    /// # Panics
    /// When the command fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.ask(arguments)
            .unwrap_or_else(|said| panic!("{arguments:?}: {said}"))
    }

    /// Runs a command that may fail.
    ///
    /// # Errors
    /// What it says then.
    ///
    /// # Panics
    /// When there is no such program.
    pub fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        let words = self.words();
        let output = Command::new(&words[0])
            .args(&words[1..])
            .args(arguments)
            .env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            Ok(text.trim().to_owned())
        } else {
            Err(format!("{text}{errors}"))
        }
    }

    /// Makes an image of one layer, once.
    ///
    /// # Panics
    /// When Podman refuses.
    pub fn import(&self, layer: &[u8], name: &str) {
        let _one = self
            .importing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = self.run(&["images", "--quiet", name]);
        if !known.is_empty() {
            return;
        }
        let file = self.dir.join("import.tar");
        std::fs::write(&file, layer).unwrap();
        let path = file.to_string_lossy();
        self.run(&[
            "import",
            "--quiet",
            "--change",
            "ENV PATH=/bin:/usr/bin",
            &path,
            name,
        ]);
        let _ = std::fs::remove_file(&file);
    }

    fn service(&self, socket: &Path) -> Result<Child, String> {
        let words = self.words();
        let log = std::fs::File::create(socket.with_extension("log"))
            .map_err(|error| error.to_string())?;
        let mut service = Command::new(&words[0]);
        service
            .args(&words[1..])
            .args(["system", "service", "--time=0"])
            .arg(format!("unix://{}", socket.display()))
            // Its monitors leave files where they are.
            .current_dir(&self.dir)
            .env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        let child = service.spawn().map_err(|error| error.to_string())?;
        let _ = std::fs::write(socket.with_extension("pid"), child.id().to_string());
        for _ in 0..3_000 {
            if std::os::unix::net::UnixStream::connect(socket).is_ok() {
                return Ok(child);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let said = std::fs::read_to_string(socket.with_extension("log")).unwrap_or_default();
        Err(format!("podman does not answer: {said}"))
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A second service over the same containers, which a test can end and start again.
    pub fn second(&'static self) -> Service {
        let number = self.next_socket.fetch_add(1, Ordering::Relaxed);
        let socket = self.dir.join(format!("second-{number}.sock"));
        let child = self.service(&socket).unwrap();
        Service {
            podman: self,
            socket,
            child: Some(child),
        }
    }

    /// Files below its storage that contain some bytes.
    pub fn files_with(&self, needle: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.dir.clone()];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let Ok(kind) = entry.file_type() else {
                    continue;
                };
                if kind.is_dir() {
                    open.push(entry.path());
                } else if kind.is_file() {
                    let bytes = std::fs::read(entry.path()).unwrap_or_default();
                    if bytes
                        .windows(needle.len())
                        .any(|part| part == needle.as_bytes())
                    {
                        found.push(entry.path());
                    }
                }
            }
        }
        found
    }
}

/// A service that can be ended and started again.
pub struct Service {
    podman: &'static Podman,
    /// Where it answers.
    pub socket: PathBuf,
    child: Option<Child>,
}

impl Service {
    /// Ends it with SIGKILL.
    ///
    /// # Panics
    /// When it cannot be signalled.
    pub fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Starts it again at the same socket.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start(&mut self) {
        self.child = Some(self.podman.service(&self.socket).unwrap());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end();
    }
}
