//! Programs run to their end with both outputs, never longer than a deadline.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::{Output, Platform};
use crate::project::Project;

/// The longest that any command may take, a push that trains included.
const LONGEST: Duration = Duration::from_secs(240);

/// A program that runs, with what it has said so far.
#[derive(Debug)]
pub struct Spawned {
    line: String,
    child: Child,
    out: Arc<Mutex<Vec<u8>>>,
    err: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Spawned {
    /// Starts a program in a process group of its own, with `input` on its stdin.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(mut command: Command, input: Option<&[u8]>) -> Self {
        let line = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|part| part.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" ");
        command.stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        let mut readers = Vec::new();
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            let input = input.to_vec();
            // A program that does not read its input is no error of the test.
            readers.push(std::thread::spawn(move || drop(stdin.write_all(&input))));
        }
        let out = Arc::default();
        let err = Arc::default();
        readers.push(collect(child.stdout.take(), &out));
        readers.push(collect(child.stderr.take(), &err));
        Self {
            line,
            child,
            out,
            err,
            readers,
        }
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        text(&self.err)
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        text(&self.out)
    }

    /// Process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Ends it and its children by SIGKILL.
    pub fn kill9(&mut self) {
        if let Some(group) = Pid::from_raw(self.pid()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When that takes longer than `deadline`; it is killed then.
    #[track_caller]
    pub fn wait(mut self, deadline: Duration) -> Output {
        let began = Instant::now();
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if began.elapsed() < deadline => {
                    std::thread::sleep(Duration::from_millis(3))
                }
                _ => {
                    let (out, err) = (self.stdout(), self.stderr());
                    self.kill9();
                    panic!(
                        "`{}` did not end within {deadline:?}\n{out}\n{err}",
                        self.line
                    );
                }
            }
        };
        // A grandchild may keep the pipes open; what it says is not this program's output.
        let patience = Instant::now() + Duration::from_secs(5);
        while self.readers.iter().any(|reader| !reader.is_finished()) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        Output {
            code: code(status),
            stdout: self.stdout(),
            stderr: self.stderr(),
            line: self.line,
        }
    }
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn text(bytes: &Arc<Mutex<Vec<u8>>>) -> String {
    String::from_utf8_lossy(&bytes.lock().expect("the output")).into_owned()
}

fn collect(pipe: Option<impl Read + Send + 'static>, into: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let into = into.clone();
    std::thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let mut buffer = [0; 8192];
        while let Ok(count) = pipe.read(&mut buffer) {
            if count == 0 {
                break;
            }
            into.lock()
                .expect("the output")
                .extend_from_slice(&buffer[..count]);
        }
    })
}

/// Runs a program to its end.
///
/// # Panics
/// When it takes longer than `deadline`.
#[track_caller]
pub fn run(command: Command, input: Option<&[u8]>, deadline: Duration) -> Output {
    Spawned::start(command, input).wait(deadline)
}

impl Platform {
    /// A program with nothing of this process's environment: a home and a login of its own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", crate::binary::program_path())
            .env("HOME", &self.home)
            .env("LANG", "C.UTF-8")
            .env("NO_COLOR", "1")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .current_dir(dir);
        command
    }

    /// The same, logged in.
    pub fn client_command(&self, program: impl AsRef<std::ffi::OsStr>, dir: &Path) -> Command {
        let mut command = self.command(program, dir);
        command
            .env("ONDOL_URL", &self.control)
            .env("ONDOL_TOKEN", self.token());
        command
    }

    fn note(&self, output: Output) -> Output {
        let mut transcript = self.transcript.lock().expect("the transcript");
        transcript.extend_from_slice(output.stdout.as_bytes());
        transcript.extend_from_slice(output.stderr.as_bytes());
        drop(transcript);
        output
    }

    /// Runs the command line in a folder.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str], dir: &Path) -> Output {
        self.cli_with(arguments, dir, None)
    }

    /// Runs the command line with something on its stdin.
    #[track_caller]
    pub fn cli_with(&self, arguments: &[&str], dir: &Path, input: Option<&[u8]>) -> Output {
        let mut command = self.client_command(&self.binary, dir);
        command.args(arguments);
        self.note(run(command, input, LONGEST))
    }

    /// Runs the command line as somebody else.
    #[track_caller]
    pub fn cli_as(&self, token: &str, arguments: &[&str], dir: &Path) -> Output {
        let mut command = self.client_command(&self.binary, dir);
        command.args(arguments).env("ONDOL_TOKEN", token);
        self.note(run(command, None, LONGEST))
    }

    /// Starts the command line and leaves it running.
    #[track_caller]
    pub fn cli_spawn(&self, arguments: &[&str], dir: &Path) -> Spawned {
        let mut command = self.client_command(&self.binary, dir);
        command.args(arguments);
        Spawned::start(command, None)
    }

    /// Runs git in a folder.
    #[track_caller]
    pub fn git(&self, arguments: &[&str], dir: &Path) -> Output {
        let mut command = self.client_command("git", dir);
        command.args(arguments);
        self.note(run(command, None, LONGEST))
    }

    /// Pushes the main branch and waits for git's end, whatever it is.
    #[track_caller]
    pub fn push(&self, project: &Project) -> Output {
        self.git(&["push", "ondol", "main"], project.dir())
    }

    /// Starts a push of the main branch and leaves it running.
    #[track_caller]
    pub fn push_spawn(&self, project: &Project) -> Spawned {
        let mut command = self.client_command("git", project.dir());
        command.args(["push", "ondol", "main"]);
        Spawned::start(command, None)
    }

    /// A repository made from a template and connected to this platform.
    #[track_caller]
    pub fn new_project(&self, template: &str, name: &str) -> Project {
        self.cli(&["new", template, name], self.folder.path()).ok();
        let project = Project::at(self, name);
        self.cli(&["init"], project.dir()).ok();
        project
    }

    /// A repository with the given files, connected to this platform.
    #[track_caller]
    pub fn project_of(&self, name: &str, files: &[(&str, &str)]) -> Project {
        let dir = self.folder.path().join(name);
        std::fs::create_dir_all(&dir).expect("a folder");
        self.git(&["init", "--quiet", "--initial-branch=main"], &dir)
            .ok();
        let project = Project::at(self, name);
        for (path, text) in files {
            project.write(path, text);
        }
        project.commit(self, "First commit");
        self.cli(&["init", "--project", name], project.dir()).ok();
        project
    }
}
