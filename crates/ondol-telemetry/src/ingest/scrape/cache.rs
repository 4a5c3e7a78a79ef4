//! What the last scrape of a target said, so that the next one is cheap and what is missing in it
//! is noticed.
//!
//! The text of a series is looked up as it stands; labels are read only for text that was not
//! there before. Series that say their own times are not ended when they vanish: nobody knows when
//! they did.

use std::collections::{HashMap, HashSet};

use super::super::IngestError;
use super::super::text::{Collected, Format, Options, collect, series_labels};
use crate::series::{Batch, Interner, Labels, LabelsBuilder, METRIC_NAME, STALE_NAN};

/// Texts of labels that a target's series share at most.
const MAX_TEXTS: usize = 50_000;

/// What a series may be, and whose labels win.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Labels of a series.
    pub max_labels: usize,
    /// Bytes of a label's name.
    pub max_name: usize,
    /// Bytes of a label's value.
    pub max_value: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            max_labels: 64,
            max_name: 512,
            max_value: 4096,
        }
    }
}

struct Known {
    labels: Labels,
    /// The scrape that said it first.
    since: u64,
    /// The scrape that said it last.
    round: u64,
    /// Whether it is ended when it vanishes.
    tracked: bool,
    /// It is the start time of others and was never stored.
    created: bool,
}

/// The series of one target.
pub struct Cache {
    labels: Labels,
    honor_labels: bool,
    rules: Rules,
    known: HashMap<Box<str>, Known>,
    round: u64,
    texts: Interner,
}

/// What a scrape says.
pub struct Round {
    /// Samples, exemplars, metadata, and markers for series that are gone.
    pub batch: Batch,
    /// Samples in the answer.
    pub seen: usize,
    /// Samples that are added.
    pub kept: usize,
    /// Series that the scrape before did not have.
    pub added: usize,
}

impl Cache {
    /// A target of which nothing is known yet.
    #[must_use]
    pub fn new(labels: Labels, honor_labels: bool, rules: Rules) -> Self {
        Self {
            labels,
            honor_labels,
            rules,
            known: HashMap::new(),
            round: 0,
            texts: Interner::new(MAX_TEXTS),
        }
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// It cannot be read or is over a limit. What the scrape before said still counts then: end
    /// it with [`Self::end`].
    pub fn read(
        &mut self,
        text: &str,
        format: Format,
        time: i64,
        max_samples: usize,
    ) -> Result<Round, IngestError> {
        self.round += 1;
        let round = self.round;
        let mut added = 0;
        let options = Options {
            format,
            time,
            honor_timestamps: true,
            max_samples,
        };
        let (known, texts) = (&mut self.known, &mut self.texts);
        let rules = &self.rules;
        let (given, honor) = (&self.labels, self.honor_labels);
        let collected = collect(text, options, &mut |series, created| {
            if let Some(known) = known.get_mut(series) {
                known.round = round;
                return Ok(Some(known.labels.clone()));
            }
            let own = series_labels(series)?;
            rules.check(&own)?;
            let labels = texts.labels(&merged(&own, given, honor));
            added += usize::from(!created);
            known.insert(
                Box::from(series),
                Known {
                    labels: labels.clone(),
                    since: round,
                    round,
                    tracked: true,
                    created,
                },
            );
            Ok(Some(labels))
        });
        let Collected {
            mut batch,
            seen,
            timed,
        } = match collected {
            Ok(collected) => collected,
            Err(error) => {
                // Series of an answer that failed were never added.
                self.known.retain(|_, known| known.since < round);
                return Err(error);
            }
        };
        let kept = batch.samples();
        self.note_timed(&batch, &timed);
        self.end_missing(&mut batch, time);
        Ok(Round {
            batch,
            seen,
            kept,
            added,
        })
    }

    /// Remembers which series say their own times.
    fn note_timed(&mut self, batch: &Batch, timed: &[u32]) {
        if timed.is_empty() {
            return;
        }
        let own: HashSet<&Labels> = timed
            .iter()
            .filter_map(|place| batch.series.get(*place as usize))
            .collect();
        for known in self.known.values_mut() {
            known.tracked = !own.contains(&known.labels);
        }
    }

    /// Ends the series that the scrape did not say, and forgets them.
    fn end_missing(&mut self, batch: &mut Batch, time: i64) {
        let round = self.round;
        let mut gone = Vec::new();
        self.known.retain(|_, known| {
            if known.round == round {
                return true;
            }
            if known.tracked && !known.created {
                gone.push(known.labels.clone());
            }
            false
        });
        if gone.is_empty() {
            return;
        }
        // The same series can be written in another way than before.
        let still: HashSet<&Labels> = self.known.values().map(|known| &known.labels).collect();
        for labels in gone {
            if !still.contains(&labels) {
                mark_end(batch, labels, time);
            }
        }
        self.texts.sweep();
    }

    /// Ends every series.
    pub fn end(&mut self, time: i64) -> Batch {
        let mut batch = Batch::default();
        for (_, known) in self.known.drain() {
            if known.tracked && !known.created {
                mark_end(&mut batch, known.labels, time);
            }
        }
        self.texts.sweep();
        batch
    }

    /// Adds a series about the scrape itself.
    pub fn report(&self, batch: &mut Batch, name: &str, time: i64, value: f64) {
        let mut builder = LabelsBuilder::from_labels(&self.labels);
        builder.set(METRIC_NAME, name);
        let series = batch.add_series(builder.build());
        batch.float(series, time, value);
    }
}

fn mark_end(batch: &mut Batch, labels: Labels, time: i64) {
    let series = batch.add_series(labels);
    batch.float(series, time, f64::from_bits(STALE_NAN));
}

impl Rules {
    fn check(&self, labels: &Labels) -> Result<(), String> {
        if labels.len() > self.max_labels {
            return Err(format!(
                "{} has {} labels, more than {}",
                labels.metric_name(),
                labels.len(),
                self.max_labels
            ));
        }
        for label in labels {
            if label.name.len() > self.max_name || label.value.len() > self.max_value {
                return Err(format!(
                    "the label {:.80} of {:.80} is longer than {} bytes in its name or {} in its value",
                    label.name,
                    labels.metric_name(),
                    self.max_name,
                    self.max_value
                ));
            }
        }
        Ok(())
    }
}

/// The labels a target says with those it is given. The given ones win and the others become
/// `exported_…`, unless the target is believed.
fn merged(own: &Labels, given: &Labels, honor: bool) -> Labels {
    let mut builder = LabelsBuilder::from_labels(own);
    for label in given {
        if !own.has(&label.name) {
            builder.set_shared(label.name.clone(), label.value.clone());
        } else if !honor {
            let mut name = format!("exported_{}", label.name);
            while own.has(&name) || given.has(&name) {
                name.insert_str(0, "exported_");
            }
            builder.set(&name, own.get(&label.name));
            builder.set_shared(label.name.clone(), label.value.clone());
        }
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::is_stale_nan;

    fn cache() -> Cache {
        let labels = Labels::from_pairs([("job", "app"), ("instance", "a:1")]);
        Cache::new(labels, false, Rules::default())
    }

    fn read(cache: &mut Cache, text: &str, time: i64) -> Round {
        cache.read(text, Format::Prometheus, time, 1000).unwrap()
    }

    fn ended(batch: &Batch) -> Vec<String> {
        batch
            .floats
            .iter()
            .filter(|float| is_stale_nan(float.value))
            .map(|float| batch.series[float.series as usize].to_string())
            .collect()
    }

    #[test]
    fn what_vanishes_is_ended_once() {
        let mut cache = cache();
        assert_eq!(read(&mut cache, "a 1\nb 2\n", 1000).added, 2);
        let second = read(&mut cache, "a 1\n", 2000);
        assert_eq!((second.added, second.seen, second.kept), (0, 1, 1));
        assert_eq!(
            ended(&second.batch),
            [r#"{__name__="b", instance="a:1", job="app"}"#]
        );
        assert!(ended(&read(&mut cache, "a 1\n", 3000).batch).is_empty());
        assert_eq!(ended(&cache.end(4000)).len(), 1);
        assert!(cache.end(5000).is_empty());
    }

    #[test]
    fn a_series_written_otherwise_is_the_same() {
        let mut cache = cache();
        read(&mut cache, "a{x=\"1\",y=\"2\"} 1\n", 1000);
        let second = read(&mut cache, "a{y=\"2\",x=\"1\"} 1\n", 2000);
        assert!(ended(&second.batch).is_empty());
    }

    #[test]
    fn series_with_their_own_times_are_not_ended() {
        let mut cache = cache();
        let first = read(&mut cache, "a 1 500\nb 2\n", 1000);
        assert_eq!(first.batch.floats[0].time, 500);
        assert_eq!(ended(&read(&mut cache, "", 2000).batch).len(), 1);
    }

    #[test]
    fn given_labels_win_unless_the_target_is_believed() {
        let text = "a{job=\"mine\",exported_job=\"x\"} 1\n";
        let mut strict = cache();
        assert_eq!(
            read(&mut strict, text, 0).batch.series[0].to_string(),
            r#"{__name__="a", exported_exported_job="mine", exported_job="x", instance="a:1", job="app"}"#
        );
        let mut believing =
            Cache::new(Labels::from_pairs([("job", "app")]), true, Rules::default());
        assert_eq!(
            read(&mut believing, text, 0).batch.series[0].get("job"),
            "mine"
        );
    }

    #[test]
    fn an_answer_that_fails_leaves_the_series_before_it() {
        let mut cache = cache();
        read(&mut cache, "a 1\n", 1000);
        assert!(
            cache
                .read("c 1\nbroken\n", Format::Prometheus, 2000, 1000)
                .is_err()
        );
        assert_eq!(ended(&cache.end(2000)).len(), 1);
        let rules = Rules {
            max_labels: 2,
            ..Rules::default()
        };
        let mut narrow = Cache::new(Labels::default(), false, rules);
        let error = narrow.read("a{b=\"1\",c=\"2\"} 1\n", Format::Prometheus, 0, 10);
        assert!(error.err().unwrap().to_string().contains("a has 3 labels"));
    }
}
