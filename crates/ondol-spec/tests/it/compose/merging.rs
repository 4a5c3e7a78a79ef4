//! Files laid over each other, `extends`, `include`, anchors.

use ondol_spec::compose::{ComposeService, MountFrom};

use super::{Given, environment, project, service, words};

/// `web` of a base and an override, each given as the lines below it.
#[track_caller]
fn merged(base: &str, over: &str) -> ComposeService {
    let file = |lines: &str| {
        let body: String = lines.lines().map(|line| format!("    {line}\n")).collect();
        format!("services:\n  web:\n{body}\nvolumes: {{ foo: , bar: }}\n")
    };
    let given = Given::new(&file(&format!("image: app\n{base}")))
        .file("compose.override.yaml", &file(over));
    service(&given.project(), "web")
}

#[test]
fn mappings_join_and_lists_are_appended() {
    let web = merged(
        "environment: { A: 1, B: 2 }\ndns: [1.1.1.1]\nlabels: [a=1]\ncap_drop: [KILL]",
        "environment: [B=3, C=4]\ndns: [8.8.8.8, 1.1.1.1]\nlabels: { b: 2 }\ncap_drop: [KILL, CHOWN]",
    );
    assert_eq!(
        environment(&web).into_values().collect::<Vec<_>>(),
        ["1", "3", "4"]
    );
    let dns: Vec<String> = web.dns.iter().map(ToString::to_string).collect();
    assert_eq!(dns, ["1.1.1.1", "8.8.8.8", "1.1.1.1"]);
    assert_eq!(web.labels.len(), 2);
    assert_eq!(web.cap_drop.len(), 2);
}

#[test]
fn commands_are_replaced() {
    let web = merged(
        "command: [echo, foo]\nentrypoint: [a, b]\nhealthcheck: { test: [CMD, a], interval: 5s }",
        "command: echo bar\nhealthcheck: { test: [CMD, b], retries: 1 }",
    );
    assert_eq!(words(&web.command).unwrap(), ["echo", "bar"]);
    assert_eq!(words(&web.entrypoint).unwrap(), ["a", "b"]);
    let shown = serde_json::to_value(web.healthcheck).unwrap();
    assert_eq!(shown["check"]["interval"], "5s");
    assert_eq!(shown["check"]["retries"], 1);
    assert_eq!(shown["check"]["test"]["exec"].as_array().unwrap().len(), 1);
    // Nothing behind a key says nothing.
    assert_eq!(
        words(&merged("command: a", "command:").command).unwrap(),
        ["a"]
    );
}

#[test]
fn what_must_be_unique_is_found_by_its_target() {
    let web = merged(
        "volumes: [\"foo:/work\", \"foo:/b\"]",
        "volumes: [\"bar:/work:ro\"]",
    );
    assert_eq!(web.mounts.len(), 2);
    assert!(matches!(
        &web.mounts["/work"].from,
        MountFrom::Volume { name, .. } if name.as_str() == "bar"
    ));
    assert!(web.mounts["/work"].read_only);
    let web = merged(
        "ports: [\"80:80\", \"81:81\"]",
        "ports: [\"80:80/tcp\", \"8443:443\"]",
    );
    assert_eq!(web.ports.len(), 3);
    let web = merged(
        "ports: [{ target: 80, published: 80, name: a }]",
        "ports: [{ target: 80, published: 80, app_protocol: http }]",
    );
    assert_eq!(web.ports[0].name.as_deref(), Some("a"));
    assert_eq!(web.ports[0].app_protocol.as_deref(), Some("http"));
}

#[test]
fn reset_and_override() {
    let web = merged(
        "ports: [\"8080:80\"]\nenvironment: { FOO: BAR, X: 1 }\ncommand: a\nread_only: true",
        "ports: !reset []\nenvironment: { FOO: !reset null }\ncommand: !reset null\nread_only: !reset false",
    );
    assert!(web.ports.is_empty() && web.command.is_none() && !web.read_only);
    assert_eq!(environment(&web).keys().collect::<Vec<_>>(), [&"X"]);
    let web = merged(
        "ports: [\"8080:80\"]\nenvironment: { FOO: BAR }",
        "ports: !override\n  - \"8443:443\"\nenvironment: !override { X: 1 }",
    );
    assert_eq!(web.ports.len(), 1);
    assert_eq!(web.ports[0].target, 443);
    assert_eq!(environment(&web).keys().collect::<Vec<_>>(), [&"X"]);
    // Without anything below, `!override` is the value and `!reset` nothing.
    let alone = project(
        "services:\n  a: { image: x, ports: !override [\"80\"], command: !reset x, environment: !reset { A: 1 } }\n",
    );
    let a = service(&alone, "a");
    assert!(a.ports.len() == 1 && a.command.is_none() && a.environment.is_empty());
}

#[test]
fn a_service_of_the_override_alone_is_added() {
    let given = Given::new("services: { a: { image: x } }\n").file(
        "docker-compose.override.yml",
        "services: { b: { image: y } }\n",
    );
    let project = given.project();
    assert_eq!(project.services.len(), 2);
    assert_eq!(project.files.len(), 2);
    assert_eq!(super::codes(&project), ["override"]);
}

#[test]
fn extends_within_a_file() {
    let project = project(
        r#"
services:
  cli: { extends: { service: common }, environment: { PORT: 8080 }, security_opt: ["label:user:U"], volumes: ["b:/data:ro"] }
  common:
    extends: base
    environment: [TZ=utc, PORT=80]
    security_opt: ["label:role:R"]
    volumes: ["a:/data:rw"]
  base: { image: busybox, user: root, profiles: [never] }
volumes: { a: , b: }
"#,
    );
    // `profiles` is inherited like every other key.
    assert!(project.services.is_empty() && project.disabled.len() == 3);
    let project = super::project(
        "services:\n  base: { image: busybox, user: root, dns: [1.1.1.1] }\n  common: { extends: base, environment: [TZ=utc, PORT=80] }\n  cli: { extends: { service: common }, environment: { PORT: 8080 }, dns: [1.1.1.1] }\n",
    );
    let cli = service(&project, "cli");
    assert_eq!(cli.user.as_deref(), Some("root"));
    assert_eq!(environment(&cli)["PORT"], "8080");
    assert_eq!(environment(&cli)["TZ"], "utc");
    assert_eq!(cli.dns.len(), 2);
}

#[test]
fn extends_of_another_file_brings_its_paths() {
    let given = Given::new(
        "services:\n  web:\n    extends: { file: base/common.yml, service: app }\n    environment: { B: 2 }\nvolumes: { data: }\n",
    )
    .file(
        "base/common.yml",
        "services:\n  app:\n    extends: { file: ../root.yml, service: r }\n    build: .\n    env_file: app.env\n    volumes: [\"./conf:/conf:ro\", \"data:/data\"]\n",
    )
    .file("root.yml", "services: { r: { user: app, volumes: [\"./top.txt:/top:ro\"] } }\n")
    .file("base/Dockerfile", "FROM x\n")
    .file("base/app.env", "A=1\n")
    .file("base/conf/a", "")
    .file("top.txt", "");
    let project = given.project();
    let web = service(&project, "web");
    assert_eq!(web.build.unwrap().context.unwrap().as_str(), "base");
    assert_eq!(web.user.as_deref(), Some("app"));
    assert_eq!(web.environment.len(), 2);
    let paths: Vec<String> = web
        .mounts
        .values()
        .filter_map(|mount| match &mount.from {
            MountFrom::Repository {
                path: Some(path), ..
            } => Some(path.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(paths, ["base/conf", "top.txt"]);
    assert_eq!(project.files.len(), 3);
}

#[test]
fn includes_have_variables_and_paths_of_their_own() {
    let given = Given::new(
        "include:\n  - db/compose.yaml\n  - path: [mq/a.yaml, mq/b.yaml]\n    env_file: mq/vars\nservices:\n  web: { image: \"x:${TAG:-none}\", depends_on: [db, mq] }\n",
    )
    .file(".env", "SHARED=main\n")
    .file(
        "db/compose.yaml",
        "include: [../common/c.yaml]\nservices:\n  db: { image: \"pg:${TAG}\", environment: [\"S=${SHARED}\"], volumes: [\"./init:/init:ro\"] }\n",
    )
    .file("db/.env", "TAG=16\nSHARED=weaker\n")
    .file("db/init/a.sql", "")
    .file("common/c.yaml", "services: { cache: { image: redis } }\n")
    .file("mq/a.yaml", "services: { mq: { image: \"mq:${V}\" } }\n")
    .file("mq/b.yaml", "services: { mq: { user: mq } }\n")
    .file("mq/vars", "V=3\n");
    let project = given.project();
    let image = |name: &str| service(&project, name).image.unwrap().to_string();
    assert_eq!(
        ["web", "db", "mq", "cache"].map(image),
        ["x:none", "pg:16", "mq:3", "redis"]
    );
    assert_eq!(environment(&service(&project, "db"))["S"], "main");
    assert_eq!(service(&project, "mq").user.as_deref(), Some("mq"));
    assert!(matches!(
        &service(&project, "db").mounts["/init"].from,
        MountFrom::Repository { path: Some(path), .. } if path.as_str() == "db/init"
    ));
}

#[test]
fn anchors_and_merge_keys() {
    let project = project(
        "x-env: &default\n  FOO: BAR\n  ZOT: QUIX\nx-keys: &keys\n  KEY: VALUE\n  FOO: other\nservices:\n  web:\n    image: x\n    environment:\n      <<: [*default, *keys]\n      YET: ANOTHER\n",
    );
    let web = service(&project, "web");
    let found = environment(&web);
    assert_eq!(found["FOO"], "BAR");
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        ["FOO", "KEY", "YET", "ZOT"].iter().collect::<Vec<_>>()
    );
}

#[test]
fn precedence_of_variables() {
    let file = "services: { a: { image: \"x:${V}\", environment: [\"M=${MISSING}\"] } }\n";
    let image = |given: Given| service(&given.project(), "a").image.unwrap().to_string();
    assert_eq!(image(Given::new(file).file(".env", "V=env\n")), "x:env");
    assert_eq!(
        image(
            Given::new(file)
                .file(".env", "V=env\n")
                .variable("V", "strong")
        ),
        "x:strong"
    );
    let project = Given::new(file).variable("V", "1").project();
    assert_eq!(
        project.notices[0].message,
        "variables that are not set are empty: MISSING (compose.yaml:1:49)"
    );
    let named = Given::new("name: n\nservices: { a: { image: x } }\n").project();
    assert_eq!(named.name.as_deref(), Some("n"));
}
