//! No request is lost when routes change, and a replica is drained only when it really is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Frame;
use ondol_gateway::DrainPolicy;

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_swaps_under_load_fail_no_request() {
    let mut current = App::start("app").await;
    let fixture = Fixture::serving(&current).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (done, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut load = tokio::task::JoinSet::new();
    for kind in 0..12 {
        let (stop, done, failed, address) =
            (stop.clone(), done.clone(), failed.clone(), fixture.address);
        load.spawn(async move {
            let mut client = Client::connect(address).await;
            while !stop.load(Ordering::SeqCst) {
                let request = match kind % 4 {
                    0 | 1 => Request::get("/")
                        .header("host", "web.localhost")
                        .body(Frames::empty()),
                    2 => Request::get("/slow?ms=60")
                        .header("host", "web.localhost")
                        .body(Frames::empty()),
                    _ => {
                        let frames = (0..4)
                            .map(|_| Frame::data(Bytes::from_static(&[b'x'; 2_000])))
                            .collect();
                        let body = Frames::new(frames).paced(Duration::from_millis(3));
                        Request::post("/count")
                            .header("host", "web.localhost")
                            .body(body)
                    }
                };
                match client.send(request.unwrap()).await {
                    Ok((StatusCode::OK, _, _)) => done.fetch_add(1, Ordering::SeqCst),
                    _ => {
                        client = Client::connect(address).await;
                        failed.fetch_add(1, Ordering::SeqCst)
                    }
                };
            }
        });
    }
    for generation in 2..102 {
        let next = App::start("app").await;
        fixture
            .control
            .apply(&snapshot(generation, &[("r1", 1, &[next.address])]))
            .await
            .unwrap();
        let old = replica_id(current.address);
        // The contract: as soon as the drain says so, the old one is gone, hard.
        until("the drain", || async {
            fixture
                .control
                .drain_status(old)
                .await
                .unwrap()
                .is_drained()
        })
        .await;
        assert_eq!(
            current.requests.load(Ordering::SeqCst),
            current.finished.load(Ordering::SeqCst)
        );
        current = next;
    }
    stop.store(true, Ordering::SeqCst);
    while load.join_next().await.is_some() {}
    assert_eq!(failed.load(Ordering::SeqCst), 0);
    assert!(
        done.load(Ordering::SeqCst) > 300,
        "{} requests",
        done.load(Ordering::SeqCst)
    );
}

#[tokio::test]
async fn a_slow_request_is_waited_for() {
    let (old, new) = (App::start("old").await, App::start("new").await);
    let fixture = Fixture::serving(&old).await;
    let mut client = Client::connect(fixture.address).await;
    let slow = tokio::spawn(async move { client.get("/slow?ms=2500").await.unwrap() });
    until("the request", || async {
        old.requests.load(Ordering::SeqCst) == 1
    })
    .await;
    fixture
        .control
        .apply(&snapshot(2, &[("r2", 1, &[new.address])]))
        .await
        .unwrap();
    let status = fixture
        .control
        .drain_status(replica_id(old.address))
        .await
        .unwrap();
    assert_eq!((status.routed, status.in_flight), (false, 1));
    assert_eq!(fixture.get("web.localhost", "/").await.1["x-app"], "new");
    assert_eq!(slow.await.unwrap().2, "old");
    until("the drain", || async {
        fixture
            .control
            .drain_status(replica_id(old.address))
            .await
            .unwrap()
            .is_drained()
    })
    .await;
}

#[tokio::test]
async fn the_deadline_cuts_what_does_not_end() {
    let (old, new) = (App::start("old").await, App::start("new").await);
    let fixture = Fixture::serving(&old).await;
    let (mut waiting, mut streaming) = (
        Client::connect(fixture.address).await,
        Client::connect(fixture.address).await,
    );
    let waiting = tokio::spawn(async move { waiting.get("/slow?ms=60000").await });
    let request = Request::get("/stream?n=100000&ms=20")
        .header("host", "web.localhost")
        .body(Frames::empty())
        .unwrap();
    let streaming = streaming.begin(request).await.unwrap();
    let mut h2 = http2(fixture.address).await;
    let third = h2.send_request(
        Request::get("http://web.localhost/slow?ms=60000")
            .body(Frames::empty())
            .unwrap(),
    );
    let third = tokio::spawn(third);
    until("the requests", || async {
        old.requests.load(Ordering::SeqCst) == 3
    })
    .await;
    let mut next = snapshot(2, &[("r2", 1, &[new.address])]);
    next.drain = DrainPolicy {
        deadline_ms: 300,
        websocket_grace_ms: 100,
    };
    fixture.control.apply(&next).await.unwrap();
    assert_eq!(
        waiting.await.unwrap().unwrap().0,
        StatusCode::GATEWAY_TIMEOUT
    );
    assert_eq!(
        third.await.unwrap().unwrap().status(),
        StatusCode::GATEWAY_TIMEOUT
    );
    until("the drain", || async {
        fixture
            .control
            .drain_status(replica_id(old.address))
            .await
            .unwrap()
            .is_drained()
    })
    .await;
    let mut body = streaming.into_body();
    loop {
        match std::future::poll_fn(|cx| {
            http_body::Body::poll_frame(std::pin::Pin::new(&mut body), cx)
        })
        .await
        {
            Some(Ok(_)) => {}
            Some(Err(_)) => break,
            None => panic!("the stream looked complete"),
        }
    }
}

#[tokio::test]
async fn a_replica_that_returns_is_not_cut() {
    let (old, new) = (App::start("old").await, App::start("new").await);
    let fixture = Fixture::serving(&old).await;
    let mut client = Client::connect(fixture.address).await;
    let slow = tokio::spawn(async move { client.get("/slow?ms=2500").await.unwrap() });
    until("the request", || async {
        old.requests.load(Ordering::SeqCst) == 1
    })
    .await;
    let mut next = snapshot(2, &[("r2", 1, &[new.address])]);
    next.drain = DrainPolicy {
        deadline_ms: 800,
        websocket_grace_ms: 0,
    };
    fixture.control.apply(&next).await.unwrap();
    fixture
        .control
        .apply(&snapshot(3, &[("r1", 1, &[old.address])]))
        .await
        .unwrap();
    assert_eq!(slow.await.unwrap().0, StatusCode::OK);
}
