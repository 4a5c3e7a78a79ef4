//! Reads a test file and runs it: `load`, `clear`, `eval`.

use std::collections::BTreeMap;

use ondol_telemetry::promql::{Cancel, Engine};
use ondol_telemetry::series::{Buckets, Histogram, Labels, SeriesSource};
use regex::Regex;

use super::check::{self, Expectation, Expected, Kind};
use super::notation::{self, Slot};
use super::store::{Loaded, Sample};

/// What became of one evaluation.
pub(crate) struct Outcome {
    pub(crate) line: usize,
    pub(crate) query: String,
    pub(crate) result: Result<(), String>,
}

/// Runs a file. A command that cannot be read is an evaluation that failed.
pub(crate) fn run(text: &str, engine: &Engine, store: &mut dyn Loaded) -> Vec<Outcome> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .map(|line| if line.starts_with('#') { "" } else { line })
        .collect();
    store.clear();
    let mut outcomes = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let start = at;
        at += 1;
        if line.is_empty() {
            continue;
        }
        let mut block = Vec::new();
        while line != "clear" && at < lines.len() && !lines[at].is_empty() {
            block.push(lines[at]);
            at += 1;
        }
        if line == "clear" {
            store.clear();
        } else if line.starts_with("load") {
            if let Err(reason) = load(line, &block, store) {
                outcomes.push(Outcome {
                    line: start + 1,
                    query: line.to_owned(),
                    result: Err(reason),
                });
            }
        } else {
            let (query, result) = eval(line, &block, store.source(), engine);
            outcomes.push(Outcome {
                line: start + 1,
                query,
                result,
            });
        }
    }
    outcomes
}

fn load(line: &str, block: &[&str], store: &mut dyn Loaded) -> Result<(), String> {
    let (command, step) = line.split_once(' ').ok_or("load has no step")?;
    let step = notation::duration(step.trim())?;
    let mut loaded: BTreeMap<Labels, (Vec<Slot>, Vec<Option<i64>>)> = BTreeMap::new();
    let mut pending: Vec<Option<i64>> = Vec::new();
    for definition in block {
        let first_space = definition
            .find(char::is_whitespace)
            .unwrap_or(definition.len());
        if definition[..first_space].ends_with("@st") {
            pending = notation::starts(&definition[first_space..])?;
            continue;
        }
        let (labels, values) = notation::series(definition)?;
        let slots = notation::values(values).map_err(|error| format!("{definition}: {error}"))?;
        loaded.insert(labels, (slots, std::mem::take(&mut pending)));
    }
    for (labels, (slots, starts)) in &loaded {
        for (at, slot) in slots.iter().enumerate() {
            let Some(sample) = &slot.sample else { continue };
            let time = step * at as i64;
            let start = starts
                .get(at)
                .copied()
                .flatten()
                .map_or(0, |offset| time + offset);
            store.append(labels, time, start, sample.clone());
        }
    }
    if command == "load_with_nhcb" {
        for (labels, samples) in with_custom_buckets(&loaded, step) {
            for (time, histogram) in samples {
                store.append(&labels, time, 0, Sample::Histogram(histogram));
            }
        }
    }
    store.loaded();
    Ok(())
}

/// Classic buckets, counts and sums as they are collected for one native histogram.
#[derive(Default)]
struct Classic {
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

type Histograms = BTreeMap<Labels, BTreeMap<i64, Histogram>>;

fn with_custom_buckets(
    loaded: &BTreeMap<Labels, (Vec<Slot>, Vec<Option<i64>>)>,
    step: i64,
) -> Histograms {
    let mut classic: BTreeMap<Labels, BTreeMap<i64, Classic>> = BTreeMap::new();
    for (labels, (slots, _)) in loaded {
        let name = labels.metric_name();
        let Some((base, suffix)) = ["_bucket", "_count", "_sum"]
            .into_iter()
            .find_map(|suffix| Some((name.strip_suffix(suffix)?, suffix)))
        else {
            continue;
        };
        let bound: f64 = match labels.get("le").parse() {
            Ok(bound) => bound,
            Err(_) if suffix != "_bucket" => 0.0,
            Err(_) => continue,
        };
        let identity = Labels::from_pairs(
            labels
                .iter()
                .filter(|label| label.name.as_ref() != "le")
                .map(|label| {
                    let value = if label.name.as_ref() == "__name__" {
                        base
                    } else {
                        label.value.as_ref()
                    };
                    (label.name.to_string(), value.to_owned())
                }),
        );
        for (at, slot) in slots.iter().enumerate() {
            let Some(Sample::Float(value)) = slot.sample else {
                continue;
            };
            let histogram = classic
                .entry(identity.clone())
                .or_default()
                .entry(step * at as i64)
                .or_default();
            match suffix {
                "_bucket" => match histogram.buckets.iter_mut().find(|known| known.0 == bound) {
                    Some(known) => known.1 = value,
                    None => histogram.buckets.push((bound, value)),
                },
                "_count" => histogram.count = Some(value),
                _ => histogram.sum = value,
            }
        }
    }
    classic
        .into_iter()
        .map(|(labels, times)| {
            let times = times
                .into_iter()
                .map(|(time, classic)| (time, native(classic)))
                .collect();
            (labels, times)
        })
        .collect()
}

fn native(mut classic: Classic) -> Histogram {
    classic.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    if classic
        .buckets
        .last()
        .is_none_or(|last| last.0 != f64::INFINITY)
    {
        let highest = classic.buckets.last().map_or(0.0, |last| last.1);
        classic
            .buckets
            .push((f64::INFINITY, classic.count.unwrap_or(highest)));
    }
    let count = classic.buckets.last().map_or(0.0, |last| last.1);
    let mut before = 0.0;
    let mut pairs = Vec::new();
    for (at, (_, cumulative)) in classic.buckets.iter().enumerate() {
        pairs.push((at as i32, cumulative - before));
        before = *cumulative;
    }
    Histogram {
        schema: ondol_telemetry::series::histogram::CUSTOM_SCHEMA,
        count: classic.count.unwrap_or(count),
        sum: classic.sum,
        custom_values: classic
            .buckets
            .iter()
            .map(|bucket| bucket.0)
            .filter(|bound| bound.is_finite())
            .collect(),
        positive: Buckets::from_pairs(pairs.into_iter().filter(|pair| pair.1 != 0.0)),
        ..Histogram::default()
    }
}

fn eval(
    line: &str,
    block: &[&str],
    source: &dyn SeriesSource,
    engine: &Engine,
) -> (String, Result<(), String>) {
    let instant =
        Regex::new(r"^eval(?:_(fail|warn|ordered|info))?\s+instant\s+(?:at\s+(.+?))?\s+(.+)$")
            .unwrap();
    let range = Regex::new(
        r"^eval(?:_(fail|warn|info))?\s+range\s+from\s+(.+)\s+to\s+(.+)\s+step\s+(.+?)\s+(.+)$",
    )
    .unwrap();
    let (expectation, query) = if let Some(found) = instant.captures(line) {
        let time = found.get(2).map_or("0", |time| time.as_str());
        (
            notation::duration(time).map(Expectation::instant),
            found[3].to_owned(),
        )
    } else if let Some(found) = range.captures(line) {
        let times = || -> Result<Expectation, String> {
            Ok(Expectation::range(
                notation::duration(&found[2])?,
                notation::duration(&found[3])?,
                notation::duration(&found[4])?,
            ))
        };
        (times(), found[5].to_owned())
    } else {
        return (line.to_owned(), Err("not a command".to_owned()));
    };
    let result = expectation.and_then(|mut expectation| {
        if let Some(kind) = line
            .strip_prefix("eval_")
            .and_then(|rest| rest.split_whitespace().next())
        {
            expectation.kinds.push(Kind::parse(kind, "")?);
        }
        for line in block {
            expect(line, &mut expectation)?;
        }
        check::evaluate(engine, source, &query, &expectation, &Cancel::default())
    });
    (query, result)
}

fn expect(line: &str, expectation: &mut Expectation) -> Result<(), String> {
    if let Some(rest) = line.strip_prefix("expect range vector from ") {
        let parts: Vec<&str> = rest.split_whitespace().collect();
        let [from, "to", to, "step", step] = parts.as_slice() else {
            return Err(format!("{line:?} is no range"));
        };
        expectation.start = notation::duration(from)?;
        expectation.end = notation::duration(to)?;
        expectation.step = notation::duration(step)?;
        expectation.raw_range = true;
        return Ok(());
    }
    if let Some(rest) = line.strip_prefix("expect string ") {
        let rest = rest.trim();
        expectation.text = Some(rest[1..rest.len() - 1].to_owned());
        return Ok(());
    }
    if let Some(rest) = line.strip_prefix("expect ") {
        let (kind, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        expectation
            .kinds
            .push(Kind::parse(kind.trim(), rest.trim())?);
        return Ok(());
    }
    if let Ok((value, "")) = notation::number(line) {
        expectation.scalar = Some(value);
        return Ok(());
    }
    let (labels, values) = notation::series(line)?;
    let slots = notation::values(values)?;
    expectation.series.retain(|known| known.labels != labels);
    expectation.series.push(Expected { labels, slots });
    Ok(())
}
