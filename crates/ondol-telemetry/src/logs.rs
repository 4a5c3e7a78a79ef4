//! Logs of many workloads as one, by time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use ondol_auth::{Action, Ctx};
use ondol_types::{ProjectName, Timestamp, WorkloadId};
use ondol_workload::{Engine, LogLine, LogPosition, LogQuery, LogStreamKind};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;

use crate::error::TelemetryError;

/// The most lines that one search gives.
const MAX_LINES: usize = 100_000;
/// The most workloads whose logs one search reads: the newest.
const MAX_WORKLOADS: usize = 500;
const LOOK_FOR_NEW: Duration = Duration::from_millis(500);

/// A line with where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogEntry {
    /// When it was written.
    pub time: Timestamp,
    /// Where it came from, for people: `release 3 · rep_…` or `run 12 · test`.
    pub source: String,
    /// Which output of the program.
    pub stream: LogStreamKind,
    /// The line.
    pub text: String,
    /// The workload.
    pub workload: WorkloadId,
    /// Its place in the workload's log.
    pub seq: u64,
}

/// Lines as they are found.
pub type Stream =
    Pin<Box<dyn futures_util::Stream<Item = Result<LogEntry, TelemetryError>> + Send>>;

/// Which lines.
#[derive(Clone, Debug, Default)]
pub struct LogSearch {
    /// Only lines that contain this text.
    pub contains: Option<String>,
    /// Only lines at or after this moment.
    pub since: Option<Timestamp>,
    /// Only lines before this moment.
    pub until: Option<Timestamp>,
    /// Only workloads that carry all of these labels; an empty value means "any".
    pub labels: BTreeMap<String, String>,
    /// The last so many lines.
    pub tail: usize,
    /// Wait for further lines, also of workloads that start later.
    pub follow: bool,
}

impl LogSearch {
    fn wants(&self, line: &LogLine) -> bool {
        self.since.is_none_or(|since| line.time >= since)
            && self.until.is_none_or(|until| line.time < until)
            && self
                .contains
                .as_deref()
                .is_none_or(|text| line.text.contains(text))
    }

    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(name, value)| {
            labels
                .get(name)
                .is_some_and(|found| value.is_empty() || found == value)
        })
    }
}

/// A workload that has a log.
#[derive(Clone, Debug)]
pub struct Source {
    /// The workload.
    pub workload: WorkloadId,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Where lines are kept.
#[async_trait]
pub trait LogSource: Send + Sync + 'static {
    /// Every log of a project, newest workload first.
    async fn sources(&self, project: &ProjectName) -> Result<Vec<Source>, TelemetryError>;

    /// The lines of one log.
    async fn lines(
        &self,
        workload: &WorkloadId,
        query: LogQuery,
    ) -> Result<ondol_workload::LogLines, TelemetryError>;
}

/// The logs that the engine keeps beside each workload.
pub struct EngineLogs(Arc<dyn Engine>);

impl EngineLogs {
    /// The logs of an engine's workloads.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self(engine)
    }
}

#[async_trait]
impl LogSource for EngineLogs {
    async fn sources(&self, project: &ProjectName) -> Result<Vec<Source>, TelemetryError> {
        let mut found: Vec<Source> = self
            .0
            .list()
            .await?
            .into_iter()
            .filter(|observation| observation.project == *project)
            .map(|observation| Source {
                workload: observation.id,
                labels: observation.labels,
            })
            .collect();
        // Ids sort by time.
        found.sort_by_key(|source| Reverse(source.workload));
        Ok(found)
    }

    async fn lines(
        &self,
        workload: &WorkloadId,
        query: LogQuery,
    ) -> Result<ondol_workload::LogLines, TelemetryError> {
        Ok(self.0.logs(workload, query).await?)
    }
}

/// Searches and follows logs.
#[derive(Clone)]
pub struct Logs(Arc<dyn LogSource>);

fn describe(labels: &BTreeMap<String, String>) -> String {
    let label = |name: &str| labels.get(name).map(String::as_str);
    match (
        label("release"),
        label("replica"),
        label("run"),
        label("step"),
    ) {
        (Some(release), Some(replica), ..) => {
            let short: String = replica
                .chars()
                .rev()
                .take(4)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect();
            format!("release {release}/{short}")
        }
        (Some(release), None, ..) => format!("release {release}"),
        (None, _, Some(_), Some(step)) => format!("step {step}"),
        _ => "workload".to_owned(),
    }
}

fn entry(source: &Source, line: LogLine) -> LogEntry {
    LogEntry {
        time: line.time,
        source: describe(&source.labels),
        stream: line.stream,
        text: line.text,
        workload: source.workload,
        seq: line.seq,
    }
}

impl Logs {
    /// Logs over a source.
    pub fn new(source: Arc<dyn LogSource>) -> Self {
        Self(source)
    }

    /// The lines of a project that a search wants, oldest first; with `follow`, then new ones as
    /// they come until the reader goes away.
    ///
    /// # Errors
    /// When the asker may not read the project, or a log cannot be read.
    pub async fn search(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        search: LogSearch,
    ) -> Result<Stream, TelemetryError> {
        ctx.require(Action::Read, project)?;
        let (past, seen) = self.past(project, &search).await?;
        let past = futures_util::stream::iter(past.into_iter().map(Ok));
        if !search.follow {
            return Ok(past.boxed());
        }
        let (sender, receiver) = mpsc::channel(256);
        tokio::spawn(follow(
            self.0.clone(),
            project.clone(),
            search,
            seen,
            sender,
        ));
        Ok(past.chain(ReceiverStream::new(receiver)).boxed())
    }

    /// The last lines that exist already, and how far each log was read.
    async fn past(
        &self,
        project: &ProjectName,
        search: &LogSearch,
    ) -> Result<(Vec<LogEntry>, BTreeMap<WorkloadId, u64>), TelemetryError> {
        let keep = search.tail.min(MAX_LINES);
        let mut newest: BinaryHeap<Reverse<(Timestamp, u64, usize)>> = BinaryHeap::new();
        let mut entries: BTreeMap<usize, LogEntry> = BTreeMap::new();
        let mut seen = BTreeMap::new();
        let mut count = 0;
        let sources = self.0.sources(project).await?;
        for source in sources
            .iter()
            .filter(|source| search.selects(&source.labels))
            .take(MAX_WORKLOADS)
        {
            // Without a text to look for, the last `keep` lines of a log are all it can give.
            let from = match (search.since, &search.contains, search.until) {
                (Some(since), ..) => LogPosition::Since(since),
                (None, None, None) => LogPosition::Tail(keep as u64),
                _ => LogPosition::Start,
            };
            let mut lines = self
                .0
                .lines(
                    &source.workload,
                    LogQuery {
                        from,
                        follow: false,
                        limit: None,
                    },
                )
                .await?;
            while let Some(line) = lines.next().await {
                let line = line?;
                seen.insert(source.workload, line.seq);
                if !search.wants(&line) || keep == 0 {
                    continue;
                }
                count += 1;
                newest.push(Reverse((line.time, line.seq, count)));
                entries.insert(count, entry(source, line));
                if newest.len() > keep
                    && let Some(Reverse((_, _, oldest))) = newest.pop()
                {
                    entries.remove(&oldest);
                }
            }
        }
        let mut found: Vec<LogEntry> = entries.into_values().collect();
        found.sort_by_key(|entry| (entry.time, entry.workload, entry.seq));
        Ok((found, seen))
    }
}

/// One reader per log, and a look now and then for workloads that have started since.
async fn follow(
    source: Arc<dyn LogSource>,
    project: ProjectName,
    search: LogSearch,
    seen: BTreeMap<WorkloadId, u64>,
    sender: mpsc::Sender<Result<LogEntry, TelemetryError>>,
) {
    let mut followed: HashSet<WorkloadId> = HashSet::new();
    let mut readers = tokio::task::JoinSet::new();
    while !sender.is_closed() {
        let sources = source.sources(&project).await.unwrap_or_default();
        let alive: HashSet<WorkloadId> = sources.iter().map(|found| found.workload).collect();
        followed.retain(|workload| alive.contains(workload));
        for found in sources.into_iter().take(MAX_WORKLOADS) {
            if !search.selects(&found.labels) || !followed.insert(found.workload) {
                continue;
            }
            let from = seen
                .get(&found.workload)
                .map_or(LogPosition::Start, |seq| LogPosition::After(*seq));
            let (source, search, sender) = (source.clone(), search.clone(), sender.clone());
            readers.spawn(async move {
                let query = LogQuery {
                    from,
                    follow: true,
                    limit: None,
                };
                let Ok(mut lines) = source.lines(&found.workload, query).await else {
                    return;
                };
                while let Some(Ok(line)) = lines.next().await {
                    if search.wants(&line) && sender.send(Ok(entry(&found, line))).await.is_err() {
                        return;
                    }
                }
            });
        }
        tokio::select! {
            () = sender.closed() => break,
            () = tokio::time::sleep(LOOK_FOR_NEW) => {}
        }
        while readers.try_join_next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ondol_types::{ManualClock, SystemClock};

    use super::*;

    #[derive(Default)]
    struct Fake(Mutex<Vec<(Source, Vec<LogLine>)>>);

    impl Fake {
        fn add(&self, at: i64, labels: &[(&str, &str)], lines: &[(i64, &str)]) {
            let workload =
                WorkloadId::generate(&ManualClock::at(Timestamp::from_micros(at * 1_000_000)));
            let labels = labels
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            let lines = lines
                .iter()
                .enumerate()
                .map(|(index, (time, text))| LogLine {
                    seq: index as u64 + 1,
                    time: Timestamp::from_micros(*time),
                    stream: LogStreamKind::Stdout,
                    text: (*text).to_owned(),
                    truncated: false,
                })
                .collect();
            self.0
                .lock()
                .unwrap()
                .push((Source { workload, labels }, lines));
        }
    }

    #[async_trait]
    impl LogSource for Fake {
        async fn sources(&self, _: &ProjectName) -> Result<Vec<Source>, TelemetryError> {
            Ok(self
                .0
                .lock()
                .unwrap()
                .iter()
                .map(|(source, _)| source.clone())
                .collect())
        }

        async fn lines(
            &self,
            workload: &WorkloadId,
            query: LogQuery,
        ) -> Result<ondol_workload::LogLines, TelemetryError> {
            let all = self.0.lock().unwrap();
            let lines = &all
                .iter()
                .find(|(source, _)| source.workload == *workload)
                .unwrap()
                .1;
            let from = match query.from {
                LogPosition::Start => 0,
                LogPosition::After(seq) => seq as usize,
                LogPosition::Since(since) => {
                    lines.iter().take_while(|line| line.time < since).count()
                }
                LogPosition::Tail(count) => lines.len().saturating_sub(count as usize),
            };
            let lines: Vec<_> = lines[from..].iter().cloned().map(Ok).collect();
            Ok(futures_util::stream::iter(lines).boxed())
        }
    }

    async fn texts(fake: Fake, search: LogSearch) -> Vec<String> {
        let ctx = Ctx::system(Arc::new(SystemClock));
        let found = Logs::new(Arc::new(fake))
            .search(&ctx, &"web".parse().unwrap(), search)
            .await
            .unwrap();
        found.map(|entry| entry.unwrap().text).collect().await
    }

    fn two() -> Fake {
        let fake = Fake::default();
        fake.add(
            1,
            &[("release", "1"), ("replica", "rep_a")],
            &[(10, "a10"), (30, "a30 error"), (50, "a50")],
        );
        fake.add(
            2,
            &[("release", "2"), ("replica", "rep_b")],
            &[(20, "b20"), (40, "b40 error")],
        );
        fake
    }

    #[tokio::test]
    async fn lines_of_several_workloads_merge_by_time() {
        assert_eq!(
            texts(
                two(),
                LogSearch {
                    tail: 100,
                    ..LogSearch::default()
                }
            )
            .await,
            ["a10", "b20", "a30 error", "b40 error", "a50"]
        );
        assert_eq!(
            texts(
                two(),
                LogSearch {
                    tail: 2,
                    ..LogSearch::default()
                }
            )
            .await,
            ["b40 error", "a50"]
        );
    }

    #[tokio::test]
    async fn searches_go_by_text_time_and_label() {
        let search = LogSearch {
            tail: 100,
            contains: Some("error".to_owned()),
            ..LogSearch::default()
        };
        assert_eq!(texts(two(), search).await, ["a30 error", "b40 error"]);
        let search = LogSearch {
            tail: 100,
            since: Some(Timestamp::from_micros(20)),
            until: Some(Timestamp::from_micros(40)),
            ..LogSearch::default()
        };
        assert_eq!(texts(two(), search).await, ["b20", "a30 error"]);
        let labels = BTreeMap::from([("release".to_owned(), "2".to_owned())]);
        assert_eq!(
            texts(
                two(),
                LogSearch {
                    tail: 100,
                    labels,
                    ..LogSearch::default()
                }
            )
            .await,
            ["b20", "b40 error"]
        );
    }
}
