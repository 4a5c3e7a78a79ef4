//! One Compose file over another, and a service over the one that it extends: mappings join, lists
//! are appended, commands are replaced, and what must be unique is found by what makes it so.

use super::normalize::{inner, scalar};
use super::short;
use crate::error::{Fault, SpecError};
use crate::node::{Directive, Entry, Kind, Node, dotted};

/// Lays `over` over `base`. Both are normalized; `path` is where they stand.
pub(super) fn merge(base: &mut Node, over: Node, path: &mut Vec<String>) -> Result<(), SpecError> {
    let over = match over.kind {
        Kind::Marked(Directive::Override, value) => {
            *base = *value;
            return Ok(());
        }
        Kind::Marked(Directive::Reset, _) => {
            base.kind = Kind::Null;
            return Ok(());
        }
        _ => over,
    };
    let own = inner(base);
    let rule = rule(path);
    let (map, list) = (own.is_map(), matches!(own.kind, Kind::List(_)));
    match over.kind {
        Kind::Null if matches!(rule, Rule::Value) => *own = over,
        Kind::Null => {}
        _ if own.kind == Kind::Null || matches!(rule, Rule::Replace) => *own = over,
        Kind::Map(entries) if map => {
            own.origin = over.origin;
            for entry in entries {
                lay(own, entry, path)?;
            }
        }
        Kind::List(items) if list => {
            if let Kind::List(own) = &mut own.kind {
                append(own, items, rule, path)?;
            }
        }
        Kind::Map(_) | Kind::List(_) => return Err(mismatch(&over, path)),
        _ if map || list => return Err(mismatch(&over, path)),
        _ => *own = over,
    }
    Ok(())
}

fn lay(own: &mut Node, entry: Entry, path: &mut Vec<String>) -> Result<(), SpecError> {
    let Kind::Map(entries) = &mut own.kind else {
        return Ok(());
    };
    match entries.iter_mut().position(|known| known.key == entry.key) {
        Some(at) => {
            if matches!(entry.value.kind, Kind::Marked(Directive::Reset, _)) {
                entries.remove(at);
                return Ok(());
            }
            path.push(entry.key);
            let known = &mut entries[at];
            known.origin = entry.origin;
            merge(&mut known.value, entry.value, path)?;
            path.pop();
        }
        None => entries.push(entry),
    }
    Ok(())
}

fn mismatch(over: &Node, path: &[String]) -> SpecError {
    let found = match over.kind {
        Kind::Map(_) => "a mapping",
        Kind::List(_) => "a list",
        _ => "one value",
    };
    SpecError::Value(Fault {
        message: format!(
            "`{}` is {found} here, and something else in what it is laid over",
            dotted(path)
        ),
        origin: over.origin.clone(),
        path: dotted(path),
        hint: Some("write both in the same form, or replace it with `!override`".to_owned()),
    })
}

#[derive(Clone, Copy)]
enum Rule {
    /// As values of their kind are.
    Plain,
    /// The newer takes the place of the older.
    Replace,
    /// A value of a name, for which nothing is a value too.
    Value,
    /// Appended, duplicates too.
    Append,
    /// Found by what makes them unique.
    Unique(fn(&Node) -> Option<String>),
}

fn rule(path: &[String]) -> Rule {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let ["services", _, below @ ..] = path.as_slice() else {
        return Rule::Plain;
    };
    match below {
        ["command" | "entrypoint"] | ["healthcheck", "test"] => Rule::Replace,
        ["environment" | "labels" | "annotations", _] | ["build", "args", _] => Rule::Value,
        ["extra_hosts", _] => Rule::Replace,
        ["dns" | "dns_search" | "env_file" | "tmpfs" | "label_file"] => Rule::Append,
        ["ports"] => Rule::Unique(short::port_key),
        ["volumes"] => Rule::Unique(short::mount_key),
        ["secrets" | "configs"] | ["build", "secrets"] => Rule::Unique(short::grant_key),
        _ => Rule::Plain,
    }
}

fn append(
    own: &mut Vec<Node>,
    items: Vec<Node>,
    rule: Rule,
    path: &mut Vec<String>,
) -> Result<(), SpecError> {
    for item in items {
        let known = match rule {
            Rule::Unique(key) => key(&item).and_then(|wanted| {
                own.iter()
                    .position(|own| key(own).as_ref() == Some(&wanted))
            }),
            Rule::Append => None,
            _ => own
                .iter()
                .position(|own| scalar(own).is_some() && scalar(own) == scalar(&item)),
        };
        match known {
            Some(at) if own[at].is_map() && item.is_map() => {
                path.push(at.to_string());
                merge(&mut own[at], item, path)?;
                path.pop();
            }
            Some(at) => own[at] = item,
            None => own.push(item),
        }
    }
    Ok(())
}

/// Takes the marks away that nothing was laid under: `!reset` removes, `!override` is the value.
pub(super) fn settle(node: &mut Node) {
    if let Kind::Marked(directive, value) = &mut node.kind {
        let value = std::mem::replace(
            value.as_mut(),
            Node {
                kind: Kind::Null,
                origin: node.origin.clone(),
            },
        );
        match directive {
            Directive::Override => *node = value,
            Directive::Reset => node.kind = Kind::Null,
        }
    }
    match &mut node.kind {
        Kind::Map(entries) => {
            entries.retain(|entry| !matches!(entry.value.kind, Kind::Marked(Directive::Reset, _)));
            entries
                .iter_mut()
                .for_each(|entry| settle(&mut entry.value));
        }
        Kind::List(items) => {
            items.retain(|item| !matches!(item.kind, Kind::Marked(Directive::Reset, _)));
            items.iter_mut().for_each(settle);
        }
        _ => {}
    }
}
