//! What short jobs leave behind: groups of metrics that stay until they are replaced or deleted,
//! as the Pushgateway keeps them.
//!
//! A group is named by its labels, and each has a file of its own that is written before a push is
//! acknowledged. The groups are a target of the scraper like any other ([`Exposition`]); their
//! labels are believed. Nothing here forgets a group by itself: its age is a metric of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::IngestError;
use super::scrape::{Exposition, Place, Target};
use super::text::{Format, Line, Lines, series_labels};
use crate::promql::format_float;
use crate::series::{Labels, LabelsBuilder, METRIC_NAME, MetricKind};

/// Groups at most.
const MAX_GROUPS: usize = 1_000;
/// Samples of a group at most.
const MAX_SAMPLES: usize = 10_000;
/// When a group was pushed, in seconds, as a metric of the group.
const PUSH_TIME: &str = "push_time_seconds";
/// The first line of a file, with the version of its format.
const HEAD: &str = "# ondol group 1 ";

/// Why a push is not kept.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It cannot be read.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// It contradicts the rules of pushes.
    #[error("{0}")]
    Refused(String),
    /// There are too many groups.
    #[error("there are {MAX_GROUPS} groups already: delete one")]
    Full,
    /// The disk failed.
    #[error("the group cannot be stored: {0}")]
    Disk(#[from] io::Error),
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Family {
    kind: MetricKind,
    help: String,
    samples: Vec<(Labels, f64)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Group {
    families: BTreeMap<String, Family>,
    pushed: f64,
}

/// The groups of a folder.
pub struct Groups {
    folder: PathBuf,
    groups: Mutex<BTreeMap<Labels, Group>>,
}

impl Groups {
    /// The groups that a folder holds; it is made when it is missing. A file that cannot be read
    /// is left alone and named in the log.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut groups = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path
                .extension()
                .is_none_or(|extension| extension != "group")
            {
                continue;
            }
            match fs::read_to_string(&path).map(|text| parse_file(&text)) {
                Ok(Some((labels, group))) => {
                    groups.insert(labels, group);
                }
                Ok(None) | Err(_) => {
                    tracing::error!(file = %path.display(), "push.group cannot be read");
                }
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            groups: Mutex::new(groups),
        })
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<Labels, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what was pushed: in place of the whole group, or of its metrics of the same names.
    /// `now` is in seconds. It blocks until the group is on the disk.
    ///
    /// # Errors
    /// The text cannot be read, a sample has a time, there are too many groups, or the disk
    /// failed.
    pub fn push(
        &self,
        labels: &Labels,
        text: &str,
        format: Format,
        replace: bool,
        now: f64,
    ) -> Result<(), PushError> {
        let families = read(labels, text, format)?;
        let mut groups = self.groups();
        if !groups.contains_key(labels) && groups.len() >= MAX_GROUPS {
            return Err(PushError::Full);
        }
        let mut group = if replace {
            Group::default()
        } else {
            groups.get(labels).cloned().unwrap_or_default()
        };
        group.families.extend(families);
        group.pushed = now;
        let samples: usize = group
            .families
            .values()
            .map(|family| family.samples.len())
            .sum();
        if samples > MAX_SAMPLES {
            return Err(IngestError::TooLarge {
                what: "the number of samples of the group",
                limit: MAX_SAMPLES,
            }
            .into());
        }
        self.write(labels, &group)?;
        groups.insert(labels.clone(), group);
        Ok(())
    }

    /// Forgets a group. One that is not there is forgotten already.
    ///
    /// # Errors
    /// The disk failed.
    pub fn delete(&self, labels: &Labels) -> Result<(), PushError> {
        let mut groups = self.groups();
        if groups.contains_key(labels) {
            fs::remove_file(self.path(labels))?;
            File::open(&self.folder)?.sync_all()?;
            groups.remove(labels);
        }
        Ok(())
    }

    fn path(&self, labels: &Labels) -> PathBuf {
        self.folder.join(format!("{:016x}.group", labels.hash64()))
    }

    fn write(&self, labels: &Labels, group: &Group) -> io::Result<()> {
        let path = self.path(labels);
        let mut text = format!("{HEAD}{}\n", group.pushed);
        // The labels of a group without metrics stand nowhere else.
        write_series(&mut text, "ondol_group", labels);
        text.push_str(" 1\n");
        write_families(group.families.iter(), &mut text);
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(&self.folder)?.sync_all()
    }

    /// The groups as a target of the scraper. Their own labels count, and a group without
    /// `instance` gets none.
    #[must_use]
    pub fn target(self: &Arc<Self>) -> Target {
        let own: Arc<dyn Exposition> = self.clone();
        Target {
            labels: Labels::from_pairs([("job", "push")]),
            honor_labels: true,
            ..Target::new("push", "", Place::Own("push", own))
        }
    }

    /// All groups in the text format, families of one name together.
    #[must_use]
    pub fn text(&self) -> String {
        let mut all: BTreeMap<String, Family> = BTreeMap::new();
        let groups = self.groups();
        let mut times = Family {
            kind: MetricKind::Gauge,
            help: "When the group was pushed last, in seconds since the Unix epoch.".to_owned(),
            samples: Vec::new(),
        };
        for (labels, group) in groups.iter() {
            let mut named = LabelsBuilder::from_labels(labels);
            named.set(METRIC_NAME, PUSH_TIME);
            times.samples.push((named.build(), group.pushed));
            for (name, family) in &group.families {
                let into = all.entry(name.clone()).or_insert_with(|| Family {
                    samples: Vec::new(),
                    ..family.clone()
                });
                into.samples.extend(family.samples.iter().cloned());
            }
        }
        drop(groups);
        all.insert(PUSH_TIME.to_owned(), times);
        let mut out = String::new();
        write_families(all.iter(), &mut out);
        out
    }
}

#[async_trait]
impl Exposition for Groups {
    async fn exposition(&self) -> String {
        self.text()
    }
}

/// The families of a text, with the labels of the group on every sample.
fn read(
    labels: &Labels,
    text: &str,
    format: Format,
) -> Result<BTreeMap<String, Family>, PushError> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let mut lines = Lines::new(text, format);
    let mut count = 0;
    while let Some(line) = lines.next() {
        match line? {
            Line::Type(name, kind) => {
                families.entry(name.to_string()).or_default().kind = kind;
                current = name.into_owned();
            }
            Line::Help(name, help) => {
                families.entry(name.to_string()).or_default().help = help.into_owned();
                current = name.into_owned();
            }
            Line::Unit(..) => {}
            Line::Sample(sample) => {
                count += 1;
                if count > MAX_SAMPLES {
                    return Err(IngestError::TooLarge {
                        what: "the number of samples",
                        limit: MAX_SAMPLES,
                    }
                    .into());
                }
                if sample.time.is_some() {
                    return Err(PushError::Refused(format!(
                        "line {}: pushed metrics must not have timestamps",
                        lines.number()
                    )));
                }
                let own = series_labels(sample.series).map_err(|reason| IngestError::Line {
                    line: lines.number(),
                    reason,
                })?;
                let name = own.metric_name();
                if name == PUSH_TIME {
                    return Err(PushError::Refused(format!(
                        "{PUSH_TIME} is set by the server"
                    )));
                }
                let family = if belongs(name, &current) {
                    current.clone()
                } else {
                    name.to_owned()
                };
                let mut builder = LabelsBuilder::from_labels(&own);
                // Without `instance` of its own a group has none, and gets none by scraping.
                for label in labels {
                    builder.set_shared(label.name.clone(), label.value.clone());
                }
                let samples = &mut families.entry(family).or_default().samples;
                samples.push((builder.build(), sample.value));
            }
        }
    }
    families.retain(|_, family| !family.samples.is_empty());
    Ok(families)
}

/// Whether a sample of this name is one of the family.
fn belongs(name: &str, family: &str) -> bool {
    !family.is_empty()
        && name.strip_prefix(family).is_some_and(|rest| {
            matches!(
                rest,
                "" | "_total" | "_bucket" | "_sum" | "_count" | "_info" | "_created"
            )
        })
}

fn write_series(out: &mut String, name: &str, labels: &Labels) {
    out.push('{');
    write_label_text(name, out);
    for label in labels
        .iter()
        .filter(|label| label.name.as_ref() != METRIC_NAME)
    {
        out.push(',');
        write_label_text(&label.name, out);
        out.push('=');
        write_label_text(&label.value, out);
    }
    out.push('}');
}

/// A text in quotes with the three escapes that the format knows.
fn write_label_text(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push('"');
}

fn write_families<'f>(families: impl Iterator<Item = (&'f String, &'f Family)>, out: &mut String) {
    for (name, family) in families {
        if !family.help.is_empty() {
            out.push_str("# HELP ");
            write_label_text(name, out);
            let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
            let _ = writeln!(out, " {help}");
        }
        out.push_str("# TYPE ");
        write_label_text(name, out);
        let _ = writeln!(out, " {}", family.kind.as_str());
        for (labels, value) in &family.samples {
            write_series(out, labels.metric_name(), labels);
            let _ = writeln!(out, " {}", format_float(*value));
        }
    }
}

/// The group of a file; nothing when it is none.
fn parse_file(text: &str) -> Option<(Labels, Group)> {
    let (head, rest) = text.split_once('\n')?;
    let pushed = head.strip_prefix(HEAD)?.parse().ok()?;
    let (first, rest) = rest.split_once('\n')?;
    let series = first.strip_suffix(" 1")?;
    let labels = series_labels(series)
        .ok()?
        .without(|name| name == METRIC_NAME);
    let families = read(&labels, rest, Format::Prometheus).ok()?;
    Some((labels, Group { families, pushed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str) -> Labels {
        Labels::from_pairs([("job", name), ("odd", "a\"b\\c\n")])
    }

    const TEXT: &str = "# HELP done_total Done\\nor not.\n# TYPE done_total counter\ndone_total{job=\"mine\",step=\"1\"} 3\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_count 1\nh_sum NaN\nplain -Inf\n";

    #[test]
    fn groups_outlive_the_process_and_are_said_as_they_were_pushed() {
        let folder = tempfile::tempdir().unwrap();
        let groups = Groups::open(folder.path()).unwrap();
        let push = |name: &str, text: &str, replace| {
            groups.push(&job(name), text, Format::Prometheus, replace, 7.5)
        };
        push("a", TEXT, true).unwrap();
        push("b", "plain 2\n", true).unwrap();
        push("b", "other 3\n", false).unwrap();
        let text = groups.text();
        assert_eq!(text, Groups::open(folder.path()).unwrap().text());
        assert!(text.contains("{\"done_total\",\"job\"=\"a\""), "{text}");
        assert_eq!(text.matches("# TYPE \"plain\"").count(), 1);
        assert_eq!(text.matches("{\"plain\"").count(), 2);
        assert_eq!(text.matches("{\"push_time_seconds\"").count(), 2);
        let samples = super::super::text::read(
            text.as_bytes(),
            super::super::text::Options {
                format: Format::Prometheus,
                time: 0,
                honor_timestamps: true,
                max_samples: 100,
            },
        );
        assert_eq!(samples.unwrap().seen, 9);
        // The whole group is replaced, and a deleted one stays away.
        push("b", "last 1\n", true).unwrap();
        groups.delete(&job("a")).unwrap();
        groups.delete(&job("a")).unwrap();
        let text = Groups::open(folder.path()).unwrap().text();
        assert!(
            !text.contains("plain") && text.contains("{\"last\""),
            "{text}"
        );
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let groups = Groups::open(folder.path()).unwrap();
        groups
            .push(&job("a"), "kept 1\n", Format::Prometheus, true, 1.0)
            .unwrap();
        let before = groups.text();
        for text in ["x 1 1000\n", "x\n", "push_time_seconds 1\n"] {
            let refused = groups.push(&job("a"), text, Format::Prometheus, true, 2.0);
            assert!(refused.is_err(), "{text}");
        }
        assert_eq!(groups.text(), before);
        std::fs::write(folder.path().join("broken.group"), "nothing").unwrap();
        assert_eq!(Groups::open(folder.path()).unwrap().text(), before);
    }
}
