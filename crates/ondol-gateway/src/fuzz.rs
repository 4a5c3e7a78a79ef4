//! Fuzz targets over what replicas answer, what clients send, and what lies in the run directory.

pub use crate::control::fuzz as control;
pub use crate::proxy::{fuzz_request as request, fuzz_websocket as websocket};
pub use crate::upstream::fuzz as response;

#[cfg(test)]
mod tests {
    #[test]
    fn corpora_and_mutations() {
        ondol_fuzzing::exercise("gateway_response", super::response);
        ondol_fuzzing::exercise("gateway_request", super::request);
        ondol_fuzzing::exercise("gateway_websocket", super::websocket);
        ondol_fuzzing::exercise("gateway_control", super::control);
    }
}
