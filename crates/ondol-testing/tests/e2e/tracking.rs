//! MLflow's own client at the one door: what it sees is what its own server shows it, and what a
//! training step logs is tied to the run of the pipeline.
//!
//! The client is `mlflow-skinny` in an environment that `make setup` installs. What the session
//! must print was recorded from `mlflow server` of the same version.

use std::path::PathBuf;
use std::process::Command;

use ondol_testing::platform::{PATIENCE, run};
use ondol_testing::{Platform, environment, skipped};
use serde_json::{Value, json};

use crate::loop_data::push_table;

const VERSION: &str = "3.17.2";
const SESSION: &str = include_str!("../../fixtures/mlflow_session.py");
/// What the session prints at MLflow's own server.
const RECORDED: &str = include_str!("../../fixtures/mlflow_session.json");

/// The Python that has MLflow's client.
fn python(test: &str) -> Option<PathBuf> {
    let cache = environment("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| environment("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_default();
    let python = cache
        .join("ondol")
        .join(format!("mlflow-skinny-{VERSION}"))
        .join("bin/python3");
    if python.is_file() {
        return Some(python);
    }
    assert!(
        environment("ONDOL_REQUIRE_MLFLOW").is_none(),
        "MLflow's client is required and not at {}: `make setup` installs it",
        python.display()
    );
    skipped(
        test,
        "mlflow-skinny is not installed (`make setup` does it)",
    );
    None
}

/// A program with the address and a token of tracking.
fn client(platform: &Platform, program: &PathBuf, token: &str) -> Command {
    let mut command = platform.command(program, platform.folder());
    command
        .env("MLFLOW_TRACKING_URI", platform.control())
        .env("MLFLOW_TRACKING_TOKEN", token)
        .env("SESSION", "session");
    command
}

#[test]
fn the_own_client_of_mlflow_sees_what_its_own_server_shows() {
    let Some(python) = python("the_own_client_of_mlflow_sees_what_its_own_server_shows") else {
        return;
    };
    let mut platform = Platform::start();
    platform
        .cli(&["projects", "create", "lab"], platform.folder())
        .ok();
    let scoped = platform
        .cli(
            &["token", "create", "lab", "--project", "lab", "--json"],
            platform.folder(),
        )
        .ok()
        .json();
    let secret = scoped["token"].as_str().unwrap().to_owned();
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    // One who may everything, and one who has a single project, see the same.
    for token in [platform.token().to_owned(), secret.clone()] {
        let mut command = client(&platform, &python, &token);
        command.args(["-c", SESSION]);
        let output = run(command, None, PATIENCE * 5).ok();
        let seen: Value = serde_json::from_str(&output.stdout).unwrap();
        let (seen, recorded) = (seen.as_array().unwrap(), recorded.as_array().unwrap());
        for (seen, recorded) in seen.iter().zip(recorded) {
            assert_eq!(seen, recorded);
        }
        assert_eq!(seen.len(), recorded.len());
    }
    // What was acknowledged is there after a death.
    let script = "import mlflow; c = mlflow.MlflowClient(); e = c.get_experiment_by_name('session-second'); print(e.experiment_id, sorted(r.info.run_name for r in c.search_runs([e.experiment_id])), len(mlflow.artifacts.load_text('runs:/%s/tree/deep/b c.txt' % [r for r in c.search_runs([e.experiment_id]) if r.info.run_name == 'fluent'][0].info.run_id)))";
    platform.kill9();
    platform.restart();
    let mut command = client(&platform, &python, &secret);
    command.args(["-c", script]);
    let output = run(command, None, PATIENCE * 2).ok();
    assert!(
        output.stdout.trim().ends_with("['child', 'fluent'] 10"),
        "{}",
        output.stdout
    );
    // Basic works like Bearer, a wrong token does not.
    let mut command = client(&platform, &python, "");
    command
        .env_remove("MLFLOW_TRACKING_TOKEN")
        .env("MLFLOW_TRACKING_USERNAME", "any")
        .env("MLFLOW_TRACKING_PASSWORD", &secret)
        .args(["-c", script]);
    run(command, None, PATIENCE * 2).ok();
    let mut command = client(&platform, &python, "ondol_wrong");
    command.args(["-c", script]);
    let refused = run(command, None, PATIENCE * 2);
    assert_ne!(refused.code, 0, "{}", refused.stdout);
    assert!(
        refused.stderr.contains("UNAUTHENTICATED"),
        "{}",
        refused.stderr
    );
}

const TRAIN: &str = r#"
import json, os
import mlflow
print("token", os.environ["MLFLOW_TRACKING_TOKEN"])
with mlflow.start_run() as run:
    mlflow.log_param("depth", 3)
    mlflow.log_metric("accuracy", 0.97)
    mlflow.log_text("words", "notes.txt")
for path in ["/api/v1/projects/other", "/api/v1/projects/tracked/secrets"]:
    import urllib.request, urllib.error
    request = urllib.request.Request(os.environ["MLFLOW_TRACKING_URI"] + path, method="DELETE",
        headers={"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"]})
    try:
        urllib.request.urlopen(request)
        raise SystemExit(path + " was allowed")
    except urllib.error.HTTPError as error:
        assert error.code in (403, 404, 405), error
with open(os.environ["ONDOL_OUTPUT_DIR"] + "/model.txt", "w") as file:
    file.write("a model")
with open(os.environ["ONDOL_METRICS_FILE"], "w") as file:
    json.dump({"accuracy": 0.97}, file)
"#;

#[test]
fn what_a_training_step_logs_is_tied_to_its_run() {
    let Some(python) = python("what_a_training_step_logs_is_tied_to_its_run") else {
        return;
    };
    let platform = Platform::start();
    let yaml = format!(
        "project: tracked\ntest: \"test -n $MLFLOW_TRACKING_TOKEN\"\nservice:\n  run: python3 app.py\n  health: {{ path: /healthz, deadline: 20s }}\ndata:\n  tracked: {{ path: data/iris.csv }}\ntrain:\n  on: {{ data: tracked }}\n  run: {} train.py\n  model: tracked\n  accept: accuracy > 0.9\n",
        python.display()
    );
    let project = platform.project_of(
        "tracked",
        &[
            ("app.py", crate::fixtures::SMALL_APP),
            ("train.py", TRAIN),
            ("ondol.yaml", &yaml),
        ],
    );
    platform.push(&project).ok();
    push_table(&platform, &project, "a,b\n1,2\n3,4\n", "rows");
    let trained = platform.last_run("tracked");
    assert_eq!(trained["outcome"], "success", "{trained:#}");

    let tracking = |method: &str, path: &str, body: Option<Value>| {
        let mut request = platform
            .request(
                method,
                &format!("{}/api/2.0/mlflow/{path}", platform.control()),
            )
            .bearer_auth(platform.token());
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        platform.send(request).unwrap().is(200).json()
    };
    let found = tracking(
        "GET",
        "experiments/get-by-name?experiment_name=tracked",
        None,
    );
    let id = found["experiment"]["experiment_id"].clone();
    let filter = format!("tags.`ondol.run` = '{}'", trained["id"].as_str().unwrap());
    let body = json!({ "experiment_ids": [id], "filter": filter });
    let runs = tracking("POST", "runs/search", Some(body))["runs"].clone();
    assert_eq!(runs.as_array().map(Vec::len), Some(1), "{runs:#}");
    let data = &runs[0]["data"];
    assert_eq!(data["metrics"][0]["value"], 0.97);
    let tag = |key: &str| -> Value {
        let tags = data["tags"].as_array().unwrap();
        let found = tags.iter().find(|tag| tag["key"] == key);
        found.map_or(Value::Null, |tag| tag["value"].clone())
    };
    assert_eq!(tag("ondol.step"), "train");
    assert_eq!(tag("ondol.commit"), trained["commit"]);
    assert_eq!(tag("ondol.data"), "tracked@1");

    let logs = platform
        .cli(
            &["run", "logs", "--step", "train", "--project", "tracked"],
            project.dir(),
        )
        .ok()
        .text();
    assert!(logs.contains("token"), "{logs}");
    assert!(!logs.contains("ondold_"), "the token is masked: {logs}");
}
