//! The model server over TCP.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use ondol_ml::auto::{AutoOptions, TrainArgs, train_main};
use ondol_ml::server::{ServerOptions, model_server_main};
use ondol_ml::table::TableLimits;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

fn train(dir: &Path) {
    std::fs::create_dir(dir.join("data")).unwrap();
    std::fs::write(dir.join("data/iris.csv"), include_str!("../data/iris.csv")).unwrap();
    let args = TrainArgs {
        data: dir.join("data"),
        out: dir.join("model"),
        options: AutoOptions::new("species"),
        champion: None,
        limits: TableLimits::default(),
    };
    assert_eq!(
        format!("{:?}", train_main(&args, &mut Vec::new())),
        format!("{:?}", ExitCode::SUCCESS)
    );
}

struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
}

async fn start(dir: &Path, options: ServerOptions) -> Server {
    let (ready, bound) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let dir = dir.join("model");
    let ended = tokio::spawn(async move {
        let shutdown = async {
            let _ = stopped.await;
        };
        let ready = |address| ready.send(address).unwrap();
        model_server_main(
            &dir,
            "127.0.0.1:0".parse().unwrap(),
            options,
            ready,
            shutdown,
        )
        .await
        .unwrap();
    });
    Server {
        address: bound.await.unwrap(),
        stop,
        ended,
    }
}

async fn exchange(address: SocketAddr, request: String) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // The server may close before it read all of a body that it refused.
    let _ = stream.read_to_string(&mut answer).await;
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    (
        status,
        answer
            .split_once("\r\n\r\n")
            .map_or(String::new(), |(_, body)| body.to_owned()),
    )
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    exchange(
        address,
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    )
    .await
}

async fn post(address: SocketAddr, content_type: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let head = format!(
        "POST /invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    );
    let (status, answer) = exchange(address, head + body).await;
    (status, serde_json::from_str(&answer).unwrap_or(Value::Null))
}

#[tokio::test]
async fn the_protocol_from_end_to_end() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path());
    let options = ServerOptions {
        model: Some("iris".into()),
        version: Some("3".into()),
        body_limit: 100_000,
        ..ServerOptions::default()
    };
    let server = start(dir.path(), options).await;
    let at = server.address;
    assert_eq!(get(at, "/ping").await.0, 200);
    assert_eq!(get(at, "/health").await.0, 200);
    assert_eq!(
        get(at, "/version").await,
        (200, env!("CARGO_PKG_VERSION").to_owned())
    );

    let (status, body) = get(at, "/").await;
    let described: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &described["classes"]),
        (200, &json!(["setosa", "versicolor", "virginica"]))
    );
    let example = described["example"]["body"].to_string();
    assert_eq!(
        post(at, "application/json", &example).await.0,
        200,
        "the example works as it is shown"
    );

    let body = json!({ "instances": [[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]], "params": { "probabilities": true } });
    let (status, answer) = post(at, "application/json; charset=utf-8", &body.to_string()).await;
    assert_eq!(
        (status, &answer["predictions"]),
        (200, &json!(["setosa", "virginica"]))
    );
    assert!(
        answer["probabilities"][0]["setosa"].as_f64().unwrap() > 0.9,
        "{answer}"
    );
    let csv = "petal_width,petal_length,sepal_width,sepal_length\n0.2,1.4,,5.1\n";
    assert_eq!(
        post(at, "text/csv", csv).await,
        (200, json!({ "predictions": ["setosa"] }))
    );

    let (status, answer) = post(
        at,
        "application/json",
        "{\"instances\": [[1, 2, \"x\", 4]]}",
    )
    .await;
    assert_eq!(
        (status, &answer["error_code"]),
        (400, &json!("BAD_REQUEST"))
    );
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("row 1, column `petal_length`"),
        "{answer}"
    );
    assert_eq!(
        post(at, "application/x-www-form-urlencoded", "a=b").await.0,
        415
    );
    assert_eq!(
        post(at, "application/json", &" ".repeat(100_001)).await.0,
        413
    );
    let chunked = "POST /invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/csv\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunked = format!(
        "{chunked}{:x}\r\n{}\r\n0\r\n\r\n",
        100_001,
        "a".repeat(100_001)
    );
    assert_eq!(exchange(at, chunked).await.0, 413);
    assert_eq!(get(at, "/invocations").await.0, 405);
    assert_eq!(get(at, "/nothing").await.0, 404);

    let rows = "5.1,3.5,1.4,0.2\n".repeat(3_000);
    let (status, answer) = post(
        at,
        "text/csv",
        &format!("sepal_length,sepal_width,petal_length,petal_width\n{rows}"),
    )
    .await;
    assert_eq!(
        (status, answer["predictions"].as_array().map(Vec::len)),
        (200, Some(3_000))
    );

    let (_, text) = get(at, "/metrics").await;
    assert!(
        text.contains("ondol_model_predictions_total{class=\"setosa\"} 3002"),
        "{text}"
    );
    assert!(
        text.contains("ondol_model_feature_missing_total{feature=\"sepal_width\"} 1"),
        "{text}"
    );
    assert!(
        text.contains("ondol_model_requests_total{code=\"413\"} 2"),
        "{text}"
    );
    assert!(
        text.contains("ondol_model_info{model=\"iris\",version=\"3\""),
        "{text}"
    );
    server.stop.send(()).unwrap();
    server.ended.await.unwrap();
    assert!(TcpStream::connect(at).await.is_err());
}

#[tokio::test]
async fn a_shutdown_lets_a_request_end() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path());
    let server = start(dir.path(), ServerOptions::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let body = "{\"instances\": [[5.1, 3.5, 1.4, 0.2]]}";
    let head = format!(
        "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body.as_bytes()[..10]).await.unwrap();
    // A second connection is answered only after the first was accepted.
    assert_eq!(get(server.address, "/ping").await.0, 200);
    server.stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.write_all(&body.as_bytes()[10..]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("setosa"),
        "{answer}"
    );
    server.ended.await.unwrap();
}

#[tokio::test]
async fn a_damaged_model_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path());
    std::fs::write(
        dir.path().join("model/model.json"),
        "{\"format\":\"ondol-model/1\"}",
    )
    .unwrap();
    let outcome = model_server_main(
        &dir.path().join("model"),
        "127.0.0.1:0".parse().unwrap(),
        ServerOptions::default(),
        |_| panic!("it must not listen"),
        std::future::pending(),
    )
    .await;
    assert!(
        outcome
            .unwrap_err()
            .to_string()
            .contains("not a usable model file")
    );
}
