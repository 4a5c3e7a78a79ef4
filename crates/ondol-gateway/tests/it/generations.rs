//! Snapshots: fenced, durable, and good enough to start from alone.

use std::time::Duration;

use http::{Request, StatusCode};
use ondol_gateway::{GatewayControl, GatewayError, Listen, RunningGateway, Snapshot};
use ondol_types::{Classified, EnvironmentName, ReleaseId};

use crate::support::*;

fn restart(fixture: &Fixture) -> RunningGateway {
    RunningGateway::start(config(
        fixture.dir.path(),
        Listen::Address("127.0.0.1:0".parse().unwrap()),
    ))
    .unwrap()
}

fn end(mut fixture: Fixture) -> Fixture {
    if let Some(gateway) = fixture.gateway.take() {
        gateway.retire(Duration::ZERO);
        gateway.join();
    }
    fixture
}

#[tokio::test]
async fn older_generations_and_reused_numbers_are_refused() {
    let app = App::start("a").await;
    let fixture = Fixture::start();
    let five = snapshot(5, &[("r1", 1, &[app.address])]);
    fixture.control.apply(&five).await.unwrap();
    let error = fixture
        .control
        .apply(&Snapshot::empty(4))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            GatewayError::StaleGeneration {
                offered: 4,
                current: 5
            }
        ),
        "{error}"
    );
    let error = fixture
        .control
        .apply(&Snapshot::empty(5))
        .await
        .unwrap_err();
    assert!(
        matches!(error, GatewayError::GenerationReused { generation: 5 }),
        "{error}"
    );
    let again = fixture.control.apply(&five).await.unwrap();
    assert_eq!((again.generation, again.gateways.len()), (5, 1));
    assert_eq!(fixture.get("web.localhost", "/").await.0, StatusCode::OK);
    fixture
        .control
        .wait_generation(5, Duration::from_secs(5))
        .await
        .unwrap();
    let mut moved = snapshot(6, &[("other", 1, &[app.address])]);
    let error = fixture.control.apply(&moved).await.unwrap_err();
    assert!(error.to_string().contains("was known at"), "{error}");
    moved.routes[0].hosts.clear();
    let error = fixture.control.apply(&moved).await.unwrap_err();
    assert_eq!(error.code(), "gateway.snapshot.invalid");
}

#[tokio::test]
async fn a_gateway_starts_from_its_snapshot_alone_and_keeps_counting() {
    let app = App::start("a").await;
    let fixture = Fixture::serving(&app).await;
    for _ in 0..10 {
        fixture.get("web.localhost", "/").await;
    }
    let fixture = end(fixture);
    let nothing = Snapshot::empty(9);
    let none = fixture.control.apply(&nothing);
    assert!(matches!(
        tokio::time::timeout(Duration::from_secs(30), none)
            .await
            .unwrap(),
        Err(GatewayError::NoGateway { .. })
    ));
    let gateway = restart(&fixture);
    assert_eq!(gateway.generation(), 1);
    let mut client = Client::connect(gateway.address()).await;
    assert_eq!(client.get("/").await.unwrap().0, StatusCode::OK);
    until("the counters of both", || async {
        let counters = fixture.control.counters().await.unwrap();
        let row = counters.release(
            &project(),
            &EnvironmentName::production(),
            ReleaseId::derived("r1"),
        );
        row.is_some_and(|row| row.requests() == 11 && row.durations.count() == 11)
    })
    .await;
    gateway.retire(Duration::ZERO);
    gateway.join();
}

#[tokio::test]
async fn a_damaged_snapshot_is_reported_and_the_one_before_serves() {
    let app = App::start("a").await;
    let fixture = Fixture::serving(&app).await;
    fixture
        .control
        .apply(&snapshot(2, &[("r1", 1, &[])]))
        .await
        .unwrap();
    let fixture = end(fixture);
    let path = fixture.dir.path().join("gateway-snapshot.json");
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    let gateway = restart(&fixture);
    let status = fixture.control.status().await.unwrap().remove(0);
    assert_eq!(status.generation, 1);
    assert!(status.problem.unwrap().contains("is damaged"));
    let mut client = Client::connect(gateway.address()).await;
    assert_eq!(client.get("/").await.unwrap().0, StatusCode::OK);
    fixture
        .control
        .apply(&snapshot(3, &[("r1", 1, &[])]))
        .await
        .unwrap();
    assert_eq!(fixture.control.status().await.unwrap()[0].problem, None);
    gateway.retire(Duration::ZERO);
    gateway.join();
}

#[tokio::test]
async fn two_living_gateways_both_acknowledge_and_are_summed() {
    let app = App::start("a").await;
    let fixture = Fixture::serving(&app).await;
    let second = restart(&fixture);
    let applied = fixture
        .control
        .apply(&snapshot(2, &[("r1", 1, &[app.address])]))
        .await
        .unwrap();
    assert_eq!(applied.gateways.len(), 2);
    fixture.get("web.localhost", "/").await;
    let mut client = Client::connect(second.address()).await;
    client.get("/").await.unwrap();
    let slow = tokio::spawn(async move { client.get("/slow?ms=1500").await.unwrap() });
    until("the sum", || async {
        let status = fixture
            .control
            .drain_status(replica_id(app.address))
            .await
            .unwrap();
        let counters = fixture.control.counters().await.unwrap();
        counters.releases[0].requests() == 2 && status.in_flight == 1
    })
    .await;
    assert_eq!(slow.await.unwrap().0, StatusCode::OK);
    second.retire(Duration::ZERO);
    second.join();
    for _ in 0..20 {
        let counters = fixture.control.counters().await.unwrap();
        assert_eq!(
            counters.releases[0].requests(),
            3,
            "nothing is lost or doubled while counts change hands"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_retiring_gateway_lets_idle_connections_send_one_more_request() {
    let app = App::start("a").await;
    let mut fixture =
        Fixture::with(|config| config.limits.retire_idle = Duration::from_millis(1_500));
    fixture
        .control
        .apply(&snapshot(1, &[("r1", 1, &[app.address])]))
        .await
        .unwrap();
    let (mut first, mut idle, mut slow) = (
        Client::connect(fixture.address).await,
        Client::connect(fixture.address).await,
        Client::connect(fixture.address).await,
    );
    let mut h2 = http2(fixture.address).await;
    for client in [&mut first, &mut idle, &mut slow] {
        client.get("/").await.unwrap();
    }
    let request = || {
        Request::get("http://web.localhost/slow?ms=400")
            .body(Frames::empty())
            .unwrap()
    };
    let h2_answer = h2.send_request(request());
    let slow = tokio::spawn(async move { slow.get("/slow?ms=2500").await.unwrap() });
    until("the requests", || async {
        app.requests.load(std::sync::atomic::Ordering::SeqCst) == 5
    })
    .await;
    let gateway = fixture.gateway.take().unwrap();
    gateway.retire(Duration::from_secs(30));
    until("the retirement", || async {
        fixture
            .control
            .status()
            .await
            .unwrap()
            .iter()
            .all(|status| status.retiring)
    })
    .await;
    let (status, headers, _) = first.get("/").await.unwrap();
    assert_eq!(
        (status, headers["connection"].as_bytes()),
        (StatusCode::OK, &b"close"[..])
    );
    assert_eq!(h2_answer.await.unwrap().status(), StatusCode::OK);
    until("the idle connection's end", || async { idle.is_closed() }).await;
    assert_eq!(slow.await.unwrap().2, "a");
    tokio::task::spawn_blocking(|| gateway.join())
        .await
        .unwrap();
    assert!(fixture.control.status().await.unwrap().is_empty());
    let control = GatewayControl::new(fixture.dir.path()).unwrap();
    assert_eq!(control.counters().await.unwrap().releases[0].requests(), 6);
}
