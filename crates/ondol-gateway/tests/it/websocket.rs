//! WebSockets through the gateway, and their end.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use ondol_gateway::DrainPolicy;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::*;

async fn connect(address: SocketAddr, query: &str) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    let url = format!("ws://web.localhost/ws{query}");
    tokio_tungstenite::client_async(url, stream)
        .await
        .unwrap()
        .0
}

#[tokio::test]
async fn messages_pass_both_ways_and_tunnels_are_counted() {
    let app = App::start("a").await;
    let fixture = Fixture::serving(&app).await;
    let mut socket = connect(fixture.address, "").await;
    for length in [0usize, 5, 200, 70_000, 1_000_000] {
        let message = Message::Binary(vec![7u8; length].into());
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    let status = fixture
        .control
        .drain_status(replica_id(app.address))
        .await
        .unwrap();
    assert_eq!(
        (status.tunnels, status.in_flight, status.is_drained()),
        (1, 0, false)
    );
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    until("the tunnel's end", || async {
        fixture
            .control
            .drain_status(replica_id(app.address))
            .await
            .unwrap()
            .tunnels
            == 0
    })
    .await;
}

#[tokio::test]
async fn a_drained_websocket_gets_a_close_frame_between_frames() {
    for query in ["", "?chatty"] {
        let (old, new) = (App::start("old").await, App::start("new").await);
        let fixture = Fixture::serving(&old).await;
        let mut socket = connect(fixture.address, query).await;
        let mut next = snapshot(2, &[("r2", 1, &[new.address])]);
        next.drain = DrainPolicy {
            deadline_ms: 20_000,
            websocket_grace_ms: 200,
        };
        fixture.control.apply(&next).await.unwrap();
        assert!(
            !fixture
                .control
                .drain_status(replica_id(old.address))
                .await
                .unwrap()
                .is_drained()
        );
        let mut closed = None;
        while let Some(message) = socket.next().await {
            // Every frame up to the close is whole: tungstenite refuses anything else.
            match message.unwrap() {
                Message::Close(frame) => closed = frame,
                Message::Binary(data) => assert_eq!(data.len(), 70_000),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(closed.unwrap().code, CloseCode::Away, "{query}");
        until("the drain", || async {
            fixture
                .control
                .drain_status(replica_id(old.address))
                .await
                .unwrap()
                .is_drained()
        })
        .await;
        let mut again = connect(fixture.address, "").await;
        again.send(Message::text("x")).await.unwrap();
        assert_eq!(again.next().await.unwrap().unwrap(), Message::text("x"));
    }
}

#[tokio::test]
async fn within_its_grace_a_websocket_goes_on_and_at_the_deadline_it_is_cut() {
    let (old, new) = (App::start("old").await, App::start("new").await);
    let fixture = Fixture::serving(&old).await;
    let mut socket = connect(fixture.address, "").await;
    let mut next = snapshot(2, &[("r2", 1, &[new.address])]);
    next.drain = DrainPolicy {
        deadline_ms: 600_000,
        websocket_grace_ms: 600_000,
    };
    fixture.control.apply(&next).await.unwrap();
    socket.send(Message::text("still")).await.unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap(),
        Message::text("still")
    );
    // The control plane changes its mind about the times.
    let now = DrainPolicy {
        deadline_ms: 0,
        websocket_grace_ms: 0,
    };
    fixture
        .control
        .drain(replica_id(old.address), now)
        .await
        .unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), async {
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    assert!(end.is_ok(), "the tunnel was not cut");
    assert!(
        fixture
            .control
            .drain(replica_id(new.address), now)
            .await
            .is_err(),
        "a routed replica cannot be drained"
    );
}
