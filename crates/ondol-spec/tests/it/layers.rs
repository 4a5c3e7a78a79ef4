//! Layers, locks and where every value came from.

use ondol_spec::model::{Code, Expect, Language, Period, SecretRef, Strategy};
use ondol_spec::{EnvironmentSettings, Organization, Origin, Sources, resolve};
use serde_json::json;

use crate::{read, tree};

pub(crate) const EXAMPLE: &str = r#"
project: iris
test: pytest -q
build: { dockerfile: Dockerfile }
service:
  run: python app.py
  port: 8000
  health: /healthz
  replicas: { min: 1, max: 4, target: { rps: 50 } }
release:
  command: python migrate.py
  strategy: canary
  steps: [10, 50, 100]
  check: error_rate < 0.01 && p95 < 0.3
  min_requests: 100
data:
  iris: { path: data/iris.csv, schema: { species: { in: [setosa, versicolor, virginica] } } }
secrets: [DATABASE_URL]
volumes: { state: data/ }
train:
  on: { data: iris }
  run: python train.py
  model: iris
  accept: accuracy >= 0.93 && accuracy >= champion.accuracy - 0.01
monitor:
  slo: { availability: 99.9%, p95: 300ms }
  drift: { reference: training, retrain: true }
steps:
  lint: { run: ruff check ., before: test }
"#;

#[test]
fn the_example_of_the_design_is_read_as_it_stands() {
    let effective = read(EXAMPLE).unwrap();
    let spec = &effective.spec;
    let service = spec.service.as_ref().unwrap();
    assert_eq!(
        (service.port, service.health.expect),
        (Some(8000), Expect::Success)
    );
    assert_eq!(spec.release.strategy, Strategy::Canary);
    assert_eq!(
        spec.release.command.as_ref().unwrap().run,
        "python migrate.py"
    );
    assert_eq!(spec.volumes.values().next().unwrap().to_string(), "data");
    let slo = &spec.monitor.slo;
    assert!((slo.availability.unwrap().ratio() - 0.999).abs() < 1e-12);
    assert_eq!(slo.p95, Some(Period::from_millis(300)));
    assert_eq!(
        spec.steps.values().next().unwrap().before[0].as_str(),
        "test"
    );
    assert_eq!(spec.train.as_ref().unwrap().on.code, Code::First);
    assert!(spec.trains_on(&"iris".parse().unwrap()));
}

#[test]
fn a_specification_survives_being_stored() {
    let spec = read(EXAMPLE).unwrap().spec;
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(
        serde_json::from_str::<ondol_spec::Spec>(&text).unwrap(),
        spec
    );
}

#[test]
fn short_forms_are_full_forms() {
    let short = read(
        "build: [make, make check]\nservice: ./x\nprevious: 1\n"
            .replace("previous: 1\n", "previews: true\n")
            .as_str(),
    )
    .unwrap();
    let full = read("build: { commands: [{ run: make }, { run: make check }] }\nservice: { run: ./x }\npreviews: { branches: ['**'] }\n").unwrap();
    assert_eq!(short.spec, full.spec);
    assert!(short.spec.previews.wants("feature/x"));
    let replicas = read("service: { run: x, replicas: 3 }\n")
        .unwrap()
        .spec
        .service
        .unwrap()
        .replicas;
    assert_eq!((replicas.min, replicas.max), (3, 3));
    let secrets = |text: &str| read(text).unwrap().spec.secrets;
    assert_eq!(
        secrets("secrets: [TOKEN, { name: CERT, as: file }]\n"),
        [
            SecretRef::env("TOKEN".parse().unwrap()),
            SecretRef::file("CERT".parse().unwrap()),
        ]
    );
    assert_eq!(
        secrets("secrets: TOKEN\n"),
        secrets("secrets: [{ name: TOKEN }]\n")
    );
    assert_eq!(
        secrets("secrets: { name: CERT, as: file }\n"),
        [SecretRef::file("CERT".parse().unwrap())]
    );
    let env = read("env: { A: 1.10, B: true, C: 0x10 }\n")
        .unwrap()
        .spec
        .env;
    assert_eq!(
        env.values().map(String::as_str).collect::<Vec<_>>(),
        ["1.10", "true", "0x10"]
    );
}

#[test]
fn every_layer_is_stronger_than_the_one_before() {
    let tree = tree(
        "service:\n  port: 9000\n",
        &[("app.py", ""), ("test_a.py", "")],
    );
    let organization = Organization {
        values: json!({ "service": { "port": 1, "drain": "5s", "stop": "1s" }, "test": "org test", "release": { "keep": 9 } }),
        locks: vec![],
    };
    let environment = EnvironmentSettings {
        name: "staging".parse().unwrap(),
        values: json!({ "service": { "stop": "3s" } }),
    };
    let sources = Sources {
        organization: Some(&organization),
        environment: Some(&environment),
        ..Sources::of(&tree)
    };
    let effective = resolve(&sources).unwrap();
    let origin = |path: &str| {
        effective
            .explain()
            .iter()
            .find(|item| item.path == path)
            .unwrap_or_else(|| panic!("{path}"))
            .origin
            .to_string()
    };
    assert_eq!(origin("service.run"), "detected from app.py");
    assert_eq!(origin("service.port"), "ondol.yaml:2:9");
    assert_eq!(origin("service.drain"), "organization");
    assert_eq!(origin("service.stop"), "environment staging");
    assert_eq!(origin("service.websocket_grace"), "built-in");
    assert_eq!(origin("release.keep"), "organization");
    assert_eq!(origin("test.run"), "detected from test_a.py");
    assert_eq!(
        effective.spec.test.as_ref().unwrap().run,
        "python3 -m unittest discover"
    );
    assert_eq!(effective.spec.language, Language::Python);
}

#[test]
fn a_lock_holds_against_everything_and_says_so() {
    let yaml = "service: { run: x, limits: { memory: 8GiB }, engine: container }\n";
    let tree = tree(yaml, &[]);
    let organization = Organization {
        values: json!({ "service": { "limits": { "memory": "512MiB" } } }),
        locks: vec![
            "service.limits.memory".into(),
            "service.engine".into(),
            "train.limits".into(),
        ],
    };
    let effective = resolve(&Sources {
        organization: Some(&organization),
        ..Sources::of(&tree)
    })
    .unwrap();
    let service = effective.spec.service.as_ref().unwrap();
    assert_eq!(service.limits.memory.unwrap().to_string(), "512MiB");
    assert_eq!(service.engine, ondol_spec::model::Engine::Auto);
    let memory = effective
        .explain()
        .iter()
        .find(|item| item.path == "service.limits.memory")
        .unwrap();
    assert_eq!(memory.origin, Origin::Organization { locked: true });
    let locked: Vec<&str> = effective
        .notes
        .iter()
        .filter(|note| note.code == "spec.note.locked")
        .map(|note| note.message.as_str())
        .collect();
    assert_eq!(
        locked,
        [
            "`service.limits.memory` is locked by the organization; the value of ondol.yaml:1:38 is not used",
            "`service.engine` is locked by the organization; the value of ondol.yaml:1:54 is not used",
        ]
    );
}

#[test]
fn an_organization_gives_defaults_to_what_exists_only() {
    let tree = tree("", &[]);
    let organization = Organization {
        values: json!({ "service": { "limits": { "memory": "512MiB" } }, "train": { "timeout": "5m" } }),
        locks: vec!["service.limits.memory".into()],
    };
    let effective = resolve(&Sources {
        organization: Some(&organization),
        ..Sources::of(&tree)
    })
    .unwrap();
    assert!(effective.spec.service.is_none() && effective.spec.train.is_none());
    let wrong = Organization {
        values: json!({ "servise": {} }),
        locks: vec![],
    };
    let error = resolve(&Sources {
        organization: Some(&wrong),
        ..Sources::of(&tree)
    })
    .unwrap_err();
    assert_eq!(error.to_string(), "organization: unknown key `servise`");
}

#[test]
fn a_detected_service_can_be_switched_off() {
    let effective = resolve(&Sources::of(&tree("service: false\n", &[("app.py", "")]))).unwrap();
    assert!(effective.spec.service.is_none());
    let absent = effective
        .explain()
        .iter()
        .find(|item| item.path == "service")
        .unwrap();
    assert!(absent.value.is_null());
}

#[test]
fn another_name_than_the_projects_is_noticed() {
    let tree = tree("project: shop\n", &[]);
    let project = "store".parse().unwrap();
    let effective = resolve(&Sources {
        project: Some(&project),
        ..Sources::of(&tree)
    })
    .unwrap();
    assert!(
        effective
            .notes
            .iter()
            .any(|note| note.code == "spec.note.other-project")
    );
}

#[test]
fn empty_values_say_nothing() {
    let effective = read("service:\nenv:\n  # A: 1\ntest:\n").unwrap();
    assert!(effective.spec.service.is_none() && effective.spec.test.is_none());
}
