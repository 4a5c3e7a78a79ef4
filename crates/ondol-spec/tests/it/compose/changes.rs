//! What counts as a change, and what replaces a replica.

use ondol_spec::compose::{Changes, changes};

use super::{Given, project, service};

const BASE: &str = r#"
services:
  web:
    image: app:1
    command: serve --port 80
    ports: ["80:80"]
    environment: { A: "1", B: "2" }
    configs: [app]
    depends_on: { db: { condition: service_started, restart: true } }
  db:
    image: postgres:16
    environment: [POSTGRES_PASSWORD=x, TZ=utc]
    volumes: ["data:/var/lib/postgresql/data"]
    labels: { team: a }
    healthcheck: { test: pg_isready }
volumes: { data: }
configs:
  app: { content: "one" }
"#;

#[track_caller]
fn compare(new: &str) -> Changes {
    changes(&project(BASE), &project(new))
}

#[track_caller]
fn unchanged(new: &str) {
    let found = compare(new);
    assert!(
        found.changed.is_empty() && found.restarted.is_empty() && found.added.is_empty(),
        "{found:?}"
    );
    assert_eq!(found.unchanged.len(), 2);
}

/// The fields of `web` or `db` that differ after a text is replaced, and whether it is replaced.
#[track_caller]
fn after(name: &str, from: &str, to: &str) -> (Vec<String>, bool) {
    assert!(BASE.contains(from), "{from}");
    let found = compare(&BASE.replace(from, to));
    let change = &found.changed[&name.parse().unwrap()];
    (change.fields.iter().cloned().collect(), change.replace)
}

#[test]
fn another_form_is_no_change() {
    unchanged(BASE);
    unchanged(&format!("# a comment\nname: x\n{BASE}"));
    // Keys in another order, lists for mappings, long for short, defaults spelled out.
    unchanged(
        r#"
configs: { app: { content: one } }
volumes: { data: {} }
x-anything: 1
services:
  db:
    restart: unless-stopped
    healthcheck: { interval: 30s, retries: 3, test: [CMD-SHELL, pg_isready] }
    labels: [team=a]
    volumes: [{ type: volume, source: data, target: /var/lib/postgresql/data }]
    environment: { TZ: utc, POSTGRES_PASSWORD: x }
    image: postgres:16
    stop_grace_period: 10000ms
    networks: [default]
    init: false
    security_opt: [no-new-privileges:true]
  web:
    depends_on: { db: { restart: true, condition: service_started } }
    configs: [{ source: app, target: /app, mode: 0444 }]
    environment: [B=2, A=1]
    ports: [{ target: 80, published: "80", protocol: tcp }]
    command: [serve, --port, "80"]
    image: app:1
    deploy: { replicas: 1 }
"#,
    );
}

#[test]
fn fields_are_named() {
    for (name, from, to, fields, replaced) in [
        ("web", "app:1", "app:2", &["image"][..], true),
        ("web", "A: \"1\"", "A: \"3\"", &["environment.A"], true),
        ("web", ", B: \"2\"", "", &["environment.B"], true),
        ("web", "--port 80", "--port 81", &["command"], true),
        ("web", "\"one\"", "\"two\"", &["configs.app"], true),
        (
            "web",
            "image: app:1",
            "image: app:1\n    scale: 3",
            &["replicas"],
            false,
        ),
        (
            "web",
            "image: app:1",
            "image: app:1\n    stop_grace_period: 5s",
            &["stop_grace_period"],
            false,
        ),
        ("web", "80:80", "81:80", &["ports"], false),
        ("web", "80:80", "80:8080", &["ports", "route.port"], false),
        (
            "web",
            "image: app:1",
            "image: app:1\n    entrypoint: []",
            &["entrypoint"],
            true,
        ),
        ("db", "team: a", "team: b", &["labels.team"], false),
        (
            "db",
            "pg_isready",
            "pg_isready -U x",
            &["healthcheck.check"],
            true,
        ),
        (
            "db",
            "image: postgres:16",
            "image: postgres:16\n    restart: on-failure",
            &["restart.condition"],
            false,
        ),
        (
            "db",
            "image: postgres:16",
            "image: postgres:16\n    mem_limit: 1g",
            &["resources.memory"],
            true,
        ),
    ] {
        assert_eq!(
            after(name, from, to),
            (
                fields.iter().map(|field| (*field).to_owned()).collect(),
                replaced
            ),
            "{from} → {to}"
        );
    }
}

#[test]
fn a_replaced_dependency_restarts_who_asked() {
    let found = compare(&BASE.replace("postgres:16", "postgres:17"));
    assert!(found.changed[&"db".parse().unwrap()].replace);
    assert!(found.restarted[&"web".parse().unwrap()].contains(&"db".parse().unwrap()));
    let labels = compare(&BASE.replace("team: a", "team: b"));
    assert!(labels.restarted.is_empty());
}

#[test]
fn services_come_and_go() {
    let found = compare(&BASE.replace("  web:\n", "  web2:\n"));
    assert!(found.added.contains(&"web2".parse().unwrap()));
    assert!(found.removed.contains(&"web".parse().unwrap()));
    assert!(found.unchanged.contains(&"db".parse().unwrap()));
}

#[test]
fn files_of_the_repository_count_by_content() {
    let file =
        "services: { web: { image: x, volumes: [\"./conf:/conf:ro\"] }, db: { image: y } }\n";
    let with = |content: &str, other: &str| {
        Given::new(file)
            .file("conf/a", content)
            .file("README.md", other)
            .project()
    };
    let old = with("1", "a");
    assert!(changes(&old, &with("1", "b")).changed.is_empty());
    let found = changes(&old, &with("2", "a"));
    assert_eq!(
        found.changed[&"web".parse().unwrap()]
            .fields
            .iter()
            .collect::<Vec<_>>(),
        ["mounts./conf"]
    );
    assert!(found.changed[&"web".parse().unwrap()].replace);
}

#[test]
fn what_an_administrator_allowed_counts() {
    let file = |lines: &str| format!("services: {{ a: {{ image: x{lines} }} }}\n");
    let open = Given::new(&file(", pid: host"))
        .allow(ondol_spec::compose::Permission::HostPid)
        .project();
    let found = changes(&project(&file("")), &open);
    let change = &found.changed[&"a".parse().unwrap()];
    assert!(change.replace, "{change:?}");
    assert!(change.fields.contains("elevated"));
}

#[test]
fn digests_are_stable_across_versions() {
    // Another digest here means that an upgrade replaces every service of every project.
    let web = service(&project("services: { web: { image: nginx } }\n"), "web");
    assert_eq!(
        web.digest.unwrap().to_string(),
        "blake3:e68bd0de357cbbe40b947247c41c9ea08cc8fced761361a54557984543f95be6"
    );
}
