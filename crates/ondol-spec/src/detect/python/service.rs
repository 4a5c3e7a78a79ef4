//! The service of a Python project: Django, FastAPI, Flask, Streamlit, or a script.

use super::super::{Findings, Found, View, quoted};
use super::ENTRIES;
use super::manifest::Manifest;
use crate::resolve::Note;

/// Where web frameworks keep the application, most usual first.
const MODULES: &[&str] = &[
    "main.py",
    "app.py",
    "server.py",
    "api.py",
    "start.py",
    "hello.py",
    "wsgi.py",
    "asgi.py",
    "app/main.py",
    "app/app.py",
    "app/api.py",
    "app/__init__.py",
    "api/main.py",
    "api/app.py",
    "api/index.py",
    "src/main.py",
    "src/app.py",
    "src/server.py",
    "application.py",
];
/// Engines that isolate set HOST to every address; on a shared host only the gateway may come in.
const HOST: &str = "${HOST:-127.0.0.1}";

pub(super) fn apply(view: &View, manifest: &Manifest, python: &str, findings: &mut Findings) {
    if let Some(found) = django(view, manifest, python, &mut findings.notes) {
        findings.service = Some(found);
        findings.declared = true;
        return;
    }
    for file in modules(view) {
        let Some(text) = view.text(&file) else {
            continue;
        };
        if let Some(command) = framework(&file, &text, manifest, python, &mut findings.notes) {
            findings.service = Some(Found::new(command, file));
            findings.declared = true;
            return;
        }
    }
    if let Some(entry) = view.first(ENTRIES) {
        findings.service = Some(Found::new(format!("{python} {entry}"), entry));
    }
}

/// The usual places, then every package of the root: `shop/main.py`.
fn modules(view: &View) -> Vec<String> {
    let mut files: Vec<String> = MODULES
        .iter()
        .filter(|file| view.has(file))
        .map(|file| (*file).to_owned())
        .collect();
    let usual = |path: &&str| {
        let (folder, name) = path.split_once('/').unwrap_or_default();
        !["tests", "test"].contains(&folder)
            && ["main.py", "app.py", "server.py", "api.py", "__init__.py"].contains(&name)
    };
    for path in view.files().filter(usual).take(20) {
        if !files.iter().any(|file| file == path) {
            files.push(path.to_owned());
        }
    }
    files
}

fn django(view: &View, manifest: &Manifest, python: &str, notes: &mut Vec<Note>) -> Option<Found> {
    let manage = view
        .text("manage.py")
        .filter(|text| text.contains("django") || manifest.has("django"))?;
    let note = Note::new(
        "django-migrations",
        "migrations of Django are not run by themselves",
    );
    notes.push(note.hint(format!(
        "add `release: {{ command: {python} manage.py migrate --noinput }}` to ondol.yaml"
    )));
    let settings = manage
        .split("DJANGO_SETTINGS_MODULE")
        .nth(1)
        .and_then(|rest| rest.split(['"', '\'']).find(|part| part.contains('.')));
    let package = settings
        .and_then(|module| module.split('.').next())
        .map(str::to_owned);
    let wsgi = package
        .map(|package| format!("{package}/wsgi.py"))
        .filter(|path| view.has(path));
    let wsgi = wsgi.or_else(|| {
        view.files()
            .find(|path| path.ends_with("/wsgi.py"))
            .map(str::to_owned)
    });
    if let Some(wsgi) = wsgi.filter(|_| manifest.has("gunicorn")) {
        let module = module_of(&wsgi);
        return Some(Found::new(
            format!("{python} -m gunicorn --bind {HOST}:$PORT {module}:application"),
            "manage.py",
        ));
    }
    let note = Note::new(
        "development-server",
        "Django's development server is used, because gunicorn is not among the dependencies",
    );
    notes.push(note.hint("add `gunicorn` to the dependencies"));
    Some(Found::new(
        format!("{python} manage.py runserver --noreload {HOST}:$PORT"),
        "manage.py",
    ))
}

fn framework(
    file: &str,
    text: &str,
    manifest: &Manifest,
    python: &str,
    notes: &mut Vec<Note>,
) -> Option<String> {
    let module = module_of(file);
    let missing = |name: &str| {
        let note = Note::new(
            "missing-server",
            format!("{file} needs `{name}`, which is not among the dependencies"),
        );
        note.hint(format!("add `{name}` to the dependencies"))
    };
    if let Some(name) = application(text, &["FastAPI(", "Starlette(", "Litestar(", "Quart("]) {
        let standard = text.contains("FastAPI(") && manifest.has("fastapi-cli");
        if !manifest.has("uvicorn") && !manifest.has("fastapi") && !standard {
            notes.push(missing("uvicorn"));
        }
        return Some(format!(
            "{python} -m uvicorn {module}:{name} --host {HOST} --port $PORT"
        ));
    }
    let factory = text.lines().any(|line| line.starts_with("def create_app("));
    let flask = application(text, &["Flask("])
        .or_else(|| (factory && text.contains("Flask(")).then(|| "create_app()".to_owned()));
    if let Some(name) = flask {
        let target = quoted(&format!("{module}:{name}"));
        if manifest.has("gunicorn") {
            return Some(format!("{python} -m gunicorn --bind {HOST}:$PORT {target}"));
        }
        if manifest.has("waitress") {
            return Some(format!(
                "{python} -m waitress --host {HOST} --port $PORT {target}"
            ));
        }
        let note = Note::new(
            "development-server",
            "Flask's development server is used, because gunicorn is not among the dependencies",
        );
        notes.push(note.hint("add `gunicorn` to the dependencies"));
        return Some(format!(
            "{python} -m flask --app {target} run --host {HOST} --port $PORT"
        ));
    }
    let streamlit = text
        .lines()
        .any(|line| line.starts_with("import streamlit") || line.starts_with("from streamlit"));
    streamlit.then(|| format!("{python} -m streamlit run {file} --server.address {HOST} --server.port $PORT --server.headless true"))
}

/// The variable at the left edge that holds the application: `app = FastAPI(`.
fn application(text: &str, constructors: &[&str]) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        let name = name.split(':').next()?.trim_end();
        let word = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let value = value.trim_start();
        let bare = constructors.iter().any(|constructor| {
            value.starts_with(constructor)
                || value
                    .split_once('.')
                    .is_some_and(|(_, rest)| rest.starts_with(constructor))
        });
        (word && bare).then(|| name.to_owned())
    })
}

fn module_of(file: &str) -> String {
    let path = file.strip_suffix(".py").unwrap_or(file);
    path.strip_suffix("/__init__")
        .unwrap_or(path)
        .replace('/', ".")
}
