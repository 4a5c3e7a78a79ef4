//! WebSocket clients of the load: an echo that must come back unchanged.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;

use super::{LoadPlan, Notes};

const KIND: &str = "websocket";
const MESSAGES: u32 = 200;

enum End {
    /// The conversation was had, or the load stops.
    Complete,
    /// The server said good-bye.
    Closed,
    Failed(String),
}

pub(super) async fn talk(plan: Arc<LoadPlan>, notes: Arc<Notes>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match conversation(&plan, &notes, &stop).await {
            End::Complete => {}
            End::Closed => notes.repeated(KIND),
            End::Failed(why) => {
                notes.failed(KIND, why);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn conversation(plan: &LoadPlan, notes: &Notes, stop: &CancellationToken) -> End {
    let authority = plan
        .base
        .trim_start_matches("http://")
        .split('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let url = format!("{}/ws", plan.base.replacen("http://", "ws://", 1));
    let mut request = match url.into_client_request() {
        Ok(request) => request,
        Err(error) => return End::Failed(error.to_string()),
    };
    if let Some(host) = plan.host.as_deref().and_then(|host| host.parse().ok()) {
        request.headers_mut().insert("host", host);
    }
    let stream = match TcpStream::connect(&authority).await {
        Ok(stream) => stream,
        Err(error) => return End::Failed(format!("connecting: {error}")),
    };
    let opening = tokio::time::timeout(
        Duration::from_secs(30),
        tokio_tungstenite::client_async(request, stream),
    );
    let mut socket = match opening.await {
        Ok(Ok((socket, _))) => socket,
        Ok(Err(error)) => return End::Failed(format!("opening: {error}")),
        Err(_) => return End::Failed("opening: no answer within 30 s".to_owned()),
    };
    for number in 0..MESSAGES {
        if stop.is_cancelled() {
            break;
        }
        let text = format!("message {number}");
        // What could not be sent may stand behind a close frame that was not read yet.
        let sent = socket.send(Message::text(text.clone())).await;
        loop {
            match tokio::time::timeout(Duration::from_secs(30), socket.next()).await {
                Ok(Some(Ok(Message::Text(echo)))) if echo.as_str() == text => {
                    notes.done(KIND);
                    break;
                }
                Ok(Some(Ok(Message::Close(_)))) => {
                    let _ = socket.close(None).await;
                    return End::Closed;
                }
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
                Ok(Some(Ok(other))) => {
                    return End::Failed(format!("instead of `{text}` came {other:?}"));
                }
                Ok(Some(Err(error))) => {
                    return End::Failed(format!("broke off: {error}; sending: {sent:?}"));
                }
                Ok(None) => return End::Failed("ended without a close frame".to_owned()),
                Err(_) => return End::Failed("no echo within 30 s".to_owned()),
            }
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let _ = socket.close(None).await;
    let goodbye = async { while let Some(Ok(_)) = socket.next().await {} };
    let _ = tokio::time::timeout(Duration::from_secs(5), goodbye).await;
    End::Complete
}
