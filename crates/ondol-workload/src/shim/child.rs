//! The program: its environment, its secret files, its pipes, its start.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::cgroup::Dirs;
use crate::home::{Home, file_variable, make_private_dir, remove_tree};
use crate::model::PortRequest;
use crate::procfs;
use crate::sys::{self, JoinPlan, Preparation};
use crate::wire::{LaunchOrder, Secrets};

/// A started program with the reading ends of its output.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// The whole environment: nothing is inherited.
fn environment(home: &Home, order: &LaunchOrder, secrets: &Secrets) -> Vec<(String, String)> {
    let spec = &order.spec;
    let mut env: std::collections::BTreeMap<String, String> = [
        ("PATH".to_owned(), order.path.clone()),
        (
            "HOME".to_owned(),
            home.path("home").to_string_lossy().into_owned(),
        ),
        (
            "TMPDIR".to_owned(),
            home.path("tmp").to_string_lossy().into_owned(),
        ),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ]
    .into();
    env.extend(order.base_env.clone());
    env.extend(
        spec.env
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    env.extend(
        secrets
            .env
            .iter()
            .map(|(name, value)| (name.clone(), value.expose().clone())),
    );
    if let Some(tools) = &order.tool_dir {
        let path = env.entry("PATH".to_owned()).or_default();
        let separator = if path.is_empty() { "" } else { ":" };
        *path = format!("{path}{separator}{}", tools.display());
    }
    let port = match spec.port {
        PortRequest::Fixed(port) => Some(port),
        _ => spec.host_port,
    };
    if let Some(port) = port {
        env.insert("PORT".to_owned(), port.to_string());
    }
    // Last, because leftover processes are recognised by it.
    env.insert("ONDOL_WORKLOAD_ID".to_owned(), spec.id.to_string());
    env.insert("ONDOL_INCARNATION".to_owned(), spec.incarnation.to_string());
    env.insert("ONDOL_PROJECT".to_owned(), spec.project.to_string());
    if !secrets.files.is_empty() {
        env.insert(
            "ONDOL_SECRETS_DIR".to_owned(),
            home.path("secrets").to_string_lossy().into_owned(),
        );
    }
    for path in secrets.files.keys() {
        if let Some(variable) = file_variable(path) {
            let file = path.below(&home.path("secrets"));
            env.insert(variable, file.to_string_lossy().into_owned());
        }
    }
    env.into_iter().collect()
}

/// Writes the secret files; a former incarnation's are removed first.
pub(super) fn place_secrets(home: &Home, secrets: &Secrets) -> io::Result<()> {
    let dir = home.path("secrets");
    remove_tree(&dir)?;
    for (path, value) in &secrets.files {
        let target = path.below(&dir);
        if let Some(parent) = target.parent() {
            make_private_dir(parent)?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(target)?;
        file.write_all(value.expose().as_bytes())?;
    }
    Ok(())
}

/// Starts the program in its group.
pub(super) fn start(
    home: &Home,
    order: &LaunchOrder,
    secrets: &Secrets,
    group: Option<&Dirs>,
    join: Option<JoinPlan>,
) -> io::Result<Started> {
    let spec = &order.spec;
    let argv = spec.command.argv();
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"))?;
    let (stdout, stdout_writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, stderr_writer) = pipe_with(PipeFlags::CLOEXEC)?;
    for reader in [&stdout, &stderr] {
        rustix::io::ioctl_fionbio(reader, true)?;
    }
    let counted = group.is_some_and(|group| group.has("pids"));
    let max_user_processes = match spec.limits.pids {
        Some(most) if !counted => Some(procfs::threads_of_own_user() + u64::from(most)),
        _ => None,
    };
    let preparation = Preparation {
        cgroup_entries: group.map(Dirs::entries).transpose()?.unwrap_or_default(),
        max_user_processes,
        join,
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(environment(home, order, secrets))
        .current_dir(&spec.work_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::from(stdout_writer))
        .stderr(Stdio::from(stderr_writer));
    // The command is dropped at the end of this function, and with it the writing ends.
    let child = sys::spawn(&mut command, preparation)?;
    Ok(Started {
        child,
        stdout,
        stderr,
    })
}

/// The exit code and the words for a program that could not be started, as shells have them.
pub(super) fn start_failure(
    argv: &[String],
    work_dir: &std::path::Path,
    error: &io::Error,
) -> (i32, String) {
    let program = argv.first().map_or("", String::as_str);
    match error.kind() {
        io::ErrorKind::NotFound if !work_dir.is_dir() => (
            126,
            format!("cannot start `{program}`: there is no work directory"),
        ),
        io::ErrorKind::NotFound => (
            127,
            format!("cannot start `{program}`: no such program, or its interpreter is missing"),
        ),
        io::ErrorKind::PermissionDenied => (
            126,
            format!(
                "cannot start `{program}`: it is not executable, or the host forbids it ({error})"
            ),
        ),
        _ => (126, format!("cannot start `{program}`: {error}")),
    }
}
