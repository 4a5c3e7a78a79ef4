//! What an engine says while it builds: lines for people, the images that it makes on the way, and
//! at the end perhaps an error that only its text tells apart.

use std::collections::BTreeSet;

use bollard::errors::Error;

use super::super::client::with_sources;
use super::error::BuildError;
use crate::mask::Masker;
use crate::model::Limits;

/// A longer line is cut.
const MAX_LINE: usize = 16 << 10;
/// More images than this are not made by one build.
const MAX_IMAGES: usize = 2_000;

/// Who wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildSource {
    /// The engine, about what it does.
    Engine,
    /// A command of the Dockerfile. Engines do not tell its standard output and its standard
    /// error apart.
    Command,
}

/// A line of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildLine<'l> {
    /// Who wrote it.
    pub source: BuildSource,
    /// Without its end, and without secrets.
    pub text: &'l str,
}

impl<'l> BuildLine<'l> {
    pub(super) fn engine(text: &'l str) -> Self {
        Self {
            source: BuildSource::Engine,
            text,
        }
    }
}

type Lines<'s> = &'s mut (dyn FnMut(BuildLine<'_>) + Send);

/// The state of reading.
pub(super) struct Progress {
    dockerfile: String,
    path: String,
    masker: Masker,
    open: String,
    instruction: String,
    /// Whether that is a `FROM`.
    from: bool,
    /// Whether its command was killed: the engine says it in a line of its own.
    killed: bool,
    images: BTreeSet<String>,
}

impl Progress {
    pub(super) fn new(dockerfile: &str, path: &str, masker: Masker) -> Self {
        Self {
            dockerfile: dockerfile.to_owned(),
            path: path.to_owned(),
            masker,
            open: String::new(),
            instruction: String::new(),
            from: false,
            killed: false,
            images: BTreeSet::new(),
        }
    }

    /// The beginnings of the ids of images that were made or used.
    pub(super) fn images(&self) -> BTreeSet<String> {
        self.images.clone()
    }

    /// What the engine works on.
    pub(super) fn instruction(&self) -> &str {
        &self.instruction
    }

    /// Text as it comes, whole lines or not.
    pub(super) fn take(&mut self, text: &str, lines: Lines<'_>) {
        // What a command has printed last may have no end, and then the engine speaks.
        if !self.open.is_empty() && is_of_engine(text) {
            self.line(lines);
        }
        for part in text.split_inclusive(['\n', '\r']) {
            let whole = part.ends_with(['\n', '\r']);
            self.open.push_str(part.trim_end_matches(['\n', '\r']));
            if self.open.len() > MAX_LINE {
                let cut = (0..=MAX_LINE)
                    .rev()
                    .find(|&at| self.open.is_char_boundary(at));
                self.open.truncate(cut.unwrap_or(0));
            }
            if whole {
                self.line(lines);
            }
        }
    }

    /// What came last had perhaps no end.
    pub(super) fn end(&mut self, lines: Lines<'_>) {
        if !self.open.is_empty() {
            self.line(lines);
        }
    }

    fn line(&mut self, lines: Lines<'_>) {
        let line = std::mem::take(&mut self.open);
        let engine = self.note(&line);
        if line.trim().is_empty() {
            return;
        }
        let text = self.masker.mask(&line);
        lines(BuildLine {
            source: if engine {
                BuildSource::Engine
            } else {
                BuildSource::Command
            },
            text: &text,
        });
    }

    /// Whether a line is the engine's own; what it names is kept.
    fn note(&mut self, line: &str) -> bool {
        let trimmed = line.trim_start();
        if let Some(instruction) = step(trimmed) {
            self.instruction = instruction.trim().to_owned();
            let first = self.instruction.split_whitespace().next();
            self.killed = false;
            self.from = first.is_some_and(|word| word.eq_ignore_ascii_case("from"));
            return true;
        }
        for arrow in ["--> ", "---> "] {
            if let Some(rest) = trimmed.strip_prefix(arrow) {
                let id = rest.trim().rsplit(' ').next().unwrap_or_default();
                // What a build begins with is not made by it.
                if !self.from
                    && id.len() >= 11
                    && id.bytes().all(|byte| byte.is_ascii_hexdigit())
                    && self.images.len() < MAX_IMAGES
                {
                    self.images.insert(id.to_owned());
                }
                return true;
            }
        }
        if trimmed == "container exited on killed" {
            self.killed = true;
            return true;
        }
        let is_id = trimmed.len() == 64 && trimmed.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id
            || [
                "COMMIT",
                "Successfully built ",
                "Successfully tagged ",
                "Removing intermediate container ",
            ]
            .iter()
            .any(|word| trimmed.starts_with(word))
    }

    /// What an error of the build means.
    pub(super) fn error(
        &self,
        error: &Error,
        short_of_memory: bool,
        limits: &Limits,
    ) -> BuildError {
        let text = match error {
            Error::DockerResponseServerError { message, .. } => message.clone(),
            Error::DockerStreamError { error } => error.clone(),
            error => with_sources(error),
        };
        let text = self.masker.mask(text.trim()).into_owned();
        let error = self.sort_out(text);
        match (error, limits.memory_bytes) {
            (
                BuildError::Command {
                    instruction,
                    status: None | Some(137),
                },
                Some(limit),
            ) if short_of_memory => BuildError::OutOfMemory { instruction, limit },
            (error, _) => error,
        }
    }

    fn sort_out(&self, text: String) -> BuildError {
        let small = text.to_lowercase();
        if small.contains("no space left on device") || small.contains("disk quota exceeded") {
            return BuildError::Full(text);
        }
        if let Some(status) =
            after(&small, "exit status ").or_else(|| after(&small, "non-zero code: "))
        {
            return BuildError::Command {
                instruction: self.masker.mask(&self.instruction).into_owned(),
                status: (!self.killed).then_some(status),
            };
        }
        if small.contains("signal: killed") {
            return BuildError::Command {
                instruction: self.masker.mask(&self.instruction).into_owned(),
                status: None,
            };
        }
        if is_base(&small) {
            let image = self.base();
            let passing = [
                "timeout",
                "connection refused",
                "connection reset",
                "no such host",
                "temporary failure",
                "unreachable",
                "eof",
                "toomanyrequests",
                "server error",
                "bad gateway",
                "service unavailable",
            ];
            return BuildError::BaseImage {
                passing: passing.iter().any(|word| small.contains(word)),
                image,
                reason: text,
            };
        }
        if is_parse(&small) {
            let line = after(&small, "error on line ")
                .or_else(|| after(&small, "parse error line "))
                .or_else(|| after(&small, "on line "))
                .or_else(|| self.line_of_unknown(&text));
            return BuildError::Dockerfile {
                path: self.path.clone(),
                line: line.and_then(|line| u64::try_from(line).ok()),
                // One engine shows its own data behind it.
                problem: before(&text, " &imagebuilder.")
                    .replace(super::context::DOCKERFILE, &self.path),
            };
        }
        BuildError::Failed(text.replace(super::context::DOCKERFILE, &self.path))
    }

    /// The image that the last `FROM` or `--from` named.
    fn base(&self) -> String {
        let words: Vec<&str> = self.instruction.split_whitespace().collect();
        let named = words
            .iter()
            .find_map(|word| word.strip_prefix("--from="))
            .or_else(|| {
                let from = words.first()?.eq_ignore_ascii_case("from");
                let image = words.iter().skip(1).find(|word| !word.starts_with("--"));
                image.filter(|_| from).copied()
            });
        named.unwrap_or("of the Dockerfile").to_owned()
    }

    /// Where the instruction stands that the engine does not know.
    fn line_of_unknown(&self, text: &str) -> Option<i64> {
        let after = text.split_once("nknown instruction: ")?.1;
        let word = after.trim_start_matches('"').split([' ', '"']).next()?;
        let index = self.dockerfile.lines().position(|line| {
            line.split_whitespace()
                .next()
                .is_some_and(|first| first.eq_ignore_ascii_case(word))
        })?;
        i64::try_from(index + 1).ok()
    }
}

/// Whether a piece is the engine's own from its beginning.
fn is_of_engine(piece: &str) -> bool {
    let line = piece.lines().next().unwrap_or_default();
    step(line).is_some() || line.starts_with("--> ") || line.starts_with("COMMIT")
}

fn is_base(text: &str) -> bool {
    [
        "creating build container",
        "initializing source",
        "pull access denied",
        "manifest unknown",
        "manifest for ",
        "unable to pull",
        "short-name",
        "repository does not exist",
        "pinging container registry",
        "reading manifest",
    ]
    .iter()
    .any(|word| text.contains(word))
}

fn is_parse(text: &str) -> bool {
    [
        "parse error",
        "unknown instruction",
        "parsing main dockerfile",
        "parsing dockerfile",
        "requires at least",
        "requires exactly",
        "no build stage",
        "no from statement",
        "no stages",
        "file with no instructions",
        "target stage",
        "was not found in the provided dockerfile",
        "failed to reach build target",
        "reached build target",
    ]
    .iter()
    .any(|word| text.contains(word))
}

fn before<'t>(text: &'t str, word: &str) -> &'t str {
    text.split_once(word).map_or(text, |(before, _)| before)
}

/// The number behind a word.
fn after(text: &str, word: &str) -> Option<i64> {
    let rest = &text[text.find(word)? + word.len()..];
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The instruction of `STEP 2/3: RUN x`, `[1/2] STEP 2/3: RUN x` or `Step 2/3 : RUN x`.
fn step(line: &str) -> Option<&str> {
    let line = match line.strip_prefix('[') {
        Some(rest) => rest.split_once("] ")?.1,
        None => line,
    };
    let rest = line
        .strip_prefix("STEP ")
        .or_else(|| line.strip_prefix("Step "))?;
    let (count, instruction) = rest.split_once(':')?;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (at, all) = count.trim().split_once('/')?;
    (number(at) && number(all)).then_some(instruction)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(dockerfile: &str) -> Progress {
        let secret = ondol_types::Secret::new("hunter2222".to_owned());
        Progress::new(dockerfile, "docker/Dockerfile", Masker::new([&secret]))
    }

    fn read(progress: &mut Progress, pieces: &[&str]) -> Vec<(BuildSource, String)> {
        let mut seen = Vec::new();
        let mut lines = |line: BuildLine<'_>| seen.push((line.source, line.text.to_owned()));
        for piece in pieces {
            progress.take(piece, &mut lines);
        }
        progress.end(&mut lines);
        seen
    }

    #[test]
    fn lines_are_whole_masked_and_of_somebody() {
        let mut progress = progress("");
        let lines = read(
            &mut progress,
            &[
                "[1/2] STEP 1/2: FROM a\n--> ffffffffffff\nSTEP 2/2: RUN b\n--> 0123456789a\nhel",
                "lo hunter",
                "2222\r\n\nlast",
            ],
        );
        let (engine, command) = (BuildSource::Engine, BuildSource::Command);
        assert_eq!(
            lines,
            [
                (engine, "[1/2] STEP 1/2: FROM a".to_owned()),
                (engine, "--> ffffffffffff".to_owned()),
                (engine, "STEP 2/2: RUN b".to_owned()),
                (engine, "--> 0123456789a".to_owned()),
                (command, "hello ***".to_owned()),
                (command, "last".to_owned()),
            ]
        );
        assert_eq!(progress.images(), ["0123456789a".to_owned()].into());
    }

    #[test]
    fn errors_are_told_apart() {
        let mut progress = progress("FROM a\nFRM b\n");
        let limits = Limits {
            memory_bytes: Some(64),
            ..Limits::default()
        };
        read(&mut progress, &["Step 2/3 : RUN make hunter2222\n"]);
        let of = |text: &str, short| {
            let error = Error::DockerStreamError { error: text.into() };
            progress.error(&error, short, &limits).to_string()
        };
        assert_eq!(
            of(
                "The command '/bin/sh -c make' returned a non-zero code: 3",
                false
            ),
            "`RUN make ***` ended with exit status 3"
        );
        let podman =
            "error building at STEP \"RUN make\": error while running runtime: exit status 137";
        assert_eq!(
            of(podman, false),
            "`RUN make ***` ended with exit status 137"
        );
        assert_eq!(
            of(podman, true),
            "`RUN make ***` needed more memory than 64 bytes"
        );
        assert!(of("write /x: no space left on device", false).contains("no space left"));
        assert!(
            of(
                "dockerfile parse error on line 2: unknown instruction: FRM",
                false
            )
            .starts_with("docker/Dockerfile:2: ")
        );
        assert!(of("Unknown instruction: \"FRM\"", false).starts_with("docker/Dockerfile:2: "));
        assert!(of("manifest for a:1 not found: manifest unknown", false).contains("base image"));
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut progress = progress("");
        let long = "é".repeat(MAX_LINE);
        let lines = read(&mut progress, &[&long, &long, "\n"]);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].1.len() <= MAX_LINE);
    }
}
