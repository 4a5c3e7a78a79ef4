//! What must hold for every repository.

use ondol_spec::model::{ByteSize, HostName, ImageRef, Pattern, Percent, Period};
use ondol_spec::{Origin, Sources, resolve};
use proptest::prelude::*;
use serde_json::Value;

use crate::tree;

/// Lines that are specifications, nearly.
fn line() -> impl Strategy<Value = String> {
    let texts = [
        "test: pytest",
        "test: { run: x, timeout: 5m }",
        "service: ./run",
        "service: { run: x, replicas: 2 }",
        "service: false",
        "service:\n  run: a\n  port: 80\n  limits: { cpu: 0.5, memory: 64MiB }",
        "release: { strategy: canary, check: p95 < 0.3 }",
        "data: { iris: data/iris.csv }",
        "data: { iris: { schema: { a: { min: 1 } } } }",
        "train: { auto: species }",
        "train: { run: x }",
        "monitor: { slo: { p95: 300ms }, drift: true }",
        "steps: { lint: ruff, unit: { run: x, needs: lint } }",
        "env: { A: 1, B: yes }",
        "volumes: { state: data/ }",
        "secrets: TOKEN",
        "secrets: [TOKEN, { name: CERT, as: file }]",
        "previews: feature/*",
        "language: python",
        "build: [make, { run: b }]",
        "unknown: 1",
        "service: 5",
        "x-base: &base { run: x }",
        "test: *base",
        "steps: { a: { run: x, needs: a } }",
        "project: shop",
        "build:",
    ];
    proptest::sample::select(texts.to_vec()).prop_map(str::to_owned)
}

fn repository() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let files = vec![
        ("main.py", "from fastapi import FastAPI\napp = FastAPI()\n"),
        ("requirements.txt", "fastapi\npytest\n"),
        ("test_a.py", "import pytest\n"),
        (
            "package.json",
            r#"{"scripts":{"start":"node x","test":"y"},"dependencies":{"a":"1"}}"#,
        ),
        ("go.mod", "module x\n"),
        ("main.go", "package main\nfunc main() {}\n"),
        ("Cargo.toml", "[package]\nname = \"a\"\n"),
        ("src/main.rs", "fn main() {}"),
        ("index.html", ""),
        ("Procfile", "web: run\nrelease: migrate\n"),
        ("Dockerfile", ""),
        ("Gemfile", ""),
    ];
    proptest::sample::subsequence(files, 0..6)
}

/// Sets a dotted path as `explain` writes it.
fn rebuild(root: &mut Value, path: &str, value: &Value) {
    let mut keys: Vec<String> = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if rest.starts_with('"') {
            let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            keys.push(stream.next().unwrap().unwrap());
            rest = &rest[stream.byte_offset()..];
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            keys.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    let mut at = root;
    for key in &keys {
        if !at.is_object() {
            *at = Value::Object(Default::default());
        }
        at = at
            .as_object_mut()
            .unwrap()
            .entry(key.clone())
            .or_insert(Value::Null);
    }
    *at = value.clone();
}

/// The same value without what is empty, and with lists of mappings as mappings by index.
fn pruned(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields
                .iter()
                .map(|(key, value)| (key.clone(), pruned(value)))
                .filter(|(_, value)| !hollow(value));
            Value::Object(kept.collect())
        }
        Value::Array(items) if items.iter().any(Value::is_object) => Value::Object(
            items
                .iter()
                .enumerate()
                .map(|(index, item)| (index.to_string(), pruned(item)))
                .collect(),
        ),
        other => other.clone(),
    }
}

fn hollow(value: &Value) -> bool {
    value.is_null()
        || value.as_object().is_some_and(|fields| fields.is_empty())
        || value.as_array().is_some_and(Vec::is_empty)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn resolving_never_panics_and_explains_everything(lines in proptest::collection::vec(line(), 0..6), files in repository()) {
        let yaml = lines.join("\n");
        let tree = tree(&yaml, &files);
        let Ok(effective) = resolve(&Sources::of(&tree)) else { return Ok(()) };
        let mut rebuilt = Value::Null;
        for item in effective.explain() {
            rebuild(&mut rebuilt, &item.path, &item.value);
            match &item.origin {
                Origin::File { line, .. } => prop_assert!((*line as usize) <= yaml.lines().count(), "{item:?}"),
                Origin::Detected { from } => prop_assert!(
                    &**from == "train.auto" || files.iter().any(|(path, _)| *path == &**from),
                    "{item:?}"
                ),
                Origin::Builtin => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }
        let spec = serde_json::to_value(&effective.spec).unwrap();
        prop_assert_eq!(pruned(&rebuilt), pruned(&spec));
        // Explaining again what is already complete changes nothing.
        let again = resolve(&Sources::of(&tree)).unwrap();
        prop_assert_eq!(again, effective);
    }

    #[test]
    fn an_effective_specification_is_its_own_specification(lines in proptest::collection::vec(line(), 0..4)) {
        let Ok(effective) = resolve(&Sources::of(&tree(&lines.join("\n"), &[]))) else { return Ok(()) };
        // JSON is YAML: written out in full, a specification means itself.
        let mut written = serde_json::to_value(&effective.spec).unwrap();
        if effective.spec.service.is_none() {
            // Without a word on it, a model that trains by itself is served.
            written["service"] = Value::Bool(false);
        }
        let written = written.to_string();
        let again = resolve(&Sources::of(&tree(&written, &[]))).unwrap();
        prop_assert_eq!(again.spec, effective.spec);
    }

    #[test]
    fn any_text_is_read_or_refused(yaml in "\\PC{0,200}") {
        let _ = resolve(&Sources::of(&tree(&yaml, &[])));
    }

    #[test]
    fn any_keys_and_values_are_read_or_refused(
        keys in proptest::collection::vec(
            proptest::sample::select(vec!["test", "service", "build", "train", "data", "steps", "env", "release", "monitor", "previews", "auto", "run", "on"]),
            0..5,
        ),
        values in proptest::collection::vec("[a-z0-9\\[\\]{}:,.%\"' -]{0,20}", 5),
    ) {
        let text: String = keys.iter().zip(&values).map(|(key, value)| format!("{key}: {value}\n")).collect();
        let nested: String = keys.iter().zip(&values).enumerate().map(|(depth, (key, value))| format!("{}{key}:\n{}x: {value}\n", " ".repeat(depth), " ".repeat(depth + 1))).collect();
        let _ = resolve(&Sources::of(&tree(&text, &[])));
        let _ = resolve(&Sources::of(&tree(&nested, &[])));
    }

    #[test]
    fn typed_text_round_trips(millis in 0u64..400 * 86_400_000, bytes in 0u64..1 << 50, percent in 0u32..=1_000_000) {
        let period = Period::from_millis(millis);
        prop_assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
        let size = ByteSize::from_bytes(bytes);
        prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        let share: Percent = format!("{}%", f64::from(percent) / 1e4).parse().unwrap();
        prop_assert_eq!(share.to_string().parse::<Percent>().unwrap(), share);
    }

    #[test]
    fn typed_text_never_panics(text in "\\PC{0,30}", path in "[a-c/]{0,12}") {
        let _ = text.parse::<Period>();
        let _ = text.parse::<ByteSize>();
        let _ = text.parse::<Percent>();
        let _ = text.parse::<HostName>();
        let _ = text.parse::<ImageRef>();
        if let Ok(pattern) = text.parse::<Pattern>() {
            let _ = pattern.matches(&path);
        }
    }
}

#[test]
fn patterns_are_anchored_and_cross_folders_by_two_stars() {
    let matches = |pattern: &str, path: &str| pattern.parse::<Pattern>().unwrap().matches(path);
    for (pattern, path) in [
        ("src", "src/a/b.py"),
        ("src/", "src/a"),
        ("*.py", "a.py"),
        ("**/*.py", "a.py"),
        ("**/*.py", "x/y/a.py"),
        ("src/**/t?st", "src/a/b/test"),
        ("**", "anything/at/all"),
        ("feature/*", "feature/x"),
        ("a*b*c", "aXXbYYc"),
    ] {
        assert!(matches(pattern, path), "{pattern} {path}");
    }
    for (pattern, path) in [
        ("*.py", "src/a.py"),
        ("src", "srcs"),
        ("a/*/c", "a/b/d/c"),
        ("**/x", "y"),
        ("a*b", "ac"),
    ] {
        assert!(!matches(pattern, path), "{pattern} {path}");
    }
}

#[test]
fn images_are_named_as_registries_name_them() {
    for good in [
        "python",
        "python:3.13-slim",
        "docker.io/library/python:3.13",
        "localhost:5000/a/b",
        "ghcr.io/o/r@sha256:0000000000000000000000000000000000000000000000000000000000000000",
    ] {
        assert!(good.parse::<ImageRef>().is_ok(), "{good}");
    }
    for bad in [
        "",
        "Python",
        "a//b",
        "a:",
        "a b",
        "-a",
        "a@sha256:1",
        "http://x/y",
        "a/b:c/d:e",
    ] {
        assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
    }
}
