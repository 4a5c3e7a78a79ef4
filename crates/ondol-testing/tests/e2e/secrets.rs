//! A planted secret reaches the program it is for, and nobody else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ondol_testing::platform::{PATIENCE, run};
use ondol_testing::{Platform, eventually, has_program, skipped};

use crate::fixtures::{push_live, small_app};

const VALUE: &str = "Zq8/w+vX3~kJ5 tR&7mN";
const SECOND: &str = "pL4%yB9=sD2hG6uE1cVo";

/// A secret in the forms in which programs usually write it down.
fn forms(value: &str) -> Vec<(String, Vec<u8>)> {
    let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    let percent: String = value
        .bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect();
    let mut forms = vec![
        ("as it is".to_owned(), value.as_bytes().to_vec()),
        ("in hexadecimal".to_owned(), hex.clone().into_bytes()),
        (
            "in capital hexadecimal".to_owned(),
            hex.to_uppercase().into_bytes(),
        ),
        ("percent-encoded".to_owned(), percent.into_bytes()),
    ];
    // Within longer text, base64 has three forms; the letters at both ends depend on what is
    // around and are left out.
    for offset in 0..3 {
        let padded = [&b"   "[..offset], value.as_bytes()].concat();
        let from = if offset == 0 { 0 } else { 4 };
        let until = padded.len() / 3 * 4;
        let text = base64(&padded).into_bytes();
        forms.push((
            format!("in base64, offset {offset}"),
            text[from..until].to_vec(),
        ));
    }
    forms
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut number = 0u32;
        for index in 0..3 {
            number = (number << 8) | u32::from(chunk.get(index).copied().unwrap_or(0));
        }
        for index in 0..4 {
            if index <= chunk.len() {
                text.push(char::from(
                    LETTERS[(number >> (18 - 6 * index) & 63) as usize],
                ));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[test]
fn base64_is_base64() {
    assert_eq!(base64(b"Ondol"), "T25kb2w=");
    assert_eq!(base64(b"Ondol!"), "T25kb2wh");
}

fn find(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else {
        return false;
    };
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|byte| byte == first) {
        from += at;
        if haystack[from..].starts_with(needle) {
            return true;
        }
        from += 1;
    }
    false
}

#[track_caller]
fn assert_absent(what: &str, bytes: &[u8]) {
    for value in [VALUE, SECOND] {
        for (form, needle) in forms(value) {
            assert!(!find(bytes, &needle), "a secret stands in {what}, {form}");
        }
    }
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&path, found),
            Ok(kind) if kind.is_file() => found.push(path),
            _ => {}
        }
    }
}

fn sha256(text: &str) -> String {
    let output = run(Command::new("sha256sum"), Some(text.as_bytes()), PATIENCE).ok();
    output
        .stdout
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn planted_secrets_are_found_nowhere() {
    let platform = Platform::start();
    let rest = "secrets: [API_KEY, SECOND_KEY, { name: TLS_KEY, as: file }]\nrelease:\n  command: |\n    echo \"migrating with $API_KEY\"\n    echo \"$SECOND_KEY\" | base64\n    cat \"$TLS_KEY_FILE\"\n";
    let app = small_app(&platform, "vault", "", rest);
    let cli = |arguments: &[&str]| platform.cli(arguments, app.dir());
    let set = |arguments: &[&str], value: &str| {
        platform.cli_with(arguments, app.dir(), Some(value.as_bytes()))
    };
    cli(&["projects", "create", "vault"]).ok();
    set(&["secret", "set", "API_KEY"], VALUE).ok();
    set(&["secret", "set", "SECOND_KEY", "--stage"], SECOND).ok();
    set(&["secret", "set", "TLS_KEY", "--stage"], VALUE).ok();
    push_live(&platform, &app);

    let digest_of = |name: &str| {
        let path = format!("/digest?name={name}");
        let answer = platform.app("vault", &path).unwrap().is(200).json();
        answer["sha256"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(digest_of("API_KEY"), sha256(VALUE));
    assert_eq!(digest_of("SECOND_KEY"), sha256(SECOND));
    let current = platform.current_release("vault");
    assert_eq!(
        current["secrets"],
        serde_json::json!({"API_KEY": 1, "SECOND_KEY": 1, "TLS_KEY": 1}),
        "versions are part of the release"
    );

    let file_of = |name: &str| {
        let path = format!("/secret_file?name={name}");
        platform.app("vault", &path).unwrap().is(200).json()
    };
    let file = file_of("TLS_KEY");
    assert_eq!(file["sha256"], sha256(VALUE));
    assert_eq!(
        (&file["mode"], &file["variable"]),
        (&"0o400".into(), &false.into())
    );
    let first_file = PathBuf::from(file["path"].as_str().unwrap());
    platform
        .app("vault", "/say_file?name=TLS_KEY")
        .unwrap()
        .is(200);

    // The program says them in every way it can think of.
    for text in [
        "plain%20$API_KEY%20and%20$SECOND_KEY",
        "quoted%20%27$API_KEY%27",
        "$SECOND_KEY$SECOND_KEY",
    ] {
        platform
            .app("vault", &format!("/say?text={text}"))
            .unwrap()
            .is(200);
    }
    eventually("the log has what was said", PATIENCE, || {
        let logs = cli(&["logs"]).ok().stdout;
        logs.contains("plain ***") && logs.contains("quoted") && logs.contains("file: ***")
    });
    for arguments in [
        &["secret", "list"][..],
        &["secret", "list", "--json"],
        &["status", "--json"],
        &["releases", "--json"],
        &["run", "show", "--json"],
        &["run", "logs"],
        &["events", "--json", "--limit", "1000"],
        &["explain", "--json"],
        &["rollout", "--json"],
        &["logs", "--json"],
    ] {
        cli(arguments).ok();
    }
    platform.events();
    platform
        .send(platform.authorized("GET", "/metrics"))
        .unwrap()
        .is(200);
    // A wrong one is refused without being repeated.
    assert_ne!(set(&["secret", "set", "bad name"], VALUE).code, 0);
    // Setting one rolls out by itself.
    let before = current["number"].as_i64().unwrap();
    set(&["secret", "set", "API_KEY"], SECOND).ok();
    eventually("a new version of a secret is rolled out", PATIENCE, || {
        let current = platform.current_release("vault");
        current["number"].as_i64().unwrap() > before && current["secrets"]["API_KEY"] == 2
    });
    assert_eq!(digest_of("API_KEY"), sha256(SECOND));
    set(&["secret", "set", "TLS_KEY"], SECOND).ok();
    eventually(
        "a new version of a secret file is rolled out",
        PATIENCE,
        || platform.current_release("vault")["secrets"]["TLS_KEY"] == 2,
    );
    assert_eq!(file_of("TLS_KEY")["sha256"], sha256(SECOND));
    eventually("a secret file goes with its replica", PATIENCE, || {
        !first_file.exists()
    });

    image_layers_are_clean(&platform, &current);
    assert_absent(
        "what was said to clients or on stderr",
        &platform.everything_said(),
    );
    let mut files = Vec::new();
    files_below(platform.data(), &mut files);
    files.retain(|path| !path.starts_with(platform.data().join("keys")));
    // What a living program reads: its owner's alone, and gone with it, as was seen above.
    let workloads = platform.data().join("workloads");
    files.retain(|path| {
        let below = path.strip_prefix(&workloads).ok();
        let part = below.and_then(|path| path.components().nth(1));
        part.is_none_or(|part| part.as_os_str() != "secrets")
    });
    let mut searched = 0;
    for path in &files {
        if let Ok(bytes) = fs::read(path) {
            assert_absent(&path.display().to_string(), &bytes);
            searched += 1;
        }
    }
    assert!(searched > 20, "only {searched} files were searched");
    for process in platform.processes() {
        assert_absent(
            &format!("the command line of process {}", process.pid),
            process.arguments.join(" ").as_bytes(),
        );
    }
}

fn image_layers_are_clean(platform: &Platform, release: &serde_json::Value) {
    if !has_program("skopeo") {
        skipped("the search in image layers", "skopeo is not installed");
        return;
    }
    let host = platform.control().trim_start_matches("http://");
    let source = format!(
        "docker://{host}/vault@{}",
        release["image"].as_str().unwrap()
    );
    let target = platform.folder().join("image");
    let mut command = platform.command("skopeo", platform.folder());
    command
        .args(["copy", "--src-tls-verify=false"])
        .args(["--src-creds", &format!("any:{}", platform.token())])
        .arg(&source)
        .arg(format!("dir:{}", target.display()));
    run(command, None, PATIENCE).ok();
    let mut files = Vec::new();
    files_below(&target, &mut files);
    assert!(
        files.len() >= 3,
        "manifest, configuration and a layer: {files:?}"
    );
    let mut layers = 0;
    for path in files {
        let bytes = fs::read(&path).unwrap();
        assert_absent("the image", &bytes);
        let program = match bytes[..] {
            [0x1f, 0x8b, ..] => "gzip",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
            _ => continue,
        };
        let output = Command::new(program)
            .arg("-dc")
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{program} {}", path.display());
        assert_absent("an image layer", &output.stdout);
        layers += usize::from(find(&output.stdout, b"app.py"));
    }
    assert!(layers > 0, "no layer holds the program");
}
