//! Values that follow from others, the organization's locks, and what people should know.

use ondol_types::ProjectName;

use crate::model::{Spec, Strategy};
use crate::node::{Kind, Node, Origin};
use crate::resolve::{Note, same};

/// Sections that a project may not have at all, with the keys of which one must be there.
const SECTIONS: &[(&[&str], &[&str])] = &[
    (&["service"], &["run"]),
    (&["test"], &["run"]),
    (&["train"], &["run", "auto"]),
    (&["release", "command"], &["run"]),
    (&["build", "install"], &["run"]),
];

/// Puts back what the organization locked.
pub(crate) fn impose_locks(
    root: &mut Node,
    organization: &Node,
    locks: &[String],
    notes: &mut Vec<Note>,
) {
    for lock in locks {
        let path: Vec<&str> = lock.split('.').collect();
        let own = organization.get(&path);
        if let Some(current) = root.get(&path)
            && !own.is_some_and(|own| same(own, current))
            && let Some(origin) = strongest(current)
        {
            let message = format!(
                "`{lock}` is locked by the organization; the value of {origin} is not used"
            );
            notes.push(
                Note::new("locked", message)
                    .hint("ask an administrator of the organization to unlock it"),
            );
        }
        let absent = SECTIONS.iter().any(|(section, _)| {
            path.starts_with(section) && !root.get(section).is_some_and(Node::is_map)
        });
        match own {
            Some(_) if absent => {}
            Some(own) => {
                let mut own = own.clone();
                mark_locked(&mut own);
                root.set(&path, own);
            }
            None => {
                root.remove(&path);
            }
        }
    }
}

fn mark_locked(node: &mut Node) {
    node.origin = Origin::Organization { locked: true };
    match &mut node.kind {
        Kind::Map(entries) => entries
            .iter_mut()
            .for_each(|entry| mark_locked(&mut entry.value)),
        Kind::List(items) => items.iter_mut().for_each(mark_locked),
        _ => {}
    }
}

/// An origin inside the repository or the environment, if the tree has one.
fn strongest(node: &Node) -> Option<Origin> {
    let own = || {
        matches!(
            node.origin,
            Origin::File { .. } | Origin::Environment { .. } | Origin::Detected { .. }
        )
    };
    match &node.kind {
        Kind::Map(entries) => entries.iter().find_map(|entry| strongest(&entry.value)),
        Kind::List(items) if items.is_empty() => own().then(|| node.origin.clone()),
        Kind::List(items) => items.iter().find_map(strongest),
        _ => own().then(|| node.origin.clone()),
    }
}

/// Fills in what follows from other values.
pub(crate) fn complete(root: &mut Node) {
    for (section, needed) in SECTIONS {
        let orphan = root.get(section).is_some_and(|node| {
            node.is_map() && needed.iter().all(|key| node.child(key).is_none()) && !written(node)
        });
        if orphan {
            root.remove(section);
        }
    }
    follow(
        root,
        &["service", "replicas", "min"],
        &["service", "replicas", "max"],
    );
    if root.get(&["service", "health", "expect"]).is_none()
        && let Some(path) = root.get(&["service", "health", "path"])
    {
        let success = Node::text("success", path.origin.clone());
        root.set(&["service", "health", "expect"], success);
    }
    complete_training(root);
    let datasets: Vec<String> = root
        .child("data")
        .map(Node::entries)
        .unwrap_or_default()
        .iter()
        .map(|e| e.key.clone())
        .collect();
    for dataset in datasets {
        let free = root
            .get(&["data", &dataset])
            .is_some_and(|node| node.is_map() && node.child("path").is_none());
        if free {
            let path = Node::text(format!("data/{dataset}"), Origin::Builtin);
            root.set(&["data", &dataset, "path"], path);
        }
    }
}

fn complete_training(root: &mut Node) {
    if !root.child("train").is_some_and(Node::is_map) {
        return;
    }
    if root.get(&["train", "on", "data"]).is_none()
        && root.get(&["train", "on"]).is_none_or(Node::is_map)
    {
        let entries = root.child("data").map(Node::entries).unwrap_or_default();
        if let [only] = entries {
            let name = Node::text(only.key.clone(), only.origin.clone());
            root.set(&["train", "on", "data"], name);
        }
    }
    let named = root.get(&["train", "on", "data"]).cloned();
    if let Some(Node {
        kind: Kind::Text(name),
        origin,
    }) = named
    {
        if root.get(&["train", "model"]).is_none() {
            root.set(
                &["train", "model"],
                Node::text(name.clone(), origin.clone()),
            );
        }
        if root.child("data").is_none_or(Node::is_map) && root.get(&["data", &name]).is_none() {
            root.set(&["data", &name], Node::map(origin));
        }
    }
}

fn follow(root: &mut Node, from: &[&str], to: &[&str]) {
    if root.get(to).is_none()
        && let Some(value) = root.get(from).cloned()
    {
        root.set(to, value);
    }
}

/// Whether anything in a tree was written by the project itself.
fn written(node: &Node) -> bool {
    let own = matches!(
        node.origin,
        Origin::File { .. } | Origin::Environment { .. }
    );
    own || match &node.kind {
        Kind::Map(entries) => entries.iter().any(|entry| written(&entry.value)),
        Kind::List(items) => items.iter().any(written),
        _ => false,
    }
}

/// What people should know about a specification that is fine.
pub(crate) fn observe(spec: &Spec, project: Option<&ProjectName>, notes: &mut Vec<Note>) {
    if spec.test.is_none() {
        let note = Note::new("no-tests", "this project has no tests");
        notes.push(note.hint("add tests where the language expects them, or name their command by `test:` in ondol.yaml"));
    }
    if spec.service.is_none() && spec.train.is_none() {
        let note = Note::new(
            "no-service",
            "nothing is kept running: no service was detected or given",
        );
        notes.push(note.hint("name the command by `service.run:` in ondol.yaml"));
    }
    if let (Some(written), Some(actual)) = (&spec.project, project)
        && written != actual
    {
        let message = format!(
            "`project: {written}` of ondol.yaml is not used: this repository belongs to `{actual}`"
        );
        notes.push(Note::new("other-project", message).hint("correct or remove `project:`; `ondol init --project NAME` connects the repository to another project"));
    }
    if spec.release.strategy == Strategy::Canary && spec.release.check.is_none() {
        let note = Note::new(
            "unchecked-canary",
            "the canary has no `check`: its steps follow each other by time alone",
        );
        notes.push(note.hint("add `release.check`, such as `error_rate < 0.01 && p95 < 0.3`"));
    }
    if spec.release.strategy != Strategy::Canary && spec.release.check.is_some() {
        notes.push(Note::new(
            "unused-check",
            "`release.check` is used by `strategy: canary` only",
        ));
    }
    if let Some(train) = &spec.train
        && train.accept.is_none()
    {
        let note = Note::new(
            "open-gate",
            "every trained model becomes champion: there is no `train.accept`",
        );
        notes.push(note.hint("add `train.accept`, such as `accuracy >= champion.accuracy - 0.01`"));
    }
    if let Some((key, why)) = spec.needs_container() {
        let message = format!("needs the container engine: `{key}` is set, and {why}");
        notes.push(Note::new("needs-container", message));
    }
}
