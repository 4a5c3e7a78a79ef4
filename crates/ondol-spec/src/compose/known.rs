//! Walks a tree beside the table of keys: an unknown key is an error, one without effect a notice,
//! one that is not supported or not allowed an error that says so.

use std::collections::{BTreeMap, BTreeSet};

use super::keys::{self, Class, Inside, Key};
use super::policy::{self, Permission, Permissions};
use crate::error::{Fault, SpecError};
use crate::nearest::nearest;
use crate::node::{Entry, Kind, Node, dotted};
use crate::resolve::Note;

/// How much of a section counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Counts {
    /// All of it.
    Everything,
    /// Only that its keys exist: nothing of it will run.
    Names,
}

/// What the walk found, besides errors.
#[derive(Default)]
pub(super) struct Seen {
    /// Keys without effect, with why, and who has them.
    ignored: BTreeMap<String, (&'static str, BTreeSet<String>)>,
    /// What was asked for and allowed.
    pub(super) allowed: BTreeSet<Permission>,
    /// The same, for a build.
    pub(super) allowed_in_build: BTreeSet<Permission>,
}

impl Seen {
    pub(super) fn notices(&self) -> impl Iterator<Item = Note> {
        self.ignored.iter().map(|(key, (why, owners))| {
            let owners: Vec<&str> = owners.iter().map(String::as_str).collect();
            let of = match owners.as_slice() {
                [] | [""] => String::new(),
                owners => format!(" ({})", owners.join(", ")),
            };
            Note::new(
                "compose-without-effect",
                format!("`{key}`{of} has no effect: {why}"),
            )
        })
    }

    pub(super) fn absorb(&mut self, other: Self) {
        for (key, (why, owners)) in other.ignored {
            self.ignored
                .entry(key)
                .or_insert_with(|| (why, BTreeSet::new()))
                .1
                .extend(owners);
        }
    }
}

/// Checks a section. `path` is where it stands, `pattern` the same without names that people choose,
/// `owner` the service or resource it belongs to.
pub(super) fn check(
    node: &Node,
    table: &'static [Key],
    path: &mut Vec<String>,
    owner: &str,
    counts: Counts,
    permissions: &Permissions,
) -> Result<Seen, SpecError> {
    let mut walk = Walk {
        owner,
        counts,
        permissions,
        seen: Seen::default(),
    };
    walk.section(node, table, path, "")?;
    Ok(walk.seen)
}

struct Walk<'w> {
    owner: &'w str,
    counts: Counts,
    permissions: &'w Permissions,
    seen: Seen,
}

/// Whether a value asks for something.
fn asks(node: &Node) -> bool {
    match &node.kind {
        Kind::Null | Kind::Bool(false) => false,
        Kind::Text(text) => !text.is_empty() && text != "false",
        Kind::List(items) => !items.is_empty(),
        Kind::Map(entries) => !entries.is_empty(),
        _ => true,
    }
}

impl Walk<'_> {
    fn section(
        &mut self,
        node: &Node,
        table: &'static [Key],
        path: &mut Vec<String>,
        pattern: &str,
    ) -> Result<(), SpecError> {
        for entry in node.entries() {
            let Some(key) = table.iter().find(|key| key.name == entry.key) else {
                if entry.key.starts_with("x-") {
                    continue;
                }
                return Err(unknown(entry, table, path));
            };
            path.push(entry.key.clone());
            let pattern = match pattern {
                "" => key.name.to_owned(),
                pattern => format!("{pattern}.{}", key.name),
            };
            let silent = self.class(key, entry, path, &pattern)?;
            let before = self.counts;
            if silent {
                self.counts = Counts::Names;
            }
            self.inside(key.inside, &entry.value, path, &pattern)?;
            self.counts = before;
            path.pop();
        }
        Ok(())
    }

    fn inside(
        &mut self,
        inside: Inside,
        value: &Node,
        path: &mut Vec<String>,
        pattern: &str,
    ) -> Result<(), SpecError> {
        match inside {
            Inside::Free => Ok(()),
            Inside::Keys(table) => self.section(value, table, path, pattern),
            Inside::Each(table) => {
                let named = value
                    .entries()
                    .iter()
                    .map(|entry| (entry.key.clone(), &entry.value));
                let items: &[Node] = match &value.kind {
                    Kind::List(items) => items,
                    _ => &[],
                };
                let items = items.iter().enumerate();
                let items = items.map(|(index, item)| (index.to_string(), item));
                for (name, value) in named.chain(items) {
                    path.push(name);
                    self.section(value, table, path, pattern)?;
                    path.pop();
                }
                Ok(())
            }
        }
    }

    /// Whether what is below counts no more.
    fn class(
        &mut self,
        key: &Key,
        entry: &Entry,
        path: &[String],
        pattern: &str,
    ) -> Result<bool, SpecError> {
        if self.counts == Counts::Names || !asks(&entry.value) {
            return Ok(false);
        }
        match key.class {
            Class::Honoured | Class::Partly => Ok(false),
            Class::WithoutEffect => {
                let (_, owners) = self
                    .seen
                    .ignored
                    .entry(pattern.to_owned())
                    .or_insert_with(|| (key.note, BTreeSet::new()));
                owners.insert(self.owner.to_owned());
                Ok(true)
            }
            Class::Policy(permission) => {
                let path = dotted(path);
                let what = format!("`{path}`");
                policy::require(self.permissions, permission, &what, &path, &entry.origin)?;
                let allowed = match pattern.starts_with("build.") {
                    true => &mut self.seen.allowed_in_build,
                    false => &mut self.seen.allowed,
                };
                allowed.insert(permission);
                Ok(false)
            }
            Class::Unsupported => Err(SpecError::Unsupported(Fault {
                message: format!("`{}` is not supported", dotted(path)),
                origin: entry.origin.clone(),
                path: dotted(path),
                hint: Some(key.note.to_owned()),
            })),
        }
    }
}

fn unknown(entry: &Entry, table: &'static [Key], path: &[String]) -> SpecError {
    let place = match path {
        [] => String::new(),
        path => format!(" under `{}`", dotted(path)),
    };
    let names = || table.iter().map(|key| key.name);
    let hint = match nearest(&entry.key, names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => match keys::elsewhere(&entry.key) {
            Some(elsewhere) => format!("`{}` belongs to `{elsewhere}`", entry.key),
            None if table.len() > 20 => "write keys of your own with `x-` in front".to_owned(),
            None => format!("known here: {}", names().collect::<Vec<_>>().join(", ")),
        },
    };
    SpecError::UnknownKey(Fault {
        message: format!("unknown key `{}`{place}", entry.key),
        origin: entry.origin.clone(),
        path: dotted(path),
        hint: Some(hint),
    })
}
