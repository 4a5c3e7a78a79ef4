//! The JSON Schema of `ondol.yaml`, made from the types that read it and the table of short
//! forms, so that an editor and the platform never disagree.

use serde_json::{Map, Value, json};

use crate::model::Spec;
use crate::short::{SHORT_FORMS, Short};

/// The JSON Schema (draft 2020-12) of `ondol.yaml`, with a line break at its end.
/// `docs/ondol.schema.json` holds it.
pub fn json_schema() -> String {
    // A JSON value always has a text form.
    let mut text = serde_json::to_string_pretty(&schema()).unwrap_or_default();
    text.push('\n');
    text
}

pub(crate) fn schema() -> Value {
    let mut root = schemars::schema_for!(Spec).to_value();
    // From the inside out: the short form of a list copies what its items may be.
    for (pattern, short) in SHORT_FORMS.iter().rev() {
        let keys: Vec<&str> = pattern.split('.').collect();
        if let Some(pointer) = locate(&root, &keys) {
            allow(&mut root, &pointer, *short);
        }
    }
    // What detection or another key can fill in is not required of the file.
    for filled in ["Command", "Service", "Test", "Train"] {
        if let Some(section) = root
            .pointer_mut(&format!("/$defs/{filled}"))
            .and_then(Value::as_object_mut)
        {
            section.remove("required");
        }
    }
    if let Some(fields) = root.as_object_mut() {
        fields.insert("title".to_owned(), json!("ondol.yaml"));
        fields.insert("patternProperties".to_owned(), json!({ "^x-": {} }));
    }
    root
}

/// Every key in dots, with `*` for names of one's own, in the order of the types.
pub(crate) fn keys() -> Vec<(String, Value)> {
    let root = schema();
    let mut out = Vec::new();
    walk(&root, &root, &mut Vec::new(), &mut out);
    out
}

/// Where else a key exists: `service.port` for `port`.
pub(crate) fn paths_ending_with(key: &str) -> Vec<String> {
    let parent = |path: &str| path.rsplit_once('.').map(|(parent, _)| parent.to_owned());
    keys()
        .into_iter()
        .filter(|(path, _)| path.rsplit('.').next() == Some(key))
        .filter_map(|(path, _)| parent(&path))
        .filter(|parent| !parent.ends_with('*'))
        .collect()
}

fn walk(root: &Value, schema: &Value, path: &mut Vec<String>, out: &mut Vec<(String, Value)>) {
    let Some(full) = full_form(root, schema) else {
        return;
    };
    let mut visit = |key: &str, child: &Value| {
        path.push(key.to_owned());
        if key != "*" {
            out.push((path.join("."), child.clone()));
        }
        walk(root, child, path, out);
        path.pop();
    };
    if let Some(properties) = full.get("properties").and_then(Value::as_object) {
        properties.iter().for_each(|(key, child)| visit(key, child));
    } else if let Some(child) = any_key(full) {
        visit("*", child);
    } else if let Some(child) = full.get("items") {
        walk(root, child, path, out);
    }
}

/// The schema of a map's values.
fn any_key(schema: &Value) -> Option<&Value> {
    let additional = schema
        .get("additionalProperties")
        .filter(|value| value.is_object());
    additional.or_else(|| {
        schema
            .get("patternProperties")?
            .as_object()?
            .values()
            .next()
    })
}

/// The form with keys or items, behind references and beside short forms.
pub(crate) fn full_form<'a>(root: &'a Value, schema: &'a Value) -> Option<&'a Value> {
    let pointer = full_pointer(root, schema, String::new())?;
    match pointer {
        Pointer::Root(pointer) => root.pointer(&pointer),
        Pointer::Below(pointer) => schema.pointer(&pointer),
    }
}

enum Pointer {
    Root(String),
    Below(String),
}

fn full_pointer(root: &Value, schema: &Value, base: String) -> Option<Pointer> {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let pointer = name.strip_prefix('#')?.to_owned();
        let target = root.pointer(&pointer)?;
        return match full_pointer(root, target, String::new())? {
            Pointer::Root(pointer) => Some(Pointer::Root(pointer)),
            Pointer::Below(below) => Some(Pointer::Root(format!("{pointer}{below}"))),
        };
    }
    if let Some(options) = schema.get("anyOf").and_then(Value::as_array) {
        return options
            .iter()
            .enumerate()
            .rev()
            .find_map(|(index, option)| {
                full_pointer(root, option, format!("{base}/anyOf/{index}"))
            });
    }
    let structured = schema.get("properties").is_some()
        || any_key(schema).is_some()
        || schema.get("items").is_some();
    structured.then_some(Pointer::Below(base))
}

/// JSON pointer of the schema of a key.
fn locate(root: &Value, keys: &[&str]) -> Option<String> {
    let mut at = String::new();
    for key in keys {
        let schema = root.pointer(&at)?;
        at = match full_pointer(root, schema, at.clone())? {
            Pointer::Root(pointer) | Pointer::Below(pointer) => pointer,
        };
        let full = root.pointer(&at)?;
        let step = match *key {
            "*" if full.get("items").is_some() => "/items".to_owned(),
            "*" if full
                .get("additionalProperties")
                .is_some_and(Value::is_object) =>
            {
                "/additionalProperties".to_owned()
            }
            "*" => {
                let pattern = full.get("patternProperties")?.as_object()?.keys().next()?;
                format!(
                    "/patternProperties/{}",
                    pattern.replace('~', "~0").replace('/', "~1")
                )
            }
            key => format!("/properties/{key}"),
        };
        at.push_str(&step);
        root.pointer(&at)?;
    }
    Some(at)
}

fn allow(root: &mut Value, pointer: &str, short: Short) {
    let extra = match short {
        Short::Text(_) => vec![json!({ "type": "string" })],
        Short::Count => vec![json!({ "type": "integer", "minimum": 1 })],
        Short::List(_) => vec![json!({ "type": "string" }), json!({ "type": "array" })],
        Short::Off => vec![json!({ "const": false })],
        Short::Switch | Short::Every => vec![json!({ "type": "boolean" })],
        Short::Spelled => vec![json!({ "type": ["number", "boolean"] })],
        Short::One => {
            let schema = root.pointer(pointer).cloned().unwrap_or_default();
            full_form(root, &schema)
                .and_then(|list| list.get("items"))
                .cloned()
                .into_iter()
                .collect()
        }
        Short::Path => Vec::new(),
    };
    let Some(schema) = root.pointer_mut(pointer).and_then(Value::as_object_mut) else {
        return;
    };
    if extra.is_empty() {
        return;
    }
    if !schema.contains_key("anyOf") {
        let outside = ["description", "default", "title"];
        let inside: Map<String, Value> = schema
            .iter()
            .filter(|(key, _)| !outside.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        schema.retain(|key, _| outside.contains(&key.as_str()));
        schema.insert("anyOf".to_owned(), json!([inside]));
    }
    if let Some(options) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        for option in extra.into_iter().rev() {
            if !options.contains(&option) {
                options.insert(0, option);
            }
        }
    }
}
