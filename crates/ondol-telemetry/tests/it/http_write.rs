//! Remote write and OTLP over HTTP: who may, what comes back, and what hostile bodies cost.

use std::io::Write as _;
use std::sync::atomic::Ordering;

use crate::door::{NOW, Reply, Served, serve};

const V1: &str = "application/x-protobuf";
const V2: &str = "application/x-protobuf;proto=io.prometheus.write.v2.Request";

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    varint(value.len() as u64, &mut out);
    out.extend_from_slice(value);
    out
}

fn double(number: u8, value: f64) -> Vec<u8> {
    let mut out = vec![number << 3 | 1];
    out.extend_from_slice(&value.to_le_bytes());
    out
}

fn unsigned(number: u8, value: u64) -> Vec<u8> {
    let mut out = vec![number << 3];
    varint(value, &mut out);
    out
}

fn sample(time: i64, value: f64) -> Vec<u8> {
    bytes(2, &[double(1, value), unsigned(2, time as u64)].concat())
}

/// A request of version 1 with one series.
fn v1(labels: &[(&str, &str)], time: i64, value: f64) -> Vec<u8> {
    let mut series: Vec<u8> = labels
        .iter()
        .flat_map(|(name, value)| {
            bytes(
                1,
                &[bytes(1, name.as_bytes()), bytes(2, value.as_bytes())].concat(),
            )
        })
        .collect();
    series.extend(sample(time, value));
    bytes(1, &series)
}

/// A request of version 2 with one series and an exemplar.
fn v2(time: i64, value: f64) -> Vec<u8> {
    let exemplar = [
        bytes(1, &[3, 4]),
        double(2, value),
        unsigned(3, time as u64),
    ]
    .concat();
    let series = [bytes(1, &[1, 2]), sample(time, value), bytes(4, &exemplar)].concat();
    let mut out: Vec<u8> = ["", "__name__", "v2_total", "trace_id", "ab"]
        .iter()
        .flat_map(|symbol| bytes(4, symbol.as_bytes()))
        .collect();
    out.extend(bytes(5, &series));
    out
}

fn snappy(body: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(body).unwrap()
}

async fn write(served: &Served, who: &str, kind: &str, body: &[u8]) -> Reply {
    let headers = "Content-Encoding: snappy\nX-Prometheus-Remote-Write-Version: 0.1.0\nUser-Agent: Prometheus/3.5.0";
    served
        .post(who, "/prometheus/api/v1/write", kind, headers, body)
        .await
}

const UP: &[(&str, &str)] = &[("__name__", "up"), ("job", "a")];

#[tokio::test]
async fn both_versions_are_taken_in() {
    let served = serve(|_| {}).await;
    let reply = write(&served, "admin", V1, &snappy(&v1(UP, 1000, 1.0))).await;
    assert_eq!((reply.status, reply.text()), (204, ""));
    assert_eq!(
        served.store.floats(r#"{__name__="up", job="a"}"#),
        [(1000, 1.0)]
    );
    let reply = write(&served, "admin", V2, &snappy(&v2(NOW * 1000, 2.0))).await;
    assert_eq!(reply.status, 204);
    for (kind, count) in [("samples", "1"), ("histograms", "0"), ("exemplars", "1")] {
        let name = format!("x-prometheus-remote-write-{kind}-written");
        assert_eq!(reply.headers[name.as_str()], count);
    }
    let exemplars = format!(
        "/api/v1/query_exemplars?query=rate(v2_total%5B5m%5D)&start={}&end={}",
        NOW - 1,
        NOW + 1
    );
    assert_eq!(
        served.get("admin", &exemplars).await.text(),
        format!(
            r#"{{"status":"success","data":[{{"seriesLabels":{{"__name__":"v2_total"}},"exemplars":[{{"labels":{{"trace_id":"ab"}},"value":"2","timestamp":{NOW}}}]}}]}}"#
        )
    );
}

#[tokio::test]
async fn what_cannot_get_better_is_never_repeated() {
    let served = serve(|config| {
        config.max_body = 100_000;
        config.max_decompressed = 1_000_000;
    })
    .await;
    write(&served, "admin", V1, &snappy(&v1(UP, 2000, 1.0))).await;
    let late = write(&served, "admin", V1, &snappy(&v1(UP, 1000, 1.0))).await;
    assert_eq!(late.status, 400);
    assert!(late.text().contains("too old"), "{}", late.text());
    let differs = write(&served, "admin", V1, &snappy(&v1(UP, 2000, 5.0))).await;
    assert!(differs.status == 400 && differs.text().contains("duplicate"));
    let nameless = write(&served, "admin", V1, &snappy(&v1(&[("job", "a")], 1, 1.0))).await;
    assert!(nameless.status == 400 && nameless.text().contains("without a name"));
    for (kind, body, status) in [
        (V1, b"no snappy at all".to_vec(), 400),
        (V1, snappy(b"no message"), 400),
        (V2, snappy(&v1(UP, 1, 1.0)[..5]), 400),
        ("application/json", snappy(b""), 415),
        ("application/x-protobuf;proto=other", snappy(b""), 415),
        // A bomb: a megabyte and more out of fifty kilobytes.
        (V1, snappy(&vec![0; 1_000_001]), 413),
        (V1, vec![0; 200_000], 413),
        // A block of six bytes that claims four gigabytes.
        (V1, vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0], 413),
    ] {
        let reply = write(&served, "admin", kind, &body).await;
        assert_eq!(reply.status, status, "{kind}: {}", reply.text());
    }
    let plain = served
        .post(
            "admin",
            "/prometheus/api/v1/write",
            V1,
            "Content-Encoding: zstd",
            b"",
        )
        .await;
    assert_eq!(plain.status, 415);
    served.store.broken.store(true, Ordering::Relaxed);
    let failed = write(&served, "admin", V2, &snappy(&v2(9000, 1.0))).await;
    assert_eq!(failed.status, 500);
    assert_eq!(
        failed.headers["x-prometheus-remote-write-samples-written"],
        "0"
    );
}

#[tokio::test]
async fn a_body_without_a_length_is_cut() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let served = serve(|config| config.max_body = 100_000).await;
    let mut connection = tokio::net::TcpStream::connect(served.at).await.unwrap();
    connection
        .write_all(b"POST /prometheus/api/v1/write HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\nContent-Type: application/x-protobuf\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let chunk = [b"4000\r\n".to_vec(), vec![7; 0x4000], b"\r\n".to_vec()].concat();
    // It never ends by itself: the server has to end it.
    let (mut reader, mut writer) = connection.split();
    let sending = async {
        while writer.write_all(&chunk).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    let mut answer = [0; 12];
    tokio::select! {
        () = sending => {}
        read = reader.read_exact(&mut answer) => { read.unwrap(); }
    }
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn whoever_has_one_project_writes_to_that_alone() {
    let served = serve(|_| {}).await;
    let own = write(&served, "web-developer", V1, &snappy(&v1(UP, 1000, 1.0))).await;
    assert_eq!(own.status, 204);
    assert_eq!(
        served.store.shown(),
        [r#"{__name__="up", job="a", project="web"}"#]
    );
    let named = [UP, &[("project", "web")]].concat();
    let named = write(
        &served,
        "web-developer",
        V1,
        &snappy(&v1(&named, 2000, 1.0)),
    )
    .await;
    assert_eq!(named.status, 204);
    let foreign = [UP, &[("project", "other")]].concat();
    let foreign = write(
        &served,
        "web-developer",
        V1,
        &snappy(&v1(&foreign, 3000, 1.0)),
    )
    .await;
    assert_eq!(foreign.status, 403);
    assert!(foreign.text().contains("project `other`"));
    for (who, status) in [("web-viewer", 403), ("nothing", 403), ("wrong", 401)] {
        let reply = write(&served, who, V1, &snappy(&v1(UP, 9000, 1.0))).await;
        assert_eq!(reply.status, status, "{who}");
    }
    assert_eq!(served.store.shown().len(), 1);
}

/// An OTLP request with one delta.
fn otlp(start: u64, time: u64, value: f64) -> Vec<u8> {
    let fixed = |number: u8, seconds: u64| {
        let mut out = vec![number << 3 | 1];
        out.extend_from_slice(&(seconds * 1_000_000_000).to_le_bytes());
        out
    };
    let point = [fixed(2, start), fixed(3, time), double(4, value)].concat();
    let sum = [bytes(1, &point), unsigned(2, 1), unsigned(3, 1)].concat();
    let metric = [bytes(1, b"calls"), bytes(7, &sum)].concat();
    bytes(1, &bytes(2, &bytes(2, &metric)))
}

#[tokio::test]
async fn otlp_deltas_are_counted_once_whatever_is_repeated() {
    let served = serve(|_| {}).await;
    let send = |body: Vec<u8>, path: &'static str| {
        let served = &served;
        async move { served.post("admin", path, V1, "", &body).await }
    };
    served.store.broken.store(true, Ordering::Relaxed);
    let failed = send(otlp(1, 10, 5.0), "/v1/metrics").await;
    assert_eq!(failed.status, 503);
    served.store.broken.store(false, Ordering::Relaxed);
    let taken = send(otlp(1, 10, 5.0), "/v1/metrics").await;
    assert_eq!((taken.status, taken.body.len()), (200, 0));
    assert_eq!(taken.headers["content-type"], "application/x-protobuf");
    send(otlp(10, 20, 2.0), "/prometheus/api/v1/otlp/v1/metrics").await;
    assert_eq!(
        served.store.floats(r#"{__name__="calls_total"}"#),
        [(10_000, 5.0), (20_000, 7.0)]
    );
    let again = send(otlp(1, 10, 5.0), "/v1/metrics").await;
    assert_eq!(again.status, 200);
    // `partial_success` with one point and words.
    assert_eq!(&again.body[..1], [0x0a]);
    assert!(again.text().contains("too old"));
}

#[tokio::test]
async fn otlp_bodies_may_be_gzip_and_bombs_are_not_unpacked() {
    let served = serve(|config| config.max_decompressed = 100_000).await;
    let gzip = |body: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    };
    let send = |body: Vec<u8>, kind: &'static str| {
        let served = &served;
        async move {
            served
                .post(
                    "admin",
                    "/v1/metrics",
                    kind,
                    "Content-Encoding: gzip",
                    &body,
                )
                .await
        }
    };
    assert_eq!(send(gzip(&otlp(1, 10, 5.0)), V1).await.status, 200);
    assert_eq!(served.store.shown(), [r#"{__name__="calls_total"}"#]);
    assert_eq!(send(gzip(&vec![0; 10_000_000]), V1).await.status, 413);
    assert_eq!(send(b"not gzip".to_vec(), V1).await.status, 400);
    assert_eq!(send(gzip(b"\xff\xff"), V1).await.status, 400);
    assert_eq!(send(gzip(b"{}"), "application/json").await.status, 415);
}

#[tokio::test]
async fn short_jobs_leave_their_metrics() {
    let served = serve(|_| {}).await;
    let send = |method: &'static str, who: &'static str, path: &'static str, body: &'static str| {
        let head = format!(
            "{method} /prometheus/metrics/{path} HTTP/1.1\nHost: x\nAuthorization: Bearer {who}\nContent-Type: text/plain"
        );
        let served = &served;
        async move { served.raw(&head, body.as_bytes()).await.status }
    };
    assert_eq!(
        send("PUT", "web-developer", "job/nightly", "rows 5\n").await,
        200
    );
    assert_eq!(
        send("POST", "admin", "job/backup/instance/a", "bytes 7\n").await,
        200
    );
    let text = served.pushed.text();
    assert!(
        text.contains(r#"{"rows","job"="nightly","project"="web"} 5"#),
        "{text}"
    );
    assert!(
        text.contains(r#"{"bytes","instance"="a","job"="backup"} 7"#),
        "{text}"
    );
    for (method, who, path, body, status) in [
        ("PUT", "admin", "job/backup", "bytes 7 1000\n", 400),
        ("PUT", "admin", "instance/a", "bytes 7\n", 400),
        ("PUT", "web-viewer", "job/x", "a 1\n", 403),
        ("PUT", "web-developer", "job/x/project/other", "a 1\n", 403),
        ("GET", "admin", "job/x", "", 405),
        ("DELETE", "admin", "job/backup/instance/a", "", 202),
    ] {
        assert_eq!(
            send(method, who, path, body).await,
            status,
            "{method} {path}"
        );
    }
    assert!(!served.pushed.text().contains("backup"));
}
