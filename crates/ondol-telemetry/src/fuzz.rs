//! Fuzz targets over what the store of series reads back from a disk: any bytes are refused or
//! read, and what is read is written and read the same.

use crate::tsdb::fuzzing;

/// A chunk: the first byte is its kind, the second how many samples it claims to have.
pub fn chunk(data: &[u8]) {
    if let [kind, count, bytes @ ..] = data {
        fuzzing::chunk(*kind, u32::from(*count), bytes);
    }
}

/// A frame of the log.
pub fn log(data: &[u8]) {
    fuzzing::log(data);
}

/// The directory and the lists of a block.
pub fn block(data: &[u8]) {
    fuzzing::block(data);
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_targets_hold_on_their_inputs_and_mutations() {
        ondol_fuzzing::exercise("telemetry_chunk", super::chunk);
        ondol_fuzzing::exercise("telemetry_log", super::log);
        ondol_fuzzing::exercise("telemetry_block", super::block);
    }
}
