//! One closed list of error kinds. Each crate has its own error type and says which kind each
//! variant is; `ondol-api` alone turns a kind into an HTTP status and `ondol` alone into an exit code.

use std::error::Error;
use std::fmt;

/// What went wrong, as far as a caller must know to decide what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong; repeating it will not help.
    InvalidInput,
    /// Nobody, or not somebody we know, asked.
    Unauthenticated,
    /// Somebody we know asked for what is not theirs.
    Forbidden,
    /// The thing does not exist, or the caller may not know that it does.
    NotFound,
    /// The thing exists already, or is in a state that does not allow this.
    Conflict,
    /// A body, file or table is over its ceiling.
    TooLarge,
    /// Too many requests; later is fine.
    RateLimited,
    /// Asked for something that this installation cannot do; the message says which can.
    Unsupported,
    /// Stored bytes are not what they were.
    Corrupted,
    /// Something we depend on is away or full; repeating later may help.
    Unavailable,
    /// It took longer than its deadline.
    Timeout,
    /// Somebody asked for it to stop.
    Cancelled,
    /// A mistake of ours.
    Internal,
}

/// An error that knows its kind, a stable code for programs, and what a person can do.
pub trait Classified: Error + Send + Sync + 'static {
    /// The kind.
    fn kind(&self) -> ErrorKind;

    /// A stable code such as `data.csv.ragged`: `domain.noun.problem`, lower case.
    fn code(&self) -> &'static str;

    /// What to do about it, one line without a full stop.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// An error on its way out of a domain, free of the domain's own type.
pub struct Problem {
    /// The kind.
    pub kind: ErrorKind,
    /// The stable code.
    pub code: &'static str,
    /// What a person reads. Never holds a secret.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What operations return across rooms.
pub type ProblemResult<T> = Result<T, Problem>;

impl Problem {
    /// A problem without a source.
    pub fn new(kind: ErrorKind, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            code,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// The same problem with a hint.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same problem with what caused it.
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// A mistake of ours with its cause; callers see only `message`.
    pub fn internal(
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::new(ErrorKind::Internal, "internal", message).with_source(source)
    }

    /// The message followed by those of its sources, for logs.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = self.source();
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}

impl<E: Classified> From<E> for Problem {
    fn from(error: E) -> Self {
        Self {
            kind: error.kind(),
            code: error.code(),
            message: error.to_string(),
            hint: error.hint(),
            source: Some(Box::new(error)),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.kind, self.code, self.chain())
    }
}

impl Error for Problem {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The wrapped domain error says the same words, so the chain goes on behind it.
        self.source.as_deref().and_then(|source| {
            if source.to_string() == self.message {
                source.source()
            } else {
                Some(source)
            }
        })
    }
}
