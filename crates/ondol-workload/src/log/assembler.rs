//! From the chunks of a pipe to masked lines of bounded length.

use crate::mask::{Masker, StreamState};

/// Collects one stream. Memory is bounded by the longest line and the longest mask pattern.
#[derive(Debug)]
pub(crate) struct LineAssembler {
    state: StreamState,
    line: Vec<u8>,
    max_line: usize,
    open: bool,
}

impl LineAssembler {
    /// An assembler that cuts lines after `max_line` bytes.
    pub(crate) fn new(max_line: usize) -> Self {
        Self {
            state: StreamState::default(),
            line: Vec::new(),
            max_line: max_line.max(16),
            open: false,
        }
    }

    /// Takes a chunk; `emit` gets each finished piece and whether its line goes on.
    pub(crate) fn push(
        &mut self,
        masker: &Masker,
        chunk: &[u8],
        mut emit: impl FnMut(&[u8], bool),
    ) {
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            self.take(masker, &rest[..end], &mut emit);
            self.end_line(masker, &mut emit);
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            self.take(masker, rest, &mut emit);
        }
    }

    /// The stream has ended: a last line without its newline is kept.
    pub(crate) fn finish(&mut self, masker: &Masker, mut emit: impl FnMut(&[u8], bool)) {
        if self.open {
            self.end_line(masker, &mut emit);
        }
    }

    fn take(&mut self, masker: &Masker, bytes: &[u8], emit: &mut impl FnMut(&[u8], bool)) {
        self.open = true;
        // In small portions, so that a chunk with one huge line needs no memory of its size.
        for portion in bytes.chunks(self.max_line) {
            self.state.push(masker, portion, &mut self.line);
            self.cut(emit);
        }
    }

    fn end_line(&mut self, masker: &Masker, emit: &mut impl FnMut(&[u8], bool)) {
        self.state.finish(masker, &mut self.line);
        self.cut(emit);
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        emit(&self.line, false);
        self.line.clear();
        self.open = false;
    }

    fn cut(&mut self, emit: &mut impl FnMut(&[u8], bool)) {
        let mut at = 0;
        while self.line.len() - at > self.max_line {
            let end = at + boundary(&self.line[at..], self.max_line);
            emit(&self.line[at..end], true);
            at = end;
        }
        self.line.drain(..at);
    }
}

/// The greatest cut of at most `max` bytes that does not divide a character.
fn boundary(bytes: &[u8], max: usize) -> usize {
    let continues = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    (max.saturating_sub(3)..=max)
        .rev()
        .find(|&at| at > 0 && !continues(at))
        .unwrap_or(max)
}

#[cfg(test)]
mod tests {
    use ondol_types::Secret;
    use proptest::prelude::*;

    use super::*;

    fn lines(masker: &Masker, max: usize, chunks: &[&[u8]]) -> Vec<(String, bool)> {
        let mut assembler = LineAssembler::new(max);
        let mut out = Vec::new();
        let mut emit = |text: &[u8], goes_on: bool| {
            out.push((String::from_utf8(text.to_vec()).unwrap(), goes_on))
        };
        for chunk in chunks {
            assembler.push(masker, chunk, &mut emit);
        }
        assembler.finish(masker, &mut emit);
        out
    }

    #[test]
    fn lines_end_at_newlines_and_the_last_partial_one_is_kept() {
        let out = lines(&Masker::none(), 100, &[b"one\ntw", b"o\r\n\nlast"]);
        let texts: Vec<&str> = out.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, ["one", "two", "", "last"]);
        assert!(lines(&Masker::none(), 100, &[b""]).is_empty());
    }

    #[test]
    fn long_lines_are_cut_between_characters_and_marked() {
        let out = lines(&Masker::none(), 16, &["한글한글한글한글\nx\n".as_bytes()]);
        assert_eq!(out[0], ("한글한글한".to_owned(), true));
        assert_eq!(out[1], ("글한글".to_owned(), false));
        assert_eq!(out[2], ("x".to_owned(), false));
    }

    #[test]
    fn a_secret_across_chunks_and_cuts_is_masked() {
        let masker = Masker::new([&Secret::new("correct-horse-battery".to_owned())]);
        let out = lines(
            &masker,
            16,
            &[b"aaaaaaaaaa corr", b"ect-horse-b", b"attery bbbbbbb\n"],
        );
        let joined: String = out.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(joined, "aaaaaaaaaa *** bbbbbbb");
    }

    proptest! {
        #[test]
        fn nothing_is_lost(text in "[ab\n]{0,200}", cut in 0usize..200, max in 16usize..40) {
            let cut = cut.min(text.len());
            let (first, second) = text.as_bytes().split_at(cut);
            let mut whole = String::new();
            for (piece, goes_on) in lines(&Masker::none(), max, &[first, second]) {
                prop_assert!(piece.len() <= max);
                whole.push_str(&piece);
                if !goes_on { whole.push('\n'); }
            }
            prop_assert_eq!(whole.trim_end_matches('\n'), text.trim_end_matches('\n'));
        }
    }
}
