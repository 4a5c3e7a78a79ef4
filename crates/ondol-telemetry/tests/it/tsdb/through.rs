//! The store behind the traits of the protocols: what was acknowledged there is read by the query
//! language through the HTTP API, after a death too, and refusals are counted by reason.

use std::path::Path;
use std::sync::Arc;

use ondol_telemetry::series::{
    Batch, Exemplar, Extent, Labels, Metadata, MetricKind, Refusal, SeriesIndex, SeriesWriter,
};
use ondol_telemetry::tsdb::{Tsdb, TsdbConfig, TsdbWriter};
use serde_json::json;

use super::{NOW, clock, going, open, open_with};
use crate::door::serve_tsdb;

/// The files as they are now: what a machine that dies here leaves.
fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copied(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn of(name: &str, project: &str) -> Labels {
    Labels::from_pairs([("__name__", name), ("project", project)])
}

fn everything<'a>(limit: usize) -> Extent<'a> {
    Extent {
        sets: &[],
        start: 0,
        end: i64::MAX,
        limit,
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_read_after_a_death() {
    let directory = tempfile::tempdir().unwrap();
    let (lives, dead) = (
        directory.path().join("lives"),
        directory.path().join("dead"),
    );
    let tsdb = Arc::new(open(&lives));
    let writer = TsdbWriter::new(tsdb.clone(), 2);
    for second in 0..60 {
        let mut batch = Batch::default();
        for project in ["web", "other"] {
            let series = batch.add_series(of("requests_total", project));
            batch.float(series, NOW - 60_000 + second * 1000, second as f64 * 2.0);
            let exemplar = Exemplar {
                labels: Labels::from_pairs([("trace_id", second.to_string())]),
                value: 0.5,
                time: NOW - 60_000 + second * 1000,
            };
            batch.exemplars.push((series, exemplar));
        }
        let said = Metadata {
            kind: MetricKind::Counter,
            unit: "requests".to_owned(),
            help: "Requests.".to_owned(),
        };
        batch.metadata.push(("requests_total".into(), said));
        let appended = writer.append(batch).await.unwrap();
        assert_eq!((appended.floats, appended.exemplars), (2, 2));
        assert!(appended.refused.is_empty(), "{appended:?}");
        // Half of it is in a block by then.
        if second == 30 {
            let tsdb = tsdb.clone();
            tokio::task::spawn_blocking(move || tsdb.flush_now().unwrap())
                .await
                .unwrap();
        }
    }
    copied(&lives, &dead);
    drop((writer, tsdb));
    for place in [lives, dead] {
        let served = serve_tsdb(Arc::new(open(&place)), clock()).await;
        let now = NOW / 1000;
        let query = |text: &str| format!("/api/v1/query?time={now}&query={text}");
        let all = served
            .get("admin", &query("rate(requests_total[50s])"))
            .await;
        let rows = all.data()["result"].as_array().unwrap().clone();
        assert_eq!(rows.len(), 2);
        assert!(rows.iter().all(|row| row["value"][1] == "2"), "{rows:?}");
        let counted = query("count_over_time(requests_total[2m])");
        let its = served.get("web-viewer", &counted).await.data();
        assert_eq!(
            its["result"],
            json!([{"metric": {"project": "web"}, "value": [now, "60"]}])
        );
        let values = "/api/v1/label/project/values";
        let its = served.get("web-viewer", values).await.data();
        assert_eq!(its, json!(["web"]));
        let both = served.get("admin", values).await.data();
        assert_eq!(both, json!(["other", "web"]));
        let names = served.get("admin", "/api/v1/labels").await.data();
        assert_eq!(names, json!(["__name__", "project"]));
        let series = served.get("admin", "/api/v1/series?match[]=requests_total");
        assert_eq!(series.await.data().as_array().map(Vec::len), Some(2));
        let metadata = served.get("admin", "/api/v1/metadata").await.data();
        assert_eq!(
            metadata,
            json!({"requests_total": [{"type": "counter", "unit": "requests", "help": "Requests."}]})
        );
        let (start, end) = (now - 3600, now);
        let path = format!("/api/v1/query_exemplars?query=requests_total&start={start}&end={end}");
        let found = served.get("web-viewer", &path).await.data();
        let found = found.as_array().unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0]["exemplars"].as_array().map(Vec::len), Some(60));
        let status = served.get("admin", "/api/v1/status/tsdb").await.data();
        assert_eq!(status["headStats"]["numSeries"], 2, "{status}");
        assert_eq!(served.get("nobody", values).await.status, 401);
    }
}

#[tokio::test]
async fn refusals_are_counted_by_their_reason_and_the_rest_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let config = TsdbConfig {
        max_series: 3,
        out_of_order: 1000,
        ..TsdbConfig::default()
    };
    let tsdb: Arc<Tsdb> = Arc::new(open_with(directory.path(), config, going()).unwrap());
    let writer = TsdbWriter::new(tsdb.clone(), 1);
    let mut batch = Batch::default();
    let good = batch.add_series(of("good", "web"));
    batch.float(good, NOW - 500, 1.0);
    batch.float(good, NOW, 2.0);
    // Not one of these is stored.
    for _ in 0..20 {
        batch.float(good, NOW, 3.0);
    }
    batch.float(good, NOW - 4000, 1.0);
    batch.float(good, NOW + 3_600_000, 1.0);
    let nameless = batch.add_series(Labels::from_pairs([("project", "web")]));
    batch.float(nameless, NOW, 1.0);
    let long = batch.add_series(Labels::from_pairs([
        ("__name__", "long"),
        ("text", &"x".repeat(10_000)),
    ]));
    batch.float(long, NOW, 1.0);
    batch.float(77, NOW, 1.0);
    for number in 0..5 {
        let series = batch.add_series(of(&format!("more_{number}"), "web"));
        batch.float(series, NOW, 1.0);
    }
    let appended = writer.append(batch.clone()).await.unwrap();
    assert_eq!(appended.floats, 4, "{appended:?}");
    let counts: Vec<(Refusal, usize)> = appended
        .refused
        .iter()
        .map(|(why, (count, _))| (*why, *count))
        .collect();
    assert_eq!(
        counts,
        [
            (Refusal::Duplicate, 20),
            (Refusal::TooOld, 1),
            (Refusal::Future, 1),
            (Refusal::TooManySeries, 3),
            (Refusal::Labels, 3),
        ]
    );
    let words = |why| appended.refused[&why].1.clone();
    assert!(words(Refusal::Duplicate).contains("good at"));
    assert!(words(Refusal::TooManySeries).contains("limit of 3"));
    // The answer is the same when it comes again, and nothing is there twice.
    let again = writer.append(batch).await.unwrap();
    assert_eq!(again.refused, appended.refused);
    let listed = SeriesIndex::series(&*tsdb, everything(2)).unwrap();
    assert!(listed.cut && listed.items.len() == 2);
    let listed = SeriesIndex::series(&*tsdb, everything(100)).unwrap();
    assert!(!listed.cut && listed.items.len() == 3, "{listed:?}");
    let found = tsdb.statistics(1).unwrap();
    assert_eq!((found.series, found.label_pairs, found.chunks), (3, 4, 3));
    assert_eq!(found.max_time, NOW);
    assert_eq!(found.retention, "15d");
    assert_eq!(found.bytes_by_label[0].name, "__name__");
}
