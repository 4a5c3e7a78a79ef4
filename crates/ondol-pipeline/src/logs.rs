//! One view of the log of a step, whoever wrote it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use ondol_types::Classified;
use ondol_types::ErrorKind;
use ondol_workload::{LogLine, LogPosition, LogQuery};
use tokio::sync::mpsc;

use crate::error::PipelineError;
use crate::log::{ActionLogReader, from_position};
use crate::model::{Step, StepKind, StepState};
use crate::service::RunWatch;
use crate::{Inner, store};

/// Lines as they are read. Dropping it ends the reading.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<LogLine, PipelineError>> + Send>>;

/// Lines that are read ahead of a slow reader.
const AHEAD: usize = 256;
/// How long a follower waits for a signal before it looks again.
const ACTION_PAUSE: Duration = Duration::from_millis(100);
const COMMAND_PAUSE: Duration = Duration::from_secs(1);

struct Sink {
    lines: mpsc::Sender<Result<LogLine, PipelineError>>,
    left: u64,
    position: LogPosition,
}

impl Sink {
    /// Hands a line on; false when nobody wants any more.
    async fn give(&mut self, line: LogLine) -> bool {
        self.position = LogPosition::After(line.seq);
        self.left -= 1;
        self.lines.send(Ok(line)).await.is_ok() && self.left > 0
    }
}

pub(crate) fn stream(inner: Arc<Inner>, step: Step, query: LogQuery) -> LogStream {
    let (sender, mut receiver) = mpsc::channel(AHEAD);
    let mut sink = Sink {
        lines: sender,
        left: query.limit.unwrap_or(u64::MAX),
        position: query.from,
    };
    tokio::spawn(async move {
        let ended = sink.lines.clone();
        let pumping = async {
            match step.kind {
                StepKind::Command => inner.pump_command(&step, query.follow, &mut sink).await,
                StepKind::Action => inner.pump_action(&step, query.follow, &mut sink).await,
            }
        };
        let outcome = tokio::select! {
            outcome = pumping => outcome,
            () = ended.closed() => return,
        };
        if let Err(error) = outcome {
            // The reader may be gone; then nobody needs to know.
            let _ = ended.send(Err(error)).await;
        }
    });
    Box::pin(stream::poll_fn(move |cx| receiver.poll_recv(cx)))
}

impl Inner {
    /// Whether a step has ended; one that retention removed has.
    async fn has_ended(&self, step: &Step) -> Result<bool, PipelineError> {
        let id = &step.id;
        let current = self
            .deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(async move { Ok(store::load_step(tx, id).await?) })
            })
            .await?;
        Ok(current.is_none_or(|step| step.state == StepState::Finished))
    }

    async fn pump_command(
        &self,
        step: &Step,
        follow: bool,
        sink: &mut Sink,
    ) -> Result<(), PipelineError> {
        let Some(workload) = &step.workload else {
            return Ok(());
        };
        let mut watch = RunWatch::new(step.run, self.changes.subscribe());
        loop {
            // Asked first, so that what was written before the end is read after it.
            let ended = self.has_ended(step).await?;
            let query = LogQuery {
                from: sink.position,
                follow: follow && !ended,
                limit: Some(sink.left),
            };
            match self.deps.engine.logs(workload, query).await {
                Ok(mut lines) => {
                    while let Some(line) = lines.next().await {
                        if !sink.give(line?).await {
                            return Ok(());
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
            if ended || !follow {
                return Ok(());
            }
            // The attempt has ended or not begun; there may be another.
            watch.wait(COMMAND_PAUSE).await;
        }
    }

    async fn pump_action(
        &self,
        step: &Step,
        follow: bool,
        sink: &mut Sink,
    ) -> Result<(), PipelineError> {
        let path = self.action_log(&step.run, &step.name);
        let mut watch = RunWatch::new(step.run, self.changes.subscribe());
        let mut reader = ActionLogReader::new(path.clone());
        loop {
            let ended = self.has_ended(step).await?;
            let lines = reader.read().map_err(PipelineError::io("read", &path))?;
            for line in from_position(lines, sink.position) {
                if !sink.give(line).await {
                    return Ok(());
                }
            }
            if ended || !follow {
                return Ok(());
            }
            watch.wait(ACTION_PAUSE).await;
        }
    }
}
