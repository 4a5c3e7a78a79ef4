//! What the repository's own files say: language, commands, service.
//!
//! Detection reads names and small files, never runs anything, and never fails: what it cannot
//! read says nothing. The first language that matches wins, in Railpack's order, so that a
//! Django project with a package.json is Python. A Procfile is stronger than any language.

mod containers;
mod go;
mod javascript;
mod procfile;
mod python;
mod rust;
mod static_site;
mod unsupported;
mod view;

use serde_json::json;

use crate::model::Language;
use crate::node::{Kind, Node, Origin};
use crate::resolve::Note;
pub(crate) use view::View;

/// What the written layers say that detection depends on.
#[derive(Debug, Default)]
pub(crate) struct Request {
    language: Option<Language>,
    trains: bool,
    trains_by_itself: bool,
    runs_service: bool,
    /// The Dockerfile that is to be built with.
    dockerfile: Option<String>,
}

impl Request {
    pub(crate) fn from_written(written: &Node) -> Self {
        let language = written
            .text_at(&["language"])
            .and_then(|text| serde_json::from_value(json!(text)).ok());
        let runs_service = written.get(&["service", "run"]).is_some()
            || written
                .child("service")
                .is_some_and(|node| node.kind == Kind::Bool(false));
        Self {
            language,
            trains: written.child("train").is_some_and(Node::is_map),
            trains_by_itself: written.get(&["train", "auto"]).is_some(),
            runs_service,
            dockerfile: written.text_at(&["build", "dockerfile"]).map(|path| {
                let path = path.strip_prefix("./").unwrap_or(path);
                path.to_owned()
            }),
        }
    }
}

/// The detected layer.
pub(crate) struct Detection {
    pub(crate) layer: Node,
    pub(crate) notes: Vec<Note>,
}

/// A value with the file that it was concluded from.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    value: String,
    from: String,
}

impl Found {
    fn new(value: impl Into<String>, from: impl Into<String>) -> Self {
        Self {
            value: value.into(),
            from: from.into(),
        }
    }
}

/// What one language concluded.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    language: Language,
    evidence: String,
    install: Option<Found>,
    commands: Vec<Found>,
    test: Option<Found>,
    junit: Option<String>,
    service: Option<Found>,
    /// Whether the service was named by more than a file that happens to be called `main`.
    declared: bool,
    service_env: Vec<(&'static str, &'static str)>,
    env: Vec<(&'static str, &'static str)>,
    release: Option<Found>,
    dockerfile: Option<String>,
    tools: Vec<String>,
    cache: Vec<String>,
    lock: Vec<String>,
    path: Vec<String>,
    exclude: Vec<String>,
    notes: Vec<Note>,
}

impl Findings {
    fn of(language: Language, evidence: impl Into<String>) -> Self {
        Self {
            language,
            evidence: evidence.into(),
            ..Self::default()
        }
    }
}

type Detector = fn(&View) -> Option<Findings>;

/// In the order in which they are asked.
const DETECTORS: &[(Language, Detector)] = &[
    (Language::Go, go::detect),
    (Language::Rust, rust::detect),
    (Language::Python, python::detect),
    (Language::Node, javascript::detect),
    (Language::Static, static_site::detect),
];

/// Reads the repository.
pub(crate) fn detect(tree: &dyn crate::Tree, request: &Request) -> Detection {
    let view = View::new(tree);
    let mut findings = language(&view, request);
    procfile::apply(&view, &mut findings);
    containers::apply(&view, &mut findings, request);
    if request.trains && !findings.declared {
        findings.service = None;
    }
    if request.trains_by_itself && findings.service.is_none() && !request.runs_service {
        findings.service = Some(Found::new("ondol model-server", "train.auto"));
    }
    layer(findings)
}

fn language(view: &View, request: &Request) -> Findings {
    if let Some(wanted) = request.language {
        let detector = DETECTORS.iter().find(|(language, _)| *language == wanted);
        let found = detector.and_then(|(_, detect)| detect(view));
        return found.unwrap_or_else(|| Findings::of(wanted, String::new()));
    }
    let unsupported = unsupported::detect(view);
    for (language, detect) in DETECTORS {
        // Railpack asks the unsupported languages at places of their own in the row.
        if let Some((_, note)) = unsupported
            .as_ref()
            .filter(|(before, _)| before == language)
        {
            let mut findings = Findings {
                notes: vec![note.clone()],
                ..Findings::default()
            };
            findings.language = Language::Other;
            return findings;
        }
        if let Some(findings) = detect(view) {
            return findings;
        }
    }
    if let Some((_, note)) = unsupported {
        return Findings {
            notes: vec![note],
            ..Findings::default()
        };
    }
    python::scripts_only(view).unwrap_or_default()
}

fn layer(findings: Findings) -> Detection {
    let Findings {
        language, evidence, ..
    } = &findings;
    let from = |file: &str| Origin::Detected { from: file.into() };
    let main = from(evidence);
    let mut root = Node::map(main.clone());
    if *language != Language::Other && !evidence.is_empty() {
        root.set(&["language"], Node::from_json(&json!(language), &main));
    }
    let mut put = |path: &[&str], found: &Option<Found>| {
        if let Some(found) = found {
            root.set(path, Node::text(found.value.clone(), from(&found.from)));
        }
    };
    put(&["build", "install", "run"], &findings.install);
    put(&["test", "run"], &findings.test);
    put(&["service", "run"], &findings.service);
    put(&["release", "command", "run"], &findings.release);
    let list = |items: Vec<Node>, origin: Origin| Node {
        kind: Kind::List(items),
        origin,
    };
    if let Some(first) = findings.commands.first() {
        let commands = findings.commands.iter().map(|found| {
            let mut command = Node::map(from(&found.from));
            command.set(&["run"], Node::text(found.value.clone(), from(&found.from)));
            command
        });
        let commands = list(commands.collect(), from(&first.from));
        root.set(&["build", "commands"], commands);
    }
    let lists = [
        ("tools", &findings.tools),
        ("cache", &findings.cache),
        ("lock", &findings.lock),
        ("path", &findings.path),
        ("exclude", &findings.exclude),
    ];
    for (key, values) in lists {
        if !values.is_empty() {
            let items = values
                .iter()
                .map(|value| Node::text(value.clone(), main.clone()))
                .collect();
            root.set(&["build", key], list(items, main.clone()));
        }
    }
    if let (Some(junit), Some(test)) = (&findings.junit, &findings.test) {
        let item = Node::text(junit.clone(), from(&test.from));
        root.set(&["test", "junit"], list(vec![item], from(&test.from)));
    }
    if let Some(file) = &findings.dockerfile {
        root.set(
            &["build", "dockerfile"],
            Node::text(file.clone(), from(file)),
        );
    }
    for (name, value) in &findings.env {
        root.set(&["env", name], Node::text(*value, main.clone()));
    }
    if let Some(service) = &findings.service {
        for (name, value) in &findings.service_env {
            root.set(
                &["service", "env", name],
                Node::text(*value, from(&service.from)),
            );
        }
        if service.value == "ondol model-server" {
            root.set(
                &["service", "health", "path"],
                Node::text("/ping", from(&service.from)),
            );
        }
    }
    Detection {
        layer: root,
        notes: findings.notes,
    }
}

/// Text as one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/=:@+,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;
