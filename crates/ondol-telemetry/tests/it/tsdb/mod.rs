//! The store of series from outside: what was acknowledged is there, whatever happens between.

mod ceilings;
mod crashes;
mod damage;
mod measured;
mod model;
mod reading;
mod through;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ondol_telemetry::series::{Hints, Labels, Matcher, Operation, Samples, SeriesSource};
use ondol_telemetry::tsdb::{Going, Steps, Tsdb, TsdbConfig, TsdbError};
use ondol_types::{ManualClock, NoCrash, Timestamp};

/// When the tests take place, in milliseconds.
pub(crate) const NOW: i64 = 1_700_000_000_000;

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_micros(NOW * 1000)))
}

pub(crate) fn going() -> Arc<dyn Steps> {
    Arc::new(Going(Arc::new(NoCrash)))
}

pub(crate) fn open_with(
    directory: &Path,
    config: TsdbConfig,
    steps: Arc<dyn Steps>,
) -> Result<Tsdb, TsdbError> {
    Tsdb::open(directory, config, clock(), steps)
}

pub(crate) fn open(directory: &Path) -> Tsdb {
    open_with(directory, TsdbConfig::default(), going()).unwrap()
}

/// Everything a store has, by series: times with the bits of values.
pub(crate) fn everything(tsdb: &Tsdb) -> BTreeMap<Labels, Vec<(i64, u64)>> {
    let any = Matcher::new("__name__", Operation::Regex, ".*").unwrap();
    selected(tsdb, &[any])
}

pub(crate) fn selected(tsdb: &Tsdb, matchers: &[Matcher]) -> BTreeMap<Labels, Vec<(i64, u64)>> {
    let mut set = tsdb
        .select(matchers, i64::MIN, i64::MAX, &Hints::default())
        .unwrap();
    let mut found = BTreeMap::new();
    let mut samples = Samples::default();
    while let Some(labels) = set.next(&mut samples).unwrap() {
        assert!(samples.floats.times.is_sorted_by(|a, b| a < b), "{labels}");
        let values = samples.floats.values.iter().map(|value| value.to_bits());
        let pairs = samples.floats.times.iter().copied().zip(values).collect();
        assert!(found.insert(labels, pairs).is_none(), "found twice");
        samples.clear();
    }
    found
}

pub(crate) fn labels(number: usize) -> Labels {
    Labels::from_pairs([
        ("__name__", format!("metric_{}", number % 3)),
        ("instance", format!("host-{number}")),
        ("job", format!("job-{}", number % 2)),
    ])
}
