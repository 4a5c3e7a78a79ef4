//! An engine for tests: `/bin/sh` under the test process, each incarnation at most once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use ondol_types::{Clock, SystemClock, WorkloadId};
use ondol_workload::{
    Capabilities, CgroupVersion, Engine, EngineError, Exit, LogLine, LogLines, LogPosition,
    LogQuery, LogStreamKind, Observation, Started, StopPolicy, Usage, WorkDir, WorkloadSpec,
    WorkloadState,
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::{Notify, watch};

struct Entry {
    observation: Observation,
    lines: Vec<LogLine>,
    kill: Arc<Notify>,
}

type Entries = Arc<Mutex<BTreeMap<WorkloadId, Entry>>>;

pub(crate) struct ShellEngine {
    entries: Entries,
    changes: watch::Sender<u64>,
    starts: Mutex<Vec<(String, u64)>>,
    refuse: Mutex<u32>,
}

impl ShellEngine {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            entries: Arc::default(),
            changes: watch::channel(0).0,
            starts: Mutex::default(),
            refuse: Mutex::new(0),
        })
    }

    /// Which steps were really started, with their attempts.
    pub(crate) fn starts(&self) -> Vec<(String, u64)> {
        self.starts.lock().unwrap().clone()
    }

    /// The next so many starts fail for want of something.
    pub(crate) fn refuse(&self, times: u32) {
        *self.refuse.lock().unwrap() = times;
    }

    /// The workload of a step vanishes without a trace, as after the loss of its directory.
    pub(crate) fn vanish(&self, step: &str) {
        let mut entries = self.entries.lock().unwrap();
        let found = entries
            .iter()
            .find(|(_, entry)| entry.observation.labels["step"] == step);
        let id = *found.unwrap().0;
        let entry = entries.remove(&id).unwrap();
        entry.kill.notify_one();
    }

    pub(crate) fn known(&self) -> usize {
        self.entries.lock().unwrap().len()
    }

    fn exit(&self, id: &WorkloadId) -> Option<Option<Exit>> {
        let entries = self.entries.lock().unwrap();
        entries
            .get(id)
            .map(|entry| entry.observation.state.exit().cloned())
    }
}

fn ended(code: Option<i32>) -> Exit {
    Exit {
        code,
        signal: code.is_none().then_some(9),
        oom: false,
        timed_out: false,
        stopped: false,
        lost: false,
        at: SystemClock.now(),
        usage: Usage::default(),
    }
}

/// Kills what is left of one process group that this engine made. By system call and a checked
/// number: the `kill` program of some systems takes a negative number for "everybody".
fn end_group(group: u32) {
    let group = i32::try_from(group).ok().filter(|group| *group > 1);
    if let Some(group) = group.and_then(rustix::process::Pid::from_raw) {
        // It may be gone already.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

async fn run(spec: WorkloadSpec, entries: Entries, changes: watch::Sender<u64>, kill: Arc<Notify>) {
    let argv = spec.command.argv();
    let WorkDir::Existing(dir) = &spec.work_dir else {
        panic!("steps work in folders of the pipeline")
    };
    let secrets = tempfile::tempdir().unwrap();
    let files = spec.secret_files.iter().map(|(path, value)| {
        let file = path.below(secrets.path());
        std::fs::write(&file, value.expose()).unwrap();
        (format!("{path}_FILE"), file)
    });
    let child = tokio::process::Command::new(&argv[0])
        .args(&argv[1..])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .envs(&spec.env)
        .envs(
            spec.secret_env
                .iter()
                .map(|(name, value)| (name, value.expose())),
        )
        .envs(files)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut exit = ended(Some(127));
    if let Ok(mut child) = child {
        let group = child.id().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (reader_entries, id) = (entries.clone(), spec.id);
        let reader = tokio::spawn(async move {
            while let Ok(Some(text)) = lines.next_line().await {
                if let Some(entry) = reader_entries.lock().unwrap().get_mut(&id) {
                    let seq = entry.lines.len() as u64 + 1;
                    let time = SystemClock.now();
                    entry.lines.push(LogLine {
                        seq,
                        time,
                        stream: LogStreamKind::Stdout,
                        text,
                        truncated: false,
                    });
                }
            }
        });
        let limit = spec.timeout.unwrap_or(Duration::from_secs(3_600));
        let (status, end) = tokio::select! {
            status = child.wait() => (Some(status.unwrap()), ended(None)),
            () = tokio::time::sleep(limit) => (None, Exit { timed_out: true, ..ended(None) }),
            () = kill.notified() => (None, Exit { stopped: true, ..ended(None) }),
        };
        exit = match status {
            Some(status) => ended(status.code()),
            None => {
                // The child has not been reaped, so its number still names its group alone.
                end_group(group);
                end
            }
        };
        let _ = child.wait().await;
        let _ = reader.await;
    }
    if let Some(entry) = entries.lock().unwrap().get_mut(&spec.id) {
        entry.observation.state = WorkloadState::Exited(exit);
    }
    changes.send_modify(|count| *count += 1);
}

#[async_trait]
impl Engine for ShellEngine {
    fn name(&self) -> &'static str {
        "shell"
    }

    async fn start(&self, spec: WorkloadSpec) -> Result<Started, EngineError> {
        {
            let mut refuse = self.refuse.lock().unwrap();
            if *refuse > 0 {
                *refuse -= 1;
                return Err(EngineError::Shim {
                    id: spec.id,
                    reason: "no room".into(),
                });
            }
        }
        let mut entries = self.entries.lock().unwrap();
        let (id, incarnation) = (spec.id, spec.incarnation);
        let mut lines = Vec::new();
        if let Some(entry) = entries.get_mut(&id) {
            let known = entry.observation.incarnation;
            if known == incarnation {
                let observation = entry.observation.clone();
                return Ok(Started {
                    newly: false,
                    address: None,
                    observation,
                });
            }
            if known > incarnation {
                return Err(EngineError::Stale {
                    id,
                    asked: incarnation,
                    known,
                });
            }
            if entry.observation.state.exit().is_none() {
                return Err(EngineError::Running {
                    id,
                    incarnation: known,
                });
            }
            lines = std::mem::take(&mut entry.lines);
        }
        self.starts
            .lock()
            .unwrap()
            .push((spec.labels["step"].clone(), incarnation));
        let observation = Observation {
            id,
            incarnation,
            project: spec.project.clone(),
            kind: spec.kind,
            labels: spec.labels.clone(),
            state: WorkloadState::Running {
                pid: 1,
                started_at: SystemClock.now(),
            },
            address: None,
            work_dir: Default::default(),
            notices: Vec::new(),
        };
        let kill = Arc::new(Notify::new());
        let entry = Entry {
            observation: observation.clone(),
            lines,
            kill: kill.clone(),
        };
        entries.insert(id, entry);
        tokio::spawn(run(spec, self.entries.clone(), self.changes.clone(), kill));
        Ok(Started {
            newly: true,
            address: None,
            observation,
        })
    }

    async fn observe(&self, id: &WorkloadId) -> Result<Option<Observation>, EngineError> {
        Ok(self
            .entries
            .lock()
            .unwrap()
            .get(id)
            .map(|entry| entry.observation.clone()))
    }

    async fn list(&self) -> Result<Vec<Observation>, EngineError> {
        Ok(self
            .entries
            .lock()
            .unwrap()
            .values()
            .map(|entry| entry.observation.clone())
            .collect())
    }

    async fn stop(&self, id: &WorkloadId, _: StopPolicy) -> Result<Exit, EngineError> {
        self.kill(id).await
    }

    async fn kill(&self, id: &WorkloadId) -> Result<Exit, EngineError> {
        let kill = self
            .entries
            .lock()
            .unwrap()
            .get(id)
            .map(|entry| entry.kill.clone());
        kill.ok_or(EngineError::NotFound(*id))?.notify_one();
        self.wait(id).await
    }

    async fn wait(&self, id: &WorkloadId) -> Result<Exit, EngineError> {
        loop {
            match self.exit(id) {
                None => return Err(EngineError::NotFound(*id)),
                Some(Some(exit)) => return Ok(exit),
                Some(None) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn logs(&self, id: &WorkloadId, query: LogQuery) -> Result<LogLines, EngineError> {
        let (LogPosition::Start | LogPosition::After(_)) = query.from else {
            panic!("not needed here")
        };
        if self.exit(id).is_none() {
            return Err(EngineError::NotFound(*id));
        }
        let (entries, id) = (self.entries.clone(), *id);
        let from = if let LogPosition::After(seq) = query.from {
            seq
        } else {
            0
        };
        let lines = stream::unfold(from, move |seq| {
            let entries = entries.clone();
            async move {
                loop {
                    let (line, over) = {
                        let entries = entries.lock().unwrap();
                        let entry = entries.get(&id)?;
                        (
                            entry.lines.get(seq as usize).cloned(),
                            entry.observation.state.exit().is_some(),
                        )
                    };
                    match line {
                        Some(line) => return Some((Ok(line), seq + 1)),
                        None if over || !query.follow => return None,
                        None => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            }
        });
        Ok(Box::pin(lines.take(
            query.limit.unwrap_or(u64::MAX).min(1 << 30) as usize,
        )))
    }

    async fn remove(&self, id: &WorkloadId) -> Result<(), EngineError> {
        self.entries.lock().unwrap().remove(id);
        Ok(())
    }

    async fn usage(&self, _: &WorkloadId) -> Result<Usage, EngineError> {
        Ok(Usage::default())
    }

    async fn listening(&self, _: &WorkloadId) -> Result<Vec<SocketAddr>, EngineError> {
        Ok(Vec::new())
    }

    async fn capabilities(&self) -> Capabilities {
        Capabilities {
            cgroups: CgroupVersion::None,
            memory_limit: false,
            cpu_limit: false,
            pids_limit: false,
            netns: false,
            netns_outbound: false,
            container: None,
            notices: Vec::new(),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
