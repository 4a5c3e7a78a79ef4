//! Cases that every engine must pass. An engine's test suite calls each with a [`Bench`]; a case
//! panics when the engine does something else. Programs are `/bin/sh` scripts, so that any
//! engine with a POSIX userland can run them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use ondol_types::{SystemClock, WorkloadId};

use crate::engine::Engine;
use crate::model::{
    Command, Exit, LogLine, LogPosition, LogQuery, LogStreamKind, Observation, WorkloadKind,
    WorkloadSpec, WorkloadState,
};

mod cases;
mod logs;
mod resources;

pub use cases::*;
pub use logs::*;
pub use resources::*;

/// An engine under test.
#[derive(Clone)]
pub struct Bench {
    /// The engine.
    pub engine: Arc<dyn Engine>,
}

impl Bench {
    /// A bench around an engine.
    pub fn new(engine: impl Engine + 'static) -> Self {
        Self {
            engine: Arc::new(engine),
        }
    }

    /// A workload that runs a shell script.
    pub fn script(&self, text: &str) -> WorkloadSpec {
        let id = WorkloadId::generate(&SystemClock);
        #[expect(clippy::expect_used, reason = "a constant")]
        let project = "conformance".parse().expect("a valid name");
        WorkloadSpec::new(
            id,
            1,
            project,
            WorkloadKind::Once,
            Command::Shell(text.to_owned()),
        )
    }

    /// Starts a workload.
    pub async fn start(&self, spec: &WorkloadSpec) -> Observation {
        match self.engine.start(spec.clone()).await {
            Ok(started) => started.observation,
            Err(error) => panic!("not started: {error:?}"),
        }
    }

    /// Starts a workload and waits for its end.
    pub async fn run(&self, spec: &WorkloadSpec) -> Exit {
        self.start(spec).await;
        self.end(&spec.id).await
    }

    /// Waits for the end of a workload.
    pub async fn end(&self, id: &WorkloadId) -> Exit {
        match self.engine.wait(id).await {
            Ok(exit) => exit,
            Err(error) => panic!("no exit: {error:?}"),
        }
    }

    /// The whole log.
    pub async fn log(&self, id: &WorkloadId) -> Vec<LogLine> {
        self.query(id, LogQuery::default()).await
    }

    /// The lines of a query.
    pub async fn query(&self, id: &WorkloadId, query: LogQuery) -> Vec<LogLine> {
        let lines = match self.engine.logs(id, query).await {
            Ok(lines) => lines,
            Err(error) => panic!("no log: {error:?}"),
        };
        lines
            .map(|line| line.unwrap_or_else(|error| panic!("no line: {error:?}")))
            .collect()
            .await
    }

    /// The text of what the program wrote to its standard output.
    pub async fn stdout(&self, id: &WorkloadId) -> String {
        let lines = self.log(id).await;
        let own = lines
            .iter()
            .filter(|line| line.stream == LogStreamKind::Stdout);
        own.map(|line| line.text.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Waits until the program has written a line with this text.
    pub async fn until_logged(&self, id: &WorkloadId, text: &str) {
        let query = LogQuery {
            from: LogPosition::Start,
            follow: true,
            limit: None,
        };
        let mut lines = match self.engine.logs(id, query).await {
            Ok(lines) => lines,
            Err(error) => panic!("no log: {error:?}"),
        };
        let mut seen = Vec::new();
        while let Some(line) = lines.next().await {
            let line = line.unwrap_or_else(|error| panic!("no line: {error:?}"));
            if line.stream != LogStreamKind::System && line.text.contains(text) {
                return;
            }
            seen.push(line.text);
        }
        panic!("it ended without saying {text:?}: {seen:?}");
    }

    /// Waits until something holds, for at most half a minute.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, mut holds: impl FnMut() -> F) {
        for _ in 0..3_000 {
            if holds().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what} did not come about");
    }

    /// Whether the workload runs.
    pub async fn is_running(&self, id: &WorkloadId) -> bool {
        matches!(
            self.engine.observe(id).await,
            Ok(Some(Observation {
                state: WorkloadState::Running { .. },
                ..
            }))
        )
    }
}
