//! A push of code ends in a live service, or in a clear word why not.

use std::time::Duration;

use ondol_testing::platform::PATIENCE;
use ondol_testing::{Load, LoadPlan, Platform, eventually};
use serde_json::Value;

use crate::fixtures::{
    LOAD_APP, is_text, last_run_is, push_live, small_app, small_yaml, step, verdict,
};

#[test]
fn a_push_goes_live_and_every_view_shows_it() {
    let platform = Platform::start();
    let web = platform.new_project("web", "shop");
    let output = platform.push(&web).ok();

    let url = format!("{}/apps/shop/", platform.gateway());
    let last = verdict(&output);
    assert!(
        last.contains(&url),
        "the verdict names the address: {last}\n{}",
        output.stderr
    );
    for name in ["test", "image", "deploy"] {
        assert!(
            output.remote_lines().iter().any(|line| line.contains(name)),
            "no progress of {name}:\n{}",
            output.stderr
        );
    }
    assert_eq!(platform.version("shop"), "1");
    let by_host = platform.app_by_host("shop", "/version").unwrap().is(200);
    assert_eq!(by_host.json()["version"], "1");
    platform.app("nobody", "/").unwrap().is(404);
    platform.app_by_host("nobody", "/").unwrap().is(404);

    the_command_line_prints_the_api(&platform, &web.head(&platform));
    logs_and_events_tell_of_it(&platform);
}

/// `--json` prints the API's own objects, and they have what people look for.
fn the_command_line_prints_the_api(platform: &Platform, commit: &str) {
    let cli = |arguments: &[&str]| platform.cli(arguments, platform.folder()).ok().json();
    let runs = cli(&["runs", "--project", "shop", "--json"]);
    assert_eq!(runs.as_array().map(Vec::len), Some(1), "{runs}");
    assert_eq!(runs, Value::Array(platform.runs("shop")));
    let run = &runs[0];
    assert_eq!(run["number"], 1, "{run}");
    assert_eq!(run["state"], "finished", "{run}");
    assert_eq!(run["outcome"], "success", "{run}");
    assert_eq!(run["commit"], commit, "{run}");
    assert_eq!(run["trigger"]["kind"], "push", "{run}");
    assert!(
        run["durationSeconds"]
            .as_f64()
            .is_some_and(|seconds| seconds > 0.0),
        "{run}"
    );

    let shown = cli(&["run", "show", "--project", "shop", "--json"]);
    assert_eq!(
        shown,
        platform.get(&format!("/runs/{}", run["id"].as_str().unwrap()))
    );
    for name in ["checkout", "test", "image", "deploy"] {
        assert_eq!(step(&shown, name), "success", "{name} of {shown:#}");
    }

    let releases = cli(&["releases", "--project", "shop", "--json"]);
    assert_eq!(releases, Value::Array(platform.releases("shop")));
    let release = &releases[0];
    assert_eq!(release["number"], 1, "{release}");
    assert_eq!(release["current"], true, "{release}");
    assert_eq!(release["commit"], commit, "{release}");
    assert_eq!(
        release["run"], run["id"],
        "a release names its run: {release}"
    );
    assert!(
        release["image"]
            .as_str()
            .is_some_and(|image| image.starts_with("sha256:")),
        "{release}"
    );

    let status = cli(&["status", "--json"]);
    let project = &status["projects"][0];
    assert_eq!(project["name"], "shop", "{status:#}");
    assert_eq!(project["lastRun"]["id"], run["id"], "{status:#}");
    assert_eq!(
        project["url"],
        format!("{}/apps/shop/", platform.gateway()),
        "{status:#}"
    );
    let production = &project["environments"][0];
    assert_eq!(
        production["environment"]["name"], "production",
        "{status:#}"
    );
    assert_eq!(production["current"]["number"], 1, "{status:#}");
    let replicas = production["replicas"].as_array().unwrap();
    assert_eq!(replicas.len(), 1, "{status:#}");
    let id = production["current"]["id"].as_str().unwrap().to_owned();
    eventually(
        "status counts requests, latencies and memory",
        PATIENCE,
        || {
            platform.version("shop");
            let status = platform.get("/status?project=shop");
            let traffic = &status["projects"][0]["environments"][0]["traffic"][&id];
            let above =
                |key: &str, least: f64| traffic[key].as_f64().is_some_and(|value| value > least);
            above("rps", 0.0) && above("p95", 0.0) && above("memoryBytes", 1e6)
        },
    );
    let table = platform.cli(&["status"], platform.folder()).ok();
    table.says("shop").says("production").says("#1");
    platform
        .cli(&["explain"], &platform.folder().join("shop"))
        .ok()
        .says("service.run")
        .says("python3 app.py");
    platform
        .cli(&["open", "--print", "--project", "shop"], platform.folder())
        .ok()
        .says("/apps/shop/");
}

fn logs_and_events_tell_of_it(platform: &Platform) {
    let cli = |arguments: &[&str]| platform.cli(arguments, platform.folder()).ok();
    let lines = cli(&["logs", "--project", "shop", "--json"]);
    let first = lines.stdout.lines().next().expect("a line of the service");
    let line: Value = serde_json::from_str(first).unwrap();
    for key in ["time", "stream", "text"] {
        assert!(is_text(&line[key]), "{line}");
    }
    lines.says("version 1 listens");
    cli(&["logs", "--project", "shop", "--grep", "listens"]).says("version 1 listens");
    let none = cli(&["logs", "--project", "shop", "--grep", "no such words"]);
    assert_eq!(none.stdout, "");
    cli(&["run", "logs", "--step", "test", "--project", "shop"]).says("OK");

    let events = platform.events();
    let printed = cli(&["events", "--limit", "10000", "--json"]).json();
    assert_eq!(
        printed.as_array().map(|all| &all[..events.len()]),
        Some(&events[..])
    );
    let of_kind = |kind: &str| {
        events
            .iter()
            .find(|event| event["type"].as_str().unwrap().contains(kind))
            .unwrap_or_else(|| panic!("no {kind} in {events:#?}"))
    };
    for kind in [
        "repository.created",
        "pipelinerun.finished",
        "taskrun.finished",
        "artifact.packaged",
        "ondol-release.created",
    ] {
        of_kind(kind);
    }
    assert_eq!(
        of_kind("service.deployed")["chain"],
        of_kind("ondol-push.received")["chain"],
        "one chain from push to service"
    );

    let metrics = platform
        .send(platform.authorized("GET", "/metrics"))
        .unwrap()
        .is(200);
    assert!(
        metrics.header("content-type").starts_with("text/plain"),
        "{:?}",
        metrics.headers
    );
    let text = metrics.text();
    let counted = text
        .lines()
        .any(|line| line.starts_with("ondol_gateway_requests_total") && line.contains("shop"));
    assert!(counted, "no requests of shop in:\n{text}");
}

#[test]
fn new_versions_under_load_fail_no_request() {
    let platform = Platform::start();
    let yaml =
        "project: busy\ntest: \"true\"\nservice:\n  run: python3 app.py\n  health: /version\n";
    let app = platform.project_of("busy", &[("app.py", LOAD_APP), ("ondol.yaml", yaml)]);
    push_live(&platform, &app);
    let load = Load::start(LoadPlan {
        pause: Duration::from_millis(10),
        slow: 3,
        slow_seconds: 4,
        uploads: 2,
        upload_bytes: 256 * 1024,
        sockets: 2,
        ..LoadPlan::keep_alive(format!("{}/apps/busy", platform.gateway()), 4)
    })
    .warmed_up(100);
    for version in ["2", "3", "4"] {
        app.set_version(&platform, version);
        push_live(&platform, &app);
        assert_eq!(platform.version("busy"), version);
    }
    std::thread::sleep(Duration::from_millis(500));
    let report = load.finish();
    report.assert_no_failure(300);
    for kind in ["keep-alive", "slow", "upload", "websocket"] {
        let done = report.kinds.get(kind).is_some_and(|tally| tally.done > 0);
        assert!(done, "no {kind}: {report:#?}");
    }
    for version in ["1", "2", "3", "4"] {
        assert!(
            report.versions.contains_key(version),
            "version {version} never answered: {report:#?}"
        );
    }
}

#[test]
fn bad_versions_stay_out_and_one_command_rolls_back() {
    let platform = Platform::start();
    let web = platform.new_project("web", "shop");
    push_live(&platform, &web);
    web.set_version(&platform, "2");
    push_live(&platform, &web);
    assert_eq!(platform.version("shop"), "2");

    // Tests that fail.
    web.edit("app.py", "Hello, ", "Hullo, ");
    web.commit(&platform, "Break the greeting");
    let base = format!("{}/apps/shop", platform.gateway());
    let load = Load::start(LoadPlan::poll(base)).warmed_up(1);
    let output = platform.push(&web).ok();
    let run = last_run_is(&platform, "shop", "failure");
    assert_eq!(step(&run, "test"), "failure", "{run:#}");
    assert_eq!(step(&run, "deploy"), "skipped", "{run:#}");
    let last = verdict(&output);
    assert!(
        last.contains("fail") && last.contains("test"),
        "the verdict says what failed: {last}"
    );
    output.says("Hullo, ");

    // A probe that never passes.
    web.edit("app.py", "Hullo, ", "Hello, ");
    web.edit(
        "app.py",
        r#"self.answer(200, {"ok": True})"#,
        r#"self.answer(503, {"ok": False})"#,
    );
    web.write(
        "ondol.yaml",
        "project: shop\nservice:\n  run: python3 app.py\n  health: { path: /healthz, deadline: 3s }\n",
    );
    web.set_version(&platform, "3");
    let output = platform.push(&web).ok();
    let run = last_run_is(&platform, "shop", "failure");
    assert_eq!(step(&run, "test"), "success", "{run:#}");
    assert_eq!(step(&run, "deploy"), "failure", "{run:#}");
    let last = verdict(&output);
    assert!(
        last.contains("fail") && last.contains("deploy"),
        "the verdict says what failed: {last}"
    );
    assert!(
        run.to_string().contains("503"),
        "the probe's answer is named: {run:#}"
    );
    eventually("the replica that never got ready is gone", PATIENCE, || {
        let serving = platform.processes().into_iter().filter(|process| {
            process
                .arguments
                .iter()
                .any(|argument| argument == "app.py")
        });
        serving.count() == 1
    });

    let report = load.finish();
    report.assert_no_failure(20);
    assert_eq!(
        report.versions.keys().collect::<Vec<_>>(),
        ["2"],
        "{report:#?}"
    );
    assert_eq!(platform.current_release("shop")["number"], 2);

    // Back, and the hold that follows.
    platform.cli(&["rollback"], web.dir()).ok();
    assert_eq!(platform.version("shop"), "1");
    let current = platform.current_release("shop");
    assert_eq!(current["reason"], "rollback", "{current:#}");
    assert_eq!(current["origin"], 1, "{current:#}");
    let unknown = platform.cli(&["rollback", "--to", "99"], web.dir());
    assert_eq!(unknown.code, 4, "{unknown:?}");
    unknown.says("99");

    // A human push lifts it.
    web.edit(
        "app.py",
        r#"self.answer(503, {"ok": False})"#,
        r#"self.answer(200, {"ok": True})"#,
    );
    web.set_version(&platform, "4");
    push_live(&platform, &web);
    assert_eq!(platform.version("shop"), "4");
}

#[test]
fn automation_waits_while_a_rollback_holds() {
    let platform = Platform::start();
    let app = small_app(&platform, "held", "", "secrets: [COLOUR]\n");
    platform
        .cli(&["projects", "create", "held"], app.dir())
        .ok();
    let set = |value: &str| {
        platform
            .cli_with(
                &["secret", "set", "COLOUR"],
                app.dir(),
                Some(value.as_bytes()),
            )
            .ok()
    };
    set("vermilion");
    push_live(&platform, &app);
    app.set_version(&platform, "2");
    push_live(&platform, &app);
    platform.cli(&["rollback"], app.dir()).ok();
    assert_eq!(platform.version("held"), "1");
    let current = platform.current_release("held")["number"].clone();

    set("ultramarine");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(platform.version("held"), "1");
    assert_eq!(platform.current_release("held")["number"], current);
    let status = platform.get("/status?project=held").to_string();
    assert!(
        status.contains("hold"),
        "status tells of the hold: {status}"
    );

    app.set_version(&platform, "3");
    push_live(&platform, &app);
    assert_eq!(platform.version("held"), "3");
    assert_eq!(platform.current_release("held")["secrets"]["COLOUR"], 2);
}

#[test]
fn other_branches_are_tested_and_deploy_nothing() {
    let platform = Platform::start();
    let web = platform.new_project("web", "shop");
    push_live(&platform, &web);
    platform
        .git(&["switch", "--quiet", "-c", "idea"], web.dir())
        .ok();
    let commit = web.set_version(&platform, "9");
    platform.git(&["push", "ondol", "idea"], web.dir()).ok();
    let run = last_run_is(&platform, "shop", "success");
    assert_eq!(run["commit"], commit, "{run:#}");
    assert_eq!(run["branch"], "idea", "{run:#}");
    assert_eq!(step(&run, "test"), "success", "{run:#}");
    assert_eq!(step(&run, "image"), "success", "{run:#}");
    assert!(matches!(step(&run, "deploy"), "" | "skipped"), "{run:#}");
    assert_eq!(platform.version("shop"), "1");
    assert_eq!(platform.releases("shop").len(), 1);
    platform
        .git(&["push", "ondol", "--delete", "idea"], web.dir())
        .ok();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(platform.runs("shop").len(), 2, "a deletion starts nothing");
}

#[test]
fn a_project_without_tests_is_told_so_on_every_run() {
    let platform = Platform::start();
    let app = platform.project_of("plain", &[("index.html", "<h1>zero</h1>\n")]);
    for text in ["first", "second"] {
        app.write("index.html", &format!("<h1>{text}</h1>\n"));
        app.commit(&platform, text);
        let output = platform.push(&app).ok();
        let run = last_run_is(&platform, "plain", "success");
        let told = |text: &str| {
            let text = text.to_lowercase();
            text.contains("no tests") || text.contains("without tests")
        };
        assert!(
            output.remote_lines().iter().any(|line| told(line)),
            "not told while pushing:\n{}",
            output.stderr
        );
        let notes = run["notes"].as_array().unwrap();
        assert!(
            notes.iter().any(|note| told(note.as_str().unwrap())),
            "not told by the run: {run:#}"
        );
        let page = platform.app("plain", "/").unwrap().is(200);
        assert!(page.text().contains(text), "{}", page.text());
        assert!(page.header("content-type").starts_with("text/html"));
    }
}

#[test]
fn a_client_that_leaves_does_not_end_the_run() {
    let platform = Platform::start();
    let app = small_app(&platform, "calm", "", "");
    let tested_by = |command: &str| small_yaml("calm", "", "").replace("\"true\"", command);
    app.write(
        "ondol.yaml",
        &tested_by("\"echo testing begins; sleep 4; echo testing ends\""),
    );
    app.commit(&platform, "Slow tests");
    let mut push = platform.push_spawn(&app);
    eventually("the push shows the tests", PATIENCE, || {
        push.stderr().contains("remote:") && push.stderr().contains("test")
    });
    push.kill9();
    let watch = platform.cli(&["run", "watch"], app.dir()).ok();
    watch
        .says("testing begins")
        .says("testing ends")
        .says("success");
    last_run_is(&platform, "calm", "success");
    assert_eq!(platform.runs("calm").len(), 1);
    assert_eq!(platform.version("calm"), "1");

    // Of a run that failed, the exit code says so.
    app.write("ondol.yaml", &tested_by("\"false\""));
    app.commit(&platform, "Failing tests");
    platform.push(&app).ok();
    platform.cli(&["run", "watch"], app.dir()).exits(1);

    // A number names the same run in every command that takes one.
    platform.cli(&["run", "show", "1"], app.dir()).ok();
    let watched = platform.cli(&["run", "watch", "#1"], app.dir()).ok();
    watched.says("success");
    let logs = platform.cli(&["run", "logs", "1"], app.dir()).ok();
    logs.says("testing ends");
    platform.cli(&["run", "cancel", "2"], app.dir()).exits(5);
    platform.cli(&["run", "retry", "2"], app.dir()).ok();
    platform.cli(&["run", "watch", "3"], app.dir()).exits(1);
}

#[test]
fn volumes_outlive_releases() {
    let platform = Platform::start();
    let rest = "env: { NOTES_DIR: state }\nvolumes: { state: state/ }\n";
    let app = small_app(&platform, "notes", "", rest);
    push_live(&platform, &app);
    platform.app("notes", "/note?text=one").unwrap().is(200);
    app.set_version(&platform, "2");
    push_live(&platform, &app);
    assert_eq!(platform.version("notes"), "2");
    let kept = platform
        .app("notes", "/note?text=two")
        .unwrap()
        .is(200)
        .json();
    assert_eq!(kept["notes"], serde_json::json!(["one", "two"]));
    platform.cli(&["rollback"], app.dir()).ok();
    assert_eq!(platform.version("notes"), "1");
    let after = platform.app("notes", "/notes").unwrap().is(200).json();
    assert_eq!(after, kept, "also over a rollback");
}

#[test]
fn a_canary_takes_steps_and_a_bad_one_goes_back() {
    let platform = Platform::start();
    let canary = "release:\n  strategy: canary\n  steps: [50, 100]\n  check: error_rate < 0.2\n  min_requests: 20\n  interval: 500ms\n";
    let app = small_app(&platform, "bird", "", canary);
    push_live(&platform, &app);
    let base = format!("{}/apps/bird", platform.gateway());
    let load = Load::start(LoadPlan::keep_alive(base.clone(), 3)).warmed_up(10);
    app.set_version(&platform, "2");
    push_live(&platform, &app);
    assert_eq!(platform.version("bird"), "2");
    load.finish().assert_no_failure(100);

    // The third version answers its probe, and everything else with an error.
    app.edit(
        "app.py",
        "    def on_version(self, query):",
        "    def on_version(self, query):\n        raise RuntimeError(\"broken\")\n",
    );
    app.set_version(&platform, "3");
    let load = Load::start(LoadPlan::keep_alive(base, 3)).warmed_up(10);
    platform.push(&app).ok();
    let run = last_run_is(&platform, "bird", "failure");
    load.finish();
    assert_eq!(step(&run, "deploy"), "failure", "{run:#}");
    assert!(
        run.to_string().contains("error_rate"),
        "the check is named: {run:#}"
    );
    for _ in 0..20 {
        assert_eq!(platform.version("bird"), "2");
    }
    assert_eq!(platform.current_release("bird")["number"], 2);
}
