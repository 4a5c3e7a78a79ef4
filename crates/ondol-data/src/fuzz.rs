//! Fuzz targets over what clients push and what files hold.

pub use crate::table::fuzz as table;
pub use crate::tree::fuzz as tree;
use crate::wire::{Decoder, Frame, decode_keys, encode_keys};

/// Frames are the same in whatever pieces a body comes, and after they were written again. The
/// first byte is the size of the pieces.
pub fn wire(data: &[u8]) {
    let Some((&step, bytes)) = data.split_first() else {
        return;
    };
    let run = |step: usize| {
        let mut decoder = Decoder::new();
        let mut frames = Vec::new();
        for piece in bytes.chunks(step.max(1)) {
            decoder.feed(piece);
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Err(error.to_string())),
                }
            }
        }
        (frames, decoder.finish().map_err(|error| error.to_string()))
    };
    let whole = run(bytes.len());
    let pieces = run(usize::from(step));
    assert_eq!(whole.0, pieces.0);
    assert_eq!(whole.1.is_ok(), pieces.1.is_ok());
    if whole.1.is_ok() {
        let mut written = Vec::new();
        whole.0.iter().for_each(|frame| frame.encode(&mut written));
        let mut decoder = Decoder::new();
        decoder.feed(&written);
        let again: Vec<Frame> =
            std::iter::from_fn(|| decoder.next().expect("it was written")).collect();
        assert_eq!(again, whole.0);
        assert!(decoder.finish().is_ok());
    }
    if let Ok(keys) = decode_keys(bytes) {
        assert_eq!(encode_keys(&keys), bytes);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpora_and_mutations() {
        ondol_fuzzing::exercise("data_wire", super::wire);
        ondol_fuzzing::exercise("data_tree", super::tree);
        ondol_fuzzing::exercise("data_table", super::table);
    }
}
