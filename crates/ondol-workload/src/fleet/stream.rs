//! A log as a stream. Following is by looking again: a tenth of a second is soon enough for a
//! person, and costs one `stat` and one `read`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use ondol_types::WorkloadId;

use super::{Fleet, blocking};
use crate::engine::LogLines;
use crate::error::EngineError;
use crate::log::LogReader;
use crate::model::{LogLine, LogQuery};

const BATCH: usize = 512;

/// The pause after a look that found something, and the longest one.
const EAGER: Duration = Duration::from_millis(10);
const IDLE: Duration = Duration::from_millis(100);

struct Follower {
    inner: Arc<Fleet>,
    id: WorkloadId,
    query: LogQuery,
    reader: Option<LogReader>,
    ready: VecDeque<LogLine>,
    left: u64,
    pause: Duration,
    last_look: bool,
    done: bool,
}

/// The lines that a query asks for.
pub(super) fn lines(inner: Arc<Fleet>, id: WorkloadId, query: LogQuery) -> LogLines {
    let follower = Follower {
        inner,
        id,
        query,
        reader: None,
        ready: VecDeque::new(),
        left: query.limit.unwrap_or(u64::MAX),
        pause: EAGER,
        last_look: !query.follow,
        done: false,
    };
    Box::pin(stream::unfold(follower, |mut follower| async move {
        if follower.done {
            return None;
        }
        match follower.next().await {
            Ok(line) => line.map(|line| (Ok(line), follower)),
            Err(error) => {
                follower.done = true;
                Some((Err(error), follower))
            }
        }
    }))
}

impl Follower {
    async fn next(&mut self) -> Result<Option<LogLine>, EngineError> {
        if self.left == 0 {
            return Ok(None);
        }
        loop {
            if let Some(line) = self.ready.pop_front() {
                self.left -= 1;
                return Ok(Some(line));
            }
            self.look().await?;
            if !self.ready.is_empty() {
                self.pause = EAGER;
                continue;
            }
            if self.last_look {
                return Ok(None);
            }
            // The exit is asked for before the last look, so that nothing written up to it is missed.
            let ended = match self.inner.observe(&self.id).await? {
                Some(observation) => observation.state.exit().is_some(),
                None => true,
            };
            if ended {
                self.last_look = true;
                continue;
            }
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(IDLE);
        }
    }

    async fn look(&mut self) -> Result<(), EngineError> {
        let dir = self.inner.home(&self.id).log();
        let from = self.query.from;
        let reader = self.reader.take();
        let result = blocking(move || {
            let mut reader = match reader {
                Some(reader) => reader,
                None => LogReader::open(&dir, from)?,
            };
            let lines = reader.next_batch(BATCH)?;
            Ok::<_, std::io::Error>((reader, lines))
        })
        .await;
        let (reader, lines) = result.map_err(|source| EngineError::Log {
            id: self.id,
            source,
        })?;
        self.reader = Some(reader);
        self.ready = lines.into();
        Ok(())
    }
}
