//! Replicas that follow the load, and branches that have an environment of their own.

use std::collections::BTreeSet;
use std::time::Duration;

use ondol_testing::platform::PATIENCE;
use ondol_testing::{Load, LoadPlan, Platform, eventually, eventually_some};
use serde_json::Value;

use crate::fixtures::{last_run_is, push_live, small_app, step, verdict};

fn environments(platform: &Platform, project: &str) -> Vec<Value> {
    let status = platform.get(&format!("/status?project={project}"));
    status["projects"][0]["environments"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

fn ready(environment: &Value) -> usize {
    let replicas = environment["replicas"].as_array().unwrap();
    replicas
        .iter()
        .filter(|entry| entry["replica"]["state"] == "ready")
        .count()
}

#[test]
fn replicas_are_added_under_load_and_survive_the_control_plane() {
    let mut platform = Platform::start();
    let service = "  replicas: { min: 1, max: 3, target: { rps: 3 } }\n";
    let app = small_app(&platform, "busy", service, "");
    push_live(&platform, &app);
    assert_eq!(ready(&environments(&platform, "busy")[0]), 1);
    let base = format!("{}/apps/busy", platform.gateway());
    let load = Load::start(LoadPlan {
        pause: Duration::from_millis(20),
        ..LoadPlan::keep_alive(base, 4)
    })
    .warmed_up(10);
    // Samples, a judgement, and two starts on a machine that does much else.
    let long = 4 * PATIENCE;
    let grown = eventually_some("three replicas answer their probes", long, || {
        let environment = environments(&platform, "busy").remove(0);
        (ready(&environment) == 3).then_some(environment)
    });
    let scaling = &grown["scaling"];
    assert_eq!(scaling["replicas"], 3, "{scaling}");
    let reason = scaling["reason"].as_str().unwrap();
    assert!(
        reason.contains("requests/s") && reason.contains("ask for 3 of 1 to 3"),
        "{reason}"
    );
    platform
        .cli(&["status"], app.dir())
        .ok()
        .says("production runs 3 of 1 to 3 replicas");
    let mut pids = BTreeSet::new();
    eventually("all three get requests", PATIENCE, || {
        let answer = platform.app("busy", "/version").unwrap().is(200).json();
        pids.insert(answer["pid"].as_u64().unwrap());
        pids.len() == 3
    });
    let told = platform.events().into_iter().any(|event| {
        let scale = &event["document"]["customData"]["scale"];
        scale["replicas"] == 3
            && scale["reason"]
                .as_str()
                .is_some_and(|text| text.contains("ask for 3"))
    });
    assert!(told, "an event tells of it");

    // What was decided is not forgotten, and missing samples take nothing away.
    platform.kill9();
    platform.restart();
    let environment = environments(&platform, "busy").remove(0);
    assert_eq!(environment["scaling"]["replicas"], 3, "{environment:#}");
    load.finish().assert_no_failure(50);
    eventually("they are still there", PATIENCE, || {
        ready(&environments(&platform, "busy")[0]) == 3
    });
    // A person is stronger.
    let body = serde_json::json!({ "replicas": 1 });
    platform
        .api("POST", "/projects/busy/scale", Some(&body))
        .is(200);
    eventually("one is left", PATIENCE, || {
        let environment = environments(&platform, "busy").remove(0);
        let replicas = environment["replicas"].as_array().unwrap().len();
        (ready(&environment), replicas) == (1, 1)
    });
    platform.app("busy", "/version").unwrap().is(200);
}

#[test]
fn a_branch_that_asks_for_it_has_an_environment_of_its_own() {
    let platform = Platform::start();
    let app = small_app(
        &platform,
        "shop",
        "",
        "previews: feature/*\nvolumes: { notes: notes }\n",
    );
    push_live(&platform, &app);
    let git = |arguments: &[&str]| platform.git(arguments, app.dir()).ok();
    let production = platform.current_release("shop");
    platform
        .app("shop", "/note?text=production")
        .unwrap()
        .is(200);

    // A branch that the file does not name is tested, and goes nowhere.
    git(&["checkout", "--quiet", "-b", "topic"]);
    app.set_version(&platform, "3");
    let output = git(&["push", "ondol", "topic"]);
    last_run_is(&platform, "shop", "success");
    assert!(
        verdict(&output).contains("only the default branch"),
        "{}",
        output.stderr
    );
    assert_eq!(environments(&platform, "shop").len(), 1);

    git(&["checkout", "--quiet", "-b", "feature/cart", "main"]);
    app.set_version(&platform, "2");
    let output = git(&["push", "ondol", "feature/cart"]);
    let run = last_run_is(&platform, "shop", "success");
    assert_eq!(step(&run, "deploy"), "success", "{run:#}");
    let preview = environments(&platform, "shop").remove(1);
    let name = preview["environment"]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("preview-feature-cart"), "{name}");
    let place = format!("{name}.shop");
    let url = format!("{}/apps/{place}/", platform.gateway());
    assert!(verdict(&output).contains(&url), "{}", output.stderr);
    platform
        .cli(&["status"], app.dir())
        .ok()
        .says(&url)
        .says("production");

    let both = || {
        let by_path = platform.version(&place);
        let by_host = platform.app_by_host(&place, "/version").unwrap().is(200);
        assert_eq!(by_host.json()["version"].as_str(), Some(by_path.as_str()));
        (platform.version("shop"), by_path)
    };
    assert_eq!(both(), ("1".to_owned(), "2".to_owned()));
    let notes = platform.app(&place, "/notes").unwrap().is(200).json();
    assert_eq!(
        notes["notes"],
        serde_json::json!([]),
        "its volumes are its own"
    );
    platform.app(&place, "/note?text=preview").unwrap().is(200);
    app.set_version(&platform, "4");
    git(&["push", "ondol", "feature/cart"]);
    last_run_is(&platform, "shop", "success");
    assert_eq!(both(), ("1".to_owned(), "4".to_owned()));
    let untouched = || {
        assert_eq!(platform.current_release("shop")["id"], production["id"]);
        let notes = platform.app("shop", "/notes").unwrap().is(200).json();
        assert_eq!(notes["notes"], serde_json::json!(["production"]));
        assert_eq!(platform.version("shop"), "1");
    };
    untouched();

    // It goes with its branch.
    git(&["push", "ondol", "--delete", "feature/cart"]);
    eventually("the preview is gone", PATIENCE, || {
        environments(&platform, "shop").len() == 1
    });
    platform.app(&place, "/version").unwrap().is(404);
    platform.app_by_host(&place, "/version").unwrap().is(404);
    eventually("its program has ended", PATIENCE, || {
        let programs = platform.processes().into_iter().filter(|process| {
            let mut arguments = process.arguments.iter();
            arguments.any(|argument| argument == "app.py")
        });
        programs.count() == 1
    });
    untouched();

    // Pushed again, it comes again.
    let output = git(&["push", "ondol", "feature/cart"]);
    assert!(verdict(&output).contains(&url), "{}", output.stderr);
    assert_eq!(both(), ("1".to_owned(), "4".to_owned()));
    untouched();
}
