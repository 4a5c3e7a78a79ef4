//! The words of the control protocol. Additions keep the version; anything else raises it.

use std::net::SocketAddr;

use ondol_types::{Classified, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::error::GatewayError;
use crate::server::RetireOrder;
use crate::snapshot::{DrainPolicy, Snapshot};
use crate::stats::Counters;

/// The protocol's version.
pub(crate) const CONTROL_VERSION: u32 = 1;

/// A question to a gateway.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) version: u32,
    pub(crate) body: RequestBody,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum RequestBody {
    /// Make this durable and serve it.
    Apply { snapshot: Box<Snapshot> },
    /// Who are you?
    Status,
    /// Everything counted, by this gateway and those whose counts it took over.
    Counters,
    /// Counters as Prometheus text.
    Metrics,
    /// Other times for a draining replica.
    Drain {
        replica: ReplicaId,
        policy: DrainPolicy,
    },
    /// Hand over to the gateway that is there already.
    Retire(RetireOrder),
    /// The listening socket, as ancillary data of the answer.
    Listener,
}

impl RequestBody {
    /// The operation's name, for errors.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Apply { .. } => "apply",
            Self::Status => "status",
            Self::Counters => "counters",
            Self::Metrics => "metrics",
            Self::Drain { .. } => "drain",
            Self::Retire(_) => "retire",
            Self::Listener => "listener",
        }
    }
}

/// A gateway's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub(crate) enum Reply {
    Applied {
        generation: u64,
    },
    Status {
        status: Box<GatewayStatus>,
    },
    Counters {
        instance: String,
        folded: Vec<String>,
        counters: Box<Counters>,
    },
    Metrics {
        text: String,
    },
    Draining {
        known: bool,
    },
    Retiring,
    Listener,
    Stale {
        offered: u64,
        current: u64,
    },
    Reused {
        generation: u64,
    },
    Refused {
        code: String,
        message: String,
    },
}

impl From<GatewayError> for Reply {
    fn from(error: GatewayError) -> Self {
        match error {
            GatewayError::StaleGeneration { offered, current } => Self::Stale { offered, current },
            GatewayError::GenerationReused { generation } => Self::Reused { generation },
            other => {
                let mut message = other.to_string();
                let mut next = std::error::Error::source(&other);
                while let Some(source) = next {
                    message.push_str(": ");
                    message.push_str(&source.to_string());
                    next = source.source();
                }
                Self::Refused {
                    code: other.code().to_owned(),
                    message,
                }
            }
        }
    }
}

impl Reply {
    /// The error that an answer stands for, if it does.
    pub(crate) fn into_result(self) -> Result<Self, GatewayError> {
        match self {
            Self::Stale { offered, current } => {
                Err(GatewayError::StaleGeneration { offered, current })
            }
            Self::Reused { generation } => Err(GatewayError::GenerationReused { generation }),
            Self::Refused { code, message } => Err(GatewayError::Refused { code, message }),
            other => Ok(other),
        }
    }
}

/// What a gateway says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Its name among gateways.
    pub instance: String,
    /// Its process id.
    pub process: u32,
    /// Its version.
    pub version: String,
    /// The generation it serves; zero before the first.
    pub generation: u64,
    /// How long it has been running.
    pub uptime_seconds: f64,
    /// Whether it is on its way out.
    pub retiring: bool,
    /// Where it takes connections.
    pub address: SocketAddr,
    /// Client connections open, WebSockets included.
    pub connections: u64,
    /// Requests in progress.
    pub in_flight: u64,
    /// Why it does not serve the newest snapshot, if so.
    pub problem: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_fixed() {
        let request = Request {
            version: 1,
            body: RequestBody::Apply {
                snapshot: Box::new(Snapshot::empty(3)),
            },
        };
        let text = serde_json::to_string(&request).unwrap();
        assert!(
            text.starts_with(
                r#"{"version":1,"body":{"op":"apply","snapshot":{"format":1,"generation":3"#
            ),
            "{text}"
        );
        let text = serde_json::to_string(&RequestBody::Retire(RetireOrder::default())).unwrap();
        assert_eq!(
            text,
            r#"{"op":"retire","deadline_ms":60000,"websocket_grace_ms":5000}"#
        );
        let reply: Reply =
            serde_json::from_str(r#"{"result":"stale","offered":1,"current":2}"#).unwrap();
        assert!(matches!(
            reply.into_result(),
            Err(GatewayError::StaleGeneration {
                offered: 1,
                current: 2
            })
        ));
    }
}
