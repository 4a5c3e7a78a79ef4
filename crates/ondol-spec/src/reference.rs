//! The reference of every key, as Markdown, from the same schema that checks the file.

use serde_json::Value;

use crate::schema::{full_form, keys, schema};
use crate::short::{SHORT_FORMS, Short};

const HEAD: &str = "\
# Configuration: `ondol.yaml`

<!-- Generated from the types of `ondol-spec`. Do not edit: change the doc comments there. -->

Everything is optional. A project without this file runs by what its own files say; `ondol explain`
prints every effective value with its origin. Layers, weakest first: built-in, organization,
detected, file, environment; an organization may lock a value.

An unknown key is an error that names its line and the nearest known key. Top-level keys that begin
with `x-` are left alone, for anchors. A key with nothing behind it counts as not written.
Commands are run by `/bin/sh -ec` in the work directory. The file may have 256 KiB.

Durations have a unit (`300ms`, `30s`, `5m`, `1h30m`, `7d`), sizes too (`512MiB`, `10MB`), and
shares a percent sign (`99.9%`). Patterns are anchored at the root of the repository; `*` and `?`
stay within a name, `**` crosses folders, and a folder that matches includes what is below it.

";

/// The reference of every key: type, default, meaning. `docs/configuration.md` holds it.
pub fn reference() -> String {
    let root = schema();
    let mut text = HEAD.to_owned();
    let mut section = String::new();
    for (path, schema) in keys() {
        let top = path.split('.').next().unwrap_or(&path);
        if top != section {
            section = top.to_owned();
            text.push_str(&format!("## `{top}`\n\n{}\n\n", meaning(&root, &schema)));
            if let Some(short) = short_of(&path) {
                text.push_str(&format!("Short form: {short}.\n\n"));
            }
            let values = choices(&root, &schema);
            if !values.is_empty() {
                text.push_str(&format!("One of {}.\n\n", values.join(", ")));
            }
            if full_form(&root, &schema)
                .is_some_and(|full| full.get("properties").is_some() || path_has_children(&path))
            {
                text.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
            }
            continue;
        }
        let mut words = meaning(&root, &schema);
        let values = choices(&root, &schema);
        if !values.is_empty() {
            words = format!("{words} One of {}.", values.join(", "));
        }
        if let Some(short) = short_of(&path) {
            words = format!("{words} Short form: {short}.");
        }
        let row = format!(
            "| `{path}` | {} | {} | {} |\n",
            kind(&root, &schema),
            default(&schema),
            words.replace('|', "\\|")
        );
        text.push_str(&row);
        if next_section_begins(&path) {
            text.push('\n');
        }
    }
    text
}

fn path_has_children(path: &str) -> bool {
    let prefix = format!("{path}.");
    keys().iter().any(|(other, _)| other.starts_with(&prefix))
}

fn next_section_begins(path: &str) -> bool {
    let all = keys();
    let index = all.iter().position(|(other, _)| other == path).unwrap_or(0);
    let top = path.split('.').next();
    all.get(index + 1)
        .is_some_and(|(next, _)| next.split('.').next() != top)
}

fn meaning(root: &Value, schema: &Value) -> String {
    let own = schema.get("description").and_then(Value::as_str);
    let target = schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|name| root.pointer(name.trim_start_matches('#')));
    let text = own.or_else(|| {
        target
            .and_then(|target| target.get("description"))
            .and_then(Value::as_str)
    });
    text.unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn default(schema: &Value) -> String {
    match schema.get("default") {
        None | Some(Value::Null | Value::Object(_)) => String::new(),
        Some(Value::Array(items)) if items.is_empty() => String::new(),
        Some(Value::String(text)) => format!("`{text}`"),
        Some(value) => format!("`{value}`"),
    }
}

fn resolved<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        return root
            .pointer(name.trim_start_matches('#'))
            .map(|target| resolved(root, target))
            .unwrap_or_default();
    }
    match schema.get("anyOf").and_then(Value::as_array) {
        Some(options) => options
            .iter()
            .flat_map(|option| resolved(root, option))
            .collect(),
        None => vec![schema],
    }
}

fn kind(root: &Value, schema: &Value) -> String {
    let mut words: Vec<String> = Vec::new();
    for option in resolved(root, schema) {
        let word = if let Some(title) = option.get("title").and_then(Value::as_str) {
            title
                .strip_prefix("a ")
                .unwrap_or(title)
                .split(" such as")
                .next()
                .unwrap_or(title)
                .to_owned()
        } else if option.get("oneOf").is_some() || option.get("enum").is_some() {
            "word".to_owned()
        } else if option.get("const").is_some() {
            "`false`".to_owned()
        } else {
            let types = match option.get("type") {
                Some(Value::String(kind)) => vec![kind.as_str()],
                Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
                _ => Vec::new(),
            };
            let types = types
                .into_iter()
                .filter(|kind| *kind != "null")
                .map(|kind| match kind {
                    "string" => "text",
                    "integer" => "whole number",
                    "boolean" => "true or false",
                    "array" => "list",
                    "object" => "mapping",
                    other => other,
                });
            types.collect::<Vec<_>>().join(", ")
        };
        if !word.is_empty() && !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(", ")
}

fn choices(root: &Value, schema: &Value) -> Vec<String> {
    let word = |value: &Value| value.as_str().map(|text| format!("`{text}`"));
    resolved(root, schema)
        .into_iter()
        .flat_map(|option| {
            let documented = option
                .get("oneOf")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            let documented = documented.flat_map(|choice| {
                let about = meaning(root, choice);
                let about = about.trim_end_matches('.').to_owned();
                let one = choice
                    .get("const")
                    .and_then(word)
                    .map(|text| format!("{text} ({about})"));
                let several = choice
                    .get("enum")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(word);
                one.into_iter().chain(several).collect::<Vec<_>>()
            });
            let plain = option
                .get("enum")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(word);
            documented.chain(plain).collect::<Vec<_>>()
        })
        .collect()
}

fn short_of(path: &str) -> Option<String> {
    let forms: Vec<String> = SHORT_FORMS
        .iter()
        .filter(|(pattern, _)| *pattern == path || pattern.strip_suffix(".*") == Some(path))
        .filter_map(|(pattern, short)| {
            let item = if pattern.ends_with(".*") {
                "of an entry, "
            } else {
                ""
            };
            Some(match short {
                Short::Text(key) => format!("{item}text for `{key}`"),
                Short::Count => "a number for both `min` and `max`".to_owned(),
                Short::One => "one value for a list of one".to_owned(),
                Short::List(key) => format!("text or a list for `{key}`"),
                Short::Off => "`false` for none".to_owned(),
                Short::Switch => "`true` for the defaults, `false` for none".to_owned(),
                Short::Every => "`true` for every branch".to_owned(),
                Short::Spelled | Short::Path => return None,
            })
        })
        .collect();
    (!forms.is_empty()).then(|| forms.join("; "))
}
