//! Answers to a push that git never sees: a report in git's own form, so that the client shows
//! each ref with its reason instead of an HTTP error.

use super::commands::Head;
use super::pktline;

const SIDE_BAND_64K: usize = 65_515;
const SIDE_BAND: usize = 995;

/// A report that refuses every command, the one at fault for its own reason.
pub(super) fn refusal(head: &Head, reason: impl Fn(usize) -> String, notes: &[String]) -> Vec<u8> {
    let mut report = Vec::new();
    pktline::write(&mut report, b"unpack ok\n");
    for (index, command) in head.commands.iter().enumerate() {
        let line = format!("ng {} {}\n", tame(&command.raw_name), tame(&reason(index)));
        pktline::write(&mut report, line.as_bytes());
    }
    pktline::flush(&mut report);
    let size = if head.can("side-band-64k") {
        SIDE_BAND_64K
    } else if head.can("side-band") {
        SIDE_BAND
    } else {
        return report;
    };
    let mut out = Vec::new();
    for note in notes {
        band(&mut out, 2, format!("{}\n", tame(note)).as_bytes(), size);
    }
    band(&mut out, 1, &report, size);
    pktline::flush(&mut out);
    out
}

fn band(out: &mut Vec<u8>, number: u8, bytes: &[u8], size: usize) {
    for part in bytes.chunks(size) {
        let mut payload = vec![number];
        payload.extend_from_slice(part);
        pktline::write(out, &payload);
    }
}

fn tame(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(1_000)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::commands::Command;
    use super::*;

    #[test]
    fn a_refusal_names_each_ref() {
        let command = |name: &str| Command {
            old: None,
            new: None,
            raw_name: name.to_owned(),
        };
        let mut head = Head {
            commands: vec![command("refs/heads/a"), command("refs/heads/\x1bb")],
            capabilities: Vec::new(),
            options: Vec::new(),
        };
        let reason = |index: usize| format!("reason {index}");
        let plain = refusal(&head, reason, &[]);
        assert_eq!(
            plain,
            b"000eunpack ok\n001dng refs/heads/a reason 0\n001eng refs/heads/?b reason 1\n0000"
        );
        head.capabilities = vec!["side-band-64k".to_owned()];
        let banded = refusal(&head, reason, &["note".to_owned()]);
        assert!(banded.starts_with(b"000a\x02note\n"));
        assert!(banded.ends_with(b"0000"));
        let inner = 10 + 5;
        assert_eq!(&banded[inner..inner + plain.len()], &plain[..]);
    }
}
