//! The one place where an error kind becomes an exit code and a `hint:` line.

use std::fmt;
use std::process::ExitCode;

use ondol_types::{ErrorKind, Problem};

/// The closed set of exit codes. `docs/cli.md` prints this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// What was asked for happened.
    Success = 0,
    /// What was watched or checked ended badly: a failed run, a refused model.
    Failed = 1,
    /// The command line or an input is wrong.
    Usage = 2,
    /// No token, or one that may not do this.
    Denied = 3,
    /// The thing does not exist.
    NotFound = 4,
    /// The thing exists already or is in a state that does not allow this.
    Conflict = 5,
    /// The server cannot be reached or cannot do it now.
    Unavailable = 6,
    /// It took longer than its deadline.
    Timeout = 7,
    /// A mistake of ours, or stored bytes that are not what they were.
    Internal = 70,
    /// Somebody pressed Ctrl-C.
    Interrupted = 130,
}

impl Exit {
    fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidInput | ErrorKind::TooLarge | ErrorKind::Unsupported => Self::Usage,
            ErrorKind::Unauthenticated | ErrorKind::Forbidden => Self::Denied,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::RateLimited | ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::Timeout => Self::Timeout,
            ErrorKind::Cancelled => Self::Interrupted,
            ErrorKind::Corrupted | ErrorKind::Internal => Self::Internal,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// A failed command: what to print and how to exit.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
    pub(crate) hint: Option<String>,
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn because(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// Wraps an I/O error with what was tried.
    pub(crate) fn io(action: impl fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::new(Exit::Usage, format!("cannot {action}")).because(error)
    }
}

impl<E: Into<Problem>> From<E> for Failure {
    fn from(error: E) -> Self {
        let problem: Problem = error.into();
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(&problem);
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        Self {
            exit: Exit::of(problem.kind),
            message: problem.message.clone(),
            causes,
            hint: problem.hint.clone(),
        }
    }
}

/// Turns a wire code of `problem+json` back into an exit.
pub(crate) fn exit_of_status(status: u16) -> Exit {
    match status {
        400 | 413 | 415 | 422 | 501 => Exit::Usage,
        401 | 403 => Exit::Denied,
        404 => Exit::NotFound,
        409 | 412 => Exit::Conflict,
        408 | 504 => Exit::Timeout,
        429 | 502 | 503 | 507 => Exit::Unavailable,
        _ => Exit::Internal,
    }
}
