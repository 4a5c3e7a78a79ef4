//! The query API as Grafana's data source asks it, and what it refuses.

use std::time::Duration;

use serde_json::json;

use crate::door::{NOW, Served, serve};

const FORM: &str = "application/x-www-form-urlencoded";

async fn filled() -> Served {
    let served = serve(|_| {}).await;
    let at = |seconds: i64| (NOW - seconds) * 1000;
    served.store.put(
        &[("__name__", "up"), ("job", "a"), ("project", "web")],
        &[(at(60), 1.0), (at(0), 1.0)],
    );
    served.store.put(
        &[("__name__", "up"), ("job", "b"), ("project", "other")],
        &[(at(60), 1.0), (at(0), 0.0)],
    );
    served.store.put(
        &[
            ("__name__", "odd"),
            ("http.code", "200"),
            ("project", "web"),
        ],
        &[(at(0), f64::INFINITY)],
    );
    served
}

#[tokio::test]
async fn grafana_asks_by_form_and_gets_texts_for_numbers() {
    let served = filled().await;
    // As Grafana 11 sends it, header by header.
    let body = format!(
        "end={NOW}&query=up%7Bjob%3D%22b%22%7D&start={}&step=60",
        NOW - 60
    );
    let reply = served
        .raw(
            "POST /prometheus/api/v1/query_range HTTP/1.1\nHost: localhost:7070\nUser-Agent: Grafana/11.2.0\nAuthorization: Bearer admin\nContent-Type: application/x-www-form-urlencoded\nX-Grafana-Org-Id: 1\nAccept-Encoding: gzip",
            body.as_bytes(),
        )
        .await;
    assert_eq!(
        reply.text(),
        format!(
            r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{"__name__":"up","job":"b","project":"other"}},"values":[[{},"1"],[{NOW},"0"]]}}]}}}}"#,
            NOW - 60
        )
    );
    assert_eq!(reply.headers["content-type"], "application/json");
    // The health check of the data source.
    let reply = served
        .post(
            "admin",
            "/prometheus/api/v1/query",
            FORM,
            "",
            format!("query=1%2B1&time={NOW}").as_bytes(),
        )
        .await;
    assert_eq!(
        reply.text(),
        format!(r#"{{"status":"success","data":{{"resultType":"scalar","result":[{NOW},"2"]}}}}"#)
    );
    let reply = served
        .get("admin", "/api/v1/query?query=odd&stats=all")
        .await
        .data();
    assert_eq!(reply["result"][0]["value"], json!([NOW, "+Inf"]));
    assert!(
        reply["stats"]["samples"]["peakSamples"]
            .as_u64()
            .is_some_and(|peak| peak > 0)
    );
}

#[tokio::test]
async fn what_there_is_is_listed() {
    let served = filled().await;
    let window = format!("start={}&end={NOW}", NOW - 3600);
    let reply = served
        .post(
            "admin",
            "/prometheus/api/v1/labels",
            FORM,
            "",
            window.as_bytes(),
        )
        .await
        .data();
    assert_eq!(reply, json!(["__name__", "http.code", "job", "project"]));
    let values = |path: &str| {
        let path = format!("/api/v1/label/{path}/values?{window}");
        let served = &served;
        async move { served.get("admin", &path).await.data() }
    };
    assert_eq!(values("__name__").await, json!(["odd", "up"]));
    assert_eq!(values("U__http_2e_code").await, json!(["200"]));
    assert_eq!(values("http.code").await, json!(["200"]));
    let matching = served
        .get(
            "admin",
            "/api/v1/label/job/values?match[]=up%7Bjob%3D~%22a%7Cz%22%7D&match%5B%5D=odd",
        )
        .await;
    assert_eq!(matching.data(), json!(["a"]));
    let cut = served
        .get("admin", "/api/v1/series?match[]=up&limit=1")
        .await
        .json();
    assert_eq!(
        cut,
        json!({
            "status": "success",
            "data": [{"__name__": "up", "job": "a", "project": "web"}],
            "warnings": ["results truncated due to limit"],
        })
    );
    let cut = served
        .get("admin", "/api/v1/query?query=up&limit=1")
        .await
        .json();
    assert_eq!(cut["data"]["result"].as_array().map(Vec::len), Some(1));
    assert_eq!(cut["warnings"], json!(["results truncated due to limit"]));
    let formatted = served
        .get("admin", "/api/v1/format_query?query=sum(up)by(job)")
        .await;
    assert_eq!(formatted.data(), json!("sum by (job) (up)"));
    let build = served.get("admin", "/api/v1/status/buildinfo").await.data();
    assert_eq!(build["version"], "3.14.0");
    for (path, expected) in [
        ("rules", json!({"groups": []})),
        ("alerts", json!({"alerts": []})),
        ("metadata", json!({})),
    ] {
        assert_eq!(
            served.get("admin", &format!("/api/v1/{path}")).await.data(),
            expected
        );
    }
    let head = served.get("admin", "/api/v1/status/tsdb").await.data();
    assert_eq!(head["headStats"]["numSeries"], 3);
    assert_eq!(served.get("admin", "/-/ready").await.status, 200);
}

#[tokio::test]
async fn errors_have_the_codes_that_clients_know() {
    let served = filled().await;
    for (path, status, kind) in [
        ("/api/v1/query?query=up%28", 400, "bad_data"),
        ("/api/v1/query", 400, "bad_data"),
        ("/api/v1/query?query=up&time=later", 400, "bad_data"),
        ("/api/v1/query?query=up&timeout=x", 400, "bad_data"),
        (
            "/api/v1/query_range?query=up&start=0&end=11000&step=1",
            400,
            "bad_data",
        ),
        (
            "/api/v1/query_range?query=up&start=5&end=0&step=1",
            400,
            "bad_data",
        ),
        (
            "/api/v1/query_range?query=up&start=0&end=5&step=0",
            400,
            "bad_data",
        ),
        (
            "/api/v1/query_range?query=up&start=0&end=5",
            400,
            "bad_data",
        ),
        ("/api/v1/query?query=up%20%2B%20on()%20up", 422, "execution"),
        ("/api/v1/query?query=up&timeout=0", 503, "timeout"),
        ("/api/v1/series", 400, "bad_data"),
        ("/api/v1/series?match[]=sum(up)", 400, "bad_data"),
        ("/api/v1/labels?start=9&end=1", 400, "bad_data"),
        ("/api/v1/nothing", 404, "not_found"),
    ] {
        let reply = served.get("admin", path).await;
        let json = reply.json();
        assert_eq!(
            (reply.status, &json["errorType"]),
            (status, &kind.into()),
            "{path}: {json}"
        );
        assert_eq!(json["status"], "error");
    }
    let fits = "/api/v1/query_range?query=up&start=0&end=10999&step=1";
    assert_eq!(served.get("admin", fits).await.status, 200);
    let refused = served
        .post(
            "admin",
            "/prometheus/api/v1/label/job/values",
            FORM,
            "",
            b"",
        )
        .await;
    assert_eq!(refused.status, 405);
}

#[tokio::test]
async fn a_limit_names_what_is_too_large() {
    let served = serve(|config| config.query.max_samples = 10).await;
    let samples: Vec<(i64, f64)> = (0..100).map(|at| ((NOW - at) * 1000, 1.0)).rev().collect();
    served.store.put(&[("__name__", "many")], &samples);
    let reply = served
        .get("admin", "/api/v1/query?query=1%2Bsum(rate(many%5B5m%5D))")
        .await;
    assert_eq!(reply.status, 422);
    let error = reply.json()["error"].as_str().unwrap().to_owned();
    assert!(
        error.contains("many") && error.contains("max_samples"),
        "{error}"
    );
}

/// A connection on which a large answer stands that nobody reads.
async fn unread(served: &Served) -> tokio::net::TcpStream {
    use tokio::io::AsyncWriteExt;
    // Large enough that the answer does not fit into the buffers of the connection.
    let samples: Vec<(i64, f64)> = (0..10_000)
        .map(|at| ((NOW - 10_000 + at) * 1000, 0.123_456_789 * at as f64))
        .collect();
    for series in 0..100 {
        let name = series.to_string();
        served
            .store
            .put(&[("__name__", "wide"), ("n", &name)], &samples);
    }
    let mut connection = tokio::net::TcpStream::connect(served.at).await.unwrap();
    let head = format!(
        "GET /prometheus/api/v1/query?query=wide%5B3h%5D&time={NOW} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    // The first byte of the answer says that the query has its place; the rest is not read.
    connection.readable().await.unwrap();
    connection
}

async fn one_place(timeout: Duration) -> Served {
    serve(|config| {
        config.max_queries = 1;
        config.max_waiting = 0;
        config.max_wait = Duration::ZERO;
        config.query.timeout = timeout;
    })
    .await
}

/// Waits for the one place to become free.
async fn place_is_free(served: &Served) {
    for _ in 0..3_000 {
        let reply = served.get("admin", "/api/v1/query?query=1").await;
        if reply.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the place stayed taken");
}

#[tokio::test]
async fn a_query_that_has_no_place_is_turned_away() {
    let served = one_place(Duration::from_secs(600)).await;
    let slow = unread(&served).await;
    let refused = served.get("admin", "/api/v1/query?query=1").await;
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("wide[3h]"), "{}", refused.text());
    assert_eq!(refused.headers["retry-after"], "5");
    // The place becomes free when the client that held it has gone.
    drop(slow);
    place_is_free(&served).await;
}

#[tokio::test]
async fn an_answer_that_is_not_read_does_not_keep_its_place() {
    let served = one_place(Duration::from_secs(4)).await;
    let _slow = unread(&served).await;
    place_is_free(&served).await;
}

#[tokio::test]
async fn nobody_sees_the_series_of_other_projects() {
    let served = filled().await;
    let who = "web-viewer";
    for query in [
        "up",
        "up%7Bproject%3D%22other%22%7D%20or%20up",
        "up%7Bproject!%3D%22x%22%7D",
        "last_over_time(up%5B1h%5D)",
    ] {
        let data = served
            .get(who, &format!("/api/v1/query?query={query}"))
            .await
            .data();
        let result = data["result"].as_array().unwrap().clone();
        assert_eq!(result.len(), 1, "{query}: {data}");
        assert_eq!(result[0]["metric"]["project"], "web");
    }
    let projects = served.get(who, "/api/v1/label/project/values").await.data();
    assert_eq!(projects, json!(["web"]));
    let series = served
        .get(who, "/api/v1/series?match[]=%7Bproject%3D~%22.%2B%22%7D")
        .await;
    assert_eq!(series.data().as_array().map(Vec::len), Some(2));
    let targets = served.get(who, "/api/v1/targets").await.data();
    assert_eq!(targets["activeTargets"].as_array().map(Vec::len), Some(1));
    assert_eq!(served.get(who, "/api/v1/status/tsdb").await.status, 403);
    assert_eq!(
        served.get("nothing", "/api/v1/query?query=up").await.status,
        403
    );
    assert_eq!(
        served.get("wrong", "/api/v1/query?query=up").await.status,
        401
    );
    let anonymous = served
        .raw(
            "GET /prometheus/api/v1/query?query=up HTTP/1.1\nHost: x",
            b"",
        )
        .await;
    assert_eq!(anonymous.status, 401);
    assert!(anonymous.headers.contains_key("www-authenticate"));
    let all = served.get("admin", "/api/v1/targets").await.data();
    assert_eq!(all["activeTargets"][0]["health"], "down");
    assert_eq!(all["activeTargets"][1]["health"], "up");
}
