//! One large layer pushed and pulled by skopeo, two thousand small ones over eight connections,
//! and lists of ten thousand tags, here and at Debian's docker-registry. Small layers have a client
//! of their own because skopeo itself takes minutes of processor time for as many.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ondol_testing::platform::{PATIENCE, run};
use ondol_testing::table::Random;
use ondol_testing::{Platform, eventually, has_program, runtime};

use crate::report::{Report, median, seconds};

const ROUNDS: usize = 3;
const LARGE: Shape = Shape {
    layers: 1,
    bytes: 200_000_000,
};
const SMALL: Shape = Shape {
    layers: 2_000,
    bytes: 4_096,
};
const TAGS: usize = 10_000;
const LISTS: usize = 50;
const CONNECTIONS: usize = 8;

/// Layers of an image and bytes of each.
#[derive(Clone, Copy)]
struct Shape {
    layers: usize,
    bytes: usize,
}

/// A registry under measurement.
struct Place {
    host: String,
    credentials: String,
}

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
    let places = [
        Some(Place {
            host: platform.control().trim_start_matches("http://").to_owned(),
            credentials: format!("any:{}", platform.token()),
        }),
        rival.as_ref().map(|rival| Place {
            host: rival.host.clone(),
            credentials: "any:any".to_owned(),
        }),
    ];
    images(report, &platform, &places, LARGE, "200 MB image");
    small_blobs(report, &platform, &places);
    lists(report, &places);
    report.note(format!("Registry: {ROUNDS} rounds in turn, incompressible layers, new bytes each round, both on the same disk; lists: median of {LISTS} requests."));
}

/// Pushes and pulls new images of one shape, in turn.
fn images(
    report: &mut Report,
    platform: &Platform,
    places: &[Option<Place>; 2],
    shape: Shape,
    what: &str,
) {
    let mut times: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..ROUNDS {
        for (index, place) in places.iter().enumerate() {
            let Some(place) = place else { continue };
            // New bytes each time: skopeo remembers which registry has which layer.
            let seed = shape.layers as u64 * 100 + (round * 2 + index) as u64;
            let image = layout(platform, seed, shape);
            let there = format!(
                "docker://{}/images/{}:round-{round}",
                place.host, shape.layers
            );
            let copy = |from: &str, to: &str, side: &str| {
                let mut command = platform.command("skopeo", platform.folder());
                command.args([
                    "copy",
                    "--quiet",
                    "--preserve-digests",
                    &format!("--{side}-tls-verify=false"),
                ]);
                command.args([&format!("--{side}-creds"), &place.credentials]);
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
    for (place, verb) in ["push", "pull"].iter().enumerate() {
        let [ours, theirs] = [
            median(times[0][place].clone()),
            median(times[1][place].clone()),
        ];
        let megabytes = (shape.layers * shape.bytes) as f64 / 1e6;
        let rate = |time: f64| format!("{}, {:.0} MB/s", seconds(time), megabytes / time);
        let rival = if theirs.is_nan() {
            "docker-registry is not installed".to_owned()
        } else {
            format!("docker-registry: {}", rate(theirs))
        };
        report.row(
            &format!("skopeo {verb} of a {what}"),
            rate(ours),
            rival,
            "≤ docker-registry",
        );
    }
}

/// Pushes and pulls two thousand new blobs over eight connections, in turn.
fn small_blobs(report: &mut Report, platform: &Platform, places: &[Option<Place>; 2]) {
    let mut times: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..ROUNDS {
        for (index, place) in places.iter().enumerate() {
            let Some(place) = place else { continue };
            let folder = layout(platform, 900_000 + (round * 2 + index) as u64, SMALL);
            let measured = runtime().block_on(Client::new(place).blobs(&folder));
            let _ = fs::remove_dir_all(folder);
            match measured {
                Ok((push, pull)) => {
                    times[index][0].push(push);
                    times[index][1].push(pull);
                }
                Err(error) => report.note(format!("Small blobs at {}: {error}", place.host)),
            }
        }
    }
    for (place, verb) in ["push", "pull"].iter().enumerate() {
        let [ours, theirs] = [
            median(times[0][place].clone()),
            median(times[1][place].clone()),
        ];
        let rate = |time: f64| {
            format!(
                "{}, {:.0} blobs/s",
                seconds(time),
                SMALL.layers as f64 / time
            )
        };
        let rival = if theirs.is_nan() {
            "docker-registry is not installed".to_owned()
        } else {
            format!("docker-registry: {}", rate(theirs))
        };
        report.row(
            &format!("{verb} of 2,000 blobs of 4 kB"),
            rate(ours),
            rival,
            "≤ docker-registry",
        );
    }
}

/// How long it takes to list ten thousand tags, a page of a hundred of them, and the catalog.
fn lists(report: &mut Report, places: &[Option<Place>; 2]) {
    let paths = [
        ("all of 10,000 tags", "images/tagged/tags/list?n=10000"),
        (
            "100 of 10,000 tags, from the middle",
            "images/tagged/tags/list?n=100&last=tag-05000",
        ),
        ("the catalog beside 10,000 tags", "_catalog?n=100"),
    ];
    let mut times: Vec<[f64; 2]> = vec![[f64::NAN; 2]; paths.len()];
    for (index, place) in places.iter().enumerate() {
        let Some(place) = place else { continue };
        let measured = runtime().block_on(async {
            let client = Client::new(place);
            client.tag(TAGS).await?;
            let mut measured = Vec::new();
            for (_, path) in &paths {
                let mut each = Vec::new();
                for _ in 0..LISTS {
                    let began = Instant::now();
                    client.get(path).await?;
                    each.push(began.elapsed().as_secs_f64());
                }
                measured.push(median(each));
            }
            Ok::<_, anyhow::Error>(measured)
        });
        match measured {
            Ok(measured) => {
                for (row, time) in times.iter_mut().zip(measured) {
                    row[index] = time;
                }
            }
            Err(error) => report.note(format!("Registry lists at {}: {error}", place.host)),
        }
    }
    for ((what, _), [ours, theirs]) in paths.iter().zip(times) {
        let rival = if theirs.is_nan() {
            "docker-registry is not installed".to_owned()
        } else {
            format!("docker-registry: {}", seconds(theirs))
        };
        report.row(
            &format!("registry: {what}"),
            seconds(ours),
            rival,
            "≤ docker-registry",
        );
    }
}

/// The smallest client that can push a manifest.
struct Client<'p> {
    http: reqwest::Client,
    place: &'p Place,
}

impl<'p> Client<'p> {
    fn new(place: &'p Place) -> Self {
        Self {
            http: reqwest::Client::new(),
            place,
        }
    }

    async fn send(
        &self,
        method: reqwest::Method,
        url: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<reqwest::Response> {
        let url = if url.starts_with("http") {
            url.to_owned()
        } else {
            format!("http://{}{url}", self.place.host)
        };
        let (user, password) = self.place.credentials.split_once(':').unwrap_or_default();
        let sent = self
            .http
            .request(method, url)
            .basic_auth(user, Some(password))
            .header("content-type", content_type)
            .body(body)
            .send()
            .await?;
        Ok(sent.error_for_status()?)
    }

    async fn get(&self, path: &str) -> anyhow::Result<()> {
        let url = format!("/v2/{path}");
        let answer = self.send(reqwest::Method::GET, &url, "text/plain", Vec::new());
        answer.await?.bytes().await?;
        Ok(())
    }

    /// Pushes every blob of a layout as clients do, and pulls them again. Returns the seconds of
    /// both.
    async fn blobs(&self, layout: &Path) -> anyhow::Result<(f64, f64)> {
        use futures_util::{StreamExt, TryStreamExt, stream};
        let mut blobs = Vec::new();
        for entry in fs::read_dir(layout.join("blobs/sha256"))? {
            let entry = entry?;
            let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
            blobs.push((digest, fs::read(entry.path())?));
        }
        let began = Instant::now();
        stream::iter(&blobs)
            .map(|(digest, bytes)| self.push_blob(digest, bytes))
            .buffer_unordered(CONNECTIONS)
            .try_collect::<Vec<()>>()
            .await?;
        let push = began.elapsed().as_secs_f64();
        let began = Instant::now();
        let pulled = stream::iter(&blobs)
            .map(|(digest, _)| async move {
                let url = format!("/v2/images/small/blobs/{digest}");
                let answer = self.send(reqwest::Method::GET, &url, "text/plain", Vec::new());
                anyhow::Ok(answer.await?.bytes().await?.len())
            })
            .buffer_unordered(CONNECTIONS)
            .try_collect::<Vec<usize>>()
            .await?;
        let pull = began.elapsed().as_secs_f64();
        let expected: usize = blobs.iter().map(|(_, bytes)| bytes.len()).sum();
        anyhow::ensure!(
            pulled.iter().sum::<usize>() == expected,
            "bytes are missing"
        );
        Ok((push, pull))
    }

    async fn push_blob(&self, digest: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let uploads = "/v2/images/small/blobs/uploads/";
        let begun = self
            .send(reqwest::Method::POST, uploads, "text/plain", Vec::new())
            .await?;
        let place = begun.headers()["location"].to_str()?.to_owned();
        let join = if place.contains('?') { '&' } else { '?' };
        let end = format!("{place}{join}digest={digest}");
        let octets = "application/octet-stream";
        self.send(reqwest::Method::PUT, &end, octets, bytes.to_vec())
            .await?;
        Ok(())
    }

    /// One image under this many tags.
    async fn tag(&self, tags: usize) -> anyhow::Result<()> {
        const EMPTY: &str =
            "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        let media = "application/vnd.oci.image.manifest.v1+json";
        let begun = self
            .send(
                reqwest::Method::POST,
                "/v2/images/tagged/blobs/uploads/",
                "text/plain",
                Vec::new(),
            )
            .await?;
        let place = begun.headers()["location"].to_str()?.to_owned();
        let join = if place.contains('?') { '&' } else { '?' };
        let end = format!("{place}{join}digest={EMPTY}");
        self.send(
            reqwest::Method::PUT,
            &end,
            "application/octet-stream",
            b"{}".to_vec(),
        )
        .await?;
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": EMPTY, "size": 2 },
            "layers": [],
        });
        let manifest = manifest.to_string().into_bytes();
        for number in 0..tags {
            let path = format!("/v2/images/tagged/manifests/tag-{number:05}");
            self.send(reqwest::Method::PUT, &path, media, manifest.clone())
                .await?;
        }
        Ok(())
    }
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

/// An image as an OCI layout.
fn layout(platform: &Platform, seed: u64, shape: Shape) -> PathBuf {
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
    let mut random = Random::new(seed + 100);
    let layers: Vec<(String, usize)> = (0..shape.layers)
        .map(|_| add(&random.bytes(shape.bytes)))
        .collect();
    let diff_ids: Vec<&String> = layers.iter().map(|(digest, _)| digest).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let (config, config_size) = add(config.to_string().as_bytes());
    let layers: Vec<serde_json::Value> = layers
        .iter()
        .map(|(digest, size)| {
            serde_json::json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size })
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size },
        "layers": layers,
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
