//! What the server counts, in Prometheus text. Every label has a closed set of values, so the
//! size is fixed when the model is loaded.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::auto::Value;
use crate::model_file::ModelFile;
use crate::predict::{Prediction, Rows};

const CODES: [u16; 8] = [200, 400, 404, 405, 408, 413, 415, 500];
const BUCKETS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0,
];

/// The counters of one server.
pub(crate) struct ServerMetrics {
    requests: [AtomicU64; CODES.len()],
    /// Requests of `/invocations` by their duration, not cumulated; the last is beyond all.
    durations: [AtomicU64; BUCKETS.len() + 1],
    duration_nanos: AtomicU64,
    rows: AtomicU64,
    classes: Vec<(String, AtomicU64)>,
    features: Vec<(String, AtomicU64, AtomicU64)>,
}

impl ServerMetrics {
    pub(crate) fn new(model: &ModelFile) -> Self {
        let labels = model.target.labels.as_ref();
        let classes = labels.map_or_else(Vec::new, |labels| {
            (0..labels.len())
                .map(|class| (labels.text(class), AtomicU64::new(0)))
                .collect()
        });
        let features = model
            .features
            .iter()
            .map(|feature| (feature.name.clone(), AtomicU64::new(0), AtomicU64::new(0)))
            .collect();
        Self {
            requests: std::array::from_fn(|_| AtomicU64::new(0)),
            durations: std::array::from_fn(|_| AtomicU64::new(0)),
            duration_nanos: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            classes,
            features,
        }
    }

    /// Counts an answered request of `/invocations`.
    pub(crate) fn request(&self, code: u16, duration: Duration) {
        if let Some(index) = CODES.iter().position(|known| *known == code) {
            self.requests[index].fetch_add(1, Ordering::Relaxed);
        }
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(BUCKETS.len());
        self.durations[bucket].fetch_add(1, Ordering::Relaxed);
        self.duration_nanos.fetch_add(
            u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// Counts what was asked and answered.
    pub(crate) fn predictions(&self, rows: &Rows, predictions: &[Prediction]) {
        self.rows
            .fetch_add(predictions.len() as u64, Ordering::Relaxed);
        for class in predictions.iter().filter_map(|prediction| prediction.class) {
            self.classes[class].1.fetch_add(1, Ordering::Relaxed);
        }
        for row in rows.values.chunks_exact(self.features.len().max(1)) {
            for (value, (_, missing, unknown)) in row.iter().zip(&self.features) {
                match value {
                    Value::Missing => missing.fetch_add(1, Ordering::Relaxed),
                    Value::Unknown => unknown.fetch_add(1, Ordering::Relaxed),
                    _ => continue,
                };
            }
        }
    }

    /// All of it as Prometheus text.
    pub(crate) fn text(
        &self,
        model: &str,
        version: &str,
        digest: &str,
        uptime: Duration,
    ) -> String {
        let mut out = String::with_capacity(4_096);
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        head(
            &mut out,
            "ondol_model_info",
            "gauge",
            "The model that is served.",
        );
        let (model, version) = (escaped(model), escaped(version));
        let _ = writeln!(
            out,
            "ondol_model_info{{model=\"{model}\",version=\"{version}\",data=\"{digest}\"}} 1"
        );
        head(
            &mut out,
            "ondol_model_uptime_seconds",
            "gauge",
            "Seconds since the model was loaded.",
        );
        let _ = writeln!(out, "ondol_model_uptime_seconds {}", uptime.as_secs_f64());
        head(
            &mut out,
            "ondol_model_requests_total",
            "counter",
            "Answered requests for predictions, by status code.",
        );
        for (code, count) in CODES.iter().zip(&self.requests) {
            let _ = writeln!(
                out,
                "ondol_model_requests_total{{code=\"{code}\"}} {}",
                count.load(Ordering::Relaxed)
            );
        }
        head(
            &mut out,
            "ondol_model_request_duration_seconds",
            "histogram",
            "Time from the head of a request to its answer.",
        );
        let mut total = 0;
        for (bound, count) in BUCKETS.iter().zip(&self.durations) {
            total += count.load(Ordering::Relaxed);
            let _ = writeln!(
                out,
                "ondol_model_request_duration_seconds_bucket{{le=\"{bound}\"}} {total}"
            );
        }
        total += self.durations[BUCKETS.len()].load(Ordering::Relaxed);
        let seconds = self.duration_nanos.load(Ordering::Relaxed) as f64 / 1e9;
        let _ = writeln!(
            out,
            "ondol_model_request_duration_seconds_bucket{{le=\"+Inf\"}} {total}"
        );
        let _ = writeln!(out, "ondol_model_request_duration_seconds_sum {seconds}");
        let _ = writeln!(out, "ondol_model_request_duration_seconds_count {total}");
        head(
            &mut out,
            "ondol_model_rows_total",
            "counter",
            "Predicted rows.",
        );
        let _ = writeln!(
            out,
            "ondol_model_rows_total {}",
            self.rows.load(Ordering::Relaxed)
        );
        if !self.classes.is_empty() {
            head(
                &mut out,
                "ondol_model_predictions_total",
                "counter",
                "Predicted rows, by class.",
            );
        }
        for (class, count) in &self.classes {
            let count = count.load(Ordering::Relaxed);
            let _ = writeln!(
                out,
                "ondol_model_predictions_total{{class=\"{}\"}} {count}",
                escaped(class)
            );
        }
        head(
            &mut out,
            "ondol_model_feature_missing_total",
            "counter",
            "Values that were missing and filled in, by feature.",
        );
        for (name, missing, _) in &self.features {
            let count = missing.load(Ordering::Relaxed);
            let _ = writeln!(
                out,
                "ondol_model_feature_missing_total{{feature=\"{}\"}} {count}",
                escaped(name)
            );
        }
        head(
            &mut out,
            "ondol_model_feature_unknown_total",
            "counter",
            "Categories that were not there in training, by feature.",
        );
        for (name, _, unknown) in &self.features {
            let count = unknown.load(Ordering::Relaxed);
            let _ = writeln!(
                out,
                "ondol_model_feature_unknown_total{{feature=\"{}\"}} {count}",
                escaped(name)
            );
        }
        out
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
