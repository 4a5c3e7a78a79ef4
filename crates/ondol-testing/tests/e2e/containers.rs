//! Repositories with a Dockerfile: built by the container engine, run in it, watched and cleaned
//! up, and clear words where there is no engine.

use ondol_testing::engine::{engine, site, with_engine};
use ondol_testing::platform::PATIENCE;
use ondol_testing::{Options, Platform, eventually};

use crate::fixtures::{last_run_is, push_live, verdict};

const HEALTH: &str = "test: \"true\"\nservice: { health: { path: /version, deadline: 30s } }\n";

#[test]
fn a_dockerfile_goes_live_and_outlives_the_control_plane() {
    let Some(engine) = engine() else { return };
    let mut platform = Platform::start_with(with_engine(engine, &[]));
    let project = site(&platform, "site", HEALTH);
    push_live(&platform, &project);
    assert_eq!(platform.version("site"), "1");
    project.set_version(&platform, "2");
    push_live(&platform, &project);
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
        .cli(&["rollback", "--project", "site"], project.dir())
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
    let project = site(&platform, "keeper", yaml);
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
    push_live(&platform, &project);
    let state = |starts: &str| {
        let answer = platform.app("keeper", "/state").unwrap().is(200).text();
        let lines: Vec<String> = answer.lines().map(str::to_owned).collect();
        assert_eq!(lines, [starts, "omega", "alpha", "0"]);
    };
    state("1");
    project.write("note.txt", "another version\n");
    project.commit(&platform, "Another version");
    push_live(&platform, &project);
    state("2");
    let files = engine.files_with("omega-open-sesame");
    assert!(files.is_empty(), "a secret file is kept in {files:?}");
}

#[test]
fn a_broken_dockerfile_leaves_the_old_version_and_says_why() {
    let Some(engine) = engine() else { return };
    let platform = Platform::start_with(with_engine(engine, &[]));
    let project = site(&platform, "site", HEALTH);
    push_live(&platform, &project);
    project.edit(
        "Dockerfile",
        "RUN mkdir /www",
        "RUN echo before && exit 42; mkdir /www",
    );
    project.commit(&platform, "Broken");
    let output = platform.push(&project).ok();
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
    let project = site(&platform, "site", HEALTH);
    let output = platform.push(&project).ok();
    last_run_is(&platform, "site", "failure");
    let said = output.remote_lines().join("\n");
    assert!(said.contains("podman"), "nothing to install in:\n{said}");
    drop(platform);

    let platform = Platform::start_with(Options {
        arguments: ["--engine", "process"].map(str::to_owned).to_vec(),
        ..Options::default()
    });
    let project = site(&platform, "site", HEALTH);
    let last = verdict(&platform.push(&project).ok());
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
