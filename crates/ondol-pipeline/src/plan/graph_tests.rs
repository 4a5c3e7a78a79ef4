use ondol_spec::model::{Service, Spec, Test};
use ondol_types::{CommitId, RefName};
use serde_json::json;

use super::super::graph::{Graph, GraphInput, TrainingState, graph};
use crate::model::{DataRef, Join, Trigger};

fn spec(value: serde_json::Value) -> Spec {
    serde_json::from_value(value).unwrap()
}

fn web(steps: serde_json::Value) -> Spec {
    let mut spec = spec(json!({ "steps": steps }));
    spec.test = Some(serde_json::from_value::<Test>(json!({ "run": "pytest" })).unwrap());
    spec.service = Some(Service::new("python app.py"));
    spec
}

fn push(branch: &str) -> Trigger {
    Trigger::Push {
        ref_name: RefName::of_branch(branch).unwrap(),
        commit: "a".repeat(40).parse::<CommitId>().unwrap(),
        default_branch: branch == "main",
    }
}

fn data(dataset: &str) -> DataRef {
    DataRef {
        dataset: dataset.parse().unwrap(),
        version: format!("blake3:{}", "0".repeat(64)).parse().unwrap(),
        number: 2,
    }
}

fn pushed(dataset: &str) -> Trigger {
    let data = data(dataset);
    Trigger::Data {
        dataset: data.dataset,
        version: data.version,
        number: data.number,
    }
}

fn model_project() -> Spec {
    let mut spec = web(json!({}));
    spec.data
        .insert("iris".parse().unwrap(), Default::default());
    spec.train = Some(
        serde_json::from_value(
            json!({ "run": "python train.py", "model": "iris", "on": { "data": "iris" } }),
        )
        .unwrap(),
    );
    spec
}

fn made(spec: &Spec, trigger: &Trigger, training: &TrainingState) -> Graph {
    let branch = trigger.branch().unwrap_or("main").to_owned();
    graph(GraphInput {
        spec,
        trigger,
        branch: &branch,
        training,
    })
    .unwrap()
}

fn shown(graph: &Graph) -> Vec<String> {
    graph
        .nodes
        .iter()
        .map(|node| {
            let needs: Vec<String> = node
                .needs
                .iter()
                .map(|need| {
                    format!(
                        "{}{}",
                        if need.join == Join::Ended { "~" } else { "" },
                        need.step
                    )
                })
                .collect();
            let skip = if node.skip.is_some() { " skipped" } else { "" };
            format!("{}({}){skip}", node.name, needs.join(" "))
        })
        .collect()
}

fn steps(spec: &Spec, branch: &str) -> Vec<String> {
    shown(&made(spec, &push(branch), &TrainingState::default()))
}

#[test]
fn a_service_goes_from_test_to_deploy_and_a_branch_stops_at_the_image() {
    let spec = web(json!({}));
    assert_eq!(
        steps(&spec, "main"),
        ["test(checkout)", "image(test)", "deploy(image)"]
    );
    assert_eq!(steps(&spec, "topic"), ["test(checkout)", "image(test)"]);
    let mut preview = spec;
    preview.previews.branches.push("top*".parse().unwrap());
    assert_eq!(steps(&preview, "topic").len(), 3);
}

#[test]
fn a_project_without_tests_is_told_so_and_one_without_a_service_is_not_deployed() {
    let graph = made(&Spec::default(), &push("main"), &TrainingState::default());
    assert_eq!(shown(&graph), ["test(checkout)"]);
    assert!(graph.notes.iter().any(|note| note.contains("no tests")));
    assert!(
        graph
            .notes
            .iter()
            .any(|note| note.contains("nothing is served"))
    );
}

#[test]
fn several_build_commands_run_in_order() {
    let mut spec = web(
        json!({ "codegen": { "run": "x", "before": ["build"] }, "size": { "run": "x", "needs": ["build"] } }),
    );
    spec.build.install = Some(ondol_spec::model::Command::new("npm ci"));
    spec.build.commands = vec![
        ondol_spec::model::Command::new("a"),
        ondol_spec::model::Command::new("b"),
    ];
    assert_eq!(
        steps(&spec, "topic"),
        [
            "install(checkout)",
            "codegen(install)",
            "build-1(install codegen)",
            "build(build-1)",
            "size(build)",
            "test(build)",
            "image(test size)"
        ]
    );
}

#[test]
fn a_lint_before_test_starts_as_early_as_it_can() {
    let spec = web(json!({ "lint": { "run": "ruff check .", "before": ["test"] } }));
    assert_eq!(
        steps(&spec, "topic"),
        ["lint(checkout)", "test(checkout lint)", "image(test)"]
    );
}

#[test]
fn a_step_without_relations_is_a_gate_after_the_tests() {
    let spec =
        web(json!({ "audit": { "run": "x" }, "early": { "run": "x", "needs": ["checkout"] } }));
    assert_eq!(
        steps(&spec, "topic"),
        [
            "early(checkout)",
            "test(checkout)",
            "audit(test)",
            "image(test audit early)"
        ]
    );
}

#[test]
fn install_that_is_not_there_counts_as_passed() {
    let spec = web(
        json!({ "types": { "run": "mypy", "needs": ["install"] }, "gen": { "run": "x", "before": ["build"] } }),
    );
    assert_eq!(
        steps(&spec, "topic"),
        [
            "gen(checkout)",
            "types(checkout)",
            "test(checkout gen)",
            "image(test types)"
        ]
    );
}

#[test]
fn what_follows_a_release_is_not_in_runs_that_release_nothing() {
    let spec = web(json!({
        "smoke": { "run": "x", "needs": ["release"] },
        "tell": { "run": "x", "needs": ["smoke"] },
        "notify": { "run": "x", "after": ["release"] },
        "nightly": { "run": "x", "branches": ["nightly"] },
    }));
    assert_eq!(steps(&spec, "topic"), ["test(checkout)", "image(test)"]);
    assert_eq!(
        steps(&spec, "main"),
        [
            "test(checkout)",
            "image(test)",
            "deploy(image)",
            "notify(checkout ~deploy)",
            "smoke(deploy)",
            "tell(smoke)"
        ]
    );
    assert!(steps(&spec, "nightly").contains(&"nightly(test)".to_owned()));
}

#[test]
fn circles_and_unknown_names_are_explained() {
    let refused = |value| {
        let spec = web(value);
        let trigger = push("main");
        let training = TrainingState::default();
        graph(GraphInput {
            spec: &spec,
            trigger: &trigger,
            branch: "main",
            training: &training,
        })
        .unwrap_err()
        .to_string()
    };
    let circle = refused(
        json!({ "a": { "run": "x", "needs": ["b"] }, "b": { "run": "x", "needs": ["a"] } }),
    );
    assert!(
        circle.contains("need each other") && circle.contains("`a`") && circle.contains("`b`"),
        "{circle}"
    );
    let late = refused(json!({ "a": { "run": "x", "needs": ["image"], "before": ["test"] } }));
    assert!(late.contains("need each other"), "{late}");
    let unknown = refused(json!({ "a": { "run": "x", "needs": ["nothing"] } }));
    assert!(
        unknown.contains("`nothing`, which does not exist"),
        "{unknown}"
    );
    assert!(refused(json!({ "deploy": { "run": "x" } })).contains("give yours another name"));
    assert!(
        refused(json!({ "a": { "run": "x", "before": ["checkout"] } })).contains("no code yet")
    );
}

#[test]
fn a_model_project_without_data_waits() {
    let graph = made(&model_project(), &push("main"), &TrainingState::default());
    assert_eq!(
        shown(&graph),
        [
            "test(checkout)",
            "validate() skipped",
            "train() skipped",
            "evaluate() skipped",
            "image(test)",
            "deploy(image) skipped"
        ]
    );
    assert!(
        graph.notes[0].contains("waiting for data"),
        "{:?}",
        graph.notes
    );
}

#[test]
fn data_trains_and_releases_and_code_trains_as_it_was_told() {
    let spec = model_project();
    let with = |newest: bool, champion| TrainingState {
        newest: newest.then(|| data("iris")),
        champion,
    };
    let whole = [
        "test(checkout)",
        "validate(test)",
        "train(validate)",
        "evaluate(train)",
        "image(evaluate)",
        "deploy(image)",
    ];
    let of_data = made(&spec, &pushed("iris"), &with(true, true));
    assert_eq!(shown(&of_data), whole);
    assert_eq!(of_data.data, Some(data("iris")));
    assert_eq!(
        shown(&made(&spec, &push("main"), &with(true, false))),
        whole
    );
    assert_eq!(
        shown(&made(&spec, &push("main"), &with(true, true))),
        ["test(checkout)", "image(test)", "deploy(image)"]
    );
    assert_eq!(
        shown(&made(&spec, &push("topic"), &with(true, false))),
        ["test(checkout)", "image(test)"]
    );
    let mut always = spec.clone();
    always.train.as_mut().unwrap().on.code = ondol_spec::model::Code::Always;
    assert_eq!(
        shown(&made(&always, &push("main"), &with(true, true))),
        whole
    );
    let mut never = spec;
    never.train.as_mut().unwrap().on.code = ondol_spec::model::Code::Never;
    assert_eq!(
        shown(&made(&never, &push("main"), &with(true, false))),
        ["test(checkout)", "image(test)", "deploy(image) skipped"]
    );
}

#[test]
fn other_data_is_only_checked() {
    let graph = made(
        &model_project(),
        &pushed("prices"),
        &TrainingState::default(),
    );
    assert_eq!(shown(&graph), ["validate(checkout)"]);
    assert!(graph.notes[0].contains("only checked"));
}

fn of_matrix() -> serde_json::Value {
    json!({ "values": { "v": ["1", "2"] } })
}

#[test]
fn a_matrix_of_tests_stands_where_the_tests_stood() {
    let mut spec = web(json!({
        "codegen": { "run": "x", "before": ["test"], "artifacts": ["gen/**"] },
        "report": { "run": "x", "after": ["test"] },
        "size": { "run": "x", "needs": ["test"] },
    }));
    let test = spec.test.as_mut().unwrap();
    test.matrix = Some(serde_json::from_value(of_matrix()).unwrap());
    test.image = Some("python:${{ matrix.v }}".into());
    test.artifacts = vec!["out".parse().unwrap()];
    test.env.insert("V".into(), "v${{matrix.v}}".into());
    spec.build.install = Some(ondol_spec::model::Command::new("npm ci"));
    let graph = made(&spec, &push("topic"), &TrainingState::default());
    assert_eq!(
        shown(&graph),
        [
            "install(checkout)",
            "codegen(install)",
            "test-1(install codegen)",
            "test-2(install codegen)",
            "test(install test-1 test-2)",
            "report(checkout ~test)",
            "size(test)",
            "image(test report size)"
        ]
    );
    let node = |name: &str| {
        let found = graph.nodes.iter().find(|node| node.name.as_str() == name);
        found.unwrap().clone()
    };
    let second = node("test-2").definition;
    let of = second.matrix.clone().unwrap();
    assert_eq!(
        (of.group.as_str(), of.label.as_str()),
        ("test", "test (v=2)")
    );
    let work = second.as_command().unwrap();
    assert_eq!(work.image.as_deref(), Some("python:2"));
    assert_eq!(work.env["MATRIX_V"], "2");
    assert_eq!(work.env["V"], "v2");
    let takes = |name: &str| -> Vec<String> {
        let node = node(name);
        let work = node.definition.as_command().unwrap();
        work.takes.iter().map(ToString::to_string).collect()
    };
    assert_eq!(takes("test-1"), ["codegen"]);
    assert_eq!(takes("size"), ["test-1", "test-2"]);
    assert_eq!(takes("report"), ["test-1", "test-2"]);
    assert!(node("test").definition.as_command().is_none());
}

#[test]
fn a_matrix_of_a_step_is_one_for_what_stands_around_it() {
    let mut step = json!({ "run": "x", "needs": ["checkout"], "before": ["image"], "matrix": of_matrix(), "branches": ["main"], "artifacts": ["x"] });
    let around = json!({ "run": "x", "needs": ["e2e"] });
    let spec = web(json!({ "e2e": step.clone(), "tell": around.clone() }));
    assert_eq!(
        steps(&spec, "main"),
        [
            "e2e-1(checkout)",
            "e2e-2(checkout)",
            "e2e(e2e-1 e2e-2)",
            "tell(e2e)",
            "test(checkout)",
            "image(test e2e tell)",
            "deploy(image)"
        ]
    );
    assert_eq!(steps(&spec, "topic"), ["test(checkout)", "image(test)"]);
    step["matrix"] = json!({ "values": { "v": ["1"] } });
    let spec = web(json!({ "e2e": step, "e2e-1": around }));
    let refused = graph(GraphInput {
        spec: &spec,
        trigger: &push("main"),
        branch: "main",
        training: &TrainingState::default(),
    });
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("there is one already")
    );
}

#[test]
fn artifacts_go_along_what_was_written_and_not_along_what_follows() {
    let spec = web(json!({
        "pack": { "run": "x", "artifacts": ["dist/**"] },
        "plain": { "run": "x", "needs": ["pack"] },
        "gate": { "run": "x", "needs": ["plain"] },
        "late": { "run": "x", "after": ["pack"] },
    }));
    let graph = made(&spec, &push("main"), &TrainingState::default());
    let takes: Vec<(String, usize)> = graph
        .nodes
        .iter()
        .filter_map(|node| {
            Some((
                node.name.to_string(),
                node.definition.as_command()?.takes.len(),
            ))
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(takes, [("late".to_owned(), 1), ("plain".to_owned(), 1)]);
}
