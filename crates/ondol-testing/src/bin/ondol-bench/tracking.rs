//! Calls of MLflow's protocol, one client with one connection, here and at `mlflow server` with
//! one worker and no jobs, which is its fastest form for one client.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ondol_testing::{Platform, eventually, has_program, process};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::report::{Report, median};

const RUNS: usize = 1_000;
const METRICS: usize = 1_000;
const BATCHES: usize = 30;
const SEARCHES: usize = 20;

/// One server under measurement.
struct Server<'p> {
    platform: &'p Platform,
    url: String,
    token: Option<String>,
}

impl Server<'_> {
    fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}/api/2.0/mlflow/{path}", self.url);
        let mut request = self
            .platform
            .request("POST", &url)
            .header("content-type", "application/json")
            .body(body.to_string());
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        self.platform
            .send(request)
            .expect("an answer")
            .is(200)
            .json()
    }
}

/// Medians of one server, in seconds.
struct Figures {
    create: f64,
    metric: f64,
    batch: f64,
    ordered: f64,
    filtered: f64,
}

fn each(count: usize, mut call: impl FnMut(usize)) -> f64 {
    let times = (0..count)
        .map(|at| {
            let began = Instant::now();
            call(at);
            began.elapsed().as_secs_f64()
        })
        .collect();
    median(times)
}

fn figures(server: &Server<'_>) -> Figures {
    let made = server.post("experiments/create", &json!({ "name": "bench" }));
    let experiment = made["experiment_id"].clone();
    let mut runs = Vec::with_capacity(RUNS);
    let create = each(RUNS, |at| {
        let body = json!({ "experiment_id": experiment, "start_time": at, "run_name": format!("run-{at}") });
        let made = server.post("runs/create", &body);
        runs.push(made["run"]["info"]["run_id"].clone());
    });
    for (at, run) in runs.iter().enumerate() {
        let body = json!({
            "run_id": run,
            "metrics": [{ "key": "acc", "value": (at % 97) as f64 / 97.0, "timestamp": 1 }],
            "params": [{ "key": "lr", "value": (at % 10).to_string() }],
            "tags": [{ "key": "team", "value": (at % 4).to_string() }],
        });
        server.post("runs/log-batch", &body);
    }
    let metric = each(METRICS, |at| {
        let body =
            json!({ "run_id": runs[0], "key": "loss", "value": 0.5, "timestamp": at, "step": at });
        server.post("runs/log-metric", &body);
    });
    let batch = each(BATCHES, |at| {
        let points: Vec<Value> = (0..1_000)
            .map(|step| {
                let step = at * 1_000 + step;
                json!({ "key": format!("m{}", step % 10), "value": step as f64, "timestamp": step, "step": step })
            })
            .collect();
        server.post(
            "runs/log-batch",
            &json!({ "run_id": runs[1], "metrics": points }),
        );
    });
    let search = |body: Value| {
        each(SEARCHES, |_| {
            server.post("runs/search", &body);
        })
    };
    let ordered = search(
        json!({ "experiment_ids": [experiment], "order_by": ["metrics.acc DESC"], "max_results": 100 }),
    );
    let filtered = search(
        json!({ "experiment_ids": [experiment], "filter": "metrics.acc > 0.5 and params.lr = '3' and tags.team = '1'" }),
    );
    Figures {
        create,
        metric,
        batch,
        ordered,
        filtered,
    }
}

pub(crate) fn measure(report: &mut Report) {
    let platform = Platform::start();
    let ours = figures(&Server {
        platform: &platform,
        url: platform.control().to_owned(),
        token: Some(platform.token()),
    });
    let rival = has_program("mlflow").then(|| {
        let rival = Rival::start(&platform);
        figures(&Server {
            platform: &platform,
            url: rival.url.clone(),
            token: None,
        })
    });
    let rate = |time: f64| format!("{:.0}/s, {:.1} ms", 1.0 / time, time * 1e3);
    type Pick = fn(&Figures) -> f64;
    let pick: [(&str, Pick, &str); 5] = [
        (
            "MLflow runs/create",
            |figures| figures.create,
            "≥ 20 × MLflow's server",
        ),
        (
            "MLflow log-metric",
            |figures| figures.metric,
            "≥ 20 × MLflow's server",
        ),
        (
            "MLflow log-batch of 1,000 points",
            |figures| figures.batch,
            "≥ 20 × MLflow's server",
        ),
        (
            "MLflow search over 1,000 runs, ordered by a metric, first 100",
            |figures| figures.ordered,
            "≤ 10 ms",
        ),
        (
            "MLflow search over 1,000 runs by metric, parameter and tag",
            |figures| figures.filtered,
            "≤ 10 ms",
        ),
    ];
    for (what, figure, bar) in pick {
        let theirs = rival.as_ref().map_or_else(
            || "`mlflow` is not installed".to_owned(),
            |rival| format!("mlflow server: {}", rate(figure(rival))),
        );
        report.row(what, rate(figure(&ours)), theirs, bar);
    }
    report.note("Tracking: one client, one kept connection, medians; every acknowledged call is synced to disk here. `mlflow server` runs with one worker, without jobs, on SQLite.");
}

struct Rival {
    url: String,
    child: Child,
}

impl Rival {
    fn start(platform: &Platform) -> Self {
        let folder = platform.folder().join("mlflow");
        fs::create_dir_all(&folder).expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let child = Self::command(&folder, port)
            .spawn()
            .expect("mlflow server starts");
        let url = format!("http://127.0.0.1:{port}");
        eventually("mlflow server answers", Duration::from_secs(120), || {
            platform
                .send(platform.request("GET", &format!("{url}/health")))
                .is_ok_and(|answer| answer.status == 200)
        });
        Self { url, child }
    }

    fn command(folder: &Path, port: u16) -> Command {
        let mut command = Command::new("mlflow");
        command
            .args(["server", "--workers", "1", "--host", "127.0.0.1", "--port"])
            .arg(port.to_string())
            .arg("--backend-store-uri")
            .arg(format!("sqlite:///{}", folder.join("mlflow.db").display()))
            .arg("--artifacts-destination")
            .arg(folder.join("artifacts"))
            .env("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        let pid = self.child.id().cast_signed();
        for worker in process::descendants(pid) {
            process::send(worker, Signal::TERM);
        }
        process::send(pid, Signal::TERM);
        let _ = self.child.wait();
    }
}
