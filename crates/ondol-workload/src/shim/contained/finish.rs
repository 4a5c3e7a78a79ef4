//! The end of a container: its last output, how it ended, and its removal.

use std::io;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bollard::models::ContainerState;
use bollard::query_parameters::InspectContainerOptions;
use futures_util::StreamExt;

use super::{Ended, Output, Supervisor};
use crate::container::{is_missing, with_sources};
use crate::home::remove_tree;
use crate::model::{Exit, LogStreamKind};

/// How long the rest of the output may take to arrive after the end.
const DRAIN: Duration = Duration::from_secs(10);

/// How long an engine may take to know how a container ended. One that is away for longer has
/// taken that knowledge with it.
const VERDICT: Duration = Duration::from_secs(60);

/// How the main process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verdict {
    code: Option<i32>,
    signal: Option<i32>,
    oom: bool,
    lost: bool,
}

impl Supervisor<'_> {
    pub(super) async fn finish(mut self, output: Option<Output>) -> io::Result<()> {
        if let Some(mut output) = output {
            let deadline = Instant::now() + DRAIN;
            // The engine closes the output behind the last line.
            while let Ok(Some(Ok(piece))) = tokio::time::timeout(
                deadline.saturating_duration_since(Instant::now()),
                output.next(),
            )
            .await
            {
                self.take(piece);
            }
        }
        let now = self.clock.now();
        for (kind, index) in [(LogStreamKind::Stdout, 0), (LogStreamKind::Stderr, 1)] {
            let Self {
                lines,
                masker,
                log,
                last_error,
                ..
            } = &mut self;
            lines[index].finish(masker, |text, goes_on| {
                if kind == LogStreamKind::Stderr {
                    last_error.clear();
                    last_error.extend_from_slice(&text[..text.len().min(500)]);
                }
                log.append(now, kind, goes_on, text);
            });
        }
        self.log.flush(now);
        let verdict = match self.ended.clone() {
            Some(Ended::Refused { code }) => Verdict {
                code: Some(code),
                ..Verdict::default()
            },
            Some(Ended::Removed) => self.removed(),
            _ => self.verdict().await,
        };
        let verdict = self.with_first_process(verdict);
        let now = self.clock.now();
        // A program that outlived the loss of one of its processes has not failed of it.
        let oom = (self.oom || verdict.oom) && verdict.code != Some(0);
        if oom {
            self.log
                .system(now, "the kernel killed it for want of memory");
        }
        let exit = Exit {
            code: verdict.code,
            signal: verdict.signal,
            oom,
            timed_out: self.timed_out,
            stopped: self.stopped,
            lost: verdict.lost,
            at: now,
            usage: self.usage,
        };
        let _ = remove_tree(&self.home.path("secrets"));
        // What cannot be stored now can be in a moment: a full disk is emptied by somebody.
        let incarnation = self.order.spec.incarnation;
        let mut result = self.home.write_exit(incarnation, &exit);
        for _ in 0..30 {
            if result.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            result = self.home.write_exit(incarnation, &exit);
        }
        let _ = self.home.write_unknown(None);
        let _ = std::fs::remove_file(self.home.path("sock"));
        // After the exit, which must not be known from the engine alone. What fails here is swept.
        if let Some((program, arguments)) = self.order.shim_command.split_first() {
            let mut remover = std::process::Command::new(program);
            remover
                .args(arguments)
                .args(["remove", &self.container.address, &self.container.id])
                .env_clear()
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let _ = remover.spawn();
        }
        result
    }

    /// How the container ended, as the engine says; it may take a moment to know.
    async fn verdict(&mut self) -> Verdict {
        let deadline = Instant::now() + VERDICT;
        let mut pause = Duration::from_millis(5);
        loop {
            let inspected = self
                .docker
                .inspect_container(&self.container.id, None::<InspectContainerOptions>)
                .await;
            match inspected {
                Ok(found) => {
                    self.answers_again();
                    let state = found.state.unwrap_or_default();
                    if let Some(verdict) = of_state(&state) {
                        return verdict;
                    }
                }
                Err(error) if is_missing(&error) => return self.removed(),
                Err(error) => self.is_away(&with_sources(&error), false),
            }
            if Instant::now() >= deadline {
                self.log.system(
                    self.clock.now(),
                    "the container engine did not say how it ended",
                );
                return Verdict {
                    lost: true,
                    ..Verdict::default()
                };
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
            if self.away.is_some() {
                self.reconnect().await;
            }
        }
    }

    fn removed(&mut self) -> Verdict {
        let words = "its container was removed by somebody else";
        self.log.system(self.clock.now(), words);
        Verdict {
            // Only a kill ends it in this way, and when we did it, it was on request.
            signal: self
                .ending
                .as_ref()
                .filter(|ending| ending.killed)
                .map(|_| 9),
            lost: true,
            ..Verdict::default()
        }
    }

    /// A first process that cannot start the program says so in a line and exits with a code of
    /// its own; shells have 127 and 126 for it.
    fn with_first_process(&mut self, verdict: Verdict) -> Verdict {
        let said = String::from_utf8_lossy(&self.last_error).into_owned();
        let failed = self.container.init
            && (verdict.code == Some(1) || verdict.code == Some(127) || verdict.code == Some(126));
        match failed.then(|| code_of_first_process(&said)).flatten() {
            Some(code) => {
                let program = self.container.program.clone();
                let words = if code == 127 {
                    format!(
                        "cannot start `{program}`: no such program in the image, or its interpreter is missing"
                    )
                } else {
                    format!("cannot start `{program}`: it is not executable")
                };
                self.log.system(self.clock.now(), &words);
                Verdict {
                    code: Some(code),
                    ..verdict
                }
            }
            None => verdict,
        }
    }
}

/// What a container's state says about its end; `None` while it has not ended.
fn of_state(state: &ContainerState) -> Option<Verdict> {
    if state.running.unwrap_or(false) || state.paused.unwrap_or(false) {
        return None;
    }
    let finished = state.finished_at.as_deref().unwrap_or_default();
    // Not started, or an engine that has not noticed yet.
    if finished.is_empty() || finished.starts_with("0001-") {
        return None;
    }
    let code = i32::try_from(state.exit_code?).ok()?;
    // Engines know signals only as shells do. Nothing else is told apart from that.
    let by_signal = (129..=128 + 64).contains(&code);
    Some(Verdict {
        code: (!by_signal).then_some(code),
        signal: by_signal.then_some(code - 128),
        oom: state.oom_killed.unwrap_or(false),
        lost: false,
    })
}

/// The words of catatonit and tini when they cannot execute the program.
fn code_of_first_process(line: &str) -> Option<i32> {
    let catatonit = line.starts_with("ERROR (catatonit") && line.contains("failed to exec pid1");
    let tini = line.starts_with("[FATAL tini") && line.contains("exec ");
    if !catatonit && !tini {
        None
    } else if line.contains("No such file") {
        Some(127)
    } else {
        Some(126)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(code: i64) -> ContainerState {
        ContainerState {
            running: Some(false),
            exit_code: Some(code),
            finished_at: Some("2026-01-01T00:00:00Z".into()),
            ..ContainerState::default()
        }
    }

    #[test]
    fn codes_above_128_are_signals() {
        assert_eq!(of_state(&state(3)).unwrap().code, Some(3));
        let killed = of_state(&state(137)).unwrap();
        assert_eq!((killed.code, killed.signal), (None, Some(9)));
        assert_eq!(of_state(&state(255)).unwrap().code, Some(255));
    }

    #[test]
    fn what_has_not_ended_has_no_verdict() {
        let mut running = state(0);
        running.running = Some(true);
        assert_eq!(of_state(&running), None);
        let mut created = state(0);
        created.finished_at = Some("0001-01-01T00:00:00Z".into());
        assert_eq!(of_state(&created), None);
    }

    #[test]
    fn first_processes_say_why_they_failed() {
        let catatonit = "ERROR (catatonit:2): failed to exec pid1: No such file or directory";
        assert_eq!(code_of_first_process(catatonit), Some(127));
        let tini = "[FATAL tini (7)] exec /app failed: Permission denied";
        assert_eq!(code_of_first_process(tini), Some(126));
        assert_eq!(code_of_first_process("No such file or directory"), None);
    }
}
