//! Fuzz targets as ordinary tests, and what targets share.
//!
//! A target is a function over bytes in the `fuzz` module of the room whose parser it attacks. It
//! checks properties and panics when one does not hold. `cargo fuzz` drives the same functions for
//! as long as one likes (`make fuzz`); [`exercise`] drives them in every test run, over the inputs
//! in `fuzz/corpus/<target>/` and mutations of these that are the same in every run.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// Mutated inputs that each target gets.
const MUTANTS: usize = 400;

/// The most bytes of a mutated input.
const MAX_BYTES: usize = 64 * 1024;

/// Bytes that parsers tend to treat in a way of their own.
const TELLING: &[&[u8]] = &[
    b"\0",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b":",
    b"/",
    b"..",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"0",
    b"-1",
    b"\xff",
    b"\xc3\x28",
    b"\xef\xbb\xbf",
    b"9223372036854775807",
    b"1e999",
    b"NaN",
    b"\xff\xff\xff\xff",
    b"\x80\x80\x80\x80",
];

/// The committed inputs of a target.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut found: Vec<(String, Vec<u8>)> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            fs::read(entry.path()).ok().map(|bytes| (name, bytes))
        })
        .collect();
    found.sort();
    found
}

/// Runs a target over its corpus, and over mutations of it.
///
/// # Panics
/// When the target panics, naming the input; and when there is no corpus, because then nothing
/// would be tested.
pub fn exercise(target: &str, function: fn(&[u8])) {
    let seeds = corpus(target);
    assert!(
        !seeds.is_empty(),
        "fuzz/corpus/{target}/ has no inputs: add at least one that the parser accepts"
    );
    let attempt = |what: &str, input: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| function(input))).is_err() {
            let kept = std::env::temp_dir().join(format!("ondol-fuzz-{target}"));
            let _ = fs::write(&kept, input);
            panic!(
                "the fuzz target {target} fails on {what} ({} bytes, kept as {}): {}",
                input.len(),
                kept.display(),
                input[..input.len().min(512)].escape_ascii()
            );
        }
    };
    attempt("no bytes", b"");
    for (name, input) in &seeds {
        attempt(&format!("corpus file {name}"), input);
    }
    let mut random = Random::new(0x6f6e_646f_6c00 ^ target.len() as u64);
    for number in 0..MUTANTS {
        let (name, seed) = &seeds[number % seeds.len()];
        let mut input = seed.clone();
        for _ in 0..1 + random.below(4) {
            mutate(&mut input, &seeds, &mut random);
        }
        input.truncate(MAX_BYTES);
        attempt(&format!("mutation {number} of corpus file {name}"), &input);
    }
}

fn mutate(input: &mut Vec<u8>, seeds: &[(String, Vec<u8>)], random: &mut Random) {
    let place = random.below(input.len() + 1);
    match random.below(8) {
        0 if place < input.len() => input[place] ^= 1 << random.below(8),
        1 if place < input.len() => input[place] = random.next() as u8,
        2 => {
            let bytes = TELLING[random.below(TELLING.len())];
            input.splice(place..place, bytes.iter().copied());
        }
        3 => {
            let end = (place + 1 + random.below(16)).min(input.len());
            input.drain(place.min(end)..end);
        }
        4 => {
            let end = (place + 1 + random.below(64)).min(input.len());
            let copy = input[place.min(end)..end].to_vec();
            input.splice(place..place, copy);
        }
        5 => input.truncate(place),
        6 => {
            let other = &seeds[random.below(seeds.len())].1;
            let from = random.below(other.len() + 1);
            let end = (from + random.below(128)).min(other.len());
            input.splice(place..place, other[from..end].iter().copied());
        }
        _ => input.insert(place, random.next() as u8),
    }
}

/// A generator whose numbers are the same everywhere (xorshift64*).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_are_the_same_in_every_run_and_stay_bounded() {
        let seeds = vec![("a".to_owned(), b"some bytes".to_vec())];
        let run = || {
            let mut random = Random::new(7);
            let mut input = seeds[0].1.clone();
            for _ in 0..200 {
                mutate(&mut input, &seeds, &mut random);
            }
            input
        };
        assert_eq!(run(), run());
        assert_ne!(run(), seeds[0].1);
    }

    #[test]
    #[should_panic(expected = "has no inputs")]
    fn a_target_without_inputs_is_refused() {
        exercise("no-such-target", |_| {});
    }
}
