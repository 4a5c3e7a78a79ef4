//! The connection to an engine: found among the candidates, asked for its version once, and
//! looked for anew when it does not answer.

use std::sync::{Mutex, PoisonError};

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker};

use super::address::Address;
use crate::error::EngineError;

/// How long an answer may take, in seconds. Waiting for an end has its own way.
const ANSWER_SECONDS: u64 = 120;

/// A client of one address. Nothing is sent yet, though a socket must exist.
pub(crate) fn connect(address: &Address) -> Result<Docker, EngineError> {
    let client = match address {
        Address::Unix(path) => {
            Docker::connect_with_unix(&path.to_string_lossy(), ANSWER_SECONDS, API_DEFAULT_VERSION)
        }
        Address::Tcp(address) => {
            Docker::connect_with_http(&address.to_string(), ANSWER_SECONDS, API_DEFAULT_VERSION)
        }
    };
    client.map_err(|error| unreachable(address, &error))
}

/// A client that speaks the engine's own version of the protocol.
pub(crate) async fn negotiate(address: &Address) -> Result<Docker, EngineError> {
    let client = connect(address)?;
    let negotiated = client.negotiate_version().await;
    negotiated.map_err(|error| unreachable(address, &error))
}

fn unreachable(address: &Address, error: &Error) -> EngineError {
    EngineError::Unreachable {
        engine: "container",
        reason: format!("{address}: {}", with_sources(error)),
    }
}

/// What an error of the client means for who asked the engine to do something.
pub(crate) fn failed(action: impl Into<String>) -> impl FnOnce(Error) -> EngineError {
    let action = action.into();
    move |error| match &error {
        Error::DockerResponseServerError { message, .. } => EngineError::Refused {
            action,
            reason: message.clone(),
        },
        Error::DockerStreamError { error } => EngineError::Refused {
            action,
            reason: error.clone(),
        },
        error if is_unreachable(error) => EngineError::Unreachable {
            engine: "container",
            reason: format!("cannot {action}: {}", with_sources(error)),
        },
        error => EngineError::Refused {
            action,
            reason: with_sources(error),
        },
    }
}

/// Whether the engine did not answer, as opposed to refused.
pub(crate) fn is_unreachable(error: &Error) -> bool {
    match error {
        Error::DockerResponseServerError { status_code, .. } => {
            // A proxy in front of an engine that is away.
            matches!(status_code, 502..=504)
        }
        Error::IOError { .. }
        | Error::HyperResponseError { .. }
        | Error::HyperLegacyError { .. }
        | Error::RequestTimeoutError
        | Error::SocketNotFoundError(_) => true,
        _ => false,
    }
}

/// Whether the engine says that there is no such thing.
pub(crate) fn is_missing(error: &Error) -> bool {
    status(error) == Some(404)
}

/// The status of a refusal.
pub(crate) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// An error with what it came from, because the client's own words end where it gets interesting.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = source.source();
    }
    text
}

/// Finds the engine among candidates and remembers it.
pub(crate) struct Finder {
    candidates: Vec<Address>,
    found: Mutex<Option<(Address, Docker)>>,
}

impl Finder {
    pub(crate) fn new(candidates: Vec<Address>) -> Self {
        Self {
            candidates,
            found: Mutex::new(None),
        }
    }

    /// The first candidate that answers, or the one that did before.
    pub(crate) async fn client(&self) -> Result<(Address, Docker), EngineError> {
        let known = self.lock().clone();
        if let Some((address, docker)) = known {
            match docker.ping().await {
                Ok(_) => return Ok((address, docker)),
                Err(_) => *self.lock() = None,
            }
        }
        let mut tried = Vec::new();
        for address in &self.candidates {
            match negotiate(address).await {
                Ok(docker) => {
                    let found = (address.clone(), docker);
                    *self.lock() = Some(found.clone());
                    return Ok(found);
                }
                Err(EngineError::Unreachable { reason, .. }) => tried.push(reason),
                Err(error) => tried.push(error.to_string()),
            }
        }
        let reason = if tried.is_empty() {
            "no address is configured".to_owned()
        } else {
            tried.join("; ")
        };
        Err(EngineError::Unreachable {
            engine: "container",
            reason,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Address, Docker)>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
