//! Cases that every engine must pass. An engine's test suite calls each with a [`Bench`]; a case
//! panics when the engine does something else. Programs are `/bin/sh` scripts, so that any
//! engine with a POSIX userland can run them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use ondol_types::{SystemClock, WorkloadId};

use crate::container::ContainerSpec;
use crate::engine::Engine;
use crate::model::{
    Command, Exit, LogLine, LogPosition, LogQuery, LogStreamKind, Observation, WorkloadKind,
    WorkloadSpec, WorkloadState,
};

mod cases;
mod contained;
mod limits;
mod logs;
mod neighbours;
mod resources;

pub use cases::*;
pub use contained::*;
pub use limits::*;
pub use logs::*;
pub use neighbours::*;
pub use resources::*;

#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// An engine under test.
#[derive(Clone)]
pub struct Bench {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// What every workload of the suite runs in; `None` for an engine without images. The image
    /// has a POSIX userland, `bash`, `getent` and a `busybox` with `httpd`.
    pub container: Option<ContainerSpec>,
}

impl Bench {
    /// A bench around an engine.
    pub fn new(engine: impl Engine + 'static) -> Self {
        Self {
            engine: Arc::new(engine),
            container: None,
        }
    }

    /// A bench around an engine for images.
    pub fn contained(engine: impl Engine + 'static, container: ContainerSpec) -> Self {
        Self {
            engine: Arc::new(engine),
            container: Some(container),
        }
    }

    /// The address at which a server must listen to be reached from outside its surroundings.
    pub fn reachable_ip(&self) -> IpAddr {
        match self.container {
            Some(_) => Ipv4Addr::UNSPECIFIED.into(),
            None => Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// A workload that runs a shell script.
    pub fn script(&self, text: &str) -> WorkloadSpec {
        let id = WorkloadId::generate(&SystemClock);
        #[expect(clippy::expect_used, reason = "a constant")]
        let project = "conformance".parse().expect("a valid name");
        let command = Command::Shell(text.to_owned());
        let mut spec = WorkloadSpec::new(id, 1, project, WorkloadKind::Once, command);
        spec.container = self.container.clone().map(Box::new);
        spec
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
