//! The scraper against targets on loopback: good ones, endless ones, ones that go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use ondol_telemetry::http::Targets;
use ondol_telemetry::ingest::push::Groups;
use ondol_telemetry::ingest::scrape::{
    Exposition, Place, ScrapeConfig, Scraper, StaticTargets, Target, TargetSource,
};
use ondol_telemetry::ingest::text::Format;
use ondol_telemetry::series::{Labels, is_stale_nan};
use ondol_types::SystemClock;
use tokio::sync::watch;

use crate::memory::Memory;

/// A target's server.
async fn target(routes: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    at.to_string()
}

/// Waits until something holds; a test that waits in vain fails.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} never came");
}

struct Running {
    store: Arc<Memory>,
    scraper: Scraper,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

fn run(source: impl TargetSource, change: impl FnOnce(&mut ScrapeConfig)) -> Running {
    let store = Arc::new(Memory::default());
    let mut config = ScrapeConfig {
        interval: Duration::from_millis(200),
        timeout: Duration::from_millis(200),
        discovery: Duration::from_millis(20),
        ..ScrapeConfig::default()
    };
    change(&mut config);
    let scraper = Scraper::new(
        vec![Arc::new(source)],
        store.clone(),
        Arc::new(SystemClock),
        config,
    );
    let (stop, receiver) = watch::channel(false);
    let task = tokio::spawn(scraper.clone().run(receiver));
    Running {
        store,
        scraper,
        stop,
        task,
    }
}

/// Targets that can be taken away.
struct Changing(Arc<Mutex<Vec<Target>>>);

#[async_trait]
impl TargetSource for Changing {
    async fn targets(&self) -> Vec<Target> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_is_scraped_ended_when_it_goes_and_when_the_scraper_stops() {
    let routes = Router::new().route(
        "/metrics",
        get(|| async {
            (
                [("content-type", "application/openmetrics-text; version=1.0.0")],
                "# TYPE jobs counter\njobs_total{state=\"done\",project=\"mine\"} 3 # {trace_id=\"ab\"} 1\n# EOF\n",
            )
        }),
    );
    let at = target(routes).await;
    let place = |path: &str| Place::Http(format!("http://{at}{path}"));
    let first = Target::new("app", "app:1", place("/metrics"))
        .label("project", "web")
        .label("replica", "0");
    let second = Target::new("app", "app:2", place("/metrics"));
    let targets = Arc::new(Mutex::new(vec![first, second]));
    let running = run(Changing(targets.clone()), |_| {});
    let jobs = r#"{__name__="jobs_total", exported_project="mine", instance="app:1", job="app", project="web", replica="0", state="done"}"#;
    let up = r#"{__name__="up", instance="app:1", job="app", project="web", replica="0"}"#;
    let other = r#"{__name__="up", instance="app:2", job="app"}"#;
    until("a second sample", || {
        running.store.floats(jobs).len() >= 2 && running.store.floats(other).len() >= 2
    })
    .await;
    assert!(
        running
            .store
            .floats(up)
            .iter()
            .all(|(_, value)| *value == 1.0)
    );
    let seen = r#"{__name__="scrape_samples_scraped", instance="app:2", job="app"}"#;
    assert_eq!(running.store.floats(seen)[0].1, 1.0);
    let added = r#"{__name__="scrape_series_added", instance="app:2", job="app"}"#;
    assert_eq!(running.store.floats(added)[0].1, 1.0);
    assert_eq!(running.store.floats(added)[1].1, 0.0);
    assert!(
        running
            .scraper
            .targets()
            .iter()
            .all(|target| target.error.is_none())
    );

    targets.lock().unwrap().remove(0);
    let ended = |series: &str| {
        let floats = running.store.floats(series);
        floats.last().is_some_and(|(_, value)| is_stale_nan(*value))
    };
    until("the end of a target", || ended(jobs) && ended(up)).await;
    let count = running.store.floats(jobs).len();
    assert!(!ended(other));

    running.stop.send(true).unwrap();
    running.task.await.unwrap();
    let floats = running.store.floats(other);
    assert!(floats.last().is_some_and(|(_, value)| is_stale_nan(*value)));
    assert_eq!(running.store.floats(jobs).len(), count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_fails_is_down_and_its_series_end() {
    let healthy = Arc::new(AtomicBool::new(true));
    let asked = healthy.clone();
    let routes = Router::new()
        .route(
            "/turns",
            get(move || {
                let healthy = asked.load(Ordering::Relaxed);
                async move {
                    if healthy {
                        "a 1\n"
                    } else {
                        "a 1\nno metric {\n"
                    }
                }
            }),
        )
        .route(
            "/endless",
            get(|| async {
                let line = || Ok::<_, std::convert::Infallible>(Bytes::from(vec![b'#'; 65_536]));
                Body::from_stream(futures_util::stream::repeat_with(line))
            }),
        )
        .route("/silent", get(std::future::pending::<&str>));
    let at = target(routes).await;
    let target = |name: &str| Target::new(name, "x", Place::Http(format!("http://{at}/{name}")));
    let targets = vec![target("turns"), target("endless"), target("silent")];
    let running = run(StaticTargets(targets), |config| config.max_body = 1 << 20);
    let up = |name: &str| format!(r#"{{__name__="up", instance="x", job="{name}"}}"#);
    let last = |series: &str| running.store.floats(series).last().map(|(_, value)| *value);
    until("the first scrapes", || {
        last(&up("turns")) == Some(1.0)
            && last(&up("endless")) == Some(0.0)
            && last(&up("silent")) == Some(0.0)
    })
    .await;
    healthy.store(false, Ordering::Relaxed);
    until("the failure", || last(&up("turns")) == Some(0.0)).await;
    let series = r#"{__name__="a", instance="x", job="turns"}"#;
    assert!(last(series).is_some_and(is_stale_nan));
    let states = running.scraper.targets();
    let error = |name: &str| {
        let state = states.iter().find(|state| state.pool == name).unwrap();
        state.error.clone().unwrap_or_default()
    };
    assert!(
        error("endless").contains("more than 1048576 bytes"),
        "{}",
        error("endless")
    );
    assert!(
        error("silent").contains("no answer within"),
        "{}",
        error("silent")
    );
    assert!(error("turns").contains("line 2"), "{}", error("turns"));
    running.task.abort();
}

/// Metrics of this process, and how often they were asked for.
struct Own;

#[async_trait]
impl Exposition for Own {
    async fn exposition(&self) -> String {
        "own 7\n".to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_metrics_and_need_not_is_nothing() {
    let at = target(Router::new().route("/metrics", get(|| async { "<html>a page</html>" }))).await;
    let mut page = Target::new("page", "x", Place::Http(format!("http://{at}/metrics")));
    page.optional = true;
    let own = Target::new("ondol", "self", Place::Own("ondol", Arc::new(Own)));
    let running = run(StaticTargets(vec![page, own]), |_| {});
    let series = r#"{__name__="own", instance="self", job="ondol"}"#;
    until("own metrics", || running.store.floats(series).len() >= 6).await;
    assert!(
        running
            .store
            .shown()
            .iter()
            .all(|series| !series.contains("page"))
    );
    assert_eq!(running.scraper.targets().len(), 1);
    running.stop.send(true).unwrap();
    running.task.await.unwrap();
    assert!(
        running
            .store
            .shown()
            .iter()
            .all(|series| !series.contains("page"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pushed_is_scraped_with_its_own_labels_until_it_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let groups = Arc::new(Groups::open(folder.path()).unwrap());
    let labels = Labels::from_pairs([("job", "nightly"), ("project", "web")]);
    groups
        .push(&labels, "rows 5\n", Format::Prometheus, true, 1.0)
        .unwrap();
    let running = run(StaticTargets(vec![groups.target()]), |_| {});
    let rows = r#"{__name__="rows", job="nightly", project="web"}"#;
    until("what was pushed", || running.store.floats(rows).len() >= 2).await;
    assert!(
        running
            .store
            .floats(rows)
            .iter()
            .all(|(_, value)| *value == 5.0)
    );
    groups.delete(&labels).unwrap();
    until("its end", || {
        let floats = running.store.floats(rows);
        floats.last().is_some_and(|(_, value)| is_stale_nan(*value))
    })
    .await;
    running.task.abort();
}
