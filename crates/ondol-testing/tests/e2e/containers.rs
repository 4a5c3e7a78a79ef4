//! Repositories with a Dockerfile: built by the container engine, run in it, watched and cleaned
//! up, and clear words where there is no engine.

use ondol_testing::engine::{Podman, podman};
use ondol_testing::platform::PATIENCE;
use ondol_testing::{Options, Platform, Project, eventually};

use crate::fixtures::{last_run_is, push_live, verdict};

/// What the engine calls the base image of these tests.
const BASE: &str = "localhost/ondol-userland:1";

/// A site whose `/version` says which build it is.
const DOCKERFILE: &str = r#"FROM localhost/ondol-userland:1 AS build
COPY app.py /tmp/app.py
RUN mkdir /www && sed -n 's/^VERSION = "\(.*\)"/{"version": "\1"}/p' /tmp/app.py > /www/version
FROM localhost/ondol-userland:1
COPY --from=build /www /www
USER 1000:1001
EXPOSE 8000
CMD ["busybox", "httpd", "-f", "-p", "8000", "-h", "/www"]
"#;

/// The engine with the base image, or `None` where there is no engine.
pub(crate) fn engine() -> Option<&'static Podman> {
    let engine = podman()?;
    engine.import(&ondol_testing::engine::userland(), BASE);
    Some(engine)
}

/// How a platform finds the engine.
pub(crate) fn with_engine(engine: &Podman, more: &[&str]) -> Options {
    let address = format!("unix://{}", engine.socket().display());
    let mut arguments = vec!["--engine-address".to_owned(), address];
    arguments.extend(more.iter().map(|&word| word.to_owned()));
    Options {
        arguments,
        ..Options::default()
    }
}

/// A project of the site.
pub(crate) fn site(platform: &Platform, name: &str, yaml: &str) -> Project {
    let yaml = format!("project: {name}\nbuild: {{ dockerfile: Dockerfile }}\n{yaml}");
    platform.project_of(
        name,
        &[
            ("Dockerfile", DOCKERFILE),
            ("app.py", "VERSION = \"1\"\n"),
            ("ondol.yaml", &yaml),
        ],
    )
}

const HEALTH: &str = "test: \"true\"\nservice: { health: { path: /version, deadline: 30s } }\n";

#[test]
fn a_dockerfile_goes_live_and_outlives_the_control_plane() {
    let Some(engine) = engine() else { return };
    let mut platform = Platform::start_with(with_engine(engine, &[]));
    let site = site(&platform, "site", HEALTH);
    push_live(&platform, &site);
    assert_eq!(platform.version("site"), "1");
    site.set_version(&platform, "2");
    push_live(&platform, &site);
    assert_eq!(platform.version("site"), "2");
    let before = platform.current_release("site");
    let running = || engine.run(&["ps", "--format", "{{.ID}} {{.Names}}"]);
    let own = |platform: &Platform| {
        let release = platform.current_release("site");
        release["number"].as_i64()
    };

    let containers = running();
    platform.kill9();
    assert_eq!(
        platform.version("site"),
        "2",
        "it answers without its control plane"
    );
    platform.restart();
    assert_eq!(own(&platform), before["number"].as_i64());
    assert_eq!(running(), containers, "it was adopted, not started anew");

    platform
        .cli(&["rollback", "--project", "site"], site.dir())
        .ok();
    eventually("the earlier version serves", PATIENCE, || {
        platform.version("site") == "1"
    });

    platform
        .cli(&["projects", "delete", "site", "--yes"], platform.folder())
        .ok();
    let left = |what: &str| {
        let all = engine.run(&[what, "ls", "--format", "{{.Name}} {{.Labels}}"]);
        all.lines()
            .any(|line| line.contains("dev.ondol.project:site"))
    };
    eventually("nothing of it is left in the engine", PATIENCE, || {
        !left("network") && !left("volume")
    });
}

#[test]
fn what_a_service_keeps_and_is_given_is_there_in_a_container() {
    let Some(engine) = engine() else { return };
    let platform = Platform::start_with(with_engine(engine, &[]));
    let yaml = r#"test: "true"
service:
  run: |
    mkdir -p /tmp/www; date +%s%N >> /srv/kept/starts
    { wc -l < /srv/kept/starts; cut -c1-5 $TOKEN_FILE; echo $PASSWORD | cut -c1-5; id -u; } > /tmp/www/state
    printf '{"version": "%s"}' $ONDOL_RELEASE > /tmp/www/version
    exec busybox httpd -f -p $PORT -h /tmp/www
  user: "0"
  health: { path: /version, deadline: 30s }
secrets: [PASSWORD, { name: TOKEN, as: file }]
volumes: { kept: /srv/kept }
"#;
    let site = site(&platform, "keeper", yaml);
    platform
        .cli(&["projects", "create", "keeper"], platform.folder())
        .ok();
    for (name, value) in [
        ("PASSWORD", "alpha-open-sesame"),
        ("TOKEN", "omega-open-sesame"),
    ] {
        platform
            .cli_with(
                &["secret", "set", name, "--project", "keeper"],
                platform.folder(),
                Some(value.as_bytes()),
            )
            .ok();
    }
    push_live(&platform, &site);
    let state = |starts: &str| {
        let answer = platform.app("keeper", "/state").unwrap().is(200).text();
        let lines: Vec<String> = answer.lines().map(str::to_owned).collect();
        assert_eq!(lines, [starts, "omega", "alpha", "0"]);
    };
    state("1");
    site.write("note.txt", "another version\n");
    site.commit(&platform, "Another version");
    push_live(&platform, &site);
    state("2");
    let files = engine.files_with("omega-open-sesame");
    assert!(files.is_empty(), "a secret file is kept in {files:?}");
}

#[test]
fn a_broken_dockerfile_leaves_the_old_version_and_says_why() {
    let Some(engine) = engine() else { return };
    let platform = Platform::start_with(with_engine(engine, &[]));
    let site = site(&platform, "site", HEALTH);
    push_live(&platform, &site);
    site.edit(
        "Dockerfile",
        "RUN mkdir /www",
        "RUN echo before && exit 42; mkdir /www",
    );
    site.commit(&platform, "Broken");
    let output = platform.push(&site).ok();
    last_run_is(&platform, "site", "failure");
    let said = output.remote_lines().join("\n");
    assert!(said.contains("42"), "no exit code in:\n{said}");
    assert_eq!(platform.version("site"), "1");
}

#[test]
fn without_an_engine_a_dockerfile_says_what_to_install() {
    let arguments = ["--engine-address", "unix:///nowhere/engine.sock"];
    let platform = Platform::start_with(Options {
        arguments: arguments.map(str::to_owned).to_vec(),
        ..Options::default()
    });
    let site = site(&platform, "site", HEALTH);
    let output = platform.push(&site).ok();
    last_run_is(&platform, "site", "failure");
    let said = output.remote_lines().join("\n");
    assert!(said.contains("podman"), "nothing to install in:\n{said}");
    drop(platform);

    let platform = Platform::start_with(Options {
        arguments: ["--engine", "process"].map(str::to_owned).to_vec(),
        ..Options::default()
    });
    let site = self::site(&platform, "site", HEALTH);
    let last = verdict(&platform.push(&site).ok());
    last_run_is(&platform, "site", "failure");
    assert!(
        last.contains("process") || last.contains("podman"),
        "{last}"
    );
}

#[test]
fn who_asks_for_containers_alone_never_runs_on_the_host() {
    let Some(engine) = engine() else { return };
    let platform = Platform::start_with(with_engine(engine, &["--engine", "container"]));
    let web = platform.new_project("web", "shop");
    let last = verdict(&platform.push(&web).ok());
    last_run_is(&platform, "shop", "failure");
    assert!(last.contains("build.base"), "no remedy in: {last}");
}
