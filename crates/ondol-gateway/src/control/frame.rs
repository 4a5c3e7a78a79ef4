//! One JSON value on one line, with a ceiling.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::GatewayError;

const MAX_LINE: u64 = 256 * 1024 * 1024;

/// Reads one value; none at the end of the stream.
pub(crate) async fn read_frame<T: DeserializeOwned>(
    reader: &mut (impl AsyncBufRead + Unpin),
) -> Result<Option<T>, GatewayError> {
    let mut line = Vec::new();
    let read = reader
        .take(MAX_LINE)
        .read_until(b'\n', &mut line)
        .await
        .map_err(|error| GatewayError::protocol(error.to_string()))?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(GatewayError::protocol("the line is cut off or too long"));
    }
    serde_json::from_slice(&line)
        .map(Some)
        .map_err(|error| GatewayError::protocol(error.to_string()))
}

/// Writes one value.
pub(crate) async fn write_frame(
    writer: &mut (impl AsyncWrite + Unpin),
    value: &impl Serialize,
) -> Result<(), GatewayError> {
    let mut line =
        serde_json::to_vec(value).map_err(|error| GatewayError::protocol(error.to_string()))?;
    line.push(b'\n');
    writer
        .write_all(&line)
        .await
        .map_err(|error| GatewayError::protocol(error.to_string()))?;
    writer
        .flush()
        .await
        .map_err(|error| GatewayError::protocol(error.to_string()))
}
