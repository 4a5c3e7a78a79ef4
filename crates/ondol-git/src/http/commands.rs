//! The command list of a push, read before git sees it: which refs shall move from where to
//! where, what the client can do, and its options. The bytes are kept, to be given to git.

use ondol_types::{CommitId, RefName};

use super::pktline::{self, Packet};

const MAX_COMMANDS: usize = 10_000;
const MAX_OPTIONS: usize = 100;
const MAX_OPTION_BYTES: usize = 1_024;
/// The most bytes before the pack.
const MAX_HEAD: usize = 4 << 20;

/// One update as the client wrote it. The name may be hostile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) old: Option<CommitId>,
    pub(super) new: Option<CommitId>,
    pub(super) raw_name: String,
}

impl Command {
    /// The name, when it is one that a ref may have and that we let a push touch.
    pub(super) fn name(&self) -> Result<RefName, String> {
        // What is not UTF-8 was replaced when it was read, and git would move another ref.
        if self.raw_name.contains('\u{fffd}') {
            return Err("names of refs are UTF-8 here".to_owned());
        }
        let name: RefName = self
            .raw_name
            .parse()
            .map_err(|_| "this is not a valid ref name".to_owned())?;
        let open = ["refs/heads/", "refs/tags/", "refs/notes/"];
        if open.iter().any(|space| name.as_str().starts_with(space)) {
            Ok(name)
        } else {
            Err("only refs/heads, refs/tags and refs/notes can be pushed".to_owned())
        }
    }
}

/// Everything before the pack.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) commands: Vec<Command>,
    pub(super) capabilities: Vec<String>,
    pub(super) options: Vec<String>,
}

impl Head {
    pub(super) fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|have| have == capability)
    }
}

/// Why a command list is not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeadError {
    #[error(transparent)]
    Malformed(#[from] pktline::Malformed),
    #[error("a command of the push is not readable")]
    Command,
    #[error("a push may have at most {MAX_COMMANDS} ref updates")]
    TooMany,
    #[error("a push may have at most {MAX_OPTIONS} options of {MAX_OPTION_BYTES} bytes each")]
    Options,
    #[error("signed pushes are not supported")]
    Signed,
}

#[derive(Debug, PartialEq, Eq)]
enum Section {
    Commands,
    Options,
    Done,
}

/// Reads a head from pieces of any size.
#[derive(Debug)]
pub(super) struct HeadReader {
    bytes: Vec<u8>,
    at: usize,
    section: Section,
    head: Head,
}

impl HeadReader {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            at: 0,
            section: Section::Commands,
            head: Head::default(),
        }
    }

    /// Takes more bytes; true when the head is complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<bool, HeadError> {
        self.bytes.extend_from_slice(bytes);
        while self.section != Section::Done {
            let Some((packet, used)) = pktline::parse(&self.bytes[self.at..])? else {
                if self.bytes.len() > MAX_HEAD {
                    return Err(HeadError::TooMany);
                }
                return Ok(false);
            };
            match (packet, &self.section) {
                (Packet::Flush, Section::Commands) => {
                    let more = self.head.can("push-options") && !self.head.commands.is_empty();
                    self.section = if more {
                        Section::Options
                    } else {
                        Section::Done
                    };
                }
                (Packet::Flush, _) => self.section = Section::Done,
                (Packet::Data(line), Section::Commands) => command(&mut self.head, line)?,
                (Packet::Data(line), _) => option(&mut self.head, line)?,
            }
            self.at += used;
            if self.at > MAX_HEAD {
                return Err(HeadError::TooMany);
            }
        }
        Ok(true)
    }

    /// The head, and every byte that was taken: the head's own and what followed.
    pub(super) fn finish(self) -> (Head, Vec<u8>) {
        (self.head, self.bytes)
    }
}

fn command(head: &mut Head, line: &[u8]) -> Result<(), HeadError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if line.starts_with(b"push-cert") {
        return Err(HeadError::Signed);
    }
    if let Some(rest) = line.strip_prefix(b"shallow ") {
        let id = std::str::from_utf8(rest).map_err(|_| HeadError::Command)?;
        return match id.parse::<CommitId>() {
            Ok(_) => Ok(()),
            Err(_) => Err(HeadError::Command),
        };
    }
    let (line, capabilities) = match line.iter().position(|byte| *byte == 0) {
        Some(end) => (&line[..end], Some(&line[end + 1..])),
        None => (line, None),
    };
    if let Some(capabilities) = capabilities {
        // Git takes capabilities from every line, and would read on in another way than we do.
        if !head.commands.is_empty() {
            return Err(HeadError::Command);
        }
        head.capabilities = String::from_utf8_lossy(capabilities)
            .split_ascii_whitespace()
            .map(str::to_owned)
            .collect();
    }
    if head.commands.len() >= MAX_COMMANDS {
        return Err(HeadError::TooMany);
    }
    let object = |text: &str| {
        let id: CommitId = text.parse().map_err(|_| HeadError::Command)?;
        Ok::<_, HeadError>((!id.is_null()).then_some(id))
    };
    let text = String::from_utf8_lossy(line);
    let mut parts = text.splitn(3, ' ');
    let (Some(old), Some(new), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(HeadError::Command);
    };
    head.commands.push(Command {
        old: object(old)?,
        new: object(new)?,
        raw_name: name.to_owned(),
    });
    Ok(())
}

fn option(head: &mut Head, line: &[u8]) -> Result<(), HeadError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| HeadError::Options)?;
    let fits = line.len() <= MAX_OPTION_BYTES && !text.contains(char::is_control);
    if head.options.len() >= MAX_OPTIONS || !fits {
        return Err(HeadError::Options);
    }
    head.options.push(text.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(lines: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in lines {
            match *line {
                "flush" => pktline::flush(&mut out),
                line => pktline::write(&mut out, line.as_bytes()),
            }
        }
        out
    }

    fn read(bytes: &[u8]) -> Result<(Head, Vec<u8>), HeadError> {
        let mut reader = HeadReader::new();
        assert!(reader.feed(bytes)?, "the head is complete");
        Ok(reader.finish())
    }

    #[test]
    fn what_git_would_read_in_another_way_is_refused() {
        let second = format!(
            "{} {} refs/tags/v1\0push-options",
            "1".repeat(40),
            "0".repeat(40)
        );
        let late = lines(&[&push("refs/heads/main"), &second, "flush"]);
        assert_eq!(HeadReader::new().feed(&late), Err(HeadError::Command));
        let mut name = format!("{} {} refs/heads/", "0".repeat(40), "1".repeat(40)).into_bytes();
        name.extend_from_slice(b"\xe9t\xe9\0report-status");
        let mut bytes = Vec::new();
        pktline::write(&mut bytes, &name);
        pktline::flush(&mut bytes);
        let (head, _) = read(&bytes).unwrap();
        assert!(head.commands[0].name().is_err());
    }

    fn push(name: &str) -> String {
        format!(
            "{} {} {name}\0 report-status side-band-64k",
            "0".repeat(40),
            "1".repeat(40)
        )
    }

    #[test]
    fn a_head_is_read_whatever_the_pieces() {
        let first = format!("{} push-options atomic", push("refs/heads/main"));
        let second = format!("{} {} refs/tags/v1\n", "1".repeat(40), "0".repeat(40));
        let mut bytes = lines(&[
            &first,
            &second,
            "flush",
            "preview",
            "ci.skip=yes\n",
            "flush",
        ]);
        bytes.extend_from_slice(b"PACK....");
        let (whole, kept) = read(&bytes).unwrap();
        assert_eq!(kept, bytes);
        assert_eq!(whole.commands.len(), 2);
        assert_eq!(whole.commands[0].old, None);
        assert_eq!(
            whole.commands[0].name().unwrap().as_str(),
            "refs/heads/main"
        );
        assert_eq!(whole.commands[1].new, None);
        assert_eq!(whole.options, ["preview", "ci.skip=yes"]);
        assert!(whole.can("atomic") && whole.can("report-status"));
        let mut reader = HeadReader::new();
        let mut done = false;
        for byte in &bytes {
            done = reader.feed(std::slice::from_ref(byte)).unwrap();
        }
        assert!(done);
        assert_eq!(reader.finish(), (whole, bytes));
    }

    #[test]
    fn a_probe_is_an_empty_head() {
        assert!(read(b"0000").unwrap().0.commands.is_empty());
    }

    #[test]
    fn hostile_names_are_told_per_command() {
        for bad in [
            "refs/heads/../../x",
            "refs/heads/-x",
            "refs/heads/a b",
            "--upload-pack=x",
            "HEAD",
            "refs/heads/a\x1b[0m",
            "refs/ondol/x",
            "refs/replace/1",
            "refs/heads/x.lock",
        ] {
            let (head, _) = read(&lines(&[&push(bad), "flush"])).unwrap();
            assert!(head.commands[0].name().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_too_much_or_not_git_is_refused() {
        let many: Vec<String> = (0..=MAX_COMMANDS)
            .map(|n| push(&format!("refs/heads/b{n}")))
            .map(|line| line.split('\0').next().unwrap_or_default().to_owned())
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(read(&lines(&many)).unwrap_err(), HeadError::TooMany);
        for (line, error) in [
            ("push-cert\0 report-status", HeadError::Signed),
            ("shallow x", HeadError::Command),
            ("nonsense", HeadError::Command),
        ] {
            assert_eq!(read(&lines(&[line, "flush"])).unwrap_err(), error);
        }
        let with_options = format!("{} push-options", push("refs/heads/a"));
        let long = "x".repeat(MAX_OPTION_BYTES + 1);
        for option in [long.as_str(), "a\nb"] {
            let bytes = lines(&[&with_options, "flush", option, "flush"]);
            assert_eq!(read(&bytes).unwrap_err(), HeadError::Options);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..10)) {
            let mut reader = HeadReader::new();
            for piece in &pieces {
                match reader.feed(piece) {
                    Ok(false) => {}
                    _ => break,
                }
            }
        }

        #[test]
        fn no_line_makes_the_reader_panic(line in "\\PC{0,100}", options in any::<bool>()) {
            let first = format!("{} push-options", push("refs/heads/a"));
            let bytes = if options { lines(&[&first, "flush", &line, "flush"]) } else { lines(&[&line, "flush"]) };
            let mut reader = HeadReader::new();
            let _ = reader.feed(&bytes);
        }
    }
}
