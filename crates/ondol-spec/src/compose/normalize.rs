//! Short forms of lists and mappings become the long ones, and paths begin at the root of the
//! repository, so that files can be laid over each other without knowing either.

use crate::error::{Fault, SpecError};
use crate::node::{Entry, Kind, Node};

/// Services of a file whose folder is `dir` (empty for the root).
pub(super) fn file(root: &mut Node, dir: &str) -> Result<(), SpecError> {
    for entry in children(root, "services") {
        service(&mut entry.value, dir)?;
    }
    for section in ["secrets", "configs"] {
        for entry in children(root, section) {
            if let Some(file) = child(&mut entry.value, "file") {
                rebase(file, dir);
            }
        }
    }
    for section in ["networks", "volumes", "secrets", "configs"] {
        for entry in children(root, section) {
            to_mapping(&mut entry.value, "labels", '=')?;
        }
    }
    Ok(())
}

fn service(node: &mut Node, dir: &str) -> Result<(), SpecError> {
    for key in ["environment", "labels", "annotations", "sysctls"] {
        to_mapping(node, key, '=')?;
    }
    hosts(node)?;
    for key in [
        "dns",
        "dns_search",
        "tmpfs",
        "label_file",
        "profiles",
        "env_file",
    ] {
        to_list(node, key);
    }
    for (key, value) in [("build", "context"), ("extends", "service")] {
        if let Some(short) = child(node, key) {
            let short = inner(short);
            if is_scalar(short) {
                let long = wrap(value, short.clone());
                *short = long;
            }
        }
    }
    if let Some(build) = child(node, "build") {
        for key in ["args", "labels", "additional_contexts"] {
            to_mapping(build, key, '=')?;
        }
        hosts(build)?;
        if let Some(context) = child(build, "context") {
            rebase(context, dir);
        } else if !dir.is_empty() && inner(build).is_map() {
            let origin = inner(build).origin.clone();
            inner(build).set(&["context"], Node::text(format!("./{dir}"), origin));
        }
    }
    names_to_mapping(node, "networks");
    names_to_mapping(node, "depends_on");
    if let Some(depends) = child(node, "depends_on")
        && let Kind::Map(entries) = &mut inner(depends).kind
    {
        for entry in entries
            .iter_mut()
            .filter(|entry| entry.value.kind == Kind::Null)
        {
            let origin = entry.value.origin.clone();
            entry.value = wrap("condition", Node::text("service_started", origin));
        }
    }
    if let Some(deploy) = child(node, "deploy") {
        to_mapping(deploy, "labels", '=')?;
    }
    for item in items(node, "env_file") {
        match is_scalar(item) {
            true => rebase(item, dir),
            false => child(item, "path")
                .into_iter()
                .for_each(|path| rebase(path, dir)),
        }
    }
    for item in items(node, "label_file") {
        rebase(item, dir);
    }
    for item in items(node, "volumes") {
        match &item.kind {
            Kind::Text(text) if text.starts_with('.') => {
                let (source, rest) = text.split_once(':').unwrap_or((text, ""));
                let joint = if rest.is_empty() { "" } else { ":" };
                let text = format!("{}{joint}{rest}", rebased(source, dir));
                item.kind = Kind::Text(text);
            }
            Kind::Map(_) if item.text_at(&["type"]) == Some("bind") => {
                child(item, "source")
                    .into_iter()
                    .for_each(|path| rebase(path, dir));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The value itself, without what says how it is laid over another.
pub(super) fn inner(node: &mut Node) -> &mut Node {
    match node.kind {
        Kind::Marked(..) => match &mut node.kind {
            Kind::Marked(_, value) => inner(value),
            _ => unreachable!("it was matched above"),
        },
        _ => node,
    }
}

fn child<'n>(node: &'n mut Node, key: &str) -> Option<&'n mut Node> {
    inner(node).child_mut(key)
}

fn children<'n>(node: &'n mut Node, key: &str) -> &'n mut [Entry] {
    match child(node, key).map(inner) {
        Some(Node {
            kind: Kind::Map(entries),
            ..
        }) => entries,
        _ => &mut [],
    }
}

fn items<'n>(node: &'n mut Node, key: &str) -> impl Iterator<Item = &'n mut Node> {
    let list: &mut [Node] = match child(node, key).map(inner) {
        Some(Node {
            kind: Kind::List(items),
            ..
        }) => items,
        _ => &mut [],
    };
    list.iter_mut()
}

fn is_scalar(node: &Node) -> bool {
    matches!(
        node.kind,
        Kind::Text(_) | Kind::Int(..) | Kind::Float(..) | Kind::Bool(_)
    )
}

fn wrap(key: &str, value: Node) -> Node {
    let origin = value.origin.clone();
    Node {
        kind: Kind::Map(vec![Entry {
            key: key.to_owned(),
            origin: origin.clone(),
            value,
        }]),
        origin,
    }
}

/// `- NAME=value` becomes `NAME: value`, and `- NAME` a name without value.
fn to_mapping(node: &mut Node, key: &str, separator: char) -> Result<(), SpecError> {
    let Some(list) = child(node, key).map(inner) else {
        return Ok(());
    };
    let Kind::List(items) = &list.kind else {
        return Ok(());
    };
    let mut entries: Vec<Entry> = Vec::with_capacity(items.len());
    for item in items {
        let text = scalar(item).ok_or_else(|| {
            SpecError::Value(Fault {
                message: format!("an item of `{key}` must be text such as `NAME{separator}value`"),
                origin: item.origin.clone(),
                path: key.to_owned(),
                hint: None,
            })
        })?;
        let (name, kind) = match text.split_once(separator) {
            Some((name, value)) => (name, Kind::Text(value.to_owned())),
            None => (text, Kind::Null),
        };
        let value = Node {
            kind,
            origin: item.origin.clone(),
        };
        match entries.iter_mut().find(|entry| entry.key == name) {
            Some(entry) => entry.value = value,
            None => entries.push(Entry {
                key: name.to_owned(),
                origin: item.origin.clone(),
                value,
            }),
        }
    }
    list.kind = Kind::Map(entries);
    Ok(())
}

/// `- host=address` and `- host:address` become lists of addresses by host.
fn hosts(node: &mut Node) -> Result<(), SpecError> {
    let Some(hosts) = child(node, "extra_hosts").map(inner) else {
        return Ok(());
    };
    match &mut hosts.kind {
        Kind::List(items) => {
            let mut entries: Vec<Entry> = Vec::new();
            for item in items {
                let divided = scalar(item)
                    .and_then(|text| text.split_once('=').or_else(|| text.split_once(':')));
                let Some((name, address)) = divided else {
                    return Err(SpecError::Value(Fault {
                        message: "an item of `extra_hosts` must be text such as `host=10.0.0.1`"
                            .to_owned(),
                        origin: item.origin.clone(),
                        path: "extra_hosts".to_owned(),
                        hint: None,
                    }));
                };
                let address = Node::text(address, item.origin.clone());
                match entries.iter_mut().find(|entry| entry.key == name) {
                    Some(entry) => {
                        if let Kind::List(addresses) = &mut entry.value.kind {
                            addresses.push(address);
                        }
                    }
                    None => entries.push(Entry {
                        key: name.to_owned(),
                        origin: item.origin.clone(),
                        value: Node {
                            kind: Kind::List(vec![address]),
                            origin: item.origin.clone(),
                        },
                    }),
                }
            }
            hosts.kind = Kind::Map(entries);
        }
        Kind::Map(entries) => {
            for entry in entries.iter_mut().filter(|entry| is_scalar(&entry.value)) {
                entry.value = Node {
                    origin: entry.value.origin.clone(),
                    kind: Kind::List(vec![entry.value.clone()]),
                };
            }
        }
        _ => {}
    }
    Ok(())
}

/// `- name` becomes `name:`.
fn names_to_mapping(node: &mut Node, key: &str) {
    let Some(list) = child(node, key).map(inner) else {
        return;
    };
    let Kind::List(items) = &list.kind else {
        return;
    };
    let mut entries: Vec<Entry> = Vec::with_capacity(items.len());
    for item in items {
        // Something else than a name stays a list, and is refused where names are read.
        let Some(name) = scalar(item) else { return };
        if !entries.iter().any(|entry| entry.key == name) {
            entries.push(Entry {
                key: name.to_owned(),
                origin: item.origin.clone(),
                value: Node {
                    kind: Kind::Null,
                    origin: item.origin.clone(),
                },
            });
        }
    }
    list.kind = Kind::Map(entries);
}

fn to_list(node: &mut Node, key: &str) {
    if let Some(one) = child(node, key).map(inner)
        && is_scalar(one)
    {
        *one = Node {
            origin: one.origin.clone(),
            kind: Kind::List(vec![one.clone()]),
        };
    }
}

/// The text of a scalar, as it was written.
pub(super) fn scalar(node: &Node) -> Option<&str> {
    match &node.kind {
        Kind::Text(text) => Some(text),
        Kind::Int(_, text) | Kind::Float(_, text) => Some(text),
        Kind::Bool(true) => Some("true"),
        Kind::Bool(false) => Some("false"),
        _ => None,
    }
}

fn rebase(node: &mut Node, dir: &str) {
    let node = inner(node);
    if let Kind::Text(text) = &mut node.kind {
        *text = rebased(text, dir);
    }
}

/// A relative path of a file in `dir`, from the root of the repository, beginning with `./` or
/// `../`. Absolute paths, home folders and addresses stay.
pub(super) fn rebased(path: &str, dir: &str) -> String {
    let elsewhere = path.starts_with(['/', '~'])
        || path.contains("://")
        || path.starts_with("git@")
        || path.is_empty();
    if elsewhere {
        return path.to_owned();
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in dir.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    match parts.first() {
        None => ".".to_owned(),
        Some(&"..") => parts.join("/"),
        Some(_) => format!("./{}", parts.join("/")),
    }
}
