//! A tree of values in which every value knows where it came from. All layers are such trees;
//! merging them, reading them into types and explaining them is done on this one form.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Origin {
    /// Ondol's own default.
    #[serde(rename_all = "camelCase")]
    Builtin,
    /// The settings of the organization.
    #[serde(rename_all = "camelCase")]
    Organization {
        /// Whether the organization locked it: nothing weaker or stronger can change it.
        locked: bool,
    },
    /// Found in the repository's own files.
    #[serde(rename_all = "camelCase")]
    Detected {
        /// The file that made us think so, or `train.auto`.
        #[schema(value_type = String)]
        #[schemars(with = "String")]
        from: Arc<str>,
    },
    /// Written in `ondol.yaml`.
    #[serde(rename_all = "camelCase")]
    File {
        /// Name of the file.
        #[schema(value_type = String)]
        #[schemars(with = "String")]
        file: Arc<str>,
        /// Line, from 1.
        line: u32,
        /// Column, from 1.
        column: u32,
    },
    /// Set for this environment.
    #[serde(rename_all = "camelCase")]
    Environment {
        /// Which.
        #[schema(value_type = String)]
        #[schemars(with = "String")]
        name: Arc<str>,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin => f.write_str("built-in"),
            Self::Organization { locked: false } => f.write_str("organization"),
            Self::Organization { locked: true } => f.write_str("organization (locked)"),
            Self::Detected { from } => write!(f, "detected from {from}"),
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Environment { name } => write!(f, "environment {name}"),
        }
    }
}

/// A value with its origin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) origin: Origin,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    /// A whole number with its spelling.
    Int(i64, Box<str>),
    /// A number with its spelling.
    Float(f64, Box<str>),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// A value of a Compose file with a tag that says how it is laid over another.
    Marked(Directive, Box<Node>),
}

/// How a value of a Compose file is laid over the one it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Directive {
    /// `!reset`: the value below goes, and nothing comes in its place.
    Reset,
    /// `!override`: the value below goes, whatever the rules of merging say.
    Override,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) origin: Origin,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn text(text: impl Into<String>, origin: Origin) -> Self {
        Self {
            kind: Kind::Text(text.into()),
            origin,
        }
    }

    pub(crate) fn map(origin: Origin) -> Self {
        Self {
            kind: Kind::Map(Vec::new()),
            origin,
        }
    }

    pub(crate) fn from_json(value: &Value, origin: &Origin) -> Self {
        let kind = match value {
            Value::Null => Kind::Null,
            Value::Bool(value) => Kind::Bool(*value),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => Kind::Int(whole, number.to_string().into()),
                None => Kind::Float(
                    number.as_f64().unwrap_or(f64::NAN),
                    number.to_string().into(),
                ),
            },
            Value::String(text) => Kind::Text(text.clone()),
            Value::Array(items) => Kind::List(
                items
                    .iter()
                    .map(|item| Self::from_json(item, origin))
                    .collect(),
            ),
            Value::Object(fields) => Kind::Map(
                fields
                    .iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        origin: origin.clone(),
                        value: Self::from_json(value, origin),
                    })
                    .collect(),
            ),
        };
        Self {
            kind,
            origin: origin.clone(),
        }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self.kind, Kind::Map(_))
    }

    pub(crate) fn child(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries
                .iter()
                .find(|entry| entry.key == key)
                .map(|entry| &entry.value),
            Kind::List(items) => key.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        }
    }

    pub(crate) fn child_mut(&mut self, key: &str) -> Option<&mut Node> {
        match &mut self.kind {
            Kind::Map(entries) => entries
                .iter_mut()
                .find(|entry| entry.key == key)
                .map(|entry| &mut entry.value),
            Kind::List(items) => key
                .parse::<usize>()
                .ok()
                .and_then(|index| items.get_mut(index)),
            _ => None,
        }
    }

    /// The value at a path such as `["service", "port"]`.
    pub(crate) fn get(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| node.child(key))
    }

    pub(crate) fn get_mut(&mut self, path: &[&str]) -> Option<&mut Node> {
        path.iter().try_fold(self, |node, key| node.child_mut(key))
    }

    pub(crate) fn text_at(&self, path: &[&str]) -> Option<&str> {
        match &self.get(path)?.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Puts a value at a path, making maps on the way. Something else that stands in the way of
    /// a map is replaced.
    pub(crate) fn set(&mut self, path: &[&str], value: Node) {
        let Some((first, rest)) = path.split_first() else {
            *self = value;
            return;
        };
        if !self.is_map() {
            *self = Node::map(value.origin.clone());
        }
        if self.child(first).is_none() {
            let empty = Node {
                kind: Kind::Null,
                origin: value.origin.clone(),
            };
            if let Kind::Map(entries) = &mut self.kind {
                entries.push(Entry {
                    key: (*first).to_owned(),
                    origin: value.origin.clone(),
                    value: empty,
                });
            }
        }
        if let Some(child) = self.child_mut(first) {
            child.set(rest, value);
        }
    }

    pub(crate) fn remove(&mut self, path: &[&str]) -> Option<Node> {
        let (last, parents) = path.split_last()?;
        match &mut self.get_mut(parents)?.kind {
            Kind::Map(entries) => {
                let index = entries.iter().position(|entry| entry.key == *last)?;
                Some(entries.remove(index).value)
            }
            _ => None,
        }
    }

    /// Lays a stronger tree over this one: maps join, everything else is replaced, and a value
    /// that is empty (`key:` with nothing behind it) says nothing.
    pub(crate) fn merge(&mut self, stronger: Node) {
        match stronger.kind {
            Kind::Null => {}
            Kind::Map(entries) if self.is_map() => {
                // Where a section was written is where its strongest layer wrote it.
                self.origin = stronger.origin;
                let Kind::Map(own) = &mut self.kind else {
                    return;
                };
                // Keys of one layer come once, so only those that were there before are searched.
                let before = own.len();
                for entry in entries {
                    match own[..before]
                        .iter_mut()
                        .find(|known| known.key == entry.key)
                    {
                        Some(known) => {
                            known.origin = entry.origin;
                            known.value.merge(entry.value);
                        }
                        None if entry.value.kind == Kind::Null => {}
                        None => own.push(entry),
                    }
                }
            }
            kind => {
                *self = Node {
                    kind,
                    origin: stronger.origin,
                }
            }
        }
    }

    /// Removes empty values at every depth, so that they fall back to what is weaker.
    pub(crate) fn drop_empty(&mut self) {
        match &mut self.kind {
            Kind::Map(entries) => {
                entries.retain(|entry| !matches!(entry.value.kind, Kind::Null));
                entries
                    .iter_mut()
                    .for_each(|entry| entry.value.drop_empty());
            }
            Kind::List(items) => items.iter_mut().for_each(Node::drop_empty),
            _ => {}
        }
    }

    /// Where the value at a path was written; of the nearest value above it when it was not.
    pub(crate) fn origin_of(&self, path: &[&str]) -> Origin {
        let mut node = self;
        for key in path {
            match node.child(key) {
                Some(child) => node = child,
                None => break,
            }
        }
        node.origin.clone()
    }
}

/// A path as people write it: `service.port`, and `data.iris.schema."petal.length"`.
pub(crate) fn dotted<S: AsRef<str>>(path: &[S]) -> String {
    let mut text = String::new();
    for key in path {
        let key = key.as_ref();
        if !text.is_empty() {
            text.push('.');
        }
        if !key.is_empty()
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        {
            text.push_str(key);
        } else {
            text.push_str(&format!("{key:?}"));
        }
    }
    text
}
