//! What holds for every file, not only for those that somebody thought of.

use ondol_spec::compose::changes;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{Given, environment, service};

fn keys(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// A service as JSON, which is YAML.
fn any_service() -> impl Strategy<Value = Value> {
    let name = "[A-C]";
    let environment = proptest::collection::btree_map(name, "[a-z]{0,3}", 0..4);
    let ports = proptest::collection::btree_set(1_000u16..1_010, 0..3);
    let flags = (any::<bool>(), any::<bool>(), 1u8..4);
    let caps = proptest::collection::btree_set(prop_oneof!["CHOWN", "KILL", "SETUID"], 0..3);
    let command = proptest::option::of(proptest::collection::vec("[a-z]{1,4}", 0..3));
    (environment, ports, flags, caps, command).prop_map(
        |(environment, ports, (read_only, init, replicas), caps, command)| {
            let mut fields = keys(json!({
                "image": "app",
                "environment": environment,
                "ports": ports.iter().map(u16::to_string).collect::<Vec<_>>(),
                "read_only": read_only,
                "init": init,
                "deploy": { "replicas": replicas },
                "cap_drop": caps,
            }));
            if let Some(command) = command {
                fields.insert("command".to_owned(), json!(command));
            }
            Value::Object(fields)
        },
    )
}

fn file(service: &Value) -> String {
    json!({ "services": { "web": service } }).to_string()
}

/// The same service, its keys turned around and its mappings written as lists.
fn rewritten(service: &Value) -> Value {
    let mut fields: Vec<(String, Value)> = keys(service.clone()).into_iter().collect();
    fields.reverse();
    for (key, value) in &mut fields {
        match key.as_str() {
            "environment" => {
                let mut pairs: Vec<String> = keys(value.clone())
                    .into_iter()
                    .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
                    .collect();
                pairs.reverse();
                *value = json!(pairs);
            }
            "ports" => {
                let mut ports: Vec<Value> = value.as_array().cloned().unwrap_or_default();
                ports.reverse();
                *value = ports
                    .into_iter()
                    .map(|port| json!({ "target": port, "protocol": "tcp" }))
                    .collect();
            }
            _ => {}
        }
    }
    Value::Object(fields.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn spelling_is_no_change(service in any_service()) {
        let one = Given::new(&file(&service)).project();
        let other = Given::new(&file(&rewritten(&service))).project();
        prop_assert_eq!(&one, &other);
        prop_assert!(changes(&one, &other).changed.is_empty());
    }

    #[test]
    fn an_empty_override_changes_nothing(service in any_service()) {
        let base = Given::new(&file(&service)).project();
        for over in ["{}", "services: {}", "services: { web: }", "services: { web: {} }"] {
            let given = Given::new(&file(&service)).file("compose.override.yaml", over);
            prop_assert_eq!(&given.project().services, &base.services);
        }
    }

    #[test]
    fn an_override_of_everything_is_the_override(base in any_service(), over in any_service()) {
        let text = format!("services: {{ web: !override {over} }}");
        let merged = Given::new(&file(&base)).file("compose.override.yaml", &text).project();
        prop_assert_eq!(merged.services, Given::new(&file(&over)).project().services);
    }

    #[test]
    fn merging_keeps_what_both_say(base in any_service(), over in any_service()) {
        let text = file(&over);
        let given = Given::new(&file(&base)).file("compose.override.yaml", &text);
        let merged = service(&given.project(), "web");
        let (base, over) = (
            service(&Given::new(&file(&base)).project(), "web"),
            service(&Given::new(&text).project(), "web"),
        );
        // Mappings: the union, the stronger first.
        let mut expected = environment(&base);
        expected.extend(environment(&over));
        prop_assert_eq!(environment(&merged), expected);
        // Unique lists: the union.
        let union: std::collections::BTreeSet<_> = base.ports.iter().chain(&over.ports).collect();
        prop_assert_eq!(merged.ports.iter().collect::<std::collections::BTreeSet<_>>(), union);
        prop_assert_eq!(&merged.cap_drop, &(&base.cap_drop | &over.cap_drop));
        // Scalars and commands: the stronger.
        prop_assert_eq!(merged.read_only, over.read_only);
        prop_assert_eq!(merged.replicas, over.replicas);
        prop_assert_eq!(&merged.command, over.command.as_ref().map_or(&base.command, |_| &over.command));
        // Laying it over twice is laying it over once, for everything but appended lists.
        let again = Given::new(&file(&json!({ "image": "app" }))).file("compose.override.yaml", &text);
        prop_assert_eq!(service(&again.project(), "web"), over);
    }

    #[test]
    fn extending_is_laying_over(base in any_service(), over in any_service()) {
        let mut extending = keys(over.clone());
        extending.insert("extends".to_owned(), json!("base"));
        let extended = json!({ "services": { "base": base, "web": extending } }).to_string();
        let extended = Given::new(&extended).project();
        let given = Given::new(&file(&base)).file("compose.override.yaml", &file(&over));
        let (mut one, mut other) = (service(&extended, "web"), service(&given.project(), "web"));
        // Only the other services differ, and with them who has the project's own host.
        (one.route, other.route) = (None, None);
        prop_assert_eq!(one, other);
    }

    #[test]
    fn layers_hold_every_service_behind_its_dependencies(edges in proptest::collection::vec((0usize..8, 0usize..8), 0..20)) {
        let mut services = Map::new();
        for number in 0..8usize {
            let to: std::collections::BTreeSet<String> = edges
                .iter()
                .filter(|(from, to)| *from == number && to < from)
                .map(|(_, to)| format!("s{to}"))
                .collect();
            services.insert(format!("s{number}"), json!({ "image": "x", "depends_on": to }));
        }
        let project = Given::new(&json!({ "services": services }).to_string()).project();
        let layers = project.layers();
        prop_assert_eq!(layers.iter().map(Vec::len).sum::<usize>(), 8);
        for (at, layer) in layers.iter().enumerate() {
            for name in layer {
                for to in project.services[name].depends_on.keys() {
                    prop_assert!(layers[..at].iter().any(|layer| layer.contains(to)));
                }
            }
        }
    }

    #[test]
    fn anything_is_read_or_refused(text in "(services:\n  web:\n    image: x\n    [a-z_]{3,12}: [\\[\\]{}a-z0-9:./$&*!, \"-]{0,40}\n)([a-z:\\-\\[\\] \n$!&*<{}]{0,60})") {
        let _ = Given::new(&text).read();
    }
}
