//! Rust: Cargo.toml.

use toml::{Table, Value};

use super::{Findings, Found, View, quoted};
use crate::model::Language;
use crate::resolve::Note;

/// More source files than this are not searched for tests.
const MAX_SEARCHED: usize = 400;
/// More packages than this are not looked at.
const MAX_PACKAGES: usize = 200;

pub(super) fn detect(view: &View) -> Option<Findings> {
    let manifest = view.text("Cargo.toml")?;
    let mut findings = Findings::of(Language::Rust, "Cargo.toml");
    findings.tools = vec!["cargo".into()];
    findings.cache = vec!["target".into()];
    findings.exclude = vec!["target".into()];
    let Ok(manifest) = manifest.parse::<Table>() else {
        findings
            .notes
            .push(Note::new("unreadable", "Cargo.toml is not valid TOML"));
        return Some(findings);
    };
    let locked = if view.has("Cargo.lock") {
        " --locked"
    } else {
        ""
    };
    if let Some(test) = first_test(view) {
        let all = if manifest.contains_key("workspace") {
            " --workspace"
        } else {
            ""
        };
        findings.test = Some(Found::new(format!("cargo test{all}{locked}"), test));
    }
    let mut binaries = binaries(view, "", &manifest);
    if binaries.is_empty() && manifest.contains_key("workspace") {
        let members = view
            .files()
            .filter(|path| path.ends_with("/Cargo.toml"))
            .take(MAX_PACKAGES);
        for path in members {
            if let (Some(folder), Some(manifest)) =
                (path.strip_suffix("/Cargo.toml"), view.toml(path))
            {
                binaries.extend(self::binaries(view, folder, &manifest));
            }
        }
    }
    let Some(binary) = choose(&binaries, &manifest, &mut findings.notes) else {
        return Some(findings);
    };
    let name = quoted(&binary.name);
    let package = if binary.package.is_empty() {
        String::new()
    } else {
        format!(" -p {}", quoted(&binary.package))
    };
    let build = format!("cargo build --release{locked}{package} --bin {name}");
    findings.commands = vec![
        Found::new(build, binary.source.clone()),
        Found::new(
            format!("mkdir -p bin && cp target/release/{name} bin/{name}"),
            binary.source.clone(),
        ),
    ];
    findings.service = Some(Found::new(format!("./bin/{name}"), binary.source.clone()));
    findings.declared = true;
    Some(findings)
}

struct Binary {
    /// The package, when it is not the one at the root.
    package: String,
    name: String,
    source: String,
}

fn binaries(view: &View, folder: &str, manifest: &Table) -> Vec<Binary> {
    let Some(package) = manifest.get("package").and_then(Value::as_table) else {
        return Vec::new();
    };
    let Some(package) = package.get("name").and_then(Value::as_str) else {
        return Vec::new();
    };
    let below = |path: &str| {
        if folder.is_empty() {
            path.to_owned()
        } else {
            format!("{folder}/{path}")
        }
    };
    let owner = if folder.is_empty() { "" } else { package };
    let mut found: Vec<Binary> = Vec::new();
    let mut add = |name: &str, source: String| {
        if found.iter().all(|binary| binary.name != name) {
            found.push(Binary {
                package: owner.to_owned(),
                name: name.to_owned(),
                source,
            });
        }
    };
    for binary in manifest
        .get("bin")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        if let Some(name) = binary.get("name").and_then(Value::as_str) {
            add(name, below("Cargo.toml"));
        }
    }
    if view.has(&below("src/main.rs")) {
        add(package, below("src/main.rs"));
    }
    let folder = below("src/bin/");
    for path in view.files().filter(|path| path.starts_with(&folder)) {
        let rest = &path[folder.len()..];
        match (rest.strip_suffix(".rs"), rest.strip_suffix("/main.rs")) {
            (_, Some(name)) if !name.contains('/') => add(name, path.to_owned()),
            (Some(name), _) if !name.contains('/') => add(name, path.to_owned()),
            _ => {}
        }
    }
    found
}

fn choose<'a>(
    binaries: &'a [Binary],
    manifest: &Table,
    notes: &mut Vec<Note>,
) -> Option<&'a Binary> {
    let package = manifest.get("package").and_then(Value::as_table);
    let text = |key: &str| {
        package
            .and_then(|package| package.get(key))
            .and_then(Value::as_str)
    };
    let wanted = [
        text("default-run"),
        text("name"),
        Some("server"),
        Some("web"),
        Some("api"),
        Some("app"),
    ];
    if let [only] = binaries {
        return Some(only);
    }
    let named = wanted
        .into_iter()
        .flatten()
        .find_map(|name| binaries.iter().find(|binary| binary.name == name));
    if named.is_none() && !binaries.is_empty() {
        let names: Vec<&str> = binaries.iter().map(|binary| binary.name.as_str()).collect();
        let note = Note::new(
            "several-programs",
            format!(
                "several Rust programs could be the service: {}",
                names.join(", ")
            ),
        );
        notes.push(note.hint("set `default-run` in Cargo.toml, or name `build.commands` and `service.run` in ondol.yaml"));
    }
    named
}

fn first_test<'v>(view: &'v View<'_>) -> Option<&'v str> {
    let sources = || view.files().filter(|path| path.ends_with(".rs"));
    sources()
        .find(|path| path.starts_with("tests/") || path.contains("/tests/"))
        .or_else(|| {
            sources().take(MAX_SEARCHED).find(|path| {
                view.text(path).is_some_and(|text| {
                    text.contains("#[test]")
                        || text.contains("::test]")
                        || text.contains("#[cfg(test)]")
                })
            })
        })
}
