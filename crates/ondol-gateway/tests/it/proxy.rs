//! What passes, how it looks on the other side, and where it goes.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body::Frame;
use ondol_gateway::{RouteState, Snapshot};
use ondol_types::{EnvironmentName, ReleaseId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::*;

#[tokio::test]
async fn hosts_and_prefixes_find_their_application() {
    let app = App::start("a").await;
    let fixture = Fixture::serving(&app).await;
    for host in ["web.localhost", "web.localhost:8080", "WEB.LocalHost"] {
        let (status, headers, body) = fixture.get(host, "/x").await;
        assert_eq!(
            (status, &body[..]),
            (StatusCode::OK, &b"a /x"[..]),
            "{host}"
        );
        assert!(headers.contains_key("x-request-id"));
    }
    let (_, _, body) = fixture.get("localhost", "/apps/web/x?y=1").await;
    assert_eq!(body, "a /x");
    let (status, headers, _) = fixture.get("localhost", "/apps/web?y=1").await;
    assert_eq!(
        (status, &headers["location"]),
        (
            StatusCode::PERMANENT_REDIRECT,
            &HeaderValue::from_static("/apps/web/?y=1")
        )
    );
    let (status, headers, _) = fixture.get("localhost", "/apps/web/redirect").await;
    assert_eq!(
        (status, &headers["location"]),
        (
            StatusCode::FOUND,
            &HeaderValue::from_static("/apps/web/login")
        )
    );
}

#[tokio::test]
async fn unknown_places_get_help_without_a_list_of_projects() {
    let app = App::start("a").await;
    let fixture = Fixture::serving(&app).await;
    for (host, path) in [
        ("other.localhost", "/"),
        ("localhost", "/"),
        ("localhost", "/apps/other/"),
        ("evil.example", "/apps/web/"),
    ] {
        let (status, _, body) = fixture.get(host, path).await;
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert_eq!(status, StatusCode::NOT_FOUND, "{host} {path}");
        assert!(
            text.contains("gateway.route.unknown") && !text.contains("web"),
            "{text}"
        );
    }
    assert_eq!(app.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn without_a_replica_the_answer_is_503_and_when_to_come_back() {
    let fixture = Fixture::start();
    fixture
        .control
        .apply(&snapshot(1, &[("r1", 1, &[])]))
        .await
        .unwrap();
    let (status, headers, _) = fixture.get("web.localhost", "/").await;
    assert_eq!(
        (status, headers.contains_key("retry-after")),
        (StatusCode::SERVICE_UNAVAILABLE, true)
    );
    // A port nobody listens on: bound and released.
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    fixture
        .control
        .apply(&snapshot(2, &[("r1", 1, &[gone])]))
        .await
        .unwrap();
    assert_eq!(
        fixture.get("web.localhost", "/").await.0,
        StatusCode::BAD_GATEWAY
    );
}

#[tokio::test]
async fn a_replica_that_refuses_connections_is_passed_over() {
    let app = App::start("a").await;
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let fixture = Fixture::start();
    fixture
        .control
        .apply(&snapshot(1, &[("r1", 1, &[gone, app.address])]))
        .await
        .unwrap();
    for _ in 0..20 {
        let post = Request::post("/count")
            .header("host", "web.localhost")
            .body(Frames::text("12345"))
            .unwrap();
        let (status, _, body) = fixture.send(post).await;
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"5"[..]));
    }
}

#[tokio::test]
async fn heads_are_cleaned_in_both_directions() {
    let app = App::start("a").await;
    let fixture = Fixture::serving(&app).await;
    let request = Request::get("/apps/web/head?q=1")
        .header("host", "localhost:8080")
        .header("connection", "x-mine, keep-alive")
        .header("x-mine", "1")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x_forwarded_for", "6.6.6.6")
        .header("x-forwarded-prefix", "/evil")
        .header("x-request-id", "mine-1")
        .header(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
        .header("cookie", "a=1")
        .body(Frames::empty())
        .unwrap();
    let (_, headers, body) = fixture.send(request).await;
    let seen = String::from_utf8(body.to_vec()).unwrap();
    assert!(seen.starts_with("GET /head?q=1\n"), "{seen}");
    for line in [
        "host: localhost:8080\n",
        "x-forwarded-for: 127.0.0.1\n",
        "x-forwarded-host: localhost:8080\n",
        "x-forwarded-proto: http\n",
        "x-forwarded-prefix: /apps/web\n",
        "x-request-id: mine-1\n",
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n",
        "cookie: a=1\n",
    ] {
        assert!(seen.contains(line), "{line} not in {seen}");
    }
    for gone in ["x-mine", "6.6.6.6", "evil", "keep-alive"] {
        assert!(!seen.contains(gone), "{gone} in {seen}");
    }
    assert_eq!(
        (&headers["x-app"], &headers["x-request-id"]),
        (
            &HeaderValue::from_static("a"),
            &HeaderValue::from_static("mine-1")
        )
    );
    assert!(!headers.contains_key("x-hop") && !headers.contains_key("keep-alive"));
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let app = App::start("a").await;
    let fixture = Fixture::serving(&app).await;
    let mut client = Client::connect(fixture.address).await;
    let part = Bytes::from(vec![b'x'; 64 * 1024]);
    let frames = (0..160).map(|_| Frame::data(part.clone())).collect();
    let upload = Request::post("/count")
        .header("host", "web.localhost")
        .body(Frames::new(frames))
        .unwrap();
    assert_eq!(
        client.send(upload).await.unwrap().2,
        (160 * 64 * 1024).to_string()
    );

    let echo = Request::put("/echo")
        .header("host", "web.localhost")
        .header("content-length", "5")
        .body(Frames::text("12345"))
        .unwrap();
    assert_eq!(client.send(echo).await.unwrap().2, "12345");

    // The first part is here long before the last exists.
    let request = Request::get("/stream?n=3&ms=300")
        .header("host", "web.localhost")
        .body(Frames::empty())
        .unwrap();
    let began = std::time::Instant::now();
    let mut response = client.begin(request).await.unwrap();
    let first = std::future::poll_fn(|cx| {
        http_body::Body::poll_frame(std::pin::Pin::new(response.body_mut()), cx)
    })
    .await;
    let waited = began.elapsed();
    assert_eq!(first.unwrap().unwrap().into_data().unwrap(), "part 0\n");
    assert_eq!(collect(response.into_body()).await.0, "part 1\npart 2\n");
    assert!(began.elapsed() > waited, "parts came one by one");

    let head = Request::head("/x")
        .header("host", "web.localhost")
        .body(Frames::empty())
        .unwrap();
    let (status, headers, body) = client.send(head).await.unwrap();
    assert_eq!((status, body.len()), (StatusCode::OK, 0));
    assert!(
        headers.contains_key("content-length")
            || headers.contains_key("transfer-encoding")
            || headers.contains_key("date")
    );
    assert_eq!(
        client.get("/empty").await.unwrap().0,
        StatusCode::NO_CONTENT
    );
    assert!(!client.is_closed());
}

#[tokio::test]
async fn trailers_pass_for_those_who_ask() {
    let app = App::start("a").await;
    let fixture = Fixture::serving(&app).await;
    let mut client = Client::connect(fixture.address).await;
    let request = Request::get("/trailers")
        .header("host", "web.localhost")
        .header("te", "trailers")
        .body(Frames::empty())
        .unwrap();
    let (data, trailers) = collect(client.begin(request).await.unwrap().into_body()).await;
    assert_eq!(
        (data, trailers.unwrap()["x-sum"].clone()),
        (Bytes::from("body"), HeaderValue::from_static("42"))
    );
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    let frames = Frames::new(vec![
        Frame::data(Bytes::from("up")),
        Frame::trailers(trailers),
    ]);
    let request = Request::post("/echo")
        .header("host", "web.localhost")
        .header("te", "trailers")
        .header("trailer", "x-sum")
        .header("transfer-encoding", "chunked")
        .body(frames)
        .unwrap();
    let (data, trailers) = collect(client.begin(request).await.unwrap().into_body()).await;
    assert_eq!(
        (data, trailers.unwrap()["x-sum"].clone()),
        (Bytes::from("up"), HeaderValue::from_static("7"))
    );
}

#[tokio::test]
async fn http2_clients_are_served_without_an_upgrade() {
    let app = App::start("a").await;
    let fixture = Fixture::serving(&app).await;
    let mut client = http2(fixture.address).await;
    let mut answers = Vec::new();
    for index in 0..50 {
        let request = Request::get(format!("http://web.localhost/{index}"))
            .body(Frames::empty())
            .unwrap();
        answers.push(client.send_request(request));
    }
    for (index, answer) in answers.into_iter().enumerate() {
        assert_eq!(
            collect(answer.await.unwrap().into_body()).await.0,
            format!("a /{index}")
        );
    }
    let frames = (0..20)
        .map(|_| Frame::data(Bytes::from(vec![b'x'; 50_000])))
        .collect();
    let upload = Request::post("http://web.localhost/count")
        .body(Frames::new(frames))
        .unwrap();
    client.ready().await.unwrap();
    let answer = client.send_request(upload).await.unwrap();
    assert_eq!(collect(answer.into_body()).await.0, "1000000");
    let request = Request::get("http://web.localhost/head")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Frames::empty())
        .unwrap();
    let seen = collect(client.send_request(request).await.unwrap().into_body())
        .await
        .0;
    assert!(String::from_utf8_lossy(&seen).contains("cookie: a=1; b=2\n"));
}

#[tokio::test]
async fn shares_follow_weights_and_counters_follow_requests() {
    let (old, new) = (App::start("old").await, App::start("new").await);
    let fixture = Fixture::start();
    fixture
        .control
        .apply(&snapshot(
            1,
            &[("old", 90, &[old.address]), ("new", 10, &[new.address])],
        ))
        .await
        .unwrap();
    let mut clients = [
        Client::connect(fixture.address).await,
        Client::connect(fixture.address).await,
    ];
    let mut got: HashMap<Bytes, usize> = HashMap::new();
    for index in 0..400 {
        let (_, headers, _) = clients[index % 2].get("/").await.unwrap();
        *got.entry(Bytes::copy_from_slice(headers["x-app"].as_bytes()))
            .or_default() += 1;
    }
    let canary = got[&Bytes::from("new")];
    assert!((36..=44).contains(&canary), "{canary} of 400");
    until("the counters", || async {
        let counters = fixture.control.counters().await.unwrap();
        let release = |name: &str| {
            let id = ReleaseId::derived(name);
            counters
                .release(&project(), &EnvironmentName::production(), id)
                .map_or(0, |row| row.requests())
        };
        release("new") == canary as u64 && release("old") == 400 - canary as u64
    })
    .await;
    let counters = fixture.control.counters().await.unwrap();
    let row = counters
        .release(
            &project(),
            &EnvironmentName::production(),
            ReleaseId::derived("new"),
        )
        .unwrap();
    assert_eq!((row.error_rate(), row.in_flight), (Some(0.0), 0));
    assert!(row.durations.quantile_seconds(0.95).unwrap() > 0.0);
    let text = fixture.control.metrics_text().await.unwrap();
    assert!(text.contains("ondol_gateway_requests_total{project=\"web\""));
}

#[tokio::test]
async fn too_much_is_refused_before_and_while_it_comes() {
    let app = App::start("a").await;
    let fixture = Fixture::start();
    let mut limited = snapshot(1, &[("r1", 1, &[app.address])]);
    limited.routes[0].max_body_bytes = Some(1_000);
    fixture.control.apply(&limited).await.unwrap();
    let mut client = Client::connect(fixture.address).await;
    let announced = Request::post("/count")
        .header("host", "web.localhost")
        .header("content-length", "2000")
        .body(Frames::text(vec![b'x'; 2_000]))
        .unwrap();
    assert_eq!(
        client.send(announced).await.unwrap().0,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let mut client = Client::connect(fixture.address).await;
    let frames = (0..30)
        .map(|_| Frame::data(Bytes::from(vec![b'x'; 100])))
        .collect();
    let growing = Request::post("/count")
        .header("host", "web.localhost")
        .body(Frames::new(frames))
        .unwrap();
    assert_eq!(
        client.send(growing).await.unwrap().0,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let exact = Request::post("/count")
        .header("host", "web.localhost")
        .body(Frames::text(vec![b'x'; 1_000]))
        .unwrap();
    assert_eq!(fixture.send(exact).await.2, "1000");
}

#[tokio::test]
async fn a_busy_replica_is_protected() {
    let app = App::start("a").await;
    let fixture = Fixture::start();
    let mut limited = snapshot(1, &[("r1", 1, &[app.address])]);
    limited
        .routes
        .iter_mut()
        .for_each(|route| route.max_in_flight_per_replica = 2);
    fixture.control.apply(&limited).await.unwrap();
    let slow = || async {
        let mut client = Client::connect(fixture.address).await;
        client.get("/slow?ms=600").await.unwrap().0
    };
    let answers = futures_util::future::join_all((0..5).map(|_| slow())).await;
    assert_eq!(
        answers
            .iter()
            .filter(|status| **status == StatusCode::OK)
            .count(),
        2,
        "{answers:?}"
    );
    assert_eq!(
        answers
            .iter()
            .filter(|status| **status == StatusCode::SERVICE_UNAVAILABLE)
            .count(),
        3,
        "{answers:?}"
    );
}

#[tokio::test]
async fn slow_replicas_time_out_and_held_routes_wait() {
    let app = App::start("a").await;
    let fixture = Fixture::start();
    let mut quick = snapshot(1, &[("r1", 1, &[app.address])]);
    quick.routes[0].timeouts.response_ms = 150;
    fixture.control.apply(&quick).await.unwrap();
    assert_eq!(
        fixture.get("web.localhost", "/slow?ms=5000").await.0,
        StatusCode::GATEWAY_TIMEOUT
    );

    let mut held = snapshot(2, &[("r1", 1, &[app.address])]);
    held.routes[0].state = RouteState::Held {
        max_wait_ms: 20_000,
    };
    fixture.control.apply(&held).await.unwrap();
    let (answer, ()) = tokio::join!(fixture.get("web.localhost", "/x"), async {
        until("the hold", || async {
            fixture
                .control
                .counters()
                .await
                .unwrap()
                .routes
                .iter()
                .any(|route| route.held == 1)
        })
        .await;
        fixture
            .control
            .apply(&snapshot(3, &[("r1", 1, &[app.address])]))
            .await
            .unwrap();
    });
    assert_eq!(answer.2, "a /x");

    let mut short = snapshot(4, &[("r1", 1, &[app.address])]);
    short.routes[0].state = RouteState::Held { max_wait_ms: 100 };
    fixture.control.apply(&short).await.unwrap();
    assert_eq!(
        fixture.get("web.localhost", "/x").await.0,
        StatusCode::GATEWAY_TIMEOUT
    );
    let mut stopped = Snapshot {
        generation: 5,
        ..short
    };
    stopped.routes[0].state = RouteState::Stopped;
    fixture.control.apply(&stopped).await.unwrap();
    assert_eq!(
        fixture.get("web.localhost", "/x").await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

/// A server that answers one request per connection, says nothing about closing, and closes.
#[tokio::test]
async fn a_connection_that_died_in_the_pool_costs_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0u8; 4_096];
                if stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                        .await;
                    // Only when the next request arrives does it go, without an answer.
                    let _ = stream.read(&mut buffer).await;
                }
            });
        }
    });
    let fixture = Fixture::start();
    fixture
        .control
        .apply(&snapshot(1, &[("r1", 1, &[address])]))
        .await
        .unwrap();
    let mut client = Client::connect(fixture.address).await;
    for _ in 0..30 {
        assert_eq!(client.get("/").await.unwrap().0, StatusCode::OK);
        let post = Request::post("/")
            .header("host", "web.localhost")
            .body(Frames::text("x"))
            .unwrap();
        assert_eq!(client.send(post).await.unwrap().0, StatusCode::OK);
    }
    let counters = fixture.control.counters().await.unwrap();
    assert!(counters.releases[0].retries > 0, "the pool was really used");
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_at_the_client_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0u8; 4_096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
                .await;
        }
    });
    let fixture = Fixture::start();
    fixture
        .control
        .apply(&snapshot(1, &[("r1", 1, &[address])]))
        .await
        .unwrap();
    let answer = raw(
        fixture.address,
        b"GET / HTTP/1.1\r\nhost: web.localhost\r\n\r\n",
    )
    .await;
    assert!(
        answer.ends_with("\r\n\r\nhalf") && answer.contains("content-length: 100"),
        "{answer}"
    );
    until("the truncation to be counted", || async {
        fixture.control.counters().await.unwrap().releases[0].truncated == 1
    })
    .await;
}

#[tokio::test]
async fn leave_to_send_a_body_comes_from_the_application() {
    let app = App::start("a").await;
    let fixture = Fixture::serving(&app).await;
    let mut stream = tokio::net::TcpStream::connect(fixture.address)
        .await
        .unwrap();
    stream.write_all(b"POST /count HTTP/1.1\r\nhost: web.localhost\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await.unwrap();
    let mut buffer = [0u8; 256];
    let count = stream.read(&mut buffer).await.unwrap();
    assert!(buffer[..count].starts_with(b"HTTP/1.1 100 Continue\r\n\r\n"));
    stream.write_all(b"12345").await.unwrap();
    let answer = read_while(&mut stream, Duration::from_millis(500)).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("\r\n1\r\n5\r\n0\r\n\r\n"),
        "{answer}"
    );
    // An application that does not want the body answers before anything was sent.
    let answer = raw(fixture.address, b"POST /refuse HTTP/1.1\r\nhost: web.localhost\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let app = App::start("a").await;
    let fixture = Fixture::serving(&app).await;
    let mut client = Client::connect(fixture.address).await;
    let frames = (0..200)
        .map(|_| Frame::data(Bytes::from(vec![b'x'; 10_000])))
        .collect();
    let body = Frames::new(frames).paced(Duration::from_micros(500));
    let upload = Request::post("/refuse")
        .header("host", "web.localhost")
        .body(body)
        .unwrap();
    assert_eq!(
        client.send(upload).await.unwrap().0,
        StatusCode::PAYLOAD_TOO_LARGE
    );
}

#[tokio::test]
async fn the_access_log_says_what_happened() {
    let app = App::start("a").await;
    let fixture = Fixture::serving(&app).await;
    let request = Request::post("/count?token=hunter2")
        .header("host", "web.localhost")
        .header("x-request-id", "log-1")
        .body(Frames::text("12345"))
        .unwrap();
    fixture.send(request).await;
    let path = fixture.dir.path().join("access.log");
    let mut text = String::new();
    for _ in 0..300 {
        text = std::fs::read_to_string(&path).unwrap_or_default();
        if text.ends_with('\n') {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!text.contains("hunter2"));
    let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(
        (
            line["project"].as_str(),
            line["status"].as_u64(),
            line["bytes_in"].as_u64()
        ),
        (Some("web"), Some(200), Some(5))
    );
    assert_eq!(
        (
            line["path"].as_str(),
            line["request_id"].as_str(),
            line["bytes_out"].as_u64()
        ),
        (Some("/count?token="), Some("log-1"), Some(1))
    );
    assert_eq!(
        line["release"].as_str(),
        Some(ReleaseId::derived("r1").to_string().as_str())
    );
}

/// Answers without a body may still say how long it would be.
#[tokio::test]
async fn lengths_of_bodies_that_do_not_come_are_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0u8; 4_096];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    let answer: &[u8] = if buffer[..count].starts_with(b"HEAD") {
                        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
                    } else {
                        b"HTTP/1.1 304 Not Modified\r\netag: x\r\ncontent-length: 7\r\n\r\n"
                    };
                    let _ = stream.write_all(answer).await;
                }
            });
        }
    });
    let fixture = Fixture::start();
    let routes = snapshot(1, &[("r1", 1, &[address])]);
    fixture.control.apply(&routes).await.unwrap();
    let mut client = Client::connect(fixture.address).await;
    for _ in 0..3 {
        let head = Request::head("/").header("host", "web.localhost");
        let (status, headers, body) = client
            .send(head.body(Frames::empty()).unwrap())
            .await
            .unwrap();
        assert_eq!(
            (status, headers["content-length"].as_bytes(), body.len()),
            (StatusCode::OK, &b"5"[..], 0)
        );
        let (status, headers, body) = client.get("/").await.unwrap();
        assert_eq!(
            (status, headers["etag"].as_bytes(), body.len()),
            (StatusCode::NOT_MODIFIED, &b"x"[..], 0)
        );
    }
}
