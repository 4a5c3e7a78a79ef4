//! Metrics as sources tell them, in the Prometheus text format 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;

/// The kind of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One sample of a family.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Label names and values.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

/// Samples that share a name and a meaning.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Its name, with the unit: `ondol_runs_queued`, `process_cpu_seconds_total`.
    pub name: &'static str,
    /// What it says, in a sentence.
    pub help: &'static str,
    /// Its kind.
    pub kind: FamilyKind,
    /// Its samples.
    pub samples: Vec<Sample>,
}

impl Family {
    /// A family with one sample that has no labels.
    pub fn single(name: &'static str, help: &'static str, kind: FamilyKind, value: f64) -> Self {
        Self {
            name,
            help,
            kind,
            samples: vec![Sample {
                labels: Vec::new(),
                value,
            }],
        }
    }

    /// An empty family.
    pub fn new(name: &'static str, help: &'static str, kind: FamilyKind) -> Self {
        Self {
            name,
            help,
            kind,
            samples: Vec::new(),
        }
    }

    /// Adds a sample.
    pub fn sample(mut self, labels: &[(&str, &str)], value: f64) -> Self {
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        self.samples.push(Sample { labels, value });
        self
    }
}

/// Somebody who counts.
#[async_trait]
pub trait MetricSource: Send + Sync + 'static {
    /// The families now. Sources answer within milliseconds and from memory or one query.
    async fn families(&self) -> Vec<Family>;

    /// Text that is in the exposition format already, such as the gateway's.
    async fn text(&self) -> String {
        String::new()
    }
}

/// Every source of the process.
#[derive(Clone, Default)]
pub struct Metrics(Arc<RwLock<Vec<Arc<dyn MetricSource>>>>);

impl Metrics {
    /// Adds a source.
    pub fn register(&self, source: Arc<dyn MetricSource>) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(source);
    }

    /// Everything, in the exposition format. Families of one name from several sources merge.
    pub async fn exposition(&self) -> String {
        let sources = self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut families: BTreeMap<&'static str, Family> = BTreeMap::new();
        let mut text = String::new();
        for source in sources {
            for family in source.families().await {
                match families.get_mut(family.name) {
                    Some(known) => known.samples.extend(family.samples),
                    None => {
                        families.insert(family.name, family);
                    }
                }
            }
            text.push_str(&source.text().await);
        }
        let mut out = encode(families.values());
        out.push_str(&text);
        out
    }
}

fn escape(text: &str, quotes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            other => out.push(other),
        }
    }
    out
}

/// Writes families in the exposition format.
pub fn encode<'f>(families: impl IntoIterator<Item = &'f Family>) -> String {
    let mut out = String::new();
    for family in families {
        let kind = match family.kind {
            FamilyKind::Counter => "counter",
            FamilyKind::Gauge => "gauge",
        };
        let _ = writeln!(
            out,
            "# HELP {} {}\n# TYPE {} {kind}",
            family.name,
            escape(family.help, false),
            family.name
        );
        for sample in &family.samples {
            out.push_str(family.name);
            for (index, (name, value)) in sample.labels.iter().enumerate() {
                let _ = write!(
                    out,
                    "{}{name}=\"{}\"",
                    if index == 0 { '{' } else { ',' },
                    escape(value, true)
                );
            }
            if !sample.labels.is_empty() {
                out.push('}');
            }
            let _ = match sample.value {
                value if value.is_nan() => writeln!(out, " NaN"),
                f64::INFINITY => writeln!(out, " +Inf"),
                f64::NEG_INFINITY => writeln!(out, " -Inf"),
                value => writeln!(out, " {value}"),
            };
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_prometheus_reads_them() {
        let family = Family::new("ondol_loops", "Loops.\nAll of them.", FamilyKind::Gauge)
            .sample(&[("name", "a\"b\\c\n")], 1.5);
        assert_eq!(
            encode([&family]),
            "# HELP ondol_loops Loops.\\nAll of them.\n# TYPE ondol_loops gauge\nondol_loops{name=\"a\\\"b\\\\c\\n\"} 1.5\n"
        );
    }

    struct One;

    #[async_trait]
    impl MetricSource for One {
        async fn families(&self) -> Vec<Family> {
            vec![Family::single("x_total", "X.", FamilyKind::Counter, 2.0)]
        }
    }

    #[tokio::test]
    async fn families_of_one_name_merge() {
        let metrics = Metrics::default();
        metrics.register(Arc::new(One));
        metrics.register(Arc::new(One));
        assert_eq!(
            metrics.exposition().await,
            "# HELP x_total X.\n# TYPE x_total counter\nx_total 2\nx_total 2\n"
        );
    }
}
