//! Short forms: `test: pytest -q` for `test: { run: pytest -q }`. This one table drives their
//! expansion, the JSON Schema, the reference and the error messages.

use crate::node::{Entry, Kind, Node};

/// What may stand in place of the full form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Short {
    /// Text that becomes this key of a mapping.
    Text(&'static str),
    /// A whole number that becomes both `min` and `max`.
    Count,
    /// Text, or one mapping, that becomes a list of one.
    One,
    /// Text or a list that becomes this key, which is a list.
    List(&'static str),
    /// `false`, which means that there is none.
    Off,
    /// `true` for the defaults and `false` for none.
    Switch,
    /// `true` for every branch.
    Every,
    /// Numbers and `true` or `false` in place of text, as they are spelled.
    Spelled,
    /// A path that may begin with `./` and end with `/`.
    Path,
}

/// Where each short form is allowed; `*` is any key or item.
pub(crate) const SHORT_FORMS: &[(&str, Short)] = &[
    ("test", Short::Text("run")),
    ("build", Short::List("commands")),
    ("build.install", Short::Text("run")),
    ("build.commands", Short::One),
    ("build.commands.*", Short::Text("run")),
    ("build.dockerfile", Short::Path),
    ("build.context", Short::Path),
    ("build.args.*", Short::Spelled),
    ("build.secrets", Short::One),
    ("build.tools", Short::One),
    ("build.include", Short::One),
    ("build.exclude", Short::One),
    ("build.cache", Short::One),
    ("build.cache.*", Short::Path),
    ("build.lock", Short::One),
    ("build.lock.*", Short::Path),
    ("build.path", Short::One),
    ("build.path.*", Short::Path),
    ("service", Short::Text("run")),
    ("service", Short::Off),
    ("service.health", Short::Text("path")),
    ("service.replicas", Short::Count),
    ("service.hosts", Short::One),
    ("service.paths", Short::One),
    ("service.capabilities", Short::One),
    ("release.command", Short::Text("run")),
    ("release.command", Short::Off),
    ("data.*", Short::Text("path")),
    ("data.*.path", Short::Path),
    ("secrets", Short::One),
    ("secrets.*", Short::Text("name")),
    ("volumes.*", Short::Path),
    ("train.on", Short::Text("data")),
    ("train.auto", Short::Text("target")),
    ("train.auto.features", Short::One),
    ("train.auto.exclude", Short::One),
    ("monitor.drift", Short::Switch),
    ("steps.*", Short::Text("run")),
    ("steps.*.approve", Short::Text("message")),
    ("steps.*.needs", Short::One),
    ("steps.*.before", Short::One),
    ("steps.*.after", Short::One),
    ("steps.*.branches", Short::One),
    ("steps.*.junit", Short::One),
    ("steps.*.artifacts", Short::One),
    ("steps.*.services.*", Short::Text("image")),
    ("steps.*.services.*.args", Short::One),
    ("steps.*.services.*.env.*", Short::Spelled),
    ("steps.*.matrix.values.*", Short::One),
    ("steps.*.matrix.values.*.*", Short::Spelled),
    ("steps.*.matrix.include", Short::One),
    ("steps.*.matrix.include.*.*", Short::Spelled),
    ("steps.*.matrix.exclude", Short::One),
    ("steps.*.matrix.exclude.*.*", Short::Spelled),
    ("test.junit", Short::One),
    ("test.quarantine", Short::One),
    ("test.artifacts", Short::One),
    ("test.services.*", Short::Text("image")),
    ("test.services.*.args", Short::One),
    ("test.services.*.env.*", Short::Spelled),
    ("test.matrix.values.*", Short::One),
    ("test.matrix.values.*.*", Short::Spelled),
    ("test.matrix.include", Short::One),
    ("test.matrix.include.*.*", Short::Spelled),
    ("test.matrix.exclude", Short::One),
    ("test.matrix.exclude.*.*", Short::Spelled),
    ("previews", Short::Every),
    ("previews", Short::List("branches")),
    ("previews.branches", Short::One),
    ("env.*", Short::Spelled),
    ("test.env.*", Short::Spelled),
    ("build.env.*", Short::Spelled),
    ("build.install.env.*", Short::Spelled),
    ("build.commands.*.env.*", Short::Spelled),
    ("service.env.*", Short::Spelled),
    ("release.command.env.*", Short::Spelled),
    ("train.env.*", Short::Spelled),
    ("steps.*.env.*", Short::Spelled),
];

impl Short {
    /// The short form in words, as a part of "must be … or a mapping".
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Count => "a whole number",
            Self::One => "one value",
            Self::List(_) => "text, a list",
            Self::Off => "`false`",
            Self::Switch => "`true`, `false`",
            Self::Every => "`true`",
            Self::Spelled => "a number, `true`, `false`",
            Self::Path => "a path",
        }
    }
}

/// The short forms that are allowed at a path.
pub(crate) fn allowed_at<'a, S: AsRef<str>>(path: &'a [S]) -> impl Iterator<Item = Short> + 'a {
    SHORT_FORMS
        .iter()
        .filter(|(pattern, _)| matches(pattern, path))
        .map(|(_, short)| *short)
}

fn matches<S: AsRef<str>>(pattern: &str, path: &[S]) -> bool {
    pattern.split('.').count() == path.len()
        && pattern
            .split('.')
            .zip(path)
            .all(|(want, key)| want == "*" || want == key.as_ref())
}

/// Replaces short forms by full ones, from the outside in. What is no short form is left as it
/// is: reading it into types says what is wrong with it.
pub(crate) fn expand(root: &mut Node) {
    descend(root, &mut Vec::new());
}

fn descend(node: &mut Node, path: &mut Vec<String>) {
    // The longest pattern has five parts; nothing below can have a short form.
    if path.len() > 6 {
        return;
    }
    for short in allowed_at(path).collect::<Vec<_>>() {
        replace(node, short);
    }
    match &mut node.kind {
        Kind::Map(entries) => {
            for entry in entries {
                path.push(entry.key.clone());
                descend(&mut entry.value, path);
                path.pop();
            }
        }
        Kind::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                path.push(index.to_string());
                descend(item, path);
                path.pop();
            }
        }
        _ => {}
    }
}

fn wrapped(key: &str, value: Node) -> Kind {
    Kind::Map(vec![Entry {
        key: key.to_owned(),
        origin: value.origin.clone(),
        value,
    }])
}

fn replace(node: &mut Node, short: Short) {
    let origin = node.origin.clone();
    let new = match (short, &node.kind) {
        (Short::Text(key), Kind::Text(_)) => wrapped(key, node.clone()),
        (Short::Count, Kind::Int(..)) => Kind::Map(
            ["min", "max"]
                .map(|key| Entry {
                    key: key.to_owned(),
                    origin: origin.clone(),
                    value: node.clone(),
                })
                .into(),
        ),
        (Short::One, Kind::Text(_) | Kind::Map(_)) => Kind::List(vec![node.clone()]),
        (Short::List(key), Kind::Text(_)) => wrapped(
            key,
            Node {
                kind: Kind::List(vec![node.clone()]),
                origin: origin.clone(),
            },
        ),
        (Short::List(key), Kind::List(_)) => wrapped(key, node.clone()),
        (Short::Switch, Kind::Bool(true)) => Kind::Map(Vec::new()),
        (Short::Every, Kind::Bool(on)) => {
            let every = if *on {
                vec![Node::text("**", origin.clone())]
            } else {
                Vec::new()
            };
            wrapped(
                "branches",
                Node {
                    kind: Kind::List(every),
                    origin: origin.clone(),
                },
            )
        }
        (Short::Spelled, Kind::Bool(value)) => Kind::Text(value.to_string()),
        (Short::Spelled, Kind::Int(_, spelled) | Kind::Float(_, spelled)) => {
            Kind::Text(spelled.to_string())
        }
        (Short::Path, Kind::Text(text)) => {
            let trimmed = text.strip_prefix("./").unwrap_or(text);
            let trimmed = trimmed
                .strip_suffix('/')
                .filter(|rest| !rest.is_empty())
                .unwrap_or(trimmed);
            Kind::Text(trimmed.to_owned())
        }
        _ => return,
    };
    node.kind = new;
}

/// Removes what was switched off by `false`, once all layers are merged.
pub(crate) fn drop_switched_off(root: &mut Node) {
    for (pattern, short) in SHORT_FORMS {
        if matches!(short, Short::Off | Short::Switch) {
            let path: Vec<&str> = pattern.split('.').collect();
            if root
                .get(&path)
                .is_some_and(|node| node.kind == Kind::Bool(false))
            {
                root.remove(&path);
            }
        }
    }
}
