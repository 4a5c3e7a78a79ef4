//! The programs that people use: login, push, pull, inspect, list, delete.

use std::path::Path;
use std::process::Command;

use ondol_auth::Role;

use crate::support::{Server, ctx, folder, program, request, text};

/// Runs a client in a folder of its own; what it said when it must succeed.
async fn run(mut command: Command, succeeds: bool) -> String {
    tokio::task::spawn_blocking(move || {
        let output = command.output().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.success(), succeeds, "{command:?}: {said}");
        said
    })
    .await
    .unwrap()
}

/// A client whose home, login and cache are in `home`.
fn client(name: &str, home: &Path) -> Option<Command> {
    let Some(program) = program(name) else {
        eprintln!("{name} is not installed: this test did nothing (`make setup` installs it)");
        return None;
    };
    let mut command = Command::new(program);
    command
        .env("HOME", home)
        .env("DOCKER_CONFIG", home.join("docker"))
        .env("REGISTRY_AUTH_FILE", home.join("auth.json"))
        .env("XDG_RUNTIME_DIR", home)
        .env("TMPDIR", home)
        .env_remove("http_proxy")
        .env_remove("HTTP_PROXY")
        .current_dir(home);
    Some(command)
}

/// Podman and buildah with storage of their own.
fn container_client(name: &str, home: &Path) -> Option<Command> {
    let mut command = client(name, home)?;
    let policy = home.join("policy.json");
    std::fs::write(
        &policy,
        r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
    )
    .unwrap();
    let storage = home.join("storage");
    command
        .args(["--root", storage.join("root").to_str().unwrap()])
        .args(["--runroot", storage.join("run").to_str().unwrap()])
        .args(["--storage-driver", "vfs"]);
    if name == "podman" {
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
    }
    Some(command)
}

struct Stand {
    server: Server,
    token: String,
    image: String,
    digest: String,
    home: tempfile::TempDir,
}

/// A server with an image `web:main` and a maintainer's token.
async fn stand() -> Stand {
    let server = Server::start().await;
    let token = server
        .token(&[("web", Role::Maintainer), ("other", Role::Developer)])
        .await;
    let built = server
        .registry
        .build(&ctx(Role::Developer), &request(folder().path()))
        .await
        .unwrap();
    Stand {
        image: format!("{}/web:main", server.address),
        digest: built.digest.to_string(),
        token,
        server,
        home: tempfile::tempdir().unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_inspects_lists_and_deletes() {
    let stand = stand().await;
    let home = stand.home.path();
    let Some(_) = client("skopeo", home) else {
        return;
    };
    let skopeo = async |arguments: &[&str], succeeds: bool| {
        let mut command = client("skopeo", home).unwrap();
        command.args(arguments);
        run(command, succeeds).await
    };
    let host = stand.server.address.to_string();
    let login = ["login", "--tls-verify=false", "-u", "any", "-p"];
    skopeo(&[&login[..], &["wrong", &host]].concat(), false).await;
    skopeo(&[&login[..], &[&stand.token, &host]].concat(), true).await;
    let image = format!("docker://{}", stand.image);
    let shown = skopeo(&["inspect", "--tls-verify=false", &image], true).await;
    assert!(shown.contains(&stand.digest), "{shown}");
    let layout = format!("oci:{}:main", home.join("layout").display());
    skopeo(&["copy", "--src-tls-verify=false", &image, &layout], true).await;
    let copy = format!("docker://{host}/web/copy:1");
    skopeo(&["copy", "--dest-tls-verify=false", &layout, &copy], true).await;
    // Docker's own types, and a mount from the repository beside it.
    let docker = format!("docker://{host}/other/v2s2:1");
    let both = ["copy", "--src-tls-verify=false", "--dest-tls-verify=false"];
    skopeo(
        &[&both[..], &["--format", "v2s2", &image, &docker]].concat(),
        true,
    )
    .await;
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &docker], true).await;
    assert!(
        raw.contains("vnd.docker.distribution.manifest.v2+json"),
        "{raw}"
    );
    let repository = format!("docker://{host}/web");
    let tags = skopeo(&["list-tags", "--tls-verify=false", &repository], true).await;
    assert!(tags.contains("\"main\""), "{tags}");
    skopeo(&["delete", "--tls-verify=false", &copy], true).await;
    skopeo(&["inspect", "--tls-verify=false", &copy], false).await;
    let foreign = format!("docker://{host}/conformance/x:1");
    skopeo(
        &["copy", "--dest-tls-verify=false", &layout, &foreign],
        false,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_logs_in_pulls_tags_and_pushes() {
    let stand = stand().await;
    let home = stand.home.path();
    let Some(_) = client("podman", home) else {
        return;
    };
    let podman = async |arguments: &[&str], succeeds: bool| {
        let mut command = container_client("podman", home).unwrap();
        command.args(arguments);
        run(command, succeeds).await
    };
    let host = stand.server.address.to_string();
    let login = ["login", "--tls-verify=false", "-u", "any", "-p"];
    podman(&[&login[..], &["wrong", &host]].concat(), false).await;
    let said = podman(&[&login[..], &[&stand.token, &host]].concat(), true).await;
    assert!(said.contains("Login Succeeded"), "{said}");
    podman(&["pull", "-q", "--tls-verify=false", &stand.image], true).await;
    let pushed = format!("{host}/other/app:2");
    podman(&["tag", &stand.image, &pushed], true).await;
    podman(&["push", "-q", "--tls-verify=false", &pushed], true).await;
    podman(&["rmi", "-f", &pushed, &stand.image], true).await;
    podman(&["pull", "-q", "--tls-verify=false", &pushed], true).await;
    let found = podman(
        &[
            "search",
            "--tls-verify=false",
            "--list-tags",
            &format!("{host}/other/app"),
        ],
        true,
    )
    .await;
    assert!(found.contains('2'), "{found}");
    podman(&["logout", &host], true).await;
    podman(&["pull", "-q", "--tls-verify=false", &stand.image], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buildah_builds_and_pushes() {
    let stand = stand().await;
    let home = stand.home.path();
    let Some(_) = client("buildah", home) else {
        return;
    };
    let buildah = async |arguments: &[&str]| {
        let mut command = container_client("buildah", home).unwrap();
        command.args(arguments);
        run(command, true).await
    };
    std::fs::write(home.join("file"), "content").unwrap();
    std::fs::write(
        home.join("Containerfile"),
        "FROM scratch\nCOPY file /file\n",
    )
    .unwrap();
    let host = stand.server.address.to_string();
    buildah(&[
        "login",
        "--tls-verify=false",
        "-u",
        "any",
        "-p",
        &stand.token,
        &host,
    ])
    .await;
    let image = format!("{host}/web/built:1");
    buildah(&["bud", "-q", "-t", &image, home.to_str().unwrap()]).await;
    let there = format!("docker://{image}");
    buildah(&["push", "-q", "--tls-verify=false", &image, &there]).await;
    buildah(&["rmi", "-f", &image]).await;
    buildah(&["pull", "-q", "--tls-verify=false", &there]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crane_copies_lists_and_deletes() {
    let stand = stand().await;
    let home = stand.home.path();
    let Some(_) = client("crane", home) else {
        return;
    };
    let crane = async |arguments: &[&str], succeeds: bool| {
        let mut command = client("crane", home).unwrap();
        command.args(arguments).arg("--insecure");
        run(command, succeeds).await
    };
    let host = stand.server.address.to_string();
    crane(
        &["auth", "login", &host, "-u", "any", "-p", &stand.token],
        true,
    )
    .await;
    let digest = crane(&["digest", &stand.image], true).await;
    assert_eq!(digest.trim(), stand.digest);
    // Into another repository of another project: by mount.
    let copy = format!("{host}/other/copy:1");
    crane(&["cp", &stand.image, &copy], true).await;
    let tar = home.join("image.tar");
    crane(&["pull", &copy, tar.to_str().unwrap()], true).await;
    let again = format!("{host}/web/again:1");
    crane(&["push", tar.to_str().unwrap(), &again], true).await;
    crane(&["tag", &again, "2"], true).await;
    let tags = crane(&["ls", &format!("{host}/web/again")], true).await;
    assert_eq!(tags.split_whitespace().collect::<Vec<_>>(), ["1", "2"]);
    let catalog = crane(&["catalog", &host], true).await;
    assert_eq!(
        catalog.split_whitespace().collect::<Vec<_>>(),
        ["other/copy", "web", "web/again"]
    );
    crane(&["validate", "--remote", &again], true).await;
    crane(&["delete", &again], true).await;
    crane(&["digest", &again], false).await;
    crane(
        &["cp", &stand.image, &format!("{host}/conformance/x:1")],
        false,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oras_attaches_and_discovers() {
    let stand = stand().await;
    let home = stand.home.path();
    let Some(_) = client("oras", home) else {
        return;
    };
    let oras = async |arguments: &[&str], succeeds: bool| {
        let mut command = client("oras", home).unwrap();
        command.args(arguments);
        run(command, succeeds).await
    };
    let host = stand.server.address.to_string();
    let plain = "--plain-http";
    oras(
        &["login", plain, "-u", "any", "-p", &stand.token, &host],
        true,
    )
    .await;
    std::fs::write(home.join("sbom.json"), "{\"packages\":[]}").unwrap();
    let kind = "--artifact-type=application/vnd.example.sbom";
    oras(
        &[
            "attach",
            plain,
            kind,
            &stand.image,
            "sbom.json:application/json",
        ],
        true,
    )
    .await;
    let found = oras(
        &["discover", plain, "--format", "json", kind, &stand.image],
        true,
    )
    .await;
    assert!(found.contains("application/vnd.example.sbom"), "{found}");
    let artifact = format!("{host}/web/artifact:1");
    oras(
        &["push", plain, &artifact, "sbom.json:application/json"],
        true,
    )
    .await;
    let copy = format!("{host}/other/artifact:1");
    oras(
        &[
            "cp",
            "--from-plain-http",
            "--to-plain-http",
            &artifact,
            &copy,
        ],
        true,
    )
    .await;
    std::fs::remove_file(home.join("sbom.json")).unwrap();
    oras(&["pull", plain, &copy], true).await;
    assert!(home.join("sbom.json").exists());
    let tags = oras(
        &["repo", "tags", plain, &format!("{host}/web/artifact")],
        true,
    )
    .await;
    assert_eq!(tags.trim(), "1");
    oras(&["manifest", "delete", plain, "-f", &artifact], true).await;
    oras(&["manifest", "fetch", plain, &artifact], false).await;
}
