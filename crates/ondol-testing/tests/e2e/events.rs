//! Every event of both loops is a valid CDEvents 0.5.1 document.

use std::collections::{BTreeMap, BTreeSet};

use jsonschema::{Registry, Validator};
use ondol_testing::{Platform, remark};
use serde_json::Value;

use crate::fixtures::{last_run_is, push_live};
use crate::loop_data::{iris, push_table};

macro_rules! schemas {
    ($($name:literal),* $(,)?) => {
        &[$(include_str!(concat!("../../schemas/", $name, ".json"))),*]
    };
}

/// The schemas of every standard type that the platform may append.
const STANDARD: &[&str] = schemas!(
    "artifactdeleted",
    "artifactpackaged",
    "artifactpublished",
    "branchcreated",
    "branchdeleted",
    "environmentcreated",
    "environmentdeleted",
    "environmentmodified",
    "incidentdetected",
    "incidentreported",
    "incidentresolved",
    "pipelinerunfinished",
    "pipelinerunqueued",
    "pipelinerunstarted",
    "repositorycreated",
    "repositorydeleted",
    "repositorymodified",
    "servicedeployed",
    "servicepublished",
    "serviceremoved",
    "servicerolledback",
    "serviceupgraded",
    "taskrunfinished",
    "taskrunstarted",
    "testcaserunfinished",
    "testoutputpublished",
    "testsuiterunfinished",
    "testsuiterunstarted",
);

const LINKS: &[&str] = schemas!(
    "links/embeddedlinkend",
    "links/embeddedlinkpath",
    "links/embeddedlinkrelation",
    "links/embeddedlinksarray",
);

const CUSTOM: &str = include_str!("../../schemas/custom.json");

struct Schemas {
    standard: BTreeMap<String, Validator>,
    custom: Validator,
}

impl Schemas {
    fn load() -> Self {
        let parse = |text: &str| serde_json::from_str::<Value>(text).expect("a schema is JSON");
        let links: Vec<(String, Value)> = LINKS
            .iter()
            .map(|text| parse(text))
            .map(|schema| (schema["$id"].as_str().expect("an $id").to_owned(), schema))
            .collect();
        let mut registry = Registry::new();
        for (id, schema) in &links {
            registry = registry.add(id.clone(), schema).expect("a link schema");
        }
        let registry = registry
            .prepare()
            .expect("the link schemas refer to each other");
        let validator = |schema: &Value| {
            jsonschema::options()
                .with_registry(&registry)
                .should_validate_formats(true)
                .build(schema)
                .unwrap_or_else(|error| panic!("{}: {error}", schema["$id"]))
        };
        let standard = STANDARD
            .iter()
            .map(|text| parse(text))
            .map(|schema| {
                let name = schema["properties"]["context"]["properties"]["type"]["default"]
                    .as_str()
                    .or(schema["properties"]["context"]["properties"]["type"]["enum"][0].as_str())
                    .expect("a schema names its type")
                    .to_owned();
                (name, validator(&schema))
            })
            .collect();
        Self {
            standard,
            custom: validator(&parse(CUSTOM)),
        }
    }

    /// What is wrong with a document.
    fn faults(&self, document: &Value) -> Vec<String> {
        let name = document["context"]["type"].as_str().unwrap_or_default();
        let validator = match self.standard.get(name) {
            Some(validator) => validator,
            None if name.starts_with("dev.cdeventsx.") => &self.custom,
            None => return vec![format!("`{name}` is no type of CDEvents 0.5.1")],
        };
        validator
            .iter_errors(document)
            .map(|error| format!("{name} at {}: {error}", error.instance_path()))
            .collect()
    }
}

#[test]
fn the_check_finds_faults() {
    let schemas = Schemas::load();
    let good = serde_json::json!({
        "context": { "specversion": "0.5.1", "id": "1", "source": "/ondol", "type": "dev.cdevents.pipelinerun.finished.0.3.0", "timestamp": "2026-01-01T00:00:00Z" },
        "subject": { "id": "run", "content": { "outcome": "success" } },
    });
    assert_eq!(schemas.faults(&good), Vec::<String>::new());
    let mut bad = good.clone();
    bad["subject"]["content"]["surprise"] = 1.into();
    bad["context"]["timestamp"] = "yesterday".into();
    assert_eq!(schemas.faults(&bad).len(), 2, "{:?}", schemas.faults(&bad));
    let mut linked = good.clone();
    linked["context"]["links"] = serde_json::json!([{ "linkType": "NOTHING" }]);
    assert!(!schemas.faults(&linked).is_empty(), "links are checked");
    let mut unknown = good;
    unknown["context"]["type"] = "dev.cdevents.cake.eaten.0.1.0".into();
    assert_eq!(schemas.faults(&unknown).len(), 1);
}

#[test]
fn every_event_of_both_loops_is_valid() {
    let platform = Platform::start();
    let web = platform.new_project("web", "shop");
    push_live(&platform, &web);
    web.set_version(&platform, "2");
    push_live(&platform, &web);
    platform.cli(&["rollback"], web.dir()).ok();
    platform
        .cli_with(
            &["secret", "set", "SOME_KEY"],
            web.dir(),
            Some(b"a value of no meaning"),
        )
        .ok();
    platform.cli(&["secret", "rm", "SOME_KEY"], web.dir()).ok();
    let token = platform
        .cli(
            &["token", "create", "reader", "--role", "viewer", "--json"],
            web.dir(),
        )
        .ok()
        .json();
    platform
        .cli(
            &["token", "revoke", token["id"].as_str().unwrap()],
            web.dir(),
        )
        .ok();
    platform
        .git(&["push", "ondol", "main:refs/heads/idea"], web.dir())
        .ok();
    platform.last_run("shop");
    platform
        .git(&["push", "ondol", "--delete", "idea"], web.dir())
        .ok();
    web.edit("app.py", "Hello, ", "Hullo, ");
    web.edit("ondol.yaml", "service:", "test:\n  run: |\n    echo '<testsuite name=\"s\" tests=\"1\" failures=\"1\"><testcase name=\"c\"><failure message=\"m\"/></testcase></testsuite>' > junit.xml\n    false\n  junit: junit.xml\nservice:");
    web.commit(&platform, "Fail with a report");
    platform.push(&web).ok();
    let run = last_run_is(&platform, "shop", "failure");
    assert_eq!(
        run["tests"][0]["failed"], 1,
        "JUnit results are read: {run:#}"
    );

    let model = platform.new_project("model", "iris");
    platform.push(&model).ok();
    platform.last_run("iris");
    push_table(&platform, &model, &iris(&model).csv(), "All rows").ok();
    push_table(
        &platform,
        &model,
        &iris(&model).with_shuffled_labels(3).csv(),
        "Shuffled",
    )
    .exits(1);
    platform
        .cli(&["projects", "delete", "shop", "--yes"], platform.folder())
        .ok();

    let schemas = Schemas::load();
    let events = platform.events();
    let mut faults = BTreeSet::new();
    let mut ids = BTreeSet::new();
    let mut types: BTreeMap<String, usize> = BTreeMap::new();
    for event in &events {
        let document = &event["document"];
        faults.extend(schemas.faults(document));
        assert!(
            ids.insert(event["id"].to_string()),
            "an id comes twice: {event}"
        );
        assert_eq!(event["id"], document["context"]["id"], "{event}");
        assert_eq!(event["type"], document["context"]["type"], "{event}");
        assert_eq!(event["chain"], document["context"]["chainId"], "{event}");
        *types
            .entry(event["type"].as_str().unwrap_or_default().to_owned())
            .or_default() += 1;
    }
    remark(format!(
        "{} events of {} types: {types:?}",
        events.len(),
        types.len()
    ));
    assert!(faults.is_empty(), "invalid events: {faults:#?}");
    for kind in [
        "repository.created",
        "repository.deleted",
        "branch.created",
        "branch.deleted",
        "ondol-push.received",
        "pipelinerun.queued",
        "pipelinerun.started",
        "pipelinerun.finished",
        "taskrun.started",
        "taskrun.finished",
        "testsuiterun.finished",
        "artifact.packaged",
        "environment.created",
        "service.deployed",
        "service.upgraded",
        "service.rolledback",
        "ondol-release.created",
        "ondol-rollout.started",
        "ondol-rollout.finished",
        "ondol-dataset.committed",
        "ondol-modelversion.created",
        "ondol-modelversion.promoted",
        "ondol-modelversion.refused",
        "ondol-secret.set",
        "ondol-secret.removed",
        "ondol-token.created",
        "ondol-token.revoked",
    ] {
        assert!(
            types.keys().any(|name| name.contains(kind)),
            "no {kind} among {types:#?}"
        );
    }
}
