//! The event log: every change of desired or observed state, appended once, in the same
//! transaction, never changed.
//!
//! Each entry is a CDEvents 0.5.1 document. `seq` comes from a head row that the appending
//! transaction locks, so commits are visible in `seq` order and a cursor never skips. Facts that
//! CDEvents has no type for are custom events (`dev.cdeventsx.ondol-…`) whose payload stands in
//! `subject.content`; what a standard type does not provide for stands in `customData`.
//!
//! Old events leave the table for the [`EventArchive`] when every follower has passed them;
//! [`EventLog`] reads both as one. Followers read the table alone, with [`Tx::events_after`].

mod archive;
mod log;
pub(crate) mod rows;
mod segment;
#[cfg(test)]
mod tests;

use ondol_types::event::EventType;
use ondol_types::{EventId, ProjectName, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::db::{Migration, Row, Tx};
use crate::error::StoreError;
use crate::params;

pub use archive::{ArchiveConfig, Archived, CRASH_POINTS, EventArchive, EventFollower, Verified};
pub use log::{EventLog, EventPage};

pub(crate) const MIGRATION: Migration = Migration {
    number: 1,
    name: "event log",
    sql: "CREATE TABLE event_head (id BIGINT PRIMARY KEY, seq BIGINT NOT NULL);
INSERT INTO event_head (id, seq) VALUES (1, 0);
CREATE TABLE event (
    seq BIGINT PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    time BIGINT NOT NULL,
    project TEXT,
    subject TEXT NOT NULL,
    chain TEXT,
    actor TEXT,
    document TEXT NOT NULL
);
CREATE INDEX event_project ON event (project, seq);
CREATE INDEX event_type ON event (type, seq);
CREATE INDEX event_chain ON event (chain, seq);
",
};

/// The most bytes that one event document may have.
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// An event about to be appended.
#[derive(Clone, Debug)]
pub struct NewEvent {
    event_type: EventType,
    subject: String,
    content: Value,
    custom: Option<Value>,
    project: Option<ProjectName>,
    chain: Option<String>,
    cause: Option<EventId>,
    actor: Option<String>,
}

impl NewEvent {
    /// An event of a type from [`ondol_types::event`] about `subject`, the id of the thing it
    /// concerns.
    pub fn new(event_type: EventType, subject: impl ToString) -> Self {
        Self {
            event_type,
            subject: subject.to_string(),
            content: json!({}),
            custom: None,
            project: None,
            chain: None,
            cause: None,
            actor: None,
        }
    }

    /// `subject.content`: for a standard type only what its schema allows.
    pub fn content(mut self, content: impl Serialize) -> Self {
        self.content = serde_json::to_value(content).unwrap_or(Value::Null);
        self
    }

    /// `customData`: what the standard type has no place for.
    pub fn custom(mut self, custom: impl Serialize) -> Self {
        self.custom = serde_json::to_value(custom).ok();
        self
    }

    /// Whose event this is; it decides who may read it.
    pub fn project(mut self, project: &ProjectName) -> Self {
        self.project = Some(project.clone());
        self
    }

    /// Joins a chain: the id of the event that began it.
    pub fn chain(mut self, chain: impl Into<String>) -> Self {
        self.chain = Some(chain.into());
        self
    }

    /// The event that directly led to this one, written as a `RELATION` link of kind `TRIGGER`.
    pub fn caused_by(mut self, cause: EventId) -> Self {
        self.cause = Some(cause);
        self
    }

    /// Who did it, as the audit shows it.
    pub fn actor(mut self, actor: impl Into<String>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    fn document(&self, id: EventId, time: Timestamp, source: &str, chain: &str) -> Value {
        let mut context = json!({
            "specversion": "0.5.1",
            "id": id,
            "chainId": chain,
            "source": source,
            "type": self.event_type,
            "timestamp": time,
        });
        if let Some(cause) = self.cause {
            context["links"] = json!([{ "linkType": "RELATION", "linkKind": "TRIGGER", "target": { "contextId": cause } }]);
        }
        let subject_source = self.project.as_ref().map_or_else(
            || source.to_owned(),
            |project| format!("{source}/{project}"),
        );
        let mut document = json!({
            "context": context,
            "subject": { "id": self.subject, "source": subject_source, "content": self.content },
        });
        let mut custom = self.custom.clone();
        if let Some(actor) = &self.actor {
            custom.get_or_insert_with(|| json!({}))["actor"] = json!(actor);
        }
        if let Some(custom) = custom {
            document["customData"] = custom;
            document["customDataContentType"] = json!("application/json");
        }
        document
    }
}

/// An event of the log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its place in the log, from 1, without gaps at the time of writing.
    pub seq: i64,
    /// Its id.
    pub id: EventId,
    /// Its full CDEvents type with version.
    #[serde(rename = "type")]
    pub event_type: String,
    /// When it was appended.
    pub time: Timestamp,
    /// Whose it is; absent for events of the installation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// The id of the thing it concerns.
    pub subject: String,
    /// The chain it belongs to: the id of the first event of the chain.
    pub chain: String,
    /// The CDEvents document.
    #[schema(value_type = Object)]
    pub document: Value,
}

impl Event {
    /// `subject.content` as a typed value, when it has that form.
    pub fn content<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_value(self.document["subject"]["content"].clone()).ok()
    }

    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            seq: row.get("seq")?,
            id: row.parse("id")?,
            event_type: row.get("type")?,
            time: row.get("time")?,
            project: row.parse_opt("project")?,
            subject: row.get("subject")?,
            chain: row.get::<Option<String>>("chain")?.unwrap_or_default(),
            document: row.get("document")?,
        })
    }
}

/// Which events to read.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Only events of this project.
    pub project: Option<ProjectName>,
    /// Only types that begin so.
    pub type_prefix: Option<String>,
    /// Only this chain.
    pub chain: Option<String>,
    /// Only about this subject.
    pub subject: Option<String>,
}

impl EventFilter {
    /// The prefix of types without what a pattern of SQL would read otherwise.
    fn plain_prefix(&self) -> Option<String> {
        let prefix = self.type_prefix.as_deref()?;
        let plain = |c: &char| !matches!(c, '%' | '_' | '\\');
        Some(prefix.chars().filter(plain).collect())
    }

    /// Whether an event is one of these.
    pub fn matches(&self, event: &Event) -> bool {
        let same = |wanted: &Option<String>, found: &str| {
            wanted
                .as_deref()
                .is_none_or(|wanted| wanted.is_empty() || wanted == found)
        };
        self.project
            .as_ref()
            .is_none_or(|project| event.project.as_ref() == Some(project))
            && self
                .plain_prefix()
                .is_none_or(|prefix| event.event_type.starts_with(&prefix))
            && same(&self.chain, &event.chain)
            && same(&self.subject, &event.subject)
    }
}

impl Tx<'_> {
    /// Appends an event to the log and returns its id and place. It becomes visible when the
    /// transaction commits. An event without a chain begins one, named by its own id.
    pub async fn append(&mut self, event: NewEvent) -> Result<(EventId, i64), StoreError> {
        let row = self
            .fetch_one(
                "UPDATE event_head SET seq = seq + 1 WHERE id = 1 RETURNING seq",
                params![],
            )
            .await?;
        let seq: i64 = row.get("seq")?;
        let now = self.now();
        let id = EventId::generate(&ondol_types::ManualClock::at(now));
        let chain = event.chain.clone().unwrap_or_else(|| id.to_string());
        let document = event.document(id, now, self.source(), &chain).to_string();
        if document.len() > MAX_DOCUMENT_BYTES {
            return Err(StoreError::Event {
                event_type: event.event_type.to_owned(),
                problem: format!(
                    "its document has {} bytes, more than {MAX_DOCUMENT_BYTES}",
                    document.len()
                ),
            });
        }
        self.execute(
            "INSERT INTO event (seq, id, type, time, project, subject, chain, actor, document)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            params![
                seq,
                id,
                event.event_type,
                now,
                event.project,
                event.subject,
                chain,
                event.actor,
                document
            ],
        )
        .await?;
        self.note_event(seq);
        Ok((id, seq))
    }

    /// Events after a cursor, oldest first, at most `limit`.
    pub async fn events_after(
        &mut self,
        after: i64,
        filter: &EventFilter,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let rows = self
            .fetch_all(
                "SELECT seq, id, type, time, project, subject, chain, document FROM event
                 WHERE seq > $1 AND ($2 = '' OR project = $2) AND ($3 = '' OR type LIKE $3)
                   AND ($4 = '' OR chain = $4) AND ($5 = '' OR subject = $5)
                 ORDER BY seq LIMIT $6",
                filter_params(after, filter, limit),
            )
            .await?;
        rows.iter().map(Event::from_row).collect()
    }

    /// Events before a cursor, newest first, at most `limit`; `i64::MAX` starts at the end.
    pub async fn events_before(
        &mut self,
        before: i64,
        filter: &EventFilter,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let rows = self
            .fetch_all(
                "SELECT seq, id, type, time, project, subject, chain, document FROM event
                 WHERE seq < $1 AND ($2 = '' OR project = $2) AND ($3 = '' OR type LIKE $3)
                   AND ($4 = '' OR chain = $4) AND ($5 = '' OR subject = $5)
                 ORDER BY seq DESC LIMIT $6",
                filter_params(before, filter, limit),
            )
            .await?;
        rows.iter().map(Event::from_row).collect()
    }

    /// The newest place of the log, 0 when it is empty.
    pub async fn newest_event(&mut self) -> Result<i64, StoreError> {
        self.fetch_one("SELECT seq FROM event_head WHERE id = 1", params![])
            .await?
            .get("seq")
    }
}

fn filter_params(cursor: i64, filter: &EventFilter, limit: u32) -> Vec<crate::db::Value> {
    let escaped = filter
        .plain_prefix()
        .map_or_else(String::new, |prefix| format!("{prefix}%"));
    params![
        cursor,
        filter
            .project
            .as_ref()
            .map_or("", |project| project.as_str()),
        escaped,
        filter.chain.as_deref().unwrap_or(""),
        filter.subject.as_deref().unwrap_or(""),
        limit.min(10_000),
    ]
}
