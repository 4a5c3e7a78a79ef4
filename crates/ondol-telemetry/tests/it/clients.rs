//! Real clients: promtool, and a Prometheus that sends by remote write. Each test says so and
//! passes where the program is not installed.

use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use ondol_types::{Clock, SystemClock};
use std::sync::Arc;
use tokio::process::Command;

use crate::door::serve_at;
use crate::memory::Memory;

#[expect(clippy::print_stderr, reason = "a test that proves nothing says so")]
fn missing(program: &str) {
    eprintln!("{program} is not installed: nothing is tested");
}

/// What promtool prints; `None` when it is not installed.
async fn promtool(arguments: &[&str]) -> Option<(bool, String)> {
    let output = Command::new("promtool").args(arguments).output().await;
    match output {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8(text).unwrap()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            missing("promtool");
            None
        }
        Err(error) => panic!("promtool: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_queries() {
    // promtool asks for what is now by its own clock.
    let served = serve_at(Arc::new(Memory::default()), |_| {}, SystemClock).await;
    let now = SystemClock.now().as_millis() / 1000;
    let samples = [((now - 60) * 1000, 1.0), (now * 1000, 2.5)];
    served
        .store
        .put(&[("__name__", "up"), ("job", "node")], &samples);
    let server = format!("http://any:admin@{}/prometheus", served.at);
    let (start, end) = ((now - 60).to_string(), now.to_string());
    let Some((good, text)) = promtool(&["query", "instant", &server, "up * 2"]).await else {
        return;
    };
    assert!(good && text.contains(r#"{job="node"} => 5 @["#), "{text}");
    for (arguments, expected) in [
        (
            vec![
                "query", "range", "--start", &start, "--end", &end, "--step", "60s", &server, "up",
            ],
            "2.5 @[",
        ),
        (
            vec![
                "query", "series", "--match", "up", "--start", &start, "--end", &end, &server,
            ],
            r#"{__name__="up", job="node"}"#,
        ),
        (
            vec![
                "query", "labels", "--start", &start, "--end", &end, &server, "job",
            ],
            "node",
        ),
    ] {
        let (good, text) = promtool(&arguments).await.unwrap();
        assert!(good && text.contains(expected), "{arguments:?}: {text}");
    }
    let (good, text) = promtool(&["query", "instant", &server, "up("])
        .await
        .unwrap();
    assert!(!good && text.contains("parse error"), "{text}");
    let anonymous = format!("http://{}/prometheus", served.at);
    let (good, text) = promtool(&["query", "instant", &anonymous, "up"])
        .await
        .unwrap();
    assert!(!good && text.contains("this needs a token"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_sends_what_it_scrapes() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let routes = Router::new().route(
        "/metrics",
        get(|| async {
            "# HELP jobs_total Jobs.\n# TYPE jobs_total counter\njobs_total{state=\"done\"} 3\n"
        }),
    );
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let served = serve_at(Arc::new(Memory::default()), |_| {}, SystemClock).await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: app\n  static_configs: [{{targets: ['{target}']}}]\nremote_write:\n- url: http://{}/prometheus/api/v1/write\n  authorization: {{credentials: admin}}\n  metadata_config: {{send_interval: 1s}}\n",
        served.at
    );
    std::fs::write(&config, text).unwrap();
    let sender = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.path().join("data").display()
        ))
        .arg("--web.listen-address=127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut sender = match sender {
        Ok(sender) => sender,
        Err(error) if error.kind() == ErrorKind::NotFound => return missing("prometheus"),
        Err(error) => panic!("prometheus: {error}"),
    };
    let series =
        format!(r#"{{__name__="jobs_total", instance="{target}", job="app", state="done"}}"#);
    let mut found = 0;
    for _ in 0..600 {
        found = served.store.floats(&series).len();
        let said = served
            .get("admin", "/api/v1/metadata?metric=jobs_total")
            .await
            .data();
        if found >= 2 && said["jobs_total"][0]["type"] == "counter" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sender.kill().await.unwrap();
    assert!(found >= 2, "{:?}", served.store.shown());
    let answer = served
        .get("admin", "/api/v1/query?query=max(jobs_total)")
        .await
        .data();
    assert_eq!(answer["result"][0]["value"][1], "3");
    let said = served
        .get("admin", "/api/v1/metadata?metric=jobs_total")
        .await
        .data();
    assert_eq!(said["jobs_total"][0]["help"], "Jobs.");
}
