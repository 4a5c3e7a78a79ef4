//! Images from Dockerfiles, built by a real engine.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use ondol_types::{Classified, ErrorKind, Secret};
use ondol_workload::container::{
    BuildError, BuildLine, BuildRequest, BuildSource, BuiltImage, CacheRule, ImageRef,
};
use ondol_workload::{ContainerConfig, ContainerEngine};

use crate::alive_with;
use crate::container::Setup;
use crate::image::TestImage;

/// The image that Dockerfiles begin with.
const BASE: &str = "localhost/ondol-test-base:1";

/// A checkout and the engine that builds it.
struct Bench {
    setup: Setup,
    engine: ContainerEngine,
    checkout: tempfile::TempDir,
}

type Outcome = (Result<BuiltImage, BuildError>, Vec<(BuildSource, String)>);

impl Bench {
    async fn new() -> Option<Self> {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut ContainerConfig)) -> Option<Self> {
        Self::of(Setup::new()?, change).await
    }

    async fn of(setup: Setup, change: impl FnOnce(&mut ContainerConfig)) -> Option<Self> {
        let engine = setup.engine_with(change).await;
        let image = TestImage::get();
        engine
            .prepare_image(&ImageRef::Stored(image.digest()))
            .await
            .unwrap();
        let id = image.digest().hex().to_owned();
        setup.podman.run(&["tag", &id, BASE]);
        Some(Self {
            setup,
            engine,
            checkout: tempfile::tempdir().unwrap(),
        })
    }

    fn path(&self) -> &Path {
        self.checkout.path()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn request(&self) -> BuildRequest {
        let project = "web".parse().unwrap();
        BuildRequest::new(project, self.path(), "Dockerfile".parse().unwrap())
    }

    async fn build(&self, dockerfile: &str) -> Outcome {
        self.write("Dockerfile", dockerfile);
        self.build_as(&self.request()).await
    }

    async fn build_as(&self, request: &BuildRequest) -> Outcome {
        let mut lines = Vec::new();
        let mut take = |line: BuildLine<'_>| lines.push((line.source, line.text.to_owned()));
        let outcome = self.engine.build(request, &mut take).await;
        (outcome, lines)
    }

    async fn fails(&self, dockerfile: &str) -> BuildError {
        let (outcome, lines) = self.build(dockerfile).await;
        match outcome {
            Err(error) => error,
            Ok(_) => panic!("it was built: {lines:?}"),
        }
    }

    async fn builds(&self, dockerfile: &str) -> (BuiltImage, Vec<String>) {
        self.write("Dockerfile", dockerfile);
        self.builds_as(&self.request()).await
    }

    async fn builds_as(&self, request: &BuildRequest) -> (BuiltImage, Vec<String>) {
        let (outcome, lines) = self.build_as(request).await;
        let lines = lines.into_iter().map(|(_, text)| text).collect();
        match outcome {
            Ok(built) => (built, lines),
            Err(error) => panic!("{error}: {lines:#?}"),
        }
    }

    fn inspect(&self, image: &BuiltImage, what: &str) -> String {
        let podman = self.setup.podman;
        podman.run(&["image", "inspect", "--format", what, image.id.hex()])
    }

    /// A base image of its own, after which the containers of builds on it are called.
    fn base_called(&self, name: &str) -> String {
        let base = format!("localhost/{name}:1");
        let dir = tempfile::tempdir().unwrap();
        let file = format!("FROM {BASE}\nLABEL own={name}\n");
        std::fs::write(dir.path().join("Dockerfile"), file).unwrap();
        let path = dir.path().to_str().unwrap();
        self.setup.podman.run(&["build", "-q", "-t", &base, path]);
        base
    }

    /// Waits until no container of a build on such a base is left, running or not.
    async fn until_nothing_is_left(&self, name: &str) {
        let beginning = format!("{name}-working-container");
        let mut said = Ok(String::new());
        for _ in 0..1_500 {
            // Filters do not hold for containers of builds, and one that goes meanwhile is an
            // error of the list.
            let list = ["ps", "--all", "--external", "--format", "{{.Names}}"];
            said = self.setup.podman.ask(&list);
            let is_its = |line: &str| line.starts_with(&beginning);
            if said.as_ref().is_ok_and(|names| !names.lines().any(is_its)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{said:?} is left");
    }
}

/// Commands that a build runs, with their output.
fn ran(lines: &[String], text: &str) -> usize {
    lines.iter().filter(|line| line.as_str() == text).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stages_target_arguments_and_labels_are_those_asked_for() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    bench.write("src/main.txt", "hello");
    bench.write(
        "Dockerfile",
        &format!(
            "FROM {BASE} AS build\nARG MODE=debug\nCOPY src /src\nRUN echo \"mode $MODE\" | tee /out\n\
             FROM {BASE} AS web\nCOPY --from=build /out /out\nRUN cat /out\nCMD [\"cat\", \"/out\"]\n\
             FROM web AS never\nRUN false\n"
        ),
    );
    let mut request = bench.request();
    request.target = Some("web".to_owned());
    request.args.insert("MODE".into(), "fast & loose#".into());
    request
        .labels
        .insert("org.opencontainers.image.revision".into(), "abc".into());
    let (built, lines) = bench.builds_as(&request).await;
    assert_eq!(ran(&lines, "mode fast & loose#"), 2, "{lines:#?}");
    let label = "{{index .Labels \"org.opencontainers.image.revision\"}}";
    assert_eq!(bench.inspect(&built, label), "abc");
    assert_eq!(bench.inspect(&built, "{{.Config.Cmd}}"), "[cat /out]");
    let (_, everything) = bench.build_as(&bench.request()).await;
    assert!(
        everything
            .iter()
            .any(|(_, text)| text.contains("RUN false")),
        "the last stage is the default"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_has_what_the_patterns_leave_and_nothing_of_the_machinery() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    bench.write(".dockerignore", "**/*.log\nsecret\n!keep.log\n");
    bench.write("a/b.log", "");
    bench.write("keep.log", "");
    bench.write("secret/x", "");
    bench.write("a/run.sh", "#!/bin/sh\n");
    bench.write(".git/config", "");
    let executable = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(bench.path().join("a/run.sh"), executable).unwrap();
    symlink("a/run.sh", bench.path().join("link")).unwrap();
    let all = format!(
        "FROM {BASE}\nCOPY . /all\nRUN cd /all && find . | sort && ls -ln a/run.sh && readlink link\n"
    );
    let (built, lines) = bench.builds(&all).await;
    let listed: Vec<&str> = lines
        .iter()
        .map(String::as_str)
        .filter(|line| line.starts_with('.'))
        .collect();
    assert_eq!(
        listed,
        [
            ".",
            "./Dockerfile",
            "./a",
            "./a/run.sh",
            "./keep.log",
            "./link"
        ],
        "{lines:#?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("-rwxr-xr-x    1 0        0 ")),
        "{lines:#?}"
    );
    assert_eq!(ran(&lines, "a/run.sh"), 1);
    assert_eq!(built.entries, 5);
    // One beside the Dockerfile is stronger, and neither is sent.
    bench.write("docker/web.Dockerfile.dockerignore", "*\n!docker\n");
    bench.write("docker/web.Dockerfile", &all);
    let mut request = bench.request();
    request.dockerfile = "docker/web.Dockerfile".parse().unwrap();
    let (_, lines) = bench.build_as(&request).await;
    assert!(
        !lines.iter().any(|(_, text)| text == "./keep.log"),
        "{lines:#?}"
    );
    assert!(
        lines
            .iter()
            .any(|(_, text)| text == "./docker/web.Dockerfile"),
        "{lines:#?}"
    );
    // A folder of the checkout.
    let mut request = bench.request();
    request.context = Some("a".parse().unwrap());
    let (outcome, lines) = bench.build_as(&request).await;
    assert!(outcome.is_err(), "there is no link in that folder");
    assert!(
        lines.iter().any(|(_, text)| text == "./b.log"),
        "its own patterns count: {lines:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_read_and_is_nowhere_afterwards() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    bench.write(
        "Dockerfile",
        &format!(
            "FROM {BASE}\nCOPY . /context\n\
             RUN --mount=type=secret,id=TOKEN test \"$(cat /run/secrets/TOKEN)\" = \"planted-$((40 + 2))-value\" && cat /run/secrets/TOKEN\n\
             RUN ls -a /context /run/secrets 2>&1 | tee /seen\n"
        ),
    );
    let mut request = bench.request();
    let value = format!("planted-{}-value", 42);
    request
        .secrets
        .insert("TOKEN".into(), Secret::new(value.clone()));
    let (built, lines) = bench.builds_as(&request).await;
    assert!(
        lines.iter().any(|line| line == "***"),
        "it was read, and is masked: {lines:#?}"
    );
    assert!(
        !lines
            .iter()
            .any(|line| line.contains(&value) || line.contains("secret.0")),
        "{lines:#?}"
    );
    assert_eq!(
        bench.setup.podman.files_with(&value),
        Vec::<std::path::PathBuf>::new()
    );
    let history = bench
        .setup
        .podman
        .run(&["history", "--no-trunc", built.id.hex()]);
    assert!(!history.contains(&value), "{history}");
    let mut exported = bench.engine.export(&built.id).await.unwrap();
    let mut archive = Vec::new();
    while let Some(piece) = exported.next().await {
        archive.extend_from_slice(&piece.unwrap());
    }
    assert!(archive.len() > 1 << 20, "layers of an archive are plain");
    assert!(
        !archive
            .windows(value.len())
            .any(|part| part == value.as_bytes())
    );
    // Another value is another build only where it is read.
    request
        .secrets
        .insert("TOKEN".into(), Secret::new("other-value".to_owned()));
    let (again, _) = bench.build_as(&request).await;
    assert_eq!(
        again.unwrap().id,
        built.id,
        "what is cached does not read it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said_with_its_kind() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    let base_image = bench.base_called("failing");
    let failed = bench
        .fails(&format!(
            "FROM {base_image}\nRUN echo out; echo err >&2; exit 7\n"
        ))
        .await;
    bench.until_nothing_is_left("failing").await;
    assert!(
        matches!(
            failed,
            BuildError::Command {
                status: Some(7),
                ..
            }
        ),
        "{failed:?}"
    );
    assert!(
        failed.to_string().contains("exit 7`") && !failed.is_infrastructure(),
        "{failed}"
    );
    let unknown = bench.fails(&format!("FROM {BASE}\n\nFRM x\n")).await;
    assert!(
        unknown.to_string().starts_with("Dockerfile:3: "),
        "{unknown:?}"
    );
    let stage = format!("FROM {BASE} AS one\n");
    bench.write("Dockerfile", &stage);
    let mut request = bench.request();
    request.target = Some("two".to_owned());
    let stage = bench.build_as(&request).await.0.unwrap_err();
    assert!(matches!(stage, BuildError::Dockerfile { .. }), "{stage:?}");
    let missing = bench.fails("FROM localhost:1/nothing/here:1\n").await;
    let BaseImage { image, passing } = base(&missing);
    assert_eq!(
        (image, passing),
        ("localhost:1/nothing/here:1", true),
        "{missing:?}"
    );
    assert_eq!(missing.kind(), ErrorKind::Unavailable);
    let copied = bench
        .fails(&format!("FROM {BASE}\nCOPY nothing /x\n"))
        .await;
    assert!(matches!(copied, BuildError::Failed(_)), "{copied:?}");
    assert!(copied.to_string().contains("nothing"), "{copied}");
    let mut request = bench.request();
    request.dockerfile = "none/Dockerfile".parse().unwrap();
    let none = bench.build_as(&request).await.0.unwrap_err();
    assert!(
        none.to_string()
            .contains("none/Dockerfile: there is no such file"),
        "{none}"
    );
}

struct BaseImage<'e> {
    image: &'e str,
    passing: bool,
}

#[track_caller]
fn base(error: &BuildError) -> BaseImage<'_> {
    match error {
        BuildError::BaseImage { image, passing, .. } => BaseImage {
            image,
            passing: *passing,
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_outside_of_the_checkout_is_read() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    let outside = tempfile::tempdir().unwrap();
    let canary = outside.path().join("canary");
    std::fs::write(&canary, "CANARY-OF-THE-HOST").unwrap();
    let plain = format!("FROM {BASE}\nCOPY . /x\n");
    let at = |name: &str| bench.path().join(name);
    let refused = async |name: &str, why: &str| {
        let error = bench.fails(&plain).await.to_string();
        assert!(
            error.contains(name) && error.contains(why),
            "{name}: {error}"
        );
        std::fs::remove_file(at(name)).unwrap();
    };
    symlink("../canary", at("up")).unwrap();
    refused("up", "leaves the build context").await;
    std::fs::create_dir(at("dir")).unwrap();
    symlink("x/../../../canary", at("dir/up")).unwrap();
    refused("dir/up", "leaves the build context").await;
    std::fs::hard_link(&canary, at("hard")).unwrap();
    refused("hard", "second name").await;
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    refused("socket", "only files, folders and links").await;
    // A link that begins at the root means the root of the image, for COPY the context.
    symlink(&canary, at("rooted")).unwrap();
    symlink(outside.path(), at("folder")).unwrap();
    for copy in [
        "COPY rooted /got",
        "COPY folder/canary /got",
        "COPY folder /got",
        "ADD rooted /got",
    ] {
        let (_, lines) = bench
            .build(&format!(
                "FROM {BASE}\n{copy}\nRUN find /got | xargs cat; true\n"
            ))
            .await;
        assert!(
            !lines.iter().any(|(_, text)| text.contains("CANARY")),
            "{copy}: {lines:#?}"
        );
    }
    // Neither by a mount of a command, nor as an image, whatever the engine would do.
    let planted = format!(
        "FROM {BASE} AS evil\nRUN ln -s {} /s\nFROM {BASE}\nRUN --mount=type=bind,from=evil,source=/s,target=/h cat /h/canary\n",
        outside.path().display()
    );
    let cache = format!(
        "RUN --mount=type=cache,id=../../..{},target=/h cat /h/canary",
        outside.path().display()
    );
    let bind = "RUN --mount=type=bind,source=folder,target=/h cat /h/canary".to_owned();
    for text in [
        planted,
        format!("FROM {BASE}\n{cache}\n"),
        format!("FROM {BASE}\n{bind}\n"),
    ] {
        let (outcome, lines) = bench.build(&text).await;
        assert!(
            !lines.iter().any(|(_, text)| text.contains("CANARY")),
            "{text}: {lines:#?}"
        );
        assert!(outcome.is_err(), "{text}");
    }
    let archive = outside.path().join("image.tar");
    bench
        .setup
        .podman
        .run(&["save", "-o", archive.to_str().unwrap(), BASE]);
    let host = format!("ARG A=docker-arch\nFROM ${{A}}ive:{}\n", archive.display());
    let error = bench.fails(&host).await;
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    // A cache is the project's own, from one build to the next.
    let cached = |command: &str| {
        format!("FROM {BASE}\nRUN --mount=type=cache,id=words,target=/h {command}\n")
    };
    let mark = outside
        .path()
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    bench
        .builds(&cached(&format!("echo {mark} > /h/mark")))
        .await;
    let (_, lines) = bench
        .builds(&cached(&format!("cat /h/mark # {mark}")))
        .await;
    assert_eq!(ran(&lines, &mark), 1, "{lines:#?}");
    let mut other = bench.request();
    other.project = "other".parse().unwrap();
    let (outcome, lines) = bench.build_as(&other).await;
    assert!(
        outcome.is_err() && !lines.iter().any(|(_, text)| *text == mark),
        "{lines:#?}"
    );
    // Neither the Dockerfile, nor the patterns, nor the context are read through a link.
    let mut request = bench.request();
    for (name, write) in [("linked.Dockerfile", true), ("folder/canary", false)] {
        if write {
            symlink(&canary, at(name)).unwrap();
        }
        request.dockerfile = name.parse().unwrap();
        let error = bench.build_as(&request).await.0.unwrap_err().to_string();
        assert!(
            error.contains("leads out of the repository") && !error.contains("CANARY"),
            "{error}"
        );
    }
    request.dockerfile = "Dockerfile".parse().unwrap();
    request.context = Some("folder".parse().unwrap());
    let error = bench.build_as(&request).await.0.unwrap_err().to_string();
    assert!(error.contains("leads out of the repository"), "{error}");
    symlink(&canary, at(".dockerignore")).unwrap();
    let error = bench.fails(&plain).await.to_string();
    assert!(
        error.contains("leads out of the repository") && !error.contains("CANARY"),
        "{error}"
    );
    std::fs::remove_file(at(".dockerignore")).unwrap();
    // Inside of the repository it may be one.
    bench.write("docker/Dockerfile", &format!("FROM {BASE}\n"));
    symlink("docker/Dockerfile", at("inside.Dockerfile")).unwrap();
    let mut request = bench.request();
    request.dockerfile = "inside.Dockerfile".parse().unwrap();
    bench.builds_as(&request).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_files_are_built_once() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    let dockerfile = format!(
        "FROM {BASE}\nCOPY app.txt /\nRUN cat /proc/sys/kernel/random/uuid | tee /made\nCOPY . /all\n"
    );
    bench.write("app.txt", "1");
    bench.write("other.txt", "1");
    let (first, _) = bench.builds(&dockerfile).await;
    let other = Bench {
        checkout: tempfile::tempdir().unwrap(),
        ..bench
    };
    for name in ["other.txt", "app.txt"] {
        other.write(name, "1");
    }
    std::fs::set_permissions(
        other.path().join("app.txt"),
        std::fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    let mut request = other.request();
    other.write("Dockerfile", &dockerfile);
    request.time = Some(1_700_000_000);
    let (second, lines) = other.builds_as(&request).await;
    assert_eq!(first.id, second.id, "{lines:#?}");
    assert!(
        lines.iter().any(|line| line.contains("sing cache")),
        "{lines:#?}"
    );
    // A change costs what comes after it, and one of another label nothing that takes time.
    other.write("other.txt", "2");
    request.labels.insert("commit".into(), "2".into());
    let (third, lines) = other.builds_as(&request).await;
    assert_ne!(third.id, second.id);
    let uuid = |line: &String| line.len() == 36 && line.matches('-').count() == 4;
    assert!(!lines.iter().any(uuid), "the command ran again: {lines:#?}");
    request.cache = false;
    let (fresh, lines) = other.builds_as(&request).await;
    assert_ne!(fresh.id, third.id);
    assert!(lines.iter().any(uuid), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_build_ends_and_leaves_nothing() {
    let rule = CacheRule {
        newest: 0,
        keep: Duration::ZERO,
        bytes: 0,
    };
    let bench = Bench::with(|config| config.builds.cache = rule).await;
    let Some(bench) = bench else {
        return;
    };
    let marker = format!("{}.25", 5_000_000 + std::process::id());
    let base = bench.base_called("cancelled");
    bench.write(
        "Dockerfile",
        &format!(
            "FROM {base}\nRUN echo {marker} > /x\nRUN sleep {marker} & setsid sleep {marker} & wait\nRUN sleep {marker}\n"
        ),
    );
    let request = bench.request();
    let mut take = |_: BuildLine<'_>| {};
    {
        let building = bench.engine.build(&request, &mut take);
        tokio::pin!(building);
        while !alive_with(&marker) {
            tokio::select! {
                ended = &mut building => panic!("{ended:?}"),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    }
    bench.until_nothing_is_left("cancelled").await;
    assert!(!alive_with(&marker), "its commands live");
    // What it had built until then is known, and goes by the rule of the cache.
    let mut pruned = 0;
    for _ in 0..500 {
        pruned += bench.engine.prune_builds().await.unwrap().images;
        if pruned > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(pruned, 1);
    // The turn is free again.
    bench.builds(&format!("FROM {BASE}\nRUN true\n")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_has_limits_of_its_own() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    let eats = format!(
        "FROM {BASE}\nRUN true\nRUN echo eats; x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo had\n"
    );
    bench.write("Dockerfile", &eats);
    let mut request = bench.request();
    request.limits.memory_bytes = Some(48 << 20);
    let (outcome, lines) = bench.build_as(&request).await;
    let error = outcome.unwrap_err();
    assert!(
        matches!(error, BuildError::OutOfMemory { limit, .. } if limit == 48 << 20),
        "{error:?} {lines:#?}"
    );
    // Also in the second command: what an engine makes for one is not all there is.
    let forks = format!(
        "FROM {BASE}\nRUN true\nRUN n=0; while [ $n -lt 60 ]; do sleep 20 & n=$((n+1)); done 2>&1; echo \"made $(ls -d /proc/[0-9]* | wc -l)\"; kill $(jobs -p)\n"
    );
    bench.write("Dockerfile", &forks);
    let mut request = bench.request();
    request.limits.pids = Some(24);
    let (_, lines) = bench.build_as(&request).await;
    let made = lines
        .iter()
        .find_map(|(_, text)| text.strip_prefix("made ")?.parse::<u32>().ok());
    assert!(made.is_none_or(|made| made <= 24), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_is_in_a_network_of_its_own() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let dockerfile = format!(
        "FROM {BASE}\nRUN ip -o -4 addr | awk '{{print \"address \" $4}}'; nc -w 2 127.0.0.1 {port} </dev/null && echo reached || echo alone\n"
    );
    let (_, lines) = bench.builds(&dockerfile).await;
    assert_eq!(ran(&lines, "alone"), 1, "{lines:#?}");
    let addresses = |lines: &[String]| {
        lines
            .iter()
            .filter(|line| line.starts_with("address "))
            .count()
    };
    assert_eq!(addresses(&lines), 2, "its own and the loopback: {lines:#?}");
    let host = bench
        .fails(&format!("FROM {BASE}\nRUN --network=host true\n"))
        .await;
    assert_eq!(host.kind(), ErrorKind::Forbidden, "{host}");
    assert!(host.to_string().starts_with("Dockerfile:2: "), "{host}");
    // Also when a base image brings it.
    let mut onbuild = bench.request();
    bench.write("Dockerfile", &format!("FROM {BASE}\nENV A=b\n"));
    let (base, _) = bench.builds_as(&onbuild).await;
    let change = [
        "--change",
        "ONBUILD RUN --network=host echo reached the host",
    ];
    let made = bench.setup.podman.run(&["create", base.id.hex(), "true"]);
    let commit = [
        "commit",
        "--format=docker",
        change[0],
        change[1],
        &made,
        "localhost/onbuild:1",
    ];
    bench.setup.podman.run(&commit);
    bench.setup.podman.run(&["rm", &made]);
    bench.write("Dockerfile", "FROM localhost/onbuild:1\n");
    onbuild.cache = false;
    let (outcome, lines) = bench.build_as(&onbuild).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}: {lines:#?}");
    bench.write("Dockerfile", &dockerfile);
    let mut request = bench.request();
    request.network = false;
    request.cache = false;
    let (_, lines) = bench.builds_as(&request).await;
    assert_eq!(addresses(&lines), 1, "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_builds_at_once_take_turns_or_run_beside_each_other() {
    let Some(bench) = Bench::with(|config| config.builds.at_once = 1).await else {
        return;
    };
    let dockerfile = |name: &str| format!("FROM {BASE}\nRUN echo {name}; sleep 1\n");
    bench.write("one/Dockerfile", &dockerfile("one"));
    bench.write("two/Dockerfile", &dockerfile("two"));
    let request = |name: &str| {
        let mut request = bench.request();
        request.source = bench.path().join(name);
        request
    };
    let (one, two) = (request("one"), request("two"));
    let (one, two) = tokio::join!(bench.build_as(&one), bench.build_as(&two));
    assert!(one.0.is_ok() && two.0.is_ok(), "{one:?} {two:?}");
    let waited = |lines: &[(BuildSource, String)]| {
        lines
            .iter()
            .any(|(_, text)| text.contains("waiting for another build"))
    };
    assert!(waited(&one.1) != waited(&two.1), "{one:?} {two:?}");
    let Some(bench) = Bench::new().await else {
        return;
    };
    bench.write("one/Dockerfile", &dockerfile("three"));
    bench.write("two/Dockerfile", &dockerfile("four"));
    let request = |name: &str| {
        let mut request = bench.request();
        request.source = bench.path().join(name);
        request
    };
    let (one, two) = (request("one"), request("two"));
    let (one, two) = tokio::join!(bench.build_as(&one), bench.build_as(&two));
    assert!(one.0.is_ok() && two.0.is_ok(), "{one:?} {two:?}");
    assert!(!waited(&one.1) && !waited(&two.1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_dies_in_a_build_can_be_asked_again() {
    let Some(podman) = ondol_testing::engine::podman() else {
        return;
    };
    let mut service = podman.second();
    let setup = Setup::at(&service.socket).unwrap();
    let Some(bench) = Bench::of(setup, |_| {}).await else {
        return;
    };
    let marker = format!("{}.75", 6_000_000 + std::process::id());
    bench.write("Dockerfile", &format!("FROM {BASE}\nRUN sleep {marker}\n"));
    let request = bench.request();
    let building = bench.build_as(&request);
    let killing = async {
        while !alive_with(&marker) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        service.end();
    };
    let ((outcome, _), ()) = tokio::join!(building, killing);
    let error = outcome.unwrap_err();
    assert!(error.is_infrastructure(), "{error:?}");
    assert!(!alive_with(&marker), "its commands outlived it");
    let away = bench.build_as(&request).await.0.unwrap_err();
    assert!(away.is_infrastructure(), "{away:?}");
    service.start();
    bench
        .builds(&format!("FROM {BASE}\nRUN echo again\n"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_has_a_floor_and_a_ceiling_and_takes_nothing_of_others() {
    let Some(bench) = Bench::with(|config| {
        config.builds.cache = CacheRule {
            newest: 1,
            keep: Duration::ZERO,
            bytes: 0,
        };
    })
    .await
    else {
        return;
    };
    let exists = |id: &str| {
        let listed = bench
            .setup
            .podman
            .run(&["images", "--all", "--no-trunc", "-q"]);
        listed.contains(id)
    };
    let mut built = Vec::new();
    for name in ["first", "second", "third"] {
        let dockerfile = format!("FROM {BASE}\nRUN echo cache-{name} > /name\nRUN echo and more\n");
        built.push(bench.builds(&dockerfile).await.0.id);
    }
    // Somebody else uses one of them, and has one that looks like a leftover.
    let podman = bench.setup.podman;
    podman.run(&["tag", built[1].hex(), "localhost/of-somebody:1"]);
    podman.run(&["tag", BASE, "localhost/of-somebody:2"]);
    let pruned = bench.engine.prune_builds().await.unwrap();
    assert!(pruned.images >= 2, "{pruned:?}");
    assert!(!exists(built[0].hex()), "the oldest");
    assert!(exists(built[1].hex()), "named by somebody");
    assert!(exists(built[2].hex()), "the newest");
    assert!(exists(TestImage::get().digest().hex()), "the base");
    let dockerfile = format!("FROM {BASE}\nRUN echo cache-third > /name\nRUN echo and more\n");
    let (again, lines) = bench.builds(&dockerfile).await;
    assert_eq!(again.id, built[2], "{lines:#?}");
    assert_eq!(bench.engine.prune_builds().await.unwrap().images, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_control_plane_was_building_is_ended() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    let (_, lines) = bench
        .builds(&format!("FROM {BASE}\nRUN echo a build\n"))
        .await;
    let installation = lines
        .iter()
        .find_map(|line| {
            line.strip_prefix("COMMIT localhost/ondol-")?
                .split('/')
                .next()
        })
        .unwrap();
    let v1 = Path::new("/sys/fs/cgroup/pids");
    let root = if v1.is_dir() {
        v1
    } else {
        Path::new("/sys/fs/cgroup")
    };
    // Of this installation and of another one, both of a process that is not this one.
    let mut commands = Vec::new();
    for name in [installation, "0ther"] {
        let group = root.join(format!("ondol-build-{name}-7-1"));
        std::fs::create_dir(&group).unwrap();
        let mut command = std::process::Command::new("sleep");
        let child = command.arg("600").spawn().unwrap();
        std::fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
        commands.push((group, child));
    }
    bench.engine.prune_builds().await.unwrap();
    let (other, mut of_other) = commands.pop().unwrap();
    let (own, mut of_own) = commands.pop().unwrap();
    let lives = of_other.try_wait().unwrap().is_none();
    of_other.kill().unwrap();
    of_other.wait().unwrap();
    let _ = std::fs::remove_dir(other);
    assert!(lives, "another installation's build was ended");
    assert!(!of_own.wait().unwrap().success());
    assert!(!own.exists());
}
