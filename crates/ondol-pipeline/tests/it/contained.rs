//! Steps in containers and services beside them, with a real engine: a Podman of this program's
//! own and images made of programs of this host. Nothing is pulled.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ondol_pipeline::model::{RunOutcome, StepState};
use ondol_testing::engine::{Podman, podman};
use ondol_types::{NoCrash, SystemClock};
use ondol_workload::container::{Address, ImageRef};
use ondol_workload::{ContainerConfig, ContainerEngine, Engines, ProcessEngine};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::image::{TestImage, TestImages};
use crate::world::{World, name, outcomes, service, worlds};

/// What steps run in, and what services are: its arguments are a script.
const IMAGE: &str = "localhost/ondol-steps-test:1";
const SCRIPTED: &str = "localhost/ondol-scripted-test:1";

async fn container_engine(world: &World, podman: &Podman) -> ContainerEngine {
    let address = Address::Unix(podman.socket().to_owned());
    let shim = env!("CARGO_BIN_EXE_ondol-step-shim-test");
    let mut config = ContainerConfig::new(world.root.join("containers"), shim, vec![address]);
    config.images = Arc::new(TestImages);
    config.shared_dirs = ["workloads", "cache"].map(|dir| shared(world, dir)).into();
    ContainerEngine::open(config, Arc::new(SystemClock), Arc::new(NoCrash))
        .await
        .unwrap()
}

fn shared(world: &World, dir: &str) -> PathBuf {
    let dir = world.root.join(dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Both engines over what is there already, as a new process of the control plane opens them.
async fn engines(world: &World, podman: &Podman) -> Engines {
    let shim = env!("CARGO_BIN_EXE_ondol-step-shim-test");
    let config = ondol_workload::Config::new(world.root.join("processes"), shim);
    let process = ProcessEngine::open(config, Arc::new(SystemClock), Arc::new(NoCrash))
        .await
        .unwrap();
    Engines::new(process, Some(container_engine(world, podman).await))
}

/// Gives the engine the images by name, once.
async fn images(world: &World, podman: &Podman) {
    static MADE: tokio::sync::Mutex<bool> = tokio::sync::Mutex::const_new(false);
    let mut made = MADE.lock().await;
    if *made {
        return;
    }
    let engine = container_engine(world, podman).await;
    let stored = ImageRef::Stored(TestImage::get().digest());
    engine.prepare_image(&stored).await.unwrap();
    let id = TestImage::get().stored.id().hex()[..12].to_owned();
    podman.run(&["tag", &id, IMAGE]);
    let limits = ["--ulimit", "nofile=100:100"];
    let create = [
        &["create", "--network", "none"],
        &limits[..],
        &["--entrypoint", "true", &id],
    ];
    let container = podman.run(&create.concat());
    let entrypoint = "ENTRYPOINT [\"/bin/sh\", \"-c\"]";
    podman.run(&[
        "commit", "--change", entrypoint, "--change", "CMD []", &container, SCRIPTED,
    ]);
    podman.run(&["rm", "-f", &container]);
    *made = true;
}

/// A world on SQLite whose steps really run; `None` where there is no Podman.
async fn real() -> Option<(World, &'static Podman)> {
    static FOUND: OnceLock<Option<&'static Podman>> = OnceLock::new();
    let podman = (*FOUND.get_or_init(podman))?;
    let mut world = worlds().await.remove(0);
    images(&world, podman).await;
    let engines = engines(&world, podman).await;
    world.use_engine(Arc::new(engines)).await;
    Some((world, podman))
}

/// The containers of this world that are there, running or not.
fn containers(world: &World, podman: &Podman) -> Vec<String> {
    let folder = world.root.join("containers").canonicalize().unwrap();
    let filter = format!("label=dev.ondol.directory={}", folder.display());
    let found = podman.run(&["ps", "-a", "--format", "{{.Names}}", "--filter", &filter]);
    found.lines().map(str::to_owned).collect()
}

async fn until_gone(world: &World, podman: &Podman) {
    for _ in 0..600 {
        if containers(world, podman).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!(
        "containers are still there: {:?}",
        containers(world, podman)
    );
}

fn web(script: &str) -> Value {
    json!({ "image": SCRIPTED, "args": [script], "port": 8080, "deadline": "20s" })
}

/// The resolver of the image's userland knows names only by way of `getent`.
const FETCH: &str = "fetch() { wget -q -O - http://$(getent hosts web | awk '{print $1}'):8080/; }";

const SERVE: &str =
    "mkdir /www; echo hello from $WHO > /www/index.html; exec httpd -f -p 8080 -h /www";

async fn artifact(world: &World, step: &str, path: &str) -> String {
    let run = world.newest().await.run.id;
    let (_, mut reader) = world
        .pipeline
        .artifact(&world.ctx, &run, &name(step), &name(path))
        .await
        .unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    text
}

/// The newest run has passed; otherwise what its steps said is shown.
async fn passed(world: &World) {
    let detail = world.newest().await;
    let mut said = String::new();
    for step in &detail.steps {
        let log = world.log(&detail, step.name.as_str()).await;
        said.push_str(&format!("{}: {:?}\n{log}\n", step.name, step.reason));
    }
    assert_eq!(detail.run.outcome, Some(RunOutcome::Success), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_in_an_image_has_its_services_and_leaves_what_it_wrote() {
    let Some((world, podman)) = real().await else {
        return;
    };
    let mut spec = service(&format!(
        "{FETCH}; test -e /bin/busybox; test ! -e deps; test -f commit; \
         fetch > got; echo $WEB_HOST:$WEB_PORT >> got; pwd >> got; id -u >> got; \
         echo '<testsuite><testcase name=\"inside\"/></testsuite>' > $ONDOL_REPORTS/a.xml; echo cached > $PIP_CACHE_DIR-x",
    ));
    spec["build"] = json!({ "install": { "run": "mkdir deps" }, "cache": ["deps"] });
    let mut beside = web(SERVE);
    beside["env"] = json!({ "WHO": "the test's own" });
    beside["health"] = json!(format!("{FETCH}; fetch"));
    spec["test"]["image"] = json!(IMAGE);
    spec["test"]["services"] = json!({ "web": beside });
    spec["test"]["artifacts"] = json!(["got"]);
    spec["steps"] = json!({
        // Neither the network of the other step nor a name in it is there.
        "apart": { "run": "! timeout 5 getent hosts web", "image": IMAGE, "needs": ["checkout"], "before": ["test"] },
        "process": {
            "run": "bash -c 'exec 3<>/dev/tcp/$WEB_HOST/$WEB_PORT; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3; cat <&3' | grep 'of a process'; grep hello got",
            "needs": ["test"], "services": { "web": { "image": SCRIPTED, "args": [SERVE], "port": 8080, "env": { "WHO": "of a process" } } },
        },
    });
    world.spec('a', spec);
    world.push('a').await;
    world.settle().await;
    let detail = world.newest().await;
    passed(&world).await;
    assert_eq!(
        artifact(&world, "test", "got").await,
        "hello from the test's own\nweb:8080\n/work\n0\n"
    );
    assert_eq!(detail.tests[0].tests, 1);
    assert!(
        world.root.join("cache/web/tools/pip-x").exists(),
        "caches are shared"
    );
    until_gone(&world, podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_end_with_their_step_however_it_ends() {
    let Some((world, podman)) = real().await else {
        return;
    };
    let step = |run: &str, beside: Value| json!({ "run": run, "image": IMAGE, "needs": ["checkout"], "services": { "web": beside } });
    let mut silent = web("echo not yet; sleep 300");
    silent["deadline"] = json!("2s");
    let mut spec = service("true");
    spec["steps"] = json!({
        "fails": step("exit 7", web(SERVE)),
        "silent": step("true", silent),
        "broken": step("true", web("echo bad config; exit 3")),
        "late": { "run": "sleep 300", "image": IMAGE, "needs": ["checkout"], "timeout": "3s", "services": { "web": web(SERVE) } },
    });
    world.spec('a', spec);
    world.push('a').await;
    world.settle().await;
    let detail = world.newest().await;
    let reason = |step: &str| {
        let found = detail
            .steps
            .iter()
            .find(|found| found.name.as_str() == step);
        found.unwrap().reason.clone().unwrap_or_default()
    };
    let found = outcomes(&detail);
    for expected in [
        "fails:failure",
        "silent:failure",
        "broken:failure",
        "late:timedOut",
    ] {
        assert!(
            found.contains(&expected.to_owned()),
            "{expected} of {found:?}: {}",
            reason(&expected[..4])
        );
    }
    assert!(
        reason("fails").contains("exited with 7"),
        "{}",
        reason("fails")
    );
    let silent = reason("silent");
    assert!(
        silent.contains("nothing listened on port 8080 within 2 s; it said: not yet"),
        "{silent}"
    );
    let broken = reason("broken");
    assert!(
        broken.contains("it exited with 3; it said: bad config"),
        "{broken}"
    );
    until_gone(&world, podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_control_plane_adopts_a_step_with_its_services_and_ends_both() {
    let Some((mut world, podman)) = real().await else {
        return;
    };
    let mut spec = service(&format!(
        "{FETCH}; until test -e go; do sleep 0.1; done; fetch | grep hello"
    ));
    spec["test"]["image"] = json!(IMAGE);
    spec["test"]["services"] = json!({ "web": web(SERVE) });
    world.spec('a', spec.clone());
    world.push('a').await;
    let running = async |world: &World| {
        let detail = world.newest().await;
        let step = detail
            .steps
            .iter()
            .find(|step| step.name.as_str() == "test");
        step.is_some_and(|step| step.state == StepState::Running)
    };
    world
        .until("the step runs", async || running(&world).await)
        .await;
    let before = containers(&world, podman);
    assert_eq!(before.len(), 2, "{before:?}");
    let again = engines(&world, podman).await;
    world.use_engine(Arc::new(again)).await;
    world.tick().await;
    let run = world.newest().await.run.id;
    std::fs::write(
        world
            .root
            .join(format!("workloads/run-{run}/steps/test/work/go")),
        "",
    )
    .unwrap();
    world.settle().await;
    let detail = world.newest().await;
    passed(&world).await;
    assert_eq!(detail.steps[1].attempt, 1);
    until_gone(&world, podman).await;

    // And one that is cancelled while it waits for a service that does not come.
    spec["test"]["services"]["web"] = web("sleep 300");
    spec["test"]["services"]["web"]["deadline"] = json!("4m");
    world.spec('b', spec);
    world.push('b').await;
    world
        .until("the service runs", async || {
            containers(&world, podman).len() == 1
        })
        .await;
    let run = world.newest().await.run.id;
    world.pipeline.cancel(&world.ctx, &run).await.unwrap();
    world.settle().await;
    let detail = world.newest().await;
    assert_eq!(detail.run.outcome, Some(RunOutcome::Cancelled));
    assert!(outcomes(&detail).contains(&"test:cancelled".to_owned()));
    until_gone(&world, podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_engine_the_package_to_install_is_named() {
    for world in worlds().await {
        let mut spec = service("true");
        spec["test"]["image"] = json!("docker.io/library/python:3.13");
        world.spec('a', spec);
        world.push('a').await;
        world.settle().await;
        let reason = world.newest().await.run.reason.unwrap();
        assert!(
            reason.contains("`test` runs in the image `docker.io/library/python:3.13`")
                && reason.contains("`podman`"),
            "{reason}"
        );
    }
}
