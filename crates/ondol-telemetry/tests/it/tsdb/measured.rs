//! Figures of the store, on the mix the rivals were measured on: half counters with random steps,
//! a quarter gauges of two digits, a quarter constants. Run it by itself, optimized:
//! `cargo test --release -p ondol-telemetry --test it measured -- --ignored --nocapture`

use std::sync::Arc;
use std::time::Instant;

use ondol_telemetry::promql::{Cancel, Config, Engine};
use ondol_telemetry::tsdb::{SeriesRef, Tsdb, TsdbConfig};
use ondol_types::{ManualClock, Timestamp};

use super::{NOW, going};

const SERIES: usize = 100_000;
const SAMPLES: usize = 240;
const STEP: i64 = 15_000;
const BATCH: usize = 5_000;

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Seconds of processor time of this process, and of the wall.
struct Watch(f64, Instant);

impl Watch {
    fn start() -> Self {
        Self(Self::processor(), Instant::now())
    }

    /// User and system time, in the hundredths of a second that the kernel counts.
    fn processor() -> f64 {
        let text = std::fs::read_to_string("/proc/self/stat").unwrap();
        let after = text.rsplit(')').next().unwrap();
        let fields: Vec<&str> = after.split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    fn stop(&self) -> String {
        format!(
            "{:.2} s, {:.2} s of a processor",
            self.1.elapsed().as_secs_f64(),
            Self::processor() - self.0
        )
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn pairs(number: usize) -> Vec<(String, String)> {
    [
        ("__name__", format!("metric_{}", number % 200)),
        ("cluster", "north".to_owned()),
        ("container", format!("app-{}", number % 7)),
        ("env", "production".to_owned()),
        (
            "instance",
            format!("10.0.{}.{}:9100", number / 200 % 250, number % 250),
        ),
        ("job", format!("job-{}", number % 20)),
        ("namespace", format!("team-{}", number % 12)),
        ("pod", format!("pod-{:x}", number / 200)),
        ("x", format!("{}", number % 40)),
        ("zone", format!("z{}", number % 3)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn next(kind: usize, value: f64, random: &mut Random) -> f64 {
    match kind % 4 {
        0 | 1 => value + random.below(100) as f64,
        2 => random.below(10_000) as f64 / 100.0,
        _ => value,
    }
}

#[test]
#[ignore = "takes long and measures"]
#[expect(clippy::print_stdout, reason = "the figures are for whoever runs it")]
fn measured() {
    let directory = tempfile::tempdir().unwrap();
    let end = NOW;
    let begin = end - SAMPLES as i64 * STEP;
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(end * 1000)));
    let open = || {
        Tsdb::open(
            directory.path(),
            TsdbConfig::default(),
            clock.clone(),
            going(),
        )
        .unwrap()
    };
    let store = open();
    let before = resident();
    let mut random = Random(88_172_645_463_325_252);
    let mut values: Vec<f64> = (0..SERIES)
        .map(|_| random.below(1_000_000) as f64)
        .collect();
    let mut references: Vec<SeriesRef> = Vec::new();
    let began = Instant::now();
    for first in (0..SERIES).step_by(BATCH) {
        let mut appender = store.appender();
        for (number, value) in values.iter().enumerate().skip(first).take(BATCH) {
            let owned = pairs(number);
            let labels: Vec<(&str, &str)> = owned
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let series = appender.series(&labels).unwrap();
            references.push(series);
            appender.float(series, begin, 0, *value);
        }
        appender.commit().unwrap();
    }
    println!(
        "new series: {:.0} a second",
        SERIES as f64 / began.elapsed().as_secs_f64()
    );
    let own = (values.capacity() * 8 + references.capacity() * 8) as u64;
    println!(
        "memory: {} bytes per series after one sample each",
        (resident() - before - own) / SERIES as u64
    );
    let mut busy = (0.0, 0.0);
    for round in 1..SAMPLES {
        for first in (0..SERIES).step_by(BATCH) {
            let mut appender = store.appender();
            for (number, value) in values.iter_mut().enumerate().skip(first).take(BATCH) {
                *value = next(number, *value, &mut random);
            }
            let (began, used) = (Instant::now(), Watch::processor());
            for number in first..first + BATCH {
                let time = begin + round as i64 * STEP;
                appender.float(references[number], time, 0, values[number]);
            }
            appender.commit().unwrap();
            if round % 15 == 0 && first == 0 {
                store.maintain().unwrap();
            }
            busy.0 += began.elapsed().as_secs_f64();
            busy.1 += Watch::processor() - used;
        }
    }
    let total = (SERIES * SAMPLES) as f64;
    println!(
        "ingest by reference, with log, sync, flushes and merges: {:.0} samples/s, {:.0} per core",
        total / busy.0,
        total / busy.1
    );
    println!(
        "memory: {} bytes per series after {SAMPLES} samples each",
        (resident() - before - own) / SERIES as u64
    );
    drop(store);
    let began = Watch::start();
    let store = open();
    println!(
        "ready after {}, {} samples replayed",
        began.stop(),
        store.replayed().samples
    );
    // With labels, as a remote write has them.
    let began = Instant::now();
    for first in (0..SERIES).step_by(BATCH) {
        let mut appender = store.appender();
        for (number, value) in values.iter().enumerate().skip(first).take(BATCH) {
            let owned = pairs(number);
            let labels: Vec<(&str, &str)> = owned
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let series = appender.series(&labels).unwrap();
            appender.float(series, end, 0, *value);
        }
        appender.commit().unwrap();
    }
    println!(
        "ingest by labels, making of the labels included: {:.0} samples/s",
        SERIES as f64 / began.elapsed().as_secs_f64()
    );
    let query = "sum by (x) (rate({__name__=~\"metric_.*\",env=\"production\"}[5m]))";
    let engine = Engine::new(Config {
        max_samples: usize::MAX / 4,
        max_series: SERIES * 2,
        ..Config::default()
    });
    let ask = |what: &str| {
        for step in [15_000, 60_000] {
            let began = Watch::start();
            engine
                .range(&store, query, begin, end, step, &Cancel::default())
                .unwrap();
            println!("{what}, one hour, step {} s: {}", step / 1000, began.stop());
        }
    };
    ask("query over all series");
    let began = Watch::start();
    store.flush_now().unwrap();
    println!("flush: {}", began.stop());
    let began = Watch::start();
    clock.advance(std::time::Duration::from_secs(6 * 3600));
    while store.maintain().unwrap().merged > 0 {}
    println!("merge: {}", began.stop());
    let stats = store.stats(1);
    println!(
        "disk: {:.3} bytes per sample ({} samples in {} blocks)",
        stats.block_bytes as f64 / stats.block_samples as f64,
        stats.block_samples,
        stats.blocks
    );
    ask("query over all series, merged");
}
