//! Five layers become one specification: built-in < organization < detected < file <
//! environment. There is one mechanism: every layer is a tree with origins, the trees are merged,
//! the result is read into types and checked, and what was merged explains every value.

use std::collections::HashMap;

use ondol_types::{EnvironmentName, ProjectName, RelPath};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::compose::ComposeProject;
use crate::de::{ReadError, What};
use crate::error::{Fault, SpecError};
use crate::model::Spec;
use crate::nearest::nearest;
use crate::node::{Kind, Node, Origin, dotted};
use crate::tree::Tree;
use crate::{check, derive, detect, schema, short, yaml};

/// Names that the file may have; the first is the one to use.
pub const FILE_NAMES: [&str; 2] = ["ondol.yaml", "ondol.yml"];

/// What an organization says for all its projects, in the shape of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Organization {
    /// Values, weaker than everything in the repository.
    pub values: Value,
    /// Keys in dots, such as `service.limits.memory`, whose value (or absence) nobody can change.
    pub locks: Vec<String>,
}

/// What was set for one environment, in the shape of the file; stronger than the file.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvironmentSettings {
    /// Which environment.
    pub name: EnvironmentName,
    /// Values.
    pub values: Value,
}

/// Everything that a specification is made from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The files of the commit.
    pub tree: &'a dyn Tree,
    /// The project that the repository belongs to, when it has one already.
    pub project: Option<&'a ProjectName>,
    /// What the organization says.
    pub organization: Option<&'a Organization>,
    /// What was set for the environment.
    pub environment: Option<&'a EnvironmentSettings>,
}

impl<'a> Sources<'a> {
    /// A repository and nothing else.
    pub fn of(tree: &'a dyn Tree) -> Self {
        Self {
            tree,
            project: None,
            organization: None,
            environment: None,
        }
    }
}

/// A specification with every default filled in, and why it is as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// The specification.
    pub spec: Spec,
    /// What people should know although nothing is wrong. Shown on every run.
    pub notes: Vec<Note>,
    /// The services of the repository's Compose file, when it has one that can be read and no command
    /// of its own is named.
    pub compose: Option<ComposeProject>,
    explained: Vec<Explained>,
}

impl Effective {
    /// Every effective value with its origin, in the order of the reference.
    pub fn explain(&self) -> &[Explained] {
        &self.explained
    }
}

/// One effective value and where it came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Explained {
    /// The key in dots, such as `service.health.path`.
    pub path: String,
    /// Its value; `null` for a stage that the project does not have.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

/// Something that people should know although nothing is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct Note {
    /// Stable code such as `spec.note.no-tests`.
    pub code: String,
    /// What there is to know.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Note {
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: format!("spec.note.{code}"),
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Reads, detects, merges, checks.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn resolve(sources: &Sources<'_>) -> Result<Effective, SpecError> {
    let mut notes = Vec::new();
    let mut file = read_file(sources.tree)?;
    short::expand(&mut file);
    let mut organization = match sources.organization {
        Some(organization) => layer(
            &organization.values,
            &Origin::Organization { locked: false },
        )?,
        None => Node::map(Origin::Builtin),
    };
    short::expand(&mut organization);
    let mut environment = match sources.environment {
        Some(settings) => layer(
            &settings.values,
            &Origin::Environment {
                name: settings.name.as_str().into(),
            },
        )?,
        None => Node::map(Origin::Builtin),
    };
    short::expand(&mut environment);

    let mut written = organization.clone();
    written.merge(file.clone());
    written.merge(environment.clone());
    written.drop_empty();
    let detection = detect::detect(sources.tree, &detect::Request::from_written(&written));
    notes.extend(detection.notes);
    let compose = detection.compose;

    let mut root = Node::map(Origin::Builtin);
    root.merge(organization.clone());
    root.merge(detection.layer);
    root.merge(file);
    root.merge(environment);
    root.drop_empty();
    if let Some(settings) = sources.organization {
        derive::impose_locks(&mut root, &organization, &settings.locks, &mut notes);
    }
    short::drop_switched_off(&mut root);
    derive::complete(&mut root);

    let spec: Spec = read(&root)?;
    check::check(&spec, &root)?;
    derive::observe(&spec, sources.project, &mut notes);
    let explained = explain(&spec, &root);
    Ok(Effective {
        spec,
        notes,
        compose,
        explained,
    })
}

fn layer(values: &Value, origin: &Origin) -> Result<Node, SpecError> {
    match values {
        Value::Null => Ok(Node::map(origin.clone())),
        Value::Object(_) => Ok(Node::from_json(values, origin)),
        _ => Err(SpecError::Value(Fault {
            message: "settings must be a mapping of keys to values".to_owned(),
            origin: origin.clone(),
            path: String::new(),
            hint: None,
        })),
    }
}

fn read_file(tree: &dyn Tree) -> Result<Node, SpecError> {
    let mut root: Option<(&str, Node)> = None;
    for name in FILE_NAMES {
        let Ok(path) = name.parse::<RelPath>() else {
            continue;
        };
        let Some(bytes) = tree.read(&path) else {
            continue;
        };
        if let Some((other, _)) = &root {
            return Err(SpecError::Meaning(Fault {
                message: format!("there is also `{other}`"),
                origin: Origin::File {
                    file: name.into(),
                    line: 1,
                    column: 1,
                },
                path: String::new(),
                hint: Some(format!("keep `{}` and remove `{name}`", FILE_NAMES[0])),
            }));
        }
        root = Some((name, yaml::parse(name, &bytes)?));
    }
    Ok(root.map_or_else(|| Node::map(Origin::Builtin), |(_, node)| node))
}

/// Reads a merged tree into types; what serde finds wrong becomes an error with its place.
fn read(root: &Node) -> Result<Spec, SpecError> {
    serde::Deserialize::deserialize(root).map_err(|error| describe(error, root))
}

fn describe(error: ReadError, root: &Node) -> SpecError {
    let ReadError { what, path, origin } = error;
    let origin = origin.unwrap_or_else(|| root.origin.clone());
    let shown = if path.is_empty() {
        "the file".to_owned()
    } else {
        format!("`{}`", dotted(&path))
    };
    let fault = |message: String, hint: Option<String>| Fault {
        message,
        origin: origin.clone(),
        path: dotted(&path),
        hint,
    };
    match what {
        What::UnknownKey { key, known } => {
            let place = if path.is_empty() {
                String::new()
            } else {
                format!(" under {shown}")
            };
            let hint = match nearest(&key, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => match schema::paths_ending_with(&key).first() {
                    Some(elsewhere) => format!("`{key}` belongs to `{elsewhere}`"),
                    None => format!("known here: {}", known.join(", ")),
                },
            };
            SpecError::UnknownKey(fault(format!("unknown key `{key}`{place}"), Some(hint)))
        }
        What::UnknownWord { word, known } => {
            let quoted: Vec<String> = known.iter().map(|word| format!("`{word}`")).collect();
            let hint =
                nearest(&word, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            SpecError::Value(fault(
                format!(
                    "{shown} must be one of {}, found `{word}`",
                    quoted.join(", ")
                ),
                hint,
            ))
        }
        What::Type { found, expected } => {
            let mut expected = expected;
            for short in short::allowed_at(&path)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
            {
                if short != short::Short::Path && !expected.contains(short.words()) {
                    let joint = if expected.contains(" or ") || expected.starts_with("one of") {
                        ", "
                    } else {
                        " or "
                    };
                    expected = format!("{}{joint}{expected}", short.words());
                }
            }
            let hint = type_hint(&path, &found, &expected);
            SpecError::Value(fault(
                format!("{shown} must be {expected}, found {found}"),
                hint,
            ))
        }
        What::Missing { key } => {
            let hint = match (dotted(&path).as_str(), key) {
                ("service", "run") => Some(
                    "no command was detected; add `service.run`, or remove `service`".to_owned(),
                ),
                ("test", "run") => Some("no test command was detected; add `test.run`".to_owned()),
                ("train", "model") => {
                    Some("name the model by `train.model`, or the data by `train.on`".to_owned())
                }
                _ => Some(format!("add `{key}`")),
            };
            SpecError::Value(fault(format!("{shown} needs `{key}`"), hint))
        }
        What::Message(message) => {
            let hint = message_hint(&message, &path);
            SpecError::Value(fault(format!("{shown}: {message}"), hint))
        }
    }
}

fn type_hint(path: &[String], found: &str, expected: &str) -> Option<String> {
    let number = found.strip_prefix("the number ");
    match (path, number) {
        ([key], _) if key == "test" && found == "`false`" => {
            Some("the test stage cannot be removed; without a command it only says that there are no tests".to_owned())
        }
        (_, Some(number)) if expected.contains("duration") => Some(format!("say the unit: `{number}s`")),
        (_, Some(number)) if expected.contains("a size") => Some(format!("say the unit: `{number}MiB`")),
        (_, Some(number)) if expected.contains("percentage") => Some(format!("write `{number}%`")),
        (_, Some(number)) if expected == "text" => Some(format!("put it in quotes: \"{number}\"")),
        _ if found == "`true`" || found == "`false`" => {
            (expected == "text").then(|| format!("put it in quotes: \"{}\"", found.trim_matches('`')))
        }
        _ => None,
    }
}

fn message_hint(message: &str, path: &[String]) -> Option<String> {
    if !message.contains("not a relative path that stays inside its folder") {
        return None;
    }
    (path.first().map(String::as_str) != Some("volumes")).then(|| {
        "write a path inside the repository, without a leading `/` and without `..`".to_owned()
    })
}

fn explain(spec: &Spec, root: &Node) -> Vec<Explained> {
    let mut out = Vec::new();
    // A specification is plain data: its serialization cannot fail, and an empty explanation
    // would be caught by every test of this function.
    let value = serde_json::to_value(spec).unwrap_or_default();
    for (key, absent) in [
        ("test", spec.test.is_none()),
        ("service", spec.service.is_none()),
    ] {
        if absent {
            out.push(Explained {
                path: key.to_owned(),
                value: Value::Null,
                origin: Origin::Builtin,
            });
        }
    }
    leaves(&value, Some(root), &mut Vec::new(), &mut out);
    out
}

fn leaves(value: &Value, node: Option<&Node>, path: &mut Vec<String>, out: &mut Vec<Explained>) {
    let entries = node.map(Node::entries).unwrap_or_default();
    let index: HashMap<&str, &Node> = entries
        .iter()
        .map(|entry| (entry.key.as_str(), &entry.value))
        .collect();
    let mut child = |key: String, value: &Value| {
        let item = || {
            node.filter(|node| !node.is_map())
                .and_then(|node| node.child(&key))
        };
        let below = index.get(key.as_str()).copied().or_else(item);
        path.push(key);
        leaves(value, below, path, out);
        path.pop();
    };
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(key, value)| child(key.clone(), value)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, item)| child(index.to_string(), item));
        }
        Value::Array(items) if items.is_empty() && node.is_none() => {}
        _ => {
            let origin = node.map_or(Origin::Builtin, |node| node.origin.clone());
            out.push(Explained {
                path: dotted(path),
                value: value.clone(),
                origin,
            });
        }
    }
}

/// Whether two trees say the same, wherever they say it.
pub(crate) fn same(a: &Node, b: &Node) -> bool {
    match (&a.kind, &b.kind) {
        (Kind::Map(a), Kind::Map(b)) => {
            a.len() == b.len()
                && a.iter().all(|entry| {
                    b.iter()
                        .any(|other| other.key == entry.key && same(&other.value, &entry.value))
                })
        }
        (Kind::List(a), Kind::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (a, b) => a == b,
    }
}
