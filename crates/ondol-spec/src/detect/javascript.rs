//! JavaScript and TypeScript: package.json, by npm, pnpm, yarn or bun.

use serde_json::Value;

use super::{Findings, Found, View, quoted, static_site};
use crate::model::Language;
use crate::resolve::Note;

const PACKAGE: &str = "package.json";

pub(super) fn detect(view: &View) -> Option<Findings> {
    if !view.has(PACKAGE) {
        return None;
    }
    let mut findings = Findings::of(Language::Node, PACKAGE);
    let Some(package) = view.json(PACKAGE).filter(Value::is_object) else {
        findings
            .notes
            .push(Note::new("unreadable", "package.json is not valid JSON"));
        return Some(findings);
    };
    let manager = Manager::of(view, &package);
    findings.tools = manager.tools();
    let lock = manager.lock(view);
    if lock.is_some() || has_dependencies(&package) {
        let from = lock.unwrap_or(PACKAGE);
        findings.install = Some(Found::new(
            manager.install(view, &package, lock.is_some()),
            from,
        ));
        findings.cache = vec!["node_modules".into()];
        findings.lock = [Some(PACKAGE), lock]
            .into_iter()
            .flatten()
            .map(str::to_owned)
            .collect();
        findings.path = vec!["node_modules/.bin".into()];
    }
    let script = |name: &str| {
        package
            .pointer(&format!("/scripts/{name}"))
            .and_then(Value::as_str)
            .filter(|text| !text.trim().is_empty())
    };
    if script("build").is_some() {
        findings
            .commands
            .push(Found::new(manager.run("build"), PACKAGE));
    }
    if script("test").is_some_and(|text| !text.contains("no test specified")) {
        findings.test = Some(Found::new(manager.run("test"), PACKAGE));
    }
    match service(view, &package, manager, script("start")) {
        Some((found, served)) => {
            findings.service = Some(found);
            findings.declared = true;
            if !served {
                findings.service_env = vec![("NODE_ENV", "production")];
            }
        }
        None => {
            if let Some((root, evidence)) = static_site::root(view) {
                findings.service = Some(static_site::serve(&root, evidence));
                findings.declared = true;
            }
        }
    }
    Some(findings)
}

/// The service, and whether it is a built site that Ondol serves.
fn service(
    view: &View,
    package: &Value,
    manager: Manager,
    start: Option<&str>,
) -> Option<(Found, bool)> {
    let development = start.is_none_or(|start| {
        let start = start.trim();
        [
            "vite",
            "react-scripts start",
            "ng serve",
            "astro dev",
            "astro preview",
            "serve ",
        ]
        .iter()
        .any(|word| start.starts_with(word))
    });
    if development && let Some((folder, from)) = built_site(view, package) {
        return Some((static_site::serve(&folder, from), true));
    }
    if start.is_some() {
        return Some((Found::new(manager.run("start"), PACKAGE), false));
    }
    let interpreter = if manager == Manager::Bun {
        "bun"
    } else {
        "node"
    };
    let run = |file: &str, from: &str| {
        (
            Found::new(format!("{interpreter} {}", quoted(file)), from),
            false,
        )
    };
    if let Some(main) = package.get("main").and_then(Value::as_str) {
        let main = main.trim_start_matches("./");
        // A library names its main file as well: only one that is there before a build is run.
        if view.has(main)
            && package.get("private").and_then(Value::as_bool) != Some(false)
            && listens(view, main)
        {
            return Some(run(main, PACKAGE));
        }
    }
    let files = [
        "index.js",
        "index.mjs",
        "server.js",
        "server.mjs",
        "app.js",
        "main.js",
        "index.ts",
        "server.ts",
    ];
    let file = files.iter().find(|file| listens(view, file))?;
    Some(run(file, file))
}

/// Whether a file begins to listen somewhere: libraries have an index.js as well.
fn listens(view: &View, file: &str) -> bool {
    view.text(file).is_some_and(|text| {
        ["listen(", "Bun.serve", "serve("]
            .iter()
            .any(|word| text.contains(word))
    })
}

/// The folder that a frontend build fills.
fn built_site(view: &View, package: &Value) -> Option<(String, String)> {
    package.pointer("/scripts/build").and_then(Value::as_str)?;
    let depends = |name: &str| {
        ["dependencies", "devDependencies"]
            .iter()
            .any(|section| package.get(section).and_then(|all| all.get(name)).is_some())
    };
    let config = |names: &[&'static str]| {
        view.first(names)
            .and_then(|name| Some((name, view.text(name)?)))
    };
    if depends("@angular/cli") || depends("@angular/core") {
        let name = package.get("name").and_then(Value::as_str).unwrap_or("app");
        let name = name.rsplit('/').next().unwrap_or(name);
        return Some((format!("dist/{name}/browser"), PACKAGE.to_owned()));
    }
    if depends("next") {
        let (name, text) = config(&["next.config.js", "next.config.mjs", "next.config.ts"])?;
        let export = text.contains("output: 'export'") || text.contains("output: \"export\"");
        return export.then(|| ("out".to_owned(), name.to_owned()));
    }
    if depends("astro") {
        let server = config(&["astro.config.mjs", "astro.config.ts", "astro.config.js"])
            .is_some_and(|(_, text)| {
                text.contains("output: 'server'") || text.contains("output: \"server\"")
            });
        return (!server).then(|| ("dist".to_owned(), PACKAGE.to_owned()));
    }
    if depends("react-scripts") {
        return Some(("build".to_owned(), PACKAGE.to_owned()));
    }
    // A Vite build of a server framework brings a server of its own.
    let framework = [
        "@sveltejs/kit",
        "nuxt",
        "@remix-run/dev",
        "@react-router/dev",
        "@solidjs/start",
    ];
    (depends("vite") && !framework.iter().any(|name| depends(name)))
        .then(|| ("dist".to_owned(), PACKAGE.to_owned()))
}

fn has_dependencies(package: &Value) -> bool {
    ["dependencies", "devDependencies", "optionalDependencies"]
        .iter()
        .any(|section| {
            package
                .get(section)
                .and_then(Value::as_object)
                .is_some_and(|all| !all.is_empty())
        })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Npm,
    Pnpm,
    Yarn,
    Bun,
}

impl Manager {
    /// By `packageManager`, else by lockfile, else by `engines`, else npm.
    fn of(view: &View, package: &Value) -> Self {
        let all = [Self::Pnpm, Self::Bun, Self::Yarn, Self::Npm];
        let declared = package
            .get("packageManager")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let by_name = all
            .into_iter()
            .find(|manager| declared.split('@').next() == Some(manager.name()));
        let by_lock = || all.into_iter().find(|manager| manager.lock(view).is_some());
        let by_engine = || {
            all.into_iter().find(|manager| {
                package
                    .pointer(&format!("/engines/{}", manager.name()))
                    .is_some()
            })
        };
        by_name
            .or_else(by_lock)
            .or_else(by_engine)
            .unwrap_or(Self::Npm)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pnpm => "pnpm",
            Self::Yarn => "yarn",
            Self::Bun => "bun",
        }
    }

    fn tools(self) -> Vec<String> {
        match self {
            Self::Bun => vec!["bun".into()],
            other => vec!["node".into(), other.name().into()],
        }
    }

    fn lock(self, view: &View) -> Option<&'static str> {
        match self {
            Self::Npm => view.first(&["package-lock.json", "npm-shrinkwrap.json"]),
            Self::Pnpm => view.first(&["pnpm-lock.yaml"]),
            Self::Yarn => view.first(&["yarn.lock"]),
            Self::Bun => view.first(&["bun.lock", "bun.lockb"]),
        }
    }

    fn install(self, view: &View, package: &Value, locked: bool) -> &'static str {
        let declared = package
            .get("packageManager")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let berry = view.has(".yarnrc.yml")
            || (declared.starts_with("yarn@") && !declared.starts_with("yarn@1."));
        match (self, locked) {
            (Self::Npm, true) => "npm ci --no-audit --no-fund",
            (Self::Npm, false) => "npm install --no-audit --no-fund",
            (Self::Pnpm, true) => "pnpm install --frozen-lockfile",
            (Self::Pnpm, false) => "pnpm install",
            (Self::Yarn, true) if berry => "yarn install --immutable",
            (Self::Yarn, true) => "yarn install --frozen-lockfile",
            (Self::Yarn, false) => "yarn install",
            (Self::Bun, true) => "bun install --frozen-lockfile",
            (Self::Bun, false) => "bun install",
        }
    }

    fn run(self, script: &str) -> String {
        match (self, script) {
            (Self::Npm, "test" | "start") => format!("npm {script}"),
            (manager, script) => format!("{} run {script}", manager.name()),
        }
    }
}
