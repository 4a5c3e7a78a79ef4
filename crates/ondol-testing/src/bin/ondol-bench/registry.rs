//! A large image pushed and pulled by skopeo, here and at Debian's docker-registry.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ondol_testing::platform::{PATIENCE, run};
use ondol_testing::table::Random;
use ondol_testing::{Platform, eventually, has_program};

use crate::report::{Report, median, seconds};

const ROUNDS: usize = 3;
const LAYER: usize = 200_000_000;

pub(crate) fn measure(report: &mut Report) {
    if !has_program("skopeo") {
        report.note("Registry: not measured, `skopeo` is not installed.");
        return;
    }
    let platform = Platform::start();
    platform
        .cli(&["projects", "create", "images"], platform.folder())
        .ok();
    let rival = has_program("docker-registry").then(|| Rival::start(platform.folder()));
    let ours = platform.control().trim_start_matches("http://").to_owned();
    let token = platform.token();
    let mut times: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..ROUNDS {
        let hosts = [
            Some(ours.clone()),
            rival.as_ref().map(|rival| rival.host.clone()),
        ];
        for (index, host) in hosts.iter().enumerate() {
            let Some(host) = host else { continue };
            // New bytes each time: skopeo remembers which registry has which layer.
            let image = layout(&platform, (round * 2 + index) as u64);
            let there = format!("docker://{host}/images:round-{round}");
            let credentials = format!("any:{token}");
            let copy = |from: &str, to: &str, side: &str| {
                let mut command = platform.command("skopeo", platform.folder());
                command.args([
                    "copy",
                    "--quiet",
                    "--preserve-digests",
                    &format!("--{side}-tls-verify=false"),
                ]);
                command.args([&format!("--{side}-creds"), &credentials]);
                command.args([from, to]);
                let began = Instant::now();
                run(command, None, PATIENCE * 3).ok();
                began.elapsed().as_secs_f64()
            };
            times[index][0].push(copy(
                &format!("oci:{}:latest", image.display()),
                &there,
                "dest",
            ));
            let target = platform.folder().join("pulled");
            times[index][1].push(copy(&there, &format!("dir:{}", target.display()), "src"));
            for folder in [image, target] {
                let _ = fs::remove_dir_all(folder);
            }
        }
    }
    for (place, what) in ["push", "pull"].iter().enumerate() {
        let [ours, theirs] = [
            median(times[0][place].clone()),
            median(times[1][place].clone()),
        ];
        let rate = |time: f64| format!("{}, {:.0} MB/s", seconds(time), LAYER as f64 / 1e6 / time);
        let rival = if theirs.is_nan() {
            "docker-registry is not installed".to_owned()
        } else {
            format!("docker-registry: {}", rate(theirs))
        };
        report.row(
            &format!("skopeo {what} of a 200 MB image"),
            rate(ours),
            rival,
            "≤ docker-registry",
        );
    }
    report.note(format!("Registry: {ROUNDS} rounds in turn, one incompressible layer, new bytes each round, both on the same disk."));
}

fn sha256(path: &Path) -> String {
    let mut command = Command::new("sha256sum");
    command.arg(path);
    let output = run(command, None, PATIENCE).ok();
    output
        .stdout
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// An image of one layer as an OCI layout.
fn layout(platform: &Platform, seed: u64) -> PathBuf {
    let folder = platform.folder().join(format!("image-{seed}"));
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a folder");
    let add = |bytes: &[u8]| {
        let temporary = folder.join("blob");
        fs::write(&temporary, bytes).expect("a blob");
        let digest = sha256(&temporary);
        fs::rename(&temporary, blobs.join(&digest)).expect("a blob");
        (format!("sha256:{digest}"), bytes.len())
    };
    let (layer, layer_size) = add(&Random::new(seed + 100).bytes(LAYER));
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [layer] },
    });
    let (config, config_size) = add(config.to_string().as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": layer_size }],
    });
    let (manifest, manifest_size) = add(manifest.to_string().as_bytes());
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": manifest_size,
            "annotations": { "org.opencontainers.image.ref.name": "latest" },
        }],
    });
    fs::write(folder.join("index.json"), index.to_string()).expect("an index");
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .expect("a layout");
    folder
}

struct Rival {
    host: String,
    child: Child,
}

impl Rival {
    fn start(folder: &Path) -> Self {
        let folder = folder.join("docker-registry");
        fs::create_dir_all(&folder).expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            folder.join("data").display()
        );
        fs::write(&config, text).expect("a configuration");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry starts");
        eventually("docker-registry answers", Duration::from_secs(20), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self {
            host: format!("127.0.0.1:{port}"),
            child,
        }
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
