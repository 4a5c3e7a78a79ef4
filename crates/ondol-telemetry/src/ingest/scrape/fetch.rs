//! Asks a target over HTTP. The answer is cut at its ceiling, whatever length it announces.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::text::Format;

/// What is understood, best first.
const ACCEPT: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";

/// An answer of a target. As long as it is in memory it has one of the places for answers.
pub(super) struct Fetched {
    pub(super) text: String,
    pub(super) format: Format,
    pub(super) place: Option<OwnedSemaphorePermit>,
}

/// The client of all targets. It keeps a connection per target between scrapes.
#[derive(Clone)]
pub(super) struct Fetcher(Client<HttpConnector, Empty<Bytes>>);

impl Default for Fetcher {
    fn default() -> Self {
        Self(
            Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(1)
                .build_http(),
        )
    }
}

impl Fetcher {
    /// Asks once. A target that says nothing takes no place: it is taken when the answer begins.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    pub(super) async fn fetch(
        &self,
        url: &str,
        timeout: std::time::Duration,
        limit: usize,
        places: &Arc<Semaphore>,
    ) -> Result<Fetched, String> {
        let request = Request::get(url)
            .header(header::ACCEPT, ACCEPT)
            .header(header::ACCEPT_ENCODING, "gzip")
            .header(
                header::USER_AGENT,
                concat!("Ondol/", env!("CARGO_PKG_VERSION")),
            )
            .header(
                "x-prometheus-scrape-timeout-seconds",
                timeout.as_secs_f64().to_string(),
            )
            .body(Empty::new())
            .map_err(|error| format!("the address {url} cannot be asked: {error}"))?;
        let answer = self.0.request(request).await.map_err(|error| {
            // The cause says what happened; the error around it only that something did.
            std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
        })?;
        if !answer.status().is_success() {
            return Err(format!("server returned HTTP status {}", answer.status()));
        }
        let says = |name| {
            answer
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or("")
                .to_owned()
        };
        let place = places.clone().acquire_owned().await.ok();
        let format = Format::of_content_type(&says(header::CONTENT_TYPE));
        let encoding = says(header::CONTENT_ENCODING);
        let too_long = || format!("the answer has more than {limit} bytes");
        let body = match Limited::new(answer.into_body(), limit).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(too_long()),
            Err(error) => return Err(format!("the answer broke off: {error}")),
        };
        let bytes = match encoding.as_str() {
            "" | "identity" => body.to_vec(),
            "gzip" => {
                let mut out = Vec::new();
                flate2::read::MultiGzDecoder::new(&body[..])
                    .take(limit as u64 + 1)
                    .read_to_end(&mut out)
                    .map_err(|error| format!("the answer is no gzip: {error}"))?;
                if out.len() > limit {
                    return Err(too_long());
                }
                out
            }
            other => return Err(format!("the encoding {other:?} of the answer is not known")),
        };
        let text = String::from_utf8(bytes)
            .map_err(|error| format!("the answer is not UTF-8: {}", error.utf8_error()))?;
        Ok(Fetched {
            text,
            format,
            place,
        })
    }
}
