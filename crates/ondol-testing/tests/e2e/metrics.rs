//! The metrics of everything that runs, by Prometheus' API at the one door: kept over a death, and
//! seen by nobody who may not.

use std::time::Duration;

use ondol_testing::{Platform, eventually, eventually_some};
use serde_json::Value;

use crate::fixtures::push_live;

/// A service with a page of metrics that lies about whose they are.
const METER: &str = r#"
import http.server, os
class Meter(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page = self.path == "/metrics"
        text = 'orders_total{project="shop"} 7\n' if page else "ok\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(text.encode())
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Meter).serve_forever()
"#;
const METER_YAML: &str = "project: meter\ntest: \"true\"\nservice:\n  run: python3 app.py\n  health: { path: /, deadline: 20s }\n";
/// A target is asked every 15 seconds; one that may have no metrics every minute until it has.
const SCRAPED: Duration = Duration::from_secs(150);

/// The series that an instant query finds.
#[track_caller]
fn ask(platform: &Platform, token: &str, query: &str) -> Vec<Value> {
    let url = format!("{}/prometheus/api/v1/query", platform.control());
    let request = platform.request("GET", &url).query(&[("query", query)]);
    let answer = platform.send(request.bearer_auth(token)).unwrap().is(200);
    let answer = answer.json();
    assert_eq!(answer["status"], "success", "{answer}");
    answer["data"]["result"].as_array().cloned().unwrap()
}

#[track_caller]
fn token_of(platform: &Platform, project: &str, role: &str) -> String {
    let arguments = [
        "token",
        "create",
        project,
        "--project",
        project,
        "--role",
        role,
        "--json",
    ];
    let made = platform.cli(&arguments, platform.folder()).ok().json();
    made["token"].as_str().unwrap().to_owned()
}

#[test]
fn metrics_are_there_for_who_may_see_them_and_outlive_a_death() {
    let mut platform = Platform::start();
    let web = platform.new_project("web", "shop");
    push_live(&platform, &web);
    let meter = platform.project_of("meter", &[("app.py", METER), ("ondol.yaml", METER_YAML)]);
    push_live(&platform, &meter);
    for _ in 0..5 {
        platform.app("shop", "/").unwrap();
    }
    let admin = platform.token();
    let shop = token_of(&platform, "shop", "viewer");
    let other = token_of(&platform, "meter", "developer");

    // The platform's own series, and the requests of each release.
    eventually("the platform scrapes itself", SCRAPED, || {
        !ask(&platform, &admin, "ondol_build_info").is_empty()
    });
    let requests = "sum by (project) (ondol_gateway_requests_total{project=\"shop\"})";
    let before = eventually_some("the requests are counted", SCRAPED, || {
        let found = ask(&platform, &admin, requests);
        let value: f64 = found.first()?["value"][1].as_str()?.parse().ok()?;
        (value >= 5.0).then_some(value)
    });

    // Without a token nothing, with one of another project nothing of this one.
    let url = format!("{}/prometheus/api/v1/query?query=up", platform.control());
    platform
        .send(platform.request("GET", &url))
        .unwrap()
        .is(401);
    let wrong = platform.request("GET", &url).bearer_auth("ondol_wrong");
    platform.send(wrong).unwrap().is(401);
    assert_eq!(ask(&platform, &shop, requests).len(), 1);
    assert!(ask(&platform, &other, requests).is_empty());
    assert!(ask(&platform, &other, "ondol_build_info").is_empty());

    // A workload with metrics is its own project's, whatever it says; one without is not down.
    let orders = eventually_some("the workload is scraped", SCRAPED, || {
        ask(&platform, &other, "orders_total").pop()
    });
    assert_eq!(orders["metric"]["project"], "meter", "{orders}");
    assert_eq!(orders["metric"]["exported_project"], "shop", "{orders}");
    assert_eq!(orders["metric"]["environment"], "production", "{orders}");
    assert!(ask(&platform, &shop, "orders_total").is_empty());
    assert!(ask(&platform, &admin, "up{job=\"workload\",project=\"shop\"}").is_empty());

    the_command_line_asks(&platform);
    remote_write(&platform, &other);

    // What was acknowledged is there after a death, from the log alone.
    platform.kill9();
    platform.restart();
    let found = ask(&platform, &other, "last_over_time(sent_total[1h])");
    assert_eq!(found[0]["value"][1], "42", "{found:?}");
    assert_eq!(found[0]["metric"]["project"], "meter", "{found:?}");
    let kept = "sum(last_over_time(ondol_gateway_requests_total{project=\"shop\"}[1h]))";
    let found = ask(&platform, &admin, kept);
    let after: f64 = found[0]["value"][1].as_str().unwrap().parse().unwrap();
    assert!(after >= before, "{after} after {before}");
}

fn the_command_line_asks(platform: &Platform) {
    let cli = |arguments: &[&str]| platform.cli(arguments, platform.folder());
    let table = cli(&["query", "orders_total", "--project", "meter"]).ok();
    assert!(
        table.stdout.contains("orders_total{") && table.stdout.trim_end().ends_with('7'),
        "{}",
        table.stdout
    );
    let none = cli(&["query", "orders_total", "--project", "shop"]).ok();
    assert!(none.stdout.is_empty(), "{}", none.stdout);
    let lines = cli(&["query", "orders_total", "--range", "10m", "--step", "15s"]).ok();
    assert!(
        lines.stdout.lines().all(|line| line.ends_with("\t7")) && !lines.stdout.is_empty(),
        "{}",
        lines.stdout
    );
    let json = cli(&["query", "1 + 1", "--json"]).ok().json();
    assert_eq!(json["result"][1], "2", "{json}");
    cli(&["query", "sum("]).exits(2).says("parse error");
    cli(&["query", "up", "--range", "soon"])
        .exits(2)
        .says("not a duration");
}

/// Sends one sample by remote write 1.0, as every sender of Prometheus does.
fn remote_write(platform: &Platform, token: &str) {
    let now = ask(platform, token, "vector(time())");
    let now: f64 = now[0]["value"][1].as_str().unwrap().parse().unwrap();
    let field = |number: u8, bytes: &[u8]| {
        let head = [number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        [&head[..], bytes].concat()
    };
    let label = [field(1, b"__name__"), field(2, b"sent_total")].concat();
    let mut sample = vec![1 << 3 | 1];
    sample.extend_from_slice(&42f64.to_le_bytes());
    sample.push(2 << 3);
    let mut time = (now * 1e3) as u64;
    while time >= 0x80 {
        sample.push(time as u8 | 0x80);
        time >>= 7;
    }
    sample.push(time as u8);
    let message = field(1, &[field(1, &label), field(2, &sample)].concat());
    // Snappy's block format: the length, and one literal of at most 60 bytes.
    let length = u8::try_from(message.len()).unwrap();
    let mut body = vec![length, (length - 1) << 2];
    body.extend_from_slice(&message);
    let request = |token: &str| {
        let url = format!("{}/prometheus/api/v1/write", platform.control());
        platform
            .request("POST", &url)
            .bearer_auth(token)
            .header("content-type", "application/x-protobuf")
            .header("content-encoding", "snappy")
            .header("x-prometheus-remote-write-version", "0.1.0")
            .body(body.clone())
    };
    platform.send(request("ondol_wrong")).unwrap().is(401);
    platform.send(request(token)).unwrap().is(204);
}
