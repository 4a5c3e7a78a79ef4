//! Repository shapes, each with what must be concluded from it.

use serde_json::Value;

use crate::{MemoryTree, Sources, resolve};

/// Files with their content.
type Files = &'static [(&'static str, &'static str)];

fn effective(files: Files) -> crate::Effective {
    let mut tree = MemoryTree::new();
    for (path, content) in files {
        tree.insert(path.parse().unwrap(), content.as_bytes());
    }
    resolve(&Sources::of(&tree)).unwrap_or_else(|error| panic!("{files:?}: {error}"))
}

fn check(shape: &str, files: Files, expected: &[(&str, &str)]) {
    let effective = effective(files);
    let spec = serde_json::to_value(&effective.spec).unwrap();
    for (pointer, want) in expected {
        let got = match spec.pointer(pointer) {
            None => "-".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        // The last line of an install makes scripts relocatable; it is checked once, below.
        let got = got.split('\n').next().unwrap_or_default();
        assert_eq!(got, *want, "{shape} {pointer}");
    }
}

const LANGUAGE: &str = "/language";
const INSTALL: &str = "/build/install/run";
const BUILD: &str = "/build/commands/0/run";
const TEST: &str = "/test/run";
const RUN: &str = "/service/run";
const PIP: &str =
    "python3 -m venv .venv && .venv/bin/python -m pip install -q --disable-pip-version-check";

#[test]
fn python_repositories() {
    check(
        "one script, standard library",
        &[
            ("app.py", "from http.server import HTTPServer\n"),
            ("test_app.py", "import unittest\n"),
        ],
        &[
            (LANGUAGE, "python"),
            (INSTALL, "-"),
            (TEST, "python3 -m unittest discover"),
            (RUN, "python3 app.py"),
        ],
    );
    check(
        "FastAPI by requirements, pytest for development",
        &[
            ("requirements.txt", "fastapi==0.115\nuvicorn[standard]\n"),
            ("requirements-dev.txt", "-r requirements.txt\npytest\n"),
            ("main.py", "from fastapi import FastAPI\napp = FastAPI()\n"),
            ("tests/test_main.py", "def test_it(): pass\n"),
        ],
        &[
            (
                INSTALL,
                &format!("{PIP} -r requirements.txt -r requirements-dev.txt"),
            ),
            (
                TEST,
                ".venv/bin/python -m pytest -q --junitxml=.ondol/junit.xml",
            ),
            (
                RUN,
                ".venv/bin/python -m uvicorn main:app --host ${HOST:-127.0.0.1} --port $PORT",
            ),
            ("/build/path/0", ".venv/bin"),
        ],
    );
    check(
        "Flask by uv, package",
        &[
            ("uv.lock", ""),
            (
                "pyproject.toml",
                "[project]\nname = \"shop\"\ndependencies = [\"Flask>=3\", \"gunicorn\"]\n[dependency-groups]\ndev = [\"pytest\"]\n",
            ),
            (
                "shop/__init__.py",
                "from flask import Flask\ndef create_app():\n    return Flask(__name__)\n",
            ),
            ("tests/test_shop.py", "import pytest\n"),
        ],
        &[
            (INSTALL, "uv sync --locked"),
            (
                RUN,
                ".venv/bin/python -m gunicorn --bind ${HOST:-127.0.0.1}:$PORT 'shop:create_app()'",
            ),
        ],
    );
    check(
        "Django with a package.json beside it",
        &[
            (
                "manage.py",
                "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'mysite.settings')\nimport django\n",
            ),
            ("mysite/wsgi.py", ""),
            ("requirements.txt", "Django\ngunicorn\n"),
            ("package.json", r#"{"scripts":{"start":"vite"}}"#),
        ],
        &[
            (LANGUAGE, "python"),
            (TEST, "-"),
            (
                RUN,
                ".venv/bin/python -m gunicorn --bind ${HOST:-127.0.0.1}:$PORT mysite.wsgi:application",
            ),
        ],
    );
    check(
        "poetry",
        &[
            ("poetry.lock", ""),
            (
                "pyproject.toml",
                "[tool.poetry.dependencies]\npython = \"^3.12\"\nfastapi = \"*\"\n",
            ),
            (
                "app/main.py",
                "import fastapi\napi: fastapi.FastAPI = fastapi.FastAPI()\n",
            ),
        ],
        &[
            (
                INSTALL,
                "POETRY_VIRTUALENVS_IN_PROJECT=true poetry install --no-interaction --no-root --only main",
            ),
            (
                RUN,
                ".venv/bin/python -m uvicorn app.main:api --host ${HOST:-127.0.0.1} --port $PORT",
            ),
        ],
    );
    check(
        "Pipfile and Procfile",
        &[
            ("Pipfile", "[packages]\nflask = \"*\"\n"),
            ("Pipfile.lock", "{}"),
            (
                "Procfile",
                "web: gunicorn app:app --bind 0.0.0.0:$PORT\nrelease: python migrate.py\nworker: python w.py\n",
            ),
        ],
        &[
            (INSTALL, "PIPENV_VENV_IN_PROJECT=1 pipenv install --deploy"),
            (RUN, "gunicorn app:app --bind 0.0.0.0:$PORT"),
            ("/release/command/run", "python migrate.py"),
        ],
    );
    check(
        "pyproject without lock: dependencies one by one",
        &[
            (
                "pyproject.toml",
                "[project]\nname = \"x\"\nversion = \"1\"\ndependencies = [\"requests>=2,<3\", \"rich; python_version>'3'\"]\n",
            ),
            ("main.py", "print()\n"),
        ],
        &[
            (
                INSTALL,
                &format!("{PIP} 'requests>=2,<3' 'rich; python_version>'\\''3'\\'''"),
            ),
            (RUN, ".venv/bin/python main.py"),
        ],
    );
    check(
        "tests in a folder that is no package, pytest by import only",
        &[("lib.py", ""), ("tests/test_a.py", "import pytest\n")],
        &[
            (LANGUAGE, "python"),
            (INSTALL, &format!("{PIP} pytest")),
            (RUN, "-"),
        ],
    );
    check(
        "unittest in a folder",
        &[("lib.py", ""), ("tests/test_a.py", "import unittest\n")],
        &[
            (INSTALL, "-"),
            (TEST, "python3 -m unittest discover -s tests"),
        ],
    );
    check(
        "requirements with nothing in it",
        &[("requirements.txt", "# nothing yet\n\n"), ("main.py", "")],
        &[(INSTALL, "-"), (RUN, "python3 main.py")],
    );
}

#[test]
fn javascript_repositories() {
    check(
        "express by npm",
        &[
            (
                "package.json",
                r#"{"scripts":{"start":"node server.js","test":"node --test"},"dependencies":{"express":"4"}}"#,
            ),
            ("package-lock.json", "{}"),
        ],
        &[
            (LANGUAGE, "node"),
            (INSTALL, "npm ci --no-audit --no-fund"),
            (TEST, "npm test"),
            (RUN, "npm start"),
            ("/service/env/NODE_ENV", "production"),
        ],
    );
    check(
        "npm's placeholder is no test, and no dependency is no install",
        &[
            (
                "package.json",
                r#"{"scripts":{"test":"echo \"Error: no test specified\" && exit 1"}}"#,
            ),
            (
                "index.js",
                "require('http').createServer().listen(process.env.PORT)",
            ),
        ],
        &[(INSTALL, "-"), (TEST, "-"), (RUN, "node index.js")],
    );
    check(
        "Vite by pnpm is built and served",
        &[
            (
                "package.json",
                r#"{"packageManager":"pnpm@9.1.0","scripts":{"dev":"vite","build":"vite build"},"devDependencies":{"vite":"6"}}"#,
            ),
            ("pnpm-lock.yaml", ""),
            ("index.html", ""),
        ],
        &[
            (INSTALL, "pnpm install --frozen-lockfile"),
            (BUILD, "pnpm run build"),
            (RUN, "ondol static-server --root dist"),
        ],
    );
    check(
        "yarn berry",
        &[
            (
                "package.json",
                r#"{"packageManager":"yarn@4.1.0","scripts":{"start":"node x"},"dependencies":{"a":"1"}}"#,
            ),
            ("yarn.lock", ""),
        ],
        &[
            (INSTALL, "yarn install --immutable"),
            (RUN, "yarn run start"),
        ],
    );
    check(
        "bun",
        &[
            ("package.json", r#"{"devDependencies":{"@types/bun":"1"}}"#),
            ("bun.lock", ""),
            ("index.ts", "Bun.serve({})"),
        ],
        &[
            (INSTALL, "bun install --frozen-lockfile"),
            (RUN, "bun index.ts"),
        ],
    );
    check(
        "a library is not run",
        &[
            ("package.json", r#"{"main":"index.js"}"#),
            ("index.js", "module.exports = 1"),
        ],
        &[(RUN, "-")],
    );
}

#[test]
fn compiled_and_static_repositories() {
    check(
        "Go at the root",
        &[
            ("go.mod", "module example.org/hello\nrequire x v1\n"),
            ("main.go", "package main\nfunc main() {}\n"),
            ("main_test.go", ""),
        ],
        &[
            (LANGUAGE, "go"),
            (INSTALL, "go mod download"),
            (
                BUILD,
                r#"CGO_ENABLED=0 go build -ldflags="-w -s" -o bin/app ."#,
            ),
            (TEST, "go test ./..."),
            (RUN, "./bin/app"),
        ],
    );
    check(
        "Go below cmd/",
        &[
            ("go.mod", "module example.org/shop\n"),
            ("cmd/shop/main.go", "package main\nfunc main() {}\n"),
            ("cmd/tool/main.go", "package main\nfunc main() {}\n"),
        ],
        &[
            (INSTALL, "-"),
            (
                BUILD,
                r#"CGO_ENABLED=0 go build -ldflags="-w -s" -o bin/app ./cmd/shop"#,
            ),
            (TEST, "-"),
        ],
    );
    check(
        "a Go library",
        &[
            ("go.mod", "module x\n"),
            ("x.go", "package x\n"),
            ("x_test.go", ""),
        ],
        &[(TEST, "go test ./..."), (RUN, "-")],
    );
    check(
        "Rust",
        &[
            ("Cargo.toml", "[package]\nname = \"web\"\n"),
            ("Cargo.lock", ""),
            ("src/main.rs", "fn main() {}\n#[cfg(test)]\nmod tests {}\n"),
        ],
        &[
            (LANGUAGE, "rust"),
            (BUILD, "cargo build --release --locked --bin web"),
            (
                "/build/commands/1/run",
                "mkdir -p bin && cp target/release/web bin/web",
            ),
            (TEST, "cargo test --locked"),
            (RUN, "./bin/web"),
            ("/build/exclude/0", "target"),
        ],
    );
    check(
        "a Rust workspace with one program",
        &[
            ("Cargo.toml", "[workspace]\nmembers = [\"crates/*\"]\n"),
            ("crates/a/Cargo.toml", "[package]\nname = \"a\"\n"),
            ("crates/a/src/lib.rs", ""),
            ("crates/b/Cargo.toml", "[package]\nname = \"b\"\n"),
            ("crates/b/src/main.rs", ""),
        ],
        &[
            (BUILD, "cargo build --release -p b --bin b"),
            (RUN, "./bin/b"),
            (TEST, "-"),
        ],
    );
    check(
        "index.html",
        &[("index.html", "")],
        &[(LANGUAGE, "static"), (RUN, "ondol static-server --root .")],
    );
    check(
        "public/",
        &[("public/index.html", "")],
        &[(RUN, "ondol static-server --root public")],
    );
    check(
        "Staticfile",
        &[
            ("Staticfile", "root: site/out\n"),
            ("site/out/index.html", ""),
        ],
        &[(RUN, "ondol static-server --root site/out")],
    );
    check(
        "a Staticfile that points outside",
        &[("Staticfile", "root: ../../etc\n")],
        &[(RUN, "ondol static-server --root .")],
    );
    check(
        "a Procfile alone",
        &[("Procfile", "web: ./serve --port $PORT\n")],
        &[(LANGUAGE, "other"), (RUN, "./serve --port $PORT")],
    );
    check(
        "nothing",
        &[("README.md", "")],
        &[(LANGUAGE, "other"), (TEST, "-"), (RUN, "-")],
    );
}

#[test]
fn what_ondol_cannot_do_by_itself_is_said() {
    let codes = |files: Files| -> Vec<String> {
        effective(files)
            .notes
            .into_iter()
            .map(|note| note.code.replace("spec.note.", ""))
            .collect()
    };
    let ruby = effective(&[("Gemfile", ""), ("package.json", "{}")]);
    assert_eq!(ruby.spec.language, crate::model::Language::Other);
    assert_eq!(
        ruby.notes[0].message,
        "detected Ruby (Gemfile), for which Ondol has no commands of its own"
    );
    assert!(
        codes(&[
            ("requirements.txt", ""),
            ("main.py", ""),
            ("Dockerfile", "")
        ])
        .contains(&"dockerfile-unused".to_owned())
    );
    const COMPOSE: &str = "services: { web: { image: app, ports: [80] }, db: { image: db } }\n";
    const NAMED: Files = &[
        ("ondol.yaml", "service: python x.py\n"),
        ("compose.yaml", COMPOSE),
    ];
    const FOUND: Files = &[("main.py", ""), ("compose.yaml", COMPOSE)];
    assert!(codes(NAMED).contains(&"compose-unused".to_owned()));
    assert!(effective(NAMED).compose.is_none());
    assert!(codes(&[("compose.yaml", "")]).contains(&"compose-invalid".to_owned()));
    let several = effective(FOUND);
    assert_eq!(several.compose.as_ref().unwrap().services.len(), 2);
    assert_eq!(several.spec.service.unwrap().run, "python3 main.py");
    let note = several
        .notes
        .iter()
        .find(|note| note.code == "spec.note.compose-project")
        .unwrap();
    assert_eq!(
        note.message,
        "compose.yaml describes db (db), web (app, route to 80)"
    );
    assert!(codes(&[("main.py", "")]).contains(&"no-tests".to_owned()));
    let scripts = effective(&[("app.py", "x = 1\n"), ("Dockerfile", "FROM scratch\n")]).spec;
    assert_eq!(scripts.language, crate::model::Language::Dockerfile);
    assert_eq!(scripts.service.unwrap().run, "");
    let both: Files = &[
        ("requirements.txt", "flask\n"),
        ("app.py", "from flask import Flask\napp = Flask(__name__)\n"),
        ("docker/Dockerfile", "FROM scratch\n"),
        ("ondol.yaml", "build: { dockerfile: ./docker/Dockerfile }\n"),
    ];
    let both = effective(both).spec;
    assert_eq!(both.language, crate::model::Language::Python);
    assert_eq!(both.service.unwrap().run, "", "the image's own command");
    let alone = effective(&[("Dockerfile", "FROM scratch\n")]);
    let service = alone.spec.service.as_ref().unwrap();
    assert_eq!(service.run, "", "the image's own command");
    assert_eq!(alone.spec.language, crate::model::Language::Dockerfile);
    assert_eq!(alone.spec.needs_container().unwrap().0, "build.dockerfile");
    assert!(
        alone
            .notes
            .iter()
            .any(|note| note.message.starts_with("needs the container engine"))
    );
    assert!(
        codes(&[
            ("go.mod", "module x\n"),
            ("cmd/a/main.go", "package main\nfunc main() {}"),
            ("cmd/b/main.go", "package main\nfunc main() {}")
        ])
        .contains(&"several-programs".to_owned())
    );
}

#[test]
fn training_decides_the_service() {
    let automatic = effective(&[(
        "ondol.yaml",
        "data: { iris: data/iris.csv }\ntrain: { auto: species }\n",
    )]);
    let service = automatic.spec.service.as_ref().unwrap();
    assert_eq!(
        (service.run.as_str(), service.health.path.as_str()),
        ("ondol model-server", "/ping")
    );
    assert_eq!(service.health.expect, crate::model::Expect::Success);
    let origin = automatic
        .explain()
        .iter()
        .find(|item| item.path == "service.run")
        .unwrap()
        .origin
        .to_string();
    assert_eq!(origin, "detected from train.auto");
    let own = effective(&[
        (
            "ondol.yaml",
            "data: { iris: {} }\ntrain: { run: python train.py }\n",
        ),
        ("train.py", ""),
        ("main.py", ""),
    ]);
    assert!(own.spec.service.is_none());
    assert_eq!(own.spec.train.unwrap().model.as_str(), "iris");
    let served = effective(&[
        (
            "ondol.yaml",
            "data: { iris: {} }\ntrain: { run: python train.py }\n",
        ),
        ("main.py", "from fastapi import FastAPI\napp = FastAPI()\n"),
        ("requirements.txt", "fastapi\n"),
    ]);
    assert!(served.spec.service.is_some());
}

#[test]
fn virtual_environments_can_be_moved() {
    let effective = effective(&[("requirements.txt", "flask\n"), ("main.py", "")]);
    let install = effective.spec.build.install.unwrap().run;
    assert_eq!(install.lines().nth(1), Some(super::python::RELOCATE));
}

#[test]
fn a_written_language_decides() {
    check(
        "Node although there is Python",
        &[
            ("ondol.yaml", "language: node\n"),
            ("main.py", ""),
            ("package.json", r#"{"scripts":{"start":"node x"}}"#),
        ],
        &[(LANGUAGE, "node"), (RUN, "npm start")],
    );
}
