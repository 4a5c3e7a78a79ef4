//! Requests that are ambiguous, too large or too slow.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::*;

async fn served(text: &str) -> (String, usize) {
    let app = App::start("a").await;
    let fixture = Fixture::serving(&app).await;
    let answer = raw(fixture.address, text.as_bytes()).await;
    (answer, app.requests.load(Ordering::SeqCst))
}

fn answers(text: &str) -> usize {
    text.matches("HTTP/1.1 ").count()
}

#[tokio::test]
async fn contradictory_lengths_never_smuggle_a_second_request() {
    // Two framings: the chunks count, and nothing behind them is read as a request.
    for fields in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
    ] {
        let text = format!(
            "POST /count HTTP/1.1\r\nhost: web.localhost\r\n{fields}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: web.localhost\r\n\r\n"
        );
        let (answer, requests) = served(&text).await;
        assert!(answers(&answer) <= 1 && requests <= 1, "{fields}: {answer}");
        assert!(!answer.contains("smuggled"), "{answer}");
    }
    for fields in [
        "content-length: 4\r\ncontent-length: 5",
        "content-length: +4",
        "content-length: 4, 5",
        "content-length: 0x4",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
        "transfer-encoding: gzip",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: identity, chunked",
        "transfer-encoding : chunked",
        "x: a\r\n folded: b",
        "transfer-encoding:\u{b}chunked",
    ] {
        let text = format!(
            "POST /count HTTP/1.1\r\nhost: web.localhost\r\n{fields}\r\n\r\nabcdGET /smuggled HTTP/1.1\r\nhost: web.localhost\r\n\r\n"
        );
        let (answer, requests) = served(&text).await;
        assert_eq!(requests, 0, "{fields}: {answer}");
        assert!(answer.starts_with("HTTP/1.1 400"), "{fields}: {answer}");
        assert!(answers(&answer) <= 1, "{fields}: {answer}");
    }
}

#[tokio::test]
async fn bad_chunks_end_the_connection() {
    for body in [
        "zz\r\nabc",
        "5\r\nabcdefgh\r\n0\r\n\r\n",
        "-1\r\n",
        "5 \nabcde",
    ] {
        let text = format!(
            "POST /count HTTP/1.1\r\nhost: web.localhost\r\ntransfer-encoding: chunked\r\n\r\n{body}GET /smuggled HTTP/1.1\r\nhost: web.localhost\r\n\r\n"
        );
        let (answer, _) = served(&text).await;
        assert!(
            !answer.contains("smuggled") && !answer.contains("HTTP/1.1 200"),
            "{body:?}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_request_names_exactly_one_host() {
    for fields in [
        "",
        "host: web.localhost\r\nhost: other.localhost\r\n",
        "host: a b\r\n",
        "host: web.localhost@evil\r\n",
    ] {
        let (answer, requests) = served(&format!("GET / HTTP/1.1\r\n{fields}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{fields:?}: {answer}");
        assert_eq!(requests, 0);
    }
    let (answer, requests) =
        served("GET http://web.localhost/abs HTTP/1.1\r\nhost: other.localhost\r\n\r\n").await;
    assert!(answer.contains("a /abs") && requests == 1, "{answer}");
    let (answer, requests) =
        served("CONNECT web.localhost:80 HTTP/1.1\r\nhost: web.localhost\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 405") && requests == 0,
        "{answer}"
    );
}

#[tokio::test]
async fn large_heads_are_refused() {
    let fields: String = (0..200).map(|index| format!("x-{index}: 1\r\n")).collect();
    let (answer, requests) = served(&format!(
        "GET / HTTP/1.1\r\nhost: web.localhost\r\n{fields}\r\n"
    ))
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 431") && requests == 0,
        "{answer}"
    );
    let large = "x".repeat(100_000);
    let (answer, requests) = served(&format!(
        "GET / HTTP/1.1\r\nhost: web.localhost\r\nx: {large}\r\n\r\n"
    ))
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 431") && requests == 0,
        "{answer}"
    );
    let named: String = (0..60).map(|index| format!("n{index},")).collect();
    let (answer, requests) = served(&format!(
        "GET / HTTP/1.1\r\nhost: web.localhost\r\nconnection: {named}\r\n\r\n"
    ))
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 400") && requests == 0,
        "{answer}"
    );
}

#[tokio::test]
async fn slow_clients_are_ended_and_others_are_not() {
    let app = App::start("a").await;
    let fixture = Fixture::with(|config| {
        config.limits.head_timeout = Duration::from_millis(300);
        config.limits.stall_timeout = Duration::from_millis(300);
        config.limits.idle_timeout = Duration::from_secs(60);
    });
    fixture
        .control
        .apply(&snapshot(1, &[("r1", 1, &[app.address])]))
        .await
        .unwrap();
    let mut steady = Client::connect(fixture.address).await;
    steady.get("/").await.unwrap();

    let mut silent = TcpStream::connect(fixture.address).await.unwrap();
    let mut head = TcpStream::connect(fixture.address).await.unwrap();
    head.write_all(b"GET / HTTP/1.1\r\nhost: web.loc")
        .await
        .unwrap();
    let mut body = TcpStream::connect(fixture.address).await.unwrap();
    body.write_all(
        b"POST /count HTTP/1.1\r\nhost: web.localhost\r\ncontent-length: 100\r\n\r\nabc",
    )
    .await
    .unwrap();
    for (name, stream) in [
        ("silent", &mut silent),
        ("head", &mut head),
        ("body", &mut body),
    ] {
        let read = tokio::time::timeout(
            Duration::from_secs(20),
            read_while(stream, Duration::from_secs(15)),
        )
        .await;
        let text = read.unwrap_or_else(|_| panic!("{name} was not ended"));
        assert!(!text.contains("200 OK"), "{name}: {text}");
    }
    // Waiting for the application is not slowness of the client, and neither is being idle.
    assert_eq!(steady.get("/slow?ms=1500").await.unwrap().2, "a");
    assert!(fixture.control.counters().await.unwrap().totals.malformed >= 2);
}

#[tokio::test]
async fn an_http2_client_that_takes_no_answer_holds_no_replica() {
    let app = App::start("a").await;
    let fixture = Fixture::with(|config| {
        config.limits.stall_timeout = Duration::from_millis(300);
    });
    fixture
        .control
        .apply(&snapshot(1, &[("r1", 1, &[app.address])]))
        .await
        .unwrap();
    let stream = TcpStream::connect(fixture.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .initial_stream_window_size(1_024)
            .handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .unwrap();
    let ended = tokio::spawn(connection);
    let request = http::Request::get("/stream?n=100000&ms=0")
        .uri("http://web.localhost/stream?n=100000&ms=0")
        .body(Frames::empty())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    // The window stays closed: nobody reads the body. The socket itself stays usable.
    assert_eq!(answer.status(), 200);
    tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .expect("the connection is ended")
        .unwrap()
        .unwrap_or(());
    until("the replica is free again", || async {
        fixture.control.status().await.unwrap()[0].in_flight == 0
    })
    .await;
}
