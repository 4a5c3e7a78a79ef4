//! What can go wrong with a build, told apart by who can do something about it.

use std::time::Duration;

use ondol_types::{Classified, ErrorKind};

use crate::error::EngineError;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The engine is away or refuses.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine stopped answering in the middle.
    #[error("the container engine broke the build off: {0}")]
    Interrupted(String),
    /// Something that it had built before was removed while it was about to use it.
    #[error("the container engine lost something of its build cache: {0}")]
    CacheGone(String),
    /// The engine has no space left.
    #[error("the container engine has no space left: {0}")]
    Full(String),
    /// A file of the context cannot be sent.
    #[error("{path}: {problem}")]
    Context {
        /// Which one, inside the repository.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The context is over a ceiling.
    #[error("the build context has more than {limit} {unit}")]
    TooLarge {
        /// The ceiling.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// The Dockerfile cannot be read as one.
    #[error("{}: {problem}", place(path, *line))]
    Dockerfile {
        /// Which file.
        path: String,
        /// The line, where the engine says it.
        line: Option<u64>,
        /// What is wrong.
        problem: String,
    },
    /// The Dockerfile, or a base image, asks for what no build gets.
    #[error("{}: {problem}", place(path, line.map(|line| line as u64)))]
    Refused {
        /// Which Dockerfile.
        path: String,
        /// Its line; `None` when a base image asks.
        line: Option<usize>,
        /// What is not allowed.
        problem: String,
    },
    /// A command of the Dockerfile failed.
    #[error("`{instruction}` ended with {}", ended(*status))]
    Command {
        /// The instruction.
        instruction: String,
        /// Its exit status; `None` when it was killed.
        status: Option<i64>,
    },
    /// A command of the Dockerfile was killed because it needed more memory than it may have.
    #[error("`{instruction}` needed more memory than {limit} bytes")]
    OutOfMemory {
        /// The instruction.
        instruction: String,
        /// What it may have.
        limit: u64,
    },
    /// A base image is not to be had.
    #[error("the base image {image} cannot be had: {reason}")]
    BaseImage {
        /// As the Dockerfile names it.
        image: String,
        /// Why.
        reason: String,
        /// Whether it may work later.
        passing: bool,
    },
    /// This engine cannot do what is asked.
    #[error("{engine} cannot {what}")]
    Unsupported {
        /// Which engine.
        engine: String,
        /// What it cannot.
        what: String,
    },
    /// It took too long.
    #[error("the build took longer than {} minutes", .0.as_secs() / 60)]
    OutOfTime(Duration),
    /// Anything else that the engine said.
    #[error("the build failed: {0}")]
    Failed(String),
}

fn place(path: &str, line: Option<u64>) -> String {
    match line {
        Some(line) => format!("{path}:{line}"),
        None => path.to_owned(),
    }
}

fn ended(status: Option<i64>) -> String {
    match status {
        Some(status) => format!("exit status {status}"),
        None => "a signal".to_owned(),
    }
}

impl BuildError {
    /// Whether the same build may succeed later without a change: a fault of the machinery and not
    /// of what is built.
    pub fn is_infrastructure(&self) -> bool {
        match self {
            Self::Engine(_) | Self::Interrupted(_) | Self::CacheGone(_) | Self::Full(_) => true,
            Self::BaseImage { passing, .. } => *passing,
            _ => false,
        }
    }
}

impl Classified for BuildError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Engine(error) => error.kind(),
            Self::Interrupted(_) | Self::CacheGone(_) | Self::Full(_) => ErrorKind::Unavailable,
            Self::BaseImage { passing: true, .. } => ErrorKind::Unavailable,
            Self::Context { .. }
            | Self::Dockerfile { .. }
            | Self::Command { .. }
            | Self::OutOfMemory { .. }
            | Self::BaseImage { .. }
            | Self::Failed(_) => ErrorKind::InvalidInput,
            Self::Refused { .. } => ErrorKind::Forbidden,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::OutOfTime(_) => ErrorKind::Timeout,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Engine(error) => error.code(),
            Self::Interrupted(_) => "workload.build.interrupted",
            Self::CacheGone(_) => "workload.build.cache",
            Self::Full(_) => "workload.build.full",
            Self::Context { .. } => "workload.build.context",
            Self::TooLarge { .. } => "workload.build.too_large",
            Self::Dockerfile { .. } => "workload.build.dockerfile",
            Self::Refused { .. } => "workload.build.refused",
            Self::Command { .. } => "workload.build.command",
            Self::OutOfMemory { .. } => "workload.build.memory",
            Self::BaseImage { .. } => "workload.build.base",
            Self::Unsupported { .. } => "workload.build.unsupported",
            Self::OutOfTime(_) => "workload.build.timeout",
            Self::Failed(_) => "workload.build.failed",
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Engine(error) => return error.hint(),
            Self::Interrupted(_) => {
                "run it again; look at the engine's own log when it happens again"
            }
            Self::Full(_) => {
                "free space where the engine keeps its images, or lower the ceiling of the build cache"
            }
            Self::TooLarge { .. } => "leave files out with a .dockerignore",
            Self::Refused { .. } => {
                "use what the build has: its own network, `COPY`, and `RUN` with a program that fetches"
            }
            Self::Command { .. } => "its output is in the log above",
            Self::OutOfMemory { .. } => "raise `build.limits.memory`",
            Self::BaseImage { passing: false, .. } => {
                "check its name, and that its registry lets this machine read it"
            }
            Self::BaseImage { .. } => "its registry does not answer; the build can be tried again",
            Self::OutOfTime(_) => "look in the log for what does not end",
            _ => return None,
        };
        Some(text.to_owned())
    }
}
