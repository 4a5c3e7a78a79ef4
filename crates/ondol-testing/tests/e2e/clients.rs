//! What clients meet at the one door: other people's programs, wrong tokens, hostile input.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use ondol_testing::platform::{PATIENCE, run};
use ondol_testing::{Options, Output, Platform, has_program, skipped};

use crate::fixtures::push_live;

/// Sends bytes as they are and reads the answer, so that no client library tidies them up.
fn raw(platform: &Platform, request: &str) -> String {
    let address = platform.control().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}

#[test]
fn the_door_is_ready_when_it_says_so_and_closed_to_strangers() {
    let platform = Platform::start();
    let health = platform.request("GET", &format!("{}/health", platform.control()));
    platform.send(health).unwrap().is(200);

    let open = |path: &str| {
        let request = platform.request("GET", &format!("{}{path}", platform.control()));
        platform.send(request).unwrap()
    };
    for (path, scheme) in [
        ("/api/v1/projects", ""),
        ("/api/v1/events", ""),
        ("/v2/", ""),
        ("/v2/shop/manifests/latest", ""),
        ("/git/shop.git/info/refs?service=git-upload-pack", "Basic"),
        ("/git/shop.git/info/refs?service=git-receive-pack", "Basic"),
    ] {
        let answer = open(path).is(401);
        let challenge = answer.header("www-authenticate");
        assert!(
            !challenge.is_empty() && challenge.starts_with(scheme),
            "{path} answered the challenge `{challenge}`"
        );
        let wrong = platform
            .request("GET", &format!("{}{path}", platform.control()))
            .basic_auth("any", Some("ondol_not-a-token"));
        platform.send(wrong).unwrap().is(401);
    }
    let problem = platform.api("GET", "/projects/nobody", None).is(404);
    assert_eq!(problem.header("content-type"), "application/problem+json");
    for key in ["type", "title", "detail", "code"] {
        assert!(problem.json()[key].is_string(), "{}", problem.text());
    }
    // Any user name will do, the token is the password.
    let basic = platform
        .request("GET", &format!("{}/api/v1/projects", platform.control()))
        .basic_auth("whoever", Some(platform.token()));
    platform.send(basic).unwrap().is(200);

    let mode = |path: &str| {
        let path = platform.data().join(path);
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("admin.token"), 0o600);
    assert_eq!(mode("keys"), 0o700);
    assert_eq!(mode(""), 0o700);

    let openapi = open("/api/openapi.json").is(200).json();
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3."));
    assert!(
        openapi["paths"]["/api/v1/projects"].is_object(),
        "paths of the API"
    );

    let said = platform.said();
    assert_eq!(said.len(), 1, "one line on stdout: {said:?}");
}

#[test]
fn another_host_name_is_refused() {
    let platform = Platform::start();
    let token = platform.token();
    let ask = |host: &str| {
        let request = format!(
            "GET /api/v1/projects HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        status(&raw(&platform, &request))
    };
    let own = platform.control().trim_start_matches("http://").to_owned();
    let port = own.rsplit(':').next().unwrap();
    assert_eq!(ask(&own), 200);
    assert_eq!(ask(&format!("localhost:{port}")), 200);
    for stranger in ["evil.example", "evil.example:80", "localhost.evil.example"] {
        let answer = ask(stranger);
        assert!(
            (400..500).contains(&answer),
            "{stranger} was answered {answer}"
        );
    }
}

#[test]
fn a_second_server_is_told_why_it_cannot_start() {
    let platform = Platform::start();
    let serve = |data: &str, listen: &str| -> Output {
        let mut command = platform.command(ondol_testing::binary(), platform.folder());
        command
            .args(["serve", "--data", data, "--listen", listen])
            .args(["--gateway-listen", "127.0.0.1:0"])
            .stdin(Stdio::null());
        run(command, None, PATIENCE)
    };
    let own = platform.data().to_str().unwrap().to_owned();
    let locked = serve(&own, "127.0.0.1:0");
    assert_eq!(locked.code, 5, "{}", locked.text());
    assert_eq!(locked.stdout, "");
    locked
        .says(&own)
        .says(&platform.serve_pid().to_string())
        .says("hint:");

    let other = platform.folder().join("other");
    let other = other.to_str().unwrap();
    let taken = serve(other, platform.control().trim_start_matches("http://"));
    assert_ne!(taken.code, 0, "{}", taken.text());
    assert_eq!(taken.stdout, "");
    taken
        .says(platform.control().trim_start_matches("http://"))
        .says("in use")
        .says("hint:");

    // A data directory of a newer version is left alone.
    let newer = platform.folder().join("newer");
    fs::create_dir(&newer).unwrap();
    fs::write(newer.join("format"), "999\n").unwrap();
    let refused = serve(newer.to_str().unwrap(), "127.0.0.1:0");
    assert_ne!(refused.code, 0, "{}", refused.text());
    refused.says("newer").says("hint:");
    assert!(!newer.join("ondol.db").exists(), "nothing was made in it");
    for name in ["other", "newer"] {
        let left = ondol_testing::process::end_all_of(&platform.folder().join(name));
        assert!(left.is_empty(), "left running by {name}: {left:?}");
    }
}

#[test]
fn a_token_opens_what_it_is_for() {
    let platform = Platform::start();
    let web = platform.new_project("web", "shop");
    push_live(&platform, &web);
    platform
        .cli(&["projects", "create", "other"], web.dir())
        .ok();
    let token = |name: &str, role: &str, project: &str| {
        let mut arguments = vec!["token", "create", name, "--role", role, "--json"];
        if !project.is_empty() {
            arguments.extend(["--project", project]);
        }
        let issued = platform.cli(&arguments, web.dir()).ok().json();
        let text = |key: &str| issued[key].as_str().unwrap().to_owned();
        (text("id"), text("token"))
    };
    let (viewer_id, viewer) = token("reader", "viewer", "");
    let (_, narrow) = token("narrow", "developer", "shop");
    let cli_as = |token: &str, arguments: &[&str]| platform.cli_as(token, arguments, web.dir());
    let push_as = |token: &str, project: &str| {
        let url = format!("{}/git/{project}.git", platform.control())
            .replace("http://", &format!("http://any:{token}@"));
        let mut command = platform.command("git", web.dir());
        command.args(["push", &url, "HEAD:refs/heads/side"]);
        run(command, None, PATIENCE)
    };

    cli_as(&viewer, &["runs", "--json"]).ok();
    cli_as(&viewer, &["status"]).ok().says("shop");
    let refused = push_as(&viewer, "shop");
    assert_ne!(refused.code, 0, "a viewer pushed: {refused:?}");
    assert!(
        !refused.stderr.contains(&viewer) || refused.stderr.contains("fatal"),
        "{refused:?}"
    );
    cli_as(&viewer, &["rollback"]).exits(3);
    let seen = cli_as(&viewer, &["token", "list"]);
    assert!(
        seen.code == 3 || !seen.stdout.contains("narrow"),
        "others' tokens are listed: {seen:?}"
    );
    let mut set = platform.client_command(ondol_testing::binary(), web.dir());
    set.args(["secret", "set", "SOME_KEY"])
        .env("ONDOL_TOKEN", &viewer);
    run(set, Some(b"a value of no meaning"), PATIENCE).exits(3);

    push_as(&narrow, "shop").ok();
    assert_ne!(push_as(&narrow, "other").code, 0);
    cli_as(&narrow, &["runs", "--project", "shop"]).ok();
    // What one may not see is as if it were not there.
    cli_as(&narrow, &["runs", "--project", "other"]).exits(4);
    cli_as(&narrow, &["runs", "--project", "nobody"]).exits(4);
    let listed = cli_as(&narrow, &["projects", "--json"]).ok();
    assert!(!listed.stdout.contains("other"), "{}", listed.stdout);
    let events = cli_as(&narrow, &["events", "--json", "--limit", "1000"])
        .ok()
        .json();
    for event in events.as_array().unwrap() {
        assert_eq!(event["project"], "shop", "{event}");
    }

    platform
        .cli(&["token", "revoke", &viewer_id], web.dir())
        .ok();
    cli_as(&viewer, &["status"]).exits(3);
    cli_as("ondol_not-a-token", &["status"]).exits(3);
    platform.last_run("shop");
}

/// One pkt-line.
fn packet(text: &str) -> Vec<u8> {
    format!("{:04x}{text}", text.len() + 4).into_bytes()
}

#[test]
fn hostile_refs_paths_and_options_are_refused() {
    let platform = Platform::start();
    let web = platform.new_project("web", "shop");
    push_live(&platform, &web);
    let commit = web.head(&platform);
    let zero = "0".repeat(40);
    let mut empty = platform.command("git", web.dir());
    empty
        .args(["pack-objects", "--stdout"])
        .stdin(Stdio::null());
    let pack = empty.output().unwrap().stdout;
    assert!(pack.starts_with(b"PACK"));
    let refs = || platform.git(&["ls-remote", "ondol"], web.dir()).ok().stdout;
    let before = refs();
    let runs = platform.runs("shop").len();

    for name in [
        "refs/heads/../../../../tmp/evil",
        "refs/heads/..",
        "refs/heads/a..b",
        "refs/heads/-evil",
        "refs/heads/--upload-pack=evil",
        "refs/heads/a b",
        "refs/heads/a\tb",
        "refs/heads/evil.lock",
        "refs/heads/.evil",
        "refs/heads//evil",
        "refs/heads/evil/",
        "refs/heads/ev\\il",
        "refs/heads/ev*il",
        "refs/../hooks/post-receive",
        "refs/ondol/evil",
        "HEAD",
        "config",
        "hooks/post-receive",
        "/etc/passwd",
        "",
    ] {
        let line = format!("{zero} {commit} {name}\0report-status side-band-64k agent=e2e");
        let body = [packet(&line), b"0000".to_vec(), pack.clone()].concat();
        let request = platform
            .authorized("POST", "/git/shop.git/git-receive-pack")
            .header("content-type", "application/x-git-receive-pack-request")
            .body(body);
        let answer = platform.send(request).unwrap();
        let text = answer.text();
        let refused =
            (400..500).contains(&answer.status) || (answer.status == 200 && text.contains("ng "));
        assert!(refused, "`{name}` was answered {}: {text}", answer.status);
    }
    // One hostile ref takes its companions with it: nothing is half-made.
    let lines = [
        format!("{zero} {commit} refs/heads/companion\0report-status atomic agent=e2e"),
        format!("{zero} {commit} refs/heads/../evil"),
    ];
    let body = [packet(&lines[0]), packet(&lines[1]), b"0000".to_vec(), pack].concat();
    let request = platform
        .authorized("POST", "/git/shop.git/git-receive-pack")
        .header("content-type", "application/x-git-receive-pack-request")
        .body(body);
    platform.send(request).unwrap();
    assert_eq!(refs(), before, "no ref appeared");

    let token = platform.token();
    let own = platform.control().trim_start_matches("http://");
    for path in [
        "/git/../admin.token",
        "/git/shop.git/../../admin.token",
        "/git/shop.git/../../../admin.token",
        "/git/shop.git/%2e%2e/%2e%2e/admin.token",
        "/git/..%2f..%2fadmin.token",
        "/git/shop.git/objects/../../../admin.token",
        "/git/shop.git/config",
        "/git/shop.git/HEAD",
        "/git/%00.git/info/refs?service=git-upload-pack",
        "/git/--help.git/info/refs?service=git-upload-pack",
        "/git/shop.git/info/refs?service=git-upload-archive",
        "/git/shop.git/info/refs?service=--exec=evil",
        "/git/.hooks/post-receive",
        "/v2/../admin.token",
        "/v2/shop/blobs/../../../admin.token",
        "/v2/shop/blobs/sha256:../../admin.token",
        "/api/v1/projects/..%2f..%2fadmin.token",
    ] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {own}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        let answer = raw(&platform, &request);
        let code = status(&answer);
        assert!((300..500).contains(&code), "{path} was answered {code}");
        assert!(!answer.contains(&token), "{path} gave the token away");
    }
    for (method, path) in [
        ("POST", "/git/--evil.git/git-receive-pack"),
        ("POST", "/git/..git/git-receive-pack"),
    ] {
        let request = platform.authorized(method, path).body(b"0000".to_vec());
        let answer = platform.send(request).unwrap();
        assert!(
            (400..500).contains(&answer.status),
            "{path} was answered {}",
            answer.status
        );
    }
    for dangerous in ["ftp", "..", "-x", "api", "A", "a.b"] {
        let body = serde_json::json!({ "name": dangerous });
        let answer = platform.api("POST", "/projects", Some(&body));
        if dangerous != "ftp" {
            assert!(
                (400..500).contains(&answer.status),
                "{dangerous} was answered {}",
                answer.status
            );
        }
    }
    assert_eq!(platform.runs("shop").len(), runs, "nothing was started");
    assert!(!std::path::Path::new("/tmp/evil").exists());
    // It still takes a proper push.
    web.set_version(&platform, "2");
    push_live(&platform, &web);
}

#[test]
fn registry_clients_work_with_a_token() {
    if !has_program("skopeo") {
        skipped(
            "registry_clients_work_with_a_token",
            "skopeo is not installed",
        );
        return;
    }
    let platform = Platform::start();
    let web = platform.new_project("web", "shop");
    push_live(&platform, &web);
    let digest = platform.current_release("shop")["image"]
        .as_str()
        .unwrap()
        .to_owned();
    let host = platform.control().trim_start_matches("http://").to_owned();
    let skopeo = |arguments: &[&str]| {
        let mut command = platform.command("skopeo", platform.folder());
        command.args(arguments);
        run(command, None, Duration::from_secs(120))
    };
    let credentials = format!("any:{}", platform.token());
    let inspect = |reference: &str| {
        skopeo(&[
            "inspect",
            "--tls-verify=false",
            "--creds",
            &credentials,
            &format!("docker://{host}/{reference}"),
        ])
    };
    let found = inspect(&format!("shop@{digest}")).ok().json();
    assert_eq!(found["Digest"], digest, "{found:#}");
    assert!(!found["Layers"].as_array().unwrap().is_empty(), "{found:#}");
    assert!(
        !found["RepoTags"].as_array().unwrap().is_empty(),
        "{found:#}"
    );
    for (creds, what) in [("any:wrong", "a wrong token"), ("", "no token")] {
        let mut arguments = vec!["inspect", "--tls-verify=false"];
        let reference = format!("docker://{host}/shop@{digest}");
        if creds.is_empty() {
            arguments.push("--no-creds");
        } else {
            arguments.extend(["--creds", creds]);
        }
        arguments.push(&reference);
        assert_ne!(skopeo(&arguments).code, 0, "{what} opened the registry");
    }

    // Out, in under another name, and out again: the same digest.
    let dir = |name: &str| format!("dir:{}", platform.folder().join(name).display());
    let copy = |from: &str, to: &str| {
        let mut arguments = vec!["copy", "--preserve-digests"];
        if from.starts_with("docker:") {
            arguments.extend(["--src-tls-verify=false", "--src-creds", &credentials]);
        }
        if to.starts_with("docker:") {
            arguments.extend(["--dest-tls-verify=false", "--dest-creds", &credentials]);
        }
        arguments.extend([from, to]);
        skopeo(&arguments).ok();
    };
    copy(&format!("docker://{host}/shop@{digest}"), &dir("one"));
    copy(&dir("one"), &format!("docker://{host}/shop/copy:v1"));
    assert_eq!(inspect("shop/copy:v1").ok().json()["Digest"], digest);
    copy(&format!("docker://{host}/shop/copy:v1"), &dir("two"));
    let manifest =
        |name: &str| fs::read(platform.folder().join(name).join("manifest.json")).unwrap();
    assert_eq!(manifest("one"), manifest("two"));
    let missing = inspect("shop/copy:v2");
    assert_ne!(missing.code, 0);
    missing.says("manifest unknown");
    let elsewhere = skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        "--dest-creds",
        &credentials,
        &dir("one"),
        &format!("docker://{host}/nobody/copy:v1"),
    ]);
    assert_ne!(
        elsewhere.code, 0,
        "a repository of a project that does not exist"
    );
}

#[test]
fn the_command_line_helps_and_fails_in_one_way() {
    let platform = Platform::start();
    let folder = platform.folder();
    let cli = |arguments: &[&str]| platform.cli(arguments, folder);
    for shell in ["bash", "zsh", "fish"] {
        let script = cli(&["completions", shell]).ok();
        assert!(
            script.stdout.contains("ondol") && script.stdout.len() > 1_000,
            "{shell}"
        );
    }
    let help = cli(&["--help"]).ok();
    for command in help
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|word| {
            word.chars().all(|c| c.is_ascii_lowercase()) && !word.is_empty() && *word != "help"
        })
    {
        cli(&[command, "--help"]).ok();
    }
    cli(&["serve", "--help"]).ok().says("Examples:");
    cli(&["no-such-command"]).exits(2);
    cli(&["runs"]).exits(2).says("hint:");
    cli(&["runs", "--project", "nobody"])
        .exits(4)
        .says("nobody");
    cli(&["runs", "--project", "Not A Name"]).exits(2);
    let failure = cli(&["runs", "--project", "nobody", "--json"]).exits(4);
    let told: serde_json::Value = serde_json::from_str(failure.stderr.trim()).unwrap();
    assert_eq!(told["exit"], 4, "{told}");
    assert!(told["error"].as_str().unwrap().contains("nobody"), "{told}");

    let mut away = platform.client_command(ondol_testing::binary(), folder);
    away.args(["status"]).env("ONDOL_URL", "http://127.0.0.1:9");
    let away = run(away, None, PATIENCE).exits(6);
    away.says("127.0.0.1:9").says("hint:");

    // A login that is saved is used when nothing else is said, and only its owner can read it.
    let mut login = platform.command(ondol_testing::binary(), folder);
    login.args(["login", platform.control()]);
    run(
        login,
        Some(format!("{}\n", platform.token()).as_bytes()),
        PATIENCE,
    )
    .ok();
    let mut status = platform.command(ondol_testing::binary(), folder);
    status.arg("status");
    run(status, None, PATIENCE).ok();
    let saved = platform.home().join(".config/ondol/login.json");
    assert_eq!(
        fs::metadata(saved).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let mut wrong = platform.command(ondol_testing::binary(), folder);
    wrong.args(["login", platform.control()]);
    run(wrong, Some(b"ondol_not-a-token\n"), PATIENCE).exits(3);
}

#[test]
fn the_first_start_logs_the_command_line_in() {
    let platform = Platform::start_with(Options::default());
    let mut command = platform.command(ondol_testing::binary(), platform.folder());
    command.args(["projects", "--json"]);
    run(command, None, PATIENCE).ok();
}
