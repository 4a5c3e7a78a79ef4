//! The keeper's control socket: the same framing as the gateway's.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::BufReader;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::KeeperStatus;
use super::run::Event;
use crate::control::{CONTROL_VERSION, read_frame, write_frame};
use crate::error::GatewayError;

const MAX_CONNECTIONS: usize = 16;

/// A question to a keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeeperRequest {
    pub(super) version: u32,
    pub(super) body: KeeperOrder,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum KeeperOrder {
    /// Who are you?
    Status,
    /// Put another gateway in the present one's place.
    Replace { exe: PathBuf },
    /// End the gateway, then yourself.
    Stop { deadline_ms: u64 },
    /// End yourself and leave the gateway alone.
    Release,
}

/// A keeper's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub(super) enum KeeperReply {
    Status { status: Box<KeeperStatus> },
    Done,
    ReplaceFailed { reason: String },
    Refused { reason: String },
}

pub(super) async fn serve(
    listener: UnixListener,
    status: Arc<Mutex<KeeperStatus>>,
    events: mpsc::Sender<Event>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (status, events) = (status.clone(), events.clone());
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, status, events).await {
                        tracing::debug!(error = %error, "control connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "cannot accept a control connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn converse(
    stream: UnixStream,
    status: Arc<Mutex<KeeperStatus>>,
    events: mpsc::Sender<Event>,
) -> Result<(), GatewayError> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_frame::<KeeperRequest>(&mut stream).await? {
        let reply = if request.version != CONTROL_VERSION {
            KeeperReply::Refused {
                reason: format!("version {CONTROL_VERSION} is spoken here"),
            }
        } else if request.body == KeeperOrder::Status {
            let status = status
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            KeeperReply::Status {
                status: Box::new(status),
            }
        } else {
            let (answer, wait) = oneshot::channel();
            let _ = events
                .send(Event::Order {
                    order: request.body,
                    answer,
                })
                .await;
            wait.await.unwrap_or(KeeperReply::Refused {
                reason: "the keeper ends".into(),
            })
        };
        write_frame(&mut stream, &reply).await?;
    }
    Ok(())
}
