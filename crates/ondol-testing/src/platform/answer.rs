//! What a command or an HTTP request answered.

use serde_json::Value;

/// A command that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The command line, for messages.
    pub line: String,
    /// Exit code; 128 and the signal's number when a signal ended it.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Output {
    /// This output, of a command that succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// This output, of a command that ended with `code`.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "`{}` exited with {}\n{}\n{}",
            self.line, self.code, self.stdout, self.stderr
        );
        self
    }

    /// Its stdout as JSON.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!(
                "`{}` printed no JSON: {error}\n{}\n{}",
                self.line, self.stdout, self.stderr
            )
        })
    }

    /// Stdout and stderr together.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// The lines that a git server said, without `remote: ` and padding. Empty ones are left out.
    pub fn remote_lines(&self) -> Vec<String> {
        self.stderr
            .split(['\n', '\r'])
            .filter_map(|line| line.strip_prefix("remote: "))
            .map(|line| {
                line.trim_end()
                    .trim_end_matches("\u{1b}[K")
                    .trim_end()
                    .to_owned()
            })
            .filter(|line| !line.is_empty())
            .collect()
    }

    /// Checks that the output names something.
    ///
    /// # Panics
    /// When stdout and stderr lack it.
    #[track_caller]
    pub fn says(&self, what: &str) -> &Self {
        assert!(
            self.text().contains(what),
            "`{}` did not say `{what}`:\n{}",
            self.line,
            self.text()
        );
        self
    }
}

/// An HTTP response, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What was asked, for messages.
    pub line: String,
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: reqwest::header::HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// This answer, with the status that was expected.
    ///
    /// # Panics
    /// When it has another.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(
            self.status,
            status,
            "{} answered {}: {}",
            self.line,
            self.status,
            self.text()
        );
        self
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is empty.
    ///
    /// # Panics
    /// When it is something else.
    #[track_caller]
    pub fn json(&self) -> Value {
        if self.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{} answered no JSON: {error}\n{}", self.line, self.text())
        })
    }

    /// A header as text, empty when it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    }
}
