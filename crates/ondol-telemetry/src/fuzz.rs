//! Fuzz targets over what senders send, what targets answer, and what the store of series reads back
//! from a disk: any bytes are refused or read.

use crate::ingest::otlp::{self, Deltas};
use crate::ingest::remote::{self, Limits, Version};
use crate::ingest::scrape::{Cache, Rules};
use crate::ingest::text::{self, Format, Options};
use crate::ingest::{MAX_LABELS, snappy};
use crate::series::{Batch, Labels};
use crate::tsdb::fuzzing;

/// Ceilings that a fuzzed request reaches.
const LIMITS: Limits = Limits {
    series: 200,
    samples: 1_000,
};

/// Every sample belongs to a series that is there, and no label is empty.
fn whole(batch: &Batch) {
    let series = batch.series.len();
    assert!(
        batch
            .floats
            .iter()
            .all(|float| (float.series as usize) < series)
    );
    assert!(
        batch
            .histograms
            .iter()
            .all(|one| (one.series as usize) < series)
    );
    assert!(
        batch
            .exemplars
            .iter()
            .all(|(place, _)| (*place as usize) < series)
    );
    for labels in &batch.series {
        assert!(!labels.metric_name().is_empty());
        assert!(labels.len() <= 2 * MAX_LABELS);
        assert!(labels.iter().all(|label| !label.name.is_empty()));
    }
    for sample in &batch.histograms {
        // Walking the buckets must end and stay in range.
        let buckets = sample.value.all_buckets();
        assert!(buckets.len() <= 40_010);
    }
}

/// An exposition: the first byte chooses the format. What was read once is read again from the
/// cache with the same result, and everything that was said gets its end.
pub fn exposition(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    let format = if choice & 1 == 0 {
        Format::Prometheus
    } else {
        Format::OpenMetrics
    };
    let options = Options {
        format,
        time: 1_000,
        honor_timestamps: choice & 2 == 0,
        max_samples: 500,
    };
    let read = text::read(bytes, options);
    if let Ok(read) = &read {
        whole(&read.batch);
        assert!(read.seen <= 500);
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let given = Labels::from_pairs([("job", "a"), ("instance", "b")]);
    let mut cache = Cache::new(given, choice & 4 != 0, Rules::default());
    let first = cache.read(text, format, 1_000, 500);
    let second = cache.read(text, format, 2_000, 500);
    match (first, second) {
        (Ok(first), Ok(second)) => {
            assert_eq!(first.seen, second.seen);
            assert_eq!(second.added, 0);
            assert_eq!(first.kept, second.batch.samples());
            whole(&second.batch);
        }
        (Err(first), Err(second)) => assert_eq!(first, second),
        _ => panic!("the same answer is read once and not the next time"),
    }
    whole(&cache.end(3_000));
    assert!(cache.end(4_000).is_empty());
}

/// A body of remote write: the first byte chooses the version and whether it is compressed.
pub fn remote_write(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    let version = if choice & 1 == 0 {
        Version::V1
    } else {
        Version::V2
    };
    let body = if choice & 2 == 0 {
        bytes.to_vec()
    } else {
        match snappy::decompress(bytes, 1 << 20) {
            Ok(body) => body,
            Err(_) => return,
        }
    };
    if let Ok(decoded) = remote::decode(&body, version, LIMITS) {
        whole(&decoded.batch);
        assert!(decoded.batch.samples() <= LIMITS.samples);
    }
}

/// A request of OTLP metrics, sent twice: what is acknowledged once is not counted twice.
pub fn otlp_metrics(data: &[u8]) {
    let config = otlp::Config {
        limits: LIMITS,
        ..otlp::Config::default()
    };
    let has_deltas = otlp::has_deltas(data);
    let mut deltas = Deltas::default();
    let Ok((decoded, staged)) = otlp::decode(data, &config, &deltas) else {
        return;
    };
    assert!(has_deltas.is_ok());
    whole(&decoded.batch);
    deltas.commit(staged);
    assert!(deltas.is_empty() || has_deltas == Ok(true));
    let kept = deltas.len();
    if let Ok((again, staged)) = otlp::decode(data, &config, &deltas) {
        whole(&again.batch);
        deltas.commit(staged);
        assert_eq!(deltas.len(), kept);
    }
}

/// A chunk: the first byte is its kind, the second how many samples it claims to have.
pub fn chunk(data: &[u8]) {
    if let [kind, count, bytes @ ..] = data {
        fuzzing::chunk(*kind, u32::from(*count), bytes);
    }
}

/// A frame of the log.
pub fn log(data: &[u8]) {
    fuzzing::log(data);
}

/// The directory and the lists of a block.
pub fn block(data: &[u8]) {
    fuzzing::block(data);
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpora_and_mutations() {
        ondol_fuzzing::exercise("telemetry_exposition", super::exposition);
        ondol_fuzzing::exercise("telemetry_remote_write", super::remote_write);
        ondol_fuzzing::exercise("telemetry_otlp", super::otlp_metrics);
        ondol_fuzzing::exercise("telemetry_chunk", super::chunk);
        ondol_fuzzing::exercise("telemetry_log", super::log);
        ondol_fuzzing::exercise("telemetry_block", super::block);
    }
}
