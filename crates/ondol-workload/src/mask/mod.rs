//! Secrets are taken out of text before it is stored or shown: in the shim for workload logs,
//! and in every room that passes on text it did not write. A secret is found in its usual
//! encodings, and across the borders of the chunks that a stream arrives in.
//!
//! What this cannot find: a secret that a program reverses, encrypts or prints in pieces.

mod encodings;

use std::borrow::Cow;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use ondol_types::Secret;

/// What stands in place of a secret.
pub const REPLACEMENT: &str = "***";

/// Values shorter than this are not masked: they would hit ordinary words everywhere.
pub const MIN_LENGTH: usize = 4;

/// Finds a set of secrets in text.
pub struct Masker {
    automaton: Option<AhoCorasick>,
    longest: usize,
}

impl std::fmt::Debug for Masker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Masker")
            .field("empty", &self.is_empty())
            .finish_non_exhaustive()
    }
}

impl Masker {
    /// A masker for these secrets. Ones shorter than [`MIN_LENGTH`] are left out.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut patterns = std::collections::BTreeSet::new();
        for secret in secrets {
            encodings::collect(secret.expose(), &mut patterns);
        }
        let longest = patterns.iter().map(Vec::len).max().unwrap_or(0);
        let automaton = if patterns.is_empty() {
            None
        } else {
            // The shim lives as long as its workload, so memory counts for more than speed. Only
            // more than 2^31 states make the builder fail; then nothing may be shown at all.
            AhoCorasick::builder()
                .match_kind(MatchKind::Standard)
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .build(&patterns)
                .ok()
        };
        let longest = if automaton.is_none() && longest > 0 {
            usize::MAX
        } else {
            longest
        };
        Self { automaton, longest }
    }

    /// A masker that finds nothing.
    pub fn none() -> Self {
        Self {
            automaton: None,
            longest: 0,
        }
    }

    /// Whether there is nothing to find.
    pub fn is_empty(&self) -> bool {
        self.longest == 0
    }

    /// Text with every secret replaced.
    pub fn mask<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.mask_bytes(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            // Patterns are whole encodings of UTF-8 text, but a base64 core found inside other
            // bytes may end anywhere.
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// Bytes with every secret replaced.
    pub fn mask_bytes<'t>(&self, bytes: &'t [u8]) -> Cow<'t, [u8]> {
        let ranges = self.ranges(bytes, 0);
        if ranges.is_empty() {
            return Cow::Borrowed(bytes);
        }
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        for (start, end) in ranges {
            out.extend_from_slice(&bytes[at..start]);
            out.extend_from_slice(REPLACEMENT.as_bytes());
            at = end;
        }
        out.extend_from_slice(&bytes[at..]);
        Cow::Owned(out)
    }

    /// A state that masks a stream chunk by chunk.
    pub fn stream(&self) -> MaskStream<'_> {
        MaskStream {
            masker: self,
            state: StreamState::default(),
        }
    }

    /// Ranges to replace, in order and not touching; the first `masked` bytes are one already.
    fn ranges(&self, bytes: &[u8], masked: usize) -> Vec<(usize, usize)> {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        if masked > 0 {
            ranges.push((0, masked.min(bytes.len())));
        }
        if self.longest == usize::MAX && !bytes.is_empty() {
            return vec![(0, bytes.len())];
        }
        let Some(automaton) = &self.automaton else {
            return ranges;
        };
        // Overlapping matches come ordered by their end, so an earlier range can be swallowed.
        for found in automaton.find_overlapping_iter(bytes) {
            let (mut start, mut end) = (found.start(), found.end());
            while let Some(&(last_start, last_end)) = ranges.last() {
                if last_end < start {
                    break;
                }
                (start, end) = (start.min(last_start), end.max(last_end));
                ranges.pop();
            }
            ranges.push((start, end));
        }
        ranges
    }
}

/// What a [`MaskStream`] remembers between chunks, apart from its masker.
#[derive(Debug, Default)]
pub(crate) struct StreamState {
    held: Vec<u8>,
    masked: usize,
    inside: bool,
}

impl StreamState {
    /// Appends to `out` what of the stream is certain after `chunk`.
    pub(crate) fn push(&mut self, masker: &Masker, chunk: &[u8], out: &mut Vec<u8>) {
        if masker.is_empty() {
            out.extend_from_slice(chunk);
            return;
        }
        self.held.extend_from_slice(chunk);
        let certain = self
            .held
            .len()
            .saturating_sub(masker.longest.saturating_sub(1));
        self.release(masker, certain, out);
    }

    /// Appends the rest to `out` and begins anew.
    pub(crate) fn finish(&mut self, masker: &Masker, out: &mut Vec<u8>) {
        let all = self.held.len();
        self.release(masker, all, out);
        self.inside = false;
    }

    /// Gives out the first `cut` bytes. A match that crosses the cut is remembered by its length
    /// beyond it, so that it is replaced once.
    fn release(&mut self, masker: &Masker, cut: usize, out: &mut Vec<u8>) {
        if cut == 0 {
            return;
        }
        let ranges = masker.ranges(&self.held, self.masked);
        let mut at = 0;
        self.masked = 0;
        for (start, end) in ranges {
            if start >= cut {
                break;
            }
            out.extend_from_slice(&self.held[at..start]);
            if !(start == 0 && self.inside) {
                out.extend_from_slice(REPLACEMENT.as_bytes());
            }
            at = end.min(cut);
            self.masked = end.saturating_sub(cut);
        }
        out.extend_from_slice(&self.held[at..cut]);
        self.inside = self.masked > 0;
        self.held.drain(..cut);
    }
}

/// Masks a stream chunk by chunk. It holds back as many bytes as the longest pattern has.
#[derive(Debug)]
pub struct MaskStream<'m> {
    masker: &'m Masker,
    state: StreamState,
}

impl MaskStream<'_> {
    /// What of the stream is certain after this chunk.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(chunk.len());
        self.state.push(self.masker, chunk, &mut out);
        out
    }

    /// The rest, at the stream's end.
    pub fn finish(mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.state.finish(self.masker, &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masker(values: &[&str]) -> Masker {
        let secrets: Vec<Secret> = values
            .iter()
            .map(|value| Secret::new((*value).to_owned()))
            .collect();
        Masker::new(&secrets)
    }

    #[test]
    fn overlapping_secrets_are_replaced_together() {
        let masker = masker(&["abcdef", "defghi"]);
        assert_eq!(masker.mask("<abcdefghi>"), "<***>");
        assert_eq!(masker.mask("<abcdef defghi>"), "<*** ***>");
    }

    #[test]
    fn short_values_and_empty_sets_change_nothing() {
        assert!(masker(&["abc", ""]).is_empty());
        assert_eq!(masker(&["abc"]).mask("abc"), "abc");
        assert!(matches!(
            masker(&["hunter22"]).mask("nothing here"),
            Cow::Borrowed(_)
        ));
    }

    #[test]
    fn a_long_chain_of_matches_is_one_replacement_and_is_not_held() {
        let masker = masker(&["aaaa"]);
        let mut stream = masker.stream();
        let mut out = Vec::new();
        for _ in 0..1_000 {
            out.extend(stream.push(b"aaa"));
            assert!(stream.state.held.len() < 64);
        }
        out.extend(stream.finish());
        assert_eq!(out, b"***");
    }

    #[test]
    fn debug_shows_no_pattern() {
        assert!(!format!("{:?}", masker(&["hunter22"])).contains("hunter22"));
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(
            secret in "[a-d]{4,6}",
            text in "[a-d]{0,80}",
            cuts in proptest::collection::vec(0usize..80, 0..6),
        ) {
            let masker = masker(&[&secret]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            cuts.push(text.len());
            let mut stream = masker.stream();
            let mut out = Vec::new();
            let mut at = 0;
            for cut in cuts {
                out.extend(stream.push(&text.as_bytes()[at..cut]));
                at = cut;
            }
            out.extend(stream.finish());
            let whole = masker.mask_bytes(text.as_bytes());
            prop_assert_eq!(&out[..], &whole[..]);
            prop_assert!(!String::from_utf8_lossy(&out).contains(&secret));
        }
    }
}
