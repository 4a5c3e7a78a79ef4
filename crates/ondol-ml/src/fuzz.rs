//! Fuzz targets over tables that are trained on, models of strangers, requests to the model
//! server, and files of metrics.

use std::io::Cursor;
use std::sync::OnceLock;

use crate::model_file::ModelFile;
use crate::predict::Predictor;
use crate::{metrics_file, server, table};

/// Ceilings that a fuzzed table reaches.
fn limits() -> table::TableLimits {
    table::TableLimits {
        rows: 2_000,
        columns: 200,
        cells: 20_000,
        cell_bytes: 1_000,
        bytes: 1 << 20,
    }
}

/// The first byte chooses the format. A table stays below its ceilings and is the same when it is
/// read again.
pub fn table(data: &[u8]) {
    // The hook of `cargo fuzz` ends the process before a caught panic is caught.
    #[cfg(fuzzing)]
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    let run = || table::fuzz(choice, bytes, &limits());
    let (first, second) = (run(), run());
    match (first, second) {
        (Ok(first), Ok(second)) => {
            assert_eq!(format!("{first:?}"), format!("{second:?}"));
            let limits = limits();
            assert!(first.rows <= limits.rows && first.columns.len() <= limits.columns);
        }
        (Err(first), Err(second)) => assert_eq!(first.to_string(), second.to_string()),
        _ => panic!("the same bytes are a table once and none the next time"),
    }
}

/// A file that is accepted is a model that answers, and the same after it was stored.
pub fn model(data: &[u8]) {
    let Ok(model) = ModelFile::from_bytes(data) else {
        return;
    };
    let stored = model.to_bytes().expect("it was small enough to be read");
    let again = ModelFile::from_bytes(&stored).expect("what was stored is read");
    assert_eq!(format!("{again:?}"), format!("{model:?}"));
    let predictor = Predictor::new(model);
    let _ = predictor.check();
    let bodies: [&[u8]; 3] = [
        br#"{"instances":[[1,2,3,4],[null,"a",true,1e300]]}"#,
        br#"{"dataframe_records":[{},{"a":1,"x":"b"}]}"#,
        br#"{"inputs":{"a":[1],"b":["x"]}}"#,
    ];
    for body in bodies {
        server::fuzz(&predictor, body);
    }
}

/// Whatever is asked of a sound model is answered with a row for each row, or refused.
pub fn request(data: &[u8]) {
    static SOUND: OnceLock<Option<Predictor>> = OnceLock::new();
    let sound = SOUND.get_or_init(|| {
        let bytes = include_bytes!("../tests/data/model-1.json");
        ModelFile::from_bytes(bytes).ok().map(Predictor::new)
    });
    server::fuzz(sound.as_ref().expect("the committed model is sound"), data);
}

/// Metrics are bounded, and have names that can stand in a gate.
pub fn metrics(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(metrics) = metrics_file::parse(text) {
        assert!(metrics.len() <= metrics_file::MAX_METRICS);
        let again = metrics_file::parse(text).expect("it was read before");
        assert_eq!(format!("{again:?}"), format!("{metrics:?}"));
        assert!(
            metrics
                .keys()
                .all(|name| name.len() <= metrics_file::MAX_NAME)
        );
    }
}

/// Bytes that a reader of Parquet can seek in.
pub(crate) fn file(bytes: &[u8]) -> std::io::Result<std::fs::File> {
    let mut file = tempfile::tempfile()?;
    std::io::copy(&mut Cursor::new(bytes), &mut file)?;
    std::io::Seek::rewind(&mut file)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpora_and_mutations() {
        ondol_fuzzing::exercise("ml_table", super::table);
        ondol_fuzzing::exercise("ml_model", super::model);
        ondol_fuzzing::exercise("ml_request", super::request);
        ondol_fuzzing::exercise("ml_metrics", super::metrics);
    }
}
