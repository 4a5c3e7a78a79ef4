//! From an order to a running container, or to words why not.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Instant;

use bollard::query_parameters::{InspectContainerOptions, StartContainerOptions};
use ondol_types::Clock;

use super::{Ended, Output, SETTLE, Supervisor, asked, attach};
use crate::cgroup::Dirs;
use crate::container::with_sources;
use crate::home::{ContainerIdentity, Home, IdentityFile, VERSION};
use crate::log::{LineAssembler, LogWriter};
use crate::mask::Masker;
use crate::model::Usage;
use crate::procfs::ProcessIdentity;
use crate::shim::{child, control};
use crate::wire::{ContainerOrder, LaunchOrder};

/// Prepares and starts. An error means that nothing of this incarnation has run; a program that
/// could not be executed is no error but an exit.
pub(super) async fn start(
    home: Home,
    mut order: LaunchOrder,
    container: ContainerOrder,
    clock: &dyn Clock,
) -> io::Result<(Supervisor<'_>, Option<Output>)> {
    let secrets = order.take_secrets();
    let masker = Masker::new(
        secrets
            .env
            .values()
            .chain(secrets.files.values())
            .chain(secrets.masks.iter()),
    );
    home.write_spec(&order.spec)?;
    let _ = fs::remove_file(home.path("exit.json"));
    home.write_unknown(None)?;
    let mut log = LogWriter::open(&home.log(), order.spec.log)?;
    let asked = asked::serve(control::listen(&home)?)?;
    child::place_secrets(&home, &secrets)?;
    if !secrets.files.is_empty() {
        open_to(&home.path("secrets"), container.owner)?;
    }
    drop(secrets);
    let address = container.address.parse().map_err(io::Error::other)?;
    let docker = crate::container::negotiate(&address)
        .await
        .map_err(io::Error::other)?;
    let shim = ProcessIdentity::of(std::process::id() as i32).ok_or(io::ErrorKind::NotFound)?;
    let mut identity = IdentityFile {
        v: VERSION,
        incarnation: order.spec.incarnation,
        shim,
        child: None,
        started_at: None,
        cgroup: None,
        notices: std::mem::take(&mut order.notices),
        container: Some(ContainerIdentity {
            address: container.address.clone(),
            id: container.id.clone(),
        }),
    };
    home.write_identity(&identity, true)?;
    for notice in &identity.notices {
        log.system(clock.now(), notice);
    }
    let max_line = order.spec.log.max_line_bytes as usize;
    let lines = || LineAssembler::new(max_line);
    let mut this = Supervisor {
        timeout: None,
        home,
        clock,
        docker,
        asked,
        log,
        masker,
        lines: [lines(), lines()],
        last_error: Vec::new(),
        first: None,
        group: None,
        oom: false,
        usage: Usage::default(),
        ended: None,
        ending: None,
        stopped: false,
        timed_out: false,
        look: None,
        pause: SETTLE,
        silent_since: Instant::now(),
        away: None,
        unknown: false,
        order,
        container,
    };
    match this.start_container().await {
        Ok(output) => {
            this.timeout = this
                .order
                .spec
                .timeout
                .map(|timeout| Instant::now() + timeout);
            this.find_first().await;
            identity.child = this.first.clone();
            identity.started_at = Some(clock.now());
            // The program runs: from here on only its exit ends this function's work.
            if let Err(error) = this.home.write_identity(&identity, false) {
                this.log.system(
                    clock.now(),
                    &format!("the identity of the program could not be stored: {error}"),
                );
            }
            asked::tell_pid(this.first.as_ref().map(|first| first.pid));
            Ok((this, Some(output)))
        }
        Err(error) => {
            let reason = with_sources(&error);
            let Some(code) = exit_of_refusal(&reason) else {
                // Nothing has run, and nothing must say that it may have.
                let _ = fs::remove_file(this.home.path("identity.json"));
                let _ = fs::remove_file(this.home.path("sock"));
                return Err(io::Error::other(reason));
            };
            let program = &this.container.program;
            this.log
                .system(clock.now(), &format!("cannot start `{program}`: {reason}"));
            this.ended = Some(Ended::Refused { code });
            Ok((this, None))
        }
    }
}

/// What runtimes say of a program that is not there or cannot be executed, as the exit that
/// shells have for it; `None` when the container failed for another reason.
fn exit_of_refusal(reason: &str) -> Option<i32> {
    let reason = reason.to_lowercase();
    let about_program = reason.contains("exec") || reason.contains("command");
    if !about_program {
        return None;
    }
    if reason.contains("permission denied") || reason.contains("exec format error") {
        return Some(126);
    }
    let missing = [
        "executable file not found",
        "no such file or directory",
        "command that was not found",
    ];
    missing
        .iter()
        .any(|words| reason.contains(words))
        .then_some(127)
}

/// Lets the program's user read its secret files. Nobody else comes near them: the directory
/// around them is the control plane's alone, and the container sees only what is inside.
fn open_to(dir: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    let own = rustix::process::getuid().as_raw();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            open_to(&path, owner)?;
            continue;
        }
        let given = match owner {
            Some((user, _)) if user == own => true,
            Some((user, group)) => chown(&path, Some(user), Some(group)).is_ok(),
            None => false,
        };
        if !given {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o444))?;
        }
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

impl Supervisor<'_> {
    async fn start_container(&mut self) -> Result<Output, bollard::errors::Error> {
        let id = &self.container.id;
        // Before the start, so that not one line comes before anybody listens.
        let output = attach(&self.docker, id).await?;
        self.docker
            .start_container(id, None::<StartContainerOptions>)
            .await?;
        Ok(output)
    }

    /// Finds the first process of the container among those of this host. An engine in another
    /// pid namespace, or one that does not say, leaves nothing to be seen.
    async fn find_first(&mut self) {
        let inspected = self
            .docker
            .inspect_container(&self.container.id, None::<InspectContainerOptions>)
            .await;
        let pid = inspected
            .ok()
            .and_then(|found| i32::try_from(found.state?.pid?).ok())
            .filter(|pid| *pid > 1);
        let Some(pid) = pid else {
            return;
        };
        let Some(first) = ProcessIdentity::of(pid) else {
            return;
        };
        // Its groups carry the container's id in every engine that there is.
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if groups.contains(&self.container.id) {
            self.group = Dirs::of_process(pid);
            self.first = Some(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_an_exit_and_other_failures_are_not() {
        let cases = [
            (
                "runc: runc create failed: unable to start container process: exec: \"nosuch\": executable file not found in $PATH: OCI runtime attempted to invoke a command that was not found",
                Some(127),
            ),
            (
                "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"/x\": stat /x: no such file or directory: unknown",
                Some(127),
            ),
            (
                "crun: open executable: Permission denied: OCI permission denied",
                Some(126),
            ),
            ("exec /app: exec format error", Some(126)),
            (
                "cannot listen on the TCP port: listen tcp4 127.0.0.1:20080: bind: address already in use",
                None,
            ),
            (
                "error setting rlimit type 7: operation not permitted: OCI permission denied",
                None,
            ),
        ];
        for (reason, code) in cases {
            assert_eq!(exit_of_refusal(reason), code, "{reason}");
        }
    }
}
