//! Fuzz targets over what shims are told, what programs print, and what lies in logs.

use std::io::Write;

use ondol_types::Secret;

use crate::log::{LineAssembler, LogReader};
use crate::mask::Masker;
use crate::model::LogPosition;

pub use crate::container::fuzz_ignore as ignore;
pub use crate::wire::fuzz as wire;

/// The first byte is the size of the pieces, the second how many secrets there are; a line is a
/// secret each, the rest is what a program prints. Masking piece by piece says the same as masking
/// the whole, and no secret is left.
pub fn mask(data: &[u8]) {
    let [step, count, rest @ ..] = data else {
        return;
    };
    let mut parts = rest.splitn(usize::from(count % 4) + 1, |&byte| byte == b'\n');
    let secrets: Vec<Secret> = parts
        .by_ref()
        .take(usize::from(count % 4))
        .filter_map(|secret| std::str::from_utf8(secret).ok())
        .filter(|secret| (8..=128).contains(&secret.len()))
        .map(|secret| Secret::new(secret.to_owned()))
        .collect();
    let text = parts.next().unwrap_or_default();
    let masker = Masker::new(&secrets);
    let whole = masker.mask_bytes(text).into_owned();
    let mut stream = masker.stream();
    let mut pieces = Vec::new();
    for piece in text.chunks(usize::from(*step).max(1)) {
        pieces.extend_from_slice(&stream.push(piece));
    }
    pieces.extend_from_slice(&stream.finish());
    assert_eq!(
        whole.escape_ascii().to_string(),
        pieces.escape_ascii().to_string()
    );
    for secret in &secrets {
        let secret = secret.expose().as_bytes();
        // A secret with the replacement's own character may arise anew around a replacement.
        if !secret.contains(&b'*') {
            assert!(!whole.windows(secret.len()).any(|window| window == secret));
        }
    }
    lines(&masker, text, usize::from(*step));
}

/// Lines are the same in whatever pieces a pipe gives them, and bounded.
fn lines(masker: &Masker, text: &[u8], step: usize) {
    const MAX: usize = 64;
    let run = |step: usize| {
        let mut assembler = LineAssembler::new(MAX);
        let mut out: Vec<(Vec<u8>, bool)> = Vec::new();
        let mut emit = |line: &[u8], goes_on: bool| out.push((line.to_vec(), goes_on));
        for piece in text.chunks(step.max(1)) {
            assembler.push(masker, piece, &mut emit);
        }
        assembler.finish(masker, &mut emit);
        let mut whole = Vec::new();
        for (line, goes_on) in out {
            assert!(line.len() <= MAX && !line.contains(&b'\n'));
            whole.extend_from_slice(&line);
            if !goes_on {
                whole.push(b'\n');
            }
        }
        whole
    };
    assert_eq!(
        run(text.len()).escape_ascii().to_string(),
        run(step).escape_ascii().to_string()
    );
}

/// Whatever lies in a segment, a reader ends, and gives lines in rising order, whichever place it
/// begins at.
pub fn log(data: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else {
        return;
    };
    let half = data.len() / 2;
    for (name, bytes) in [
        ("00000000000000000000.log", &data[..half]),
        ("00000000000000000007.log", &data[half..]),
    ] {
        let path = folder.path().join(name);
        let mut file = std::fs::File::create(path).expect("the folder is ours");
        file.write_all(bytes).expect("the disk has room");
    }
    let starts = [
        LogPosition::Start,
        LogPosition::After(3),
        LogPosition::Tail(2),
        LogPosition::Since(ondol_types::Timestamp::from_micros(5)),
    ];
    for start in starts {
        let mut reader = LogReader::open(folder.path(), start).expect("the folder can be read");
        let mut last = None;
        let mut count = 0;
        loop {
            let batch = reader.next_batch(16).expect("segments can be read");
            if batch.is_empty() {
                break;
            }
            for line in batch {
                assert!(last.is_none_or(|last| line.seq > last));
                last = Some(line.seq);
                count += 1;
                assert!(!line.text.contains('\n'));
            }
            assert!(count <= data.len());
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpora_and_mutations() {
        ondol_fuzzing::exercise("workload_mask", super::mask);
        ondol_fuzzing::exercise("workload_log", super::log);
        ondol_fuzzing::exercise("workload_wire", super::wire);
        ondol_fuzzing::exercise("workload_ignore", super::ignore);
    }
}
