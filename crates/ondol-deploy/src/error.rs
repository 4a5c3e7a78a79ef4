//! What can go wrong between a request and live traffic.

use ondol_auth::Denied;
use ondol_store::StoreError;
use ondol_types::{Classified, EnvironmentName, ErrorKind, Problem, ProjectName, RolloutId};
use ondol_workload::EngineError;

/// Why a deployment operation was refused or did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The principal may not do it.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The database refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Another room refused: images, models, secrets or routes.
    #[error("{what}")]
    Room {
        /// What was asked of it.
        what: String,
        /// What it said.
        #[source]
        source: Problem,
    },
    /// The project has no such environment.
    #[error("project `{project}` has no environment `{environment}`")]
    NoEnvironment {
        /// Which project.
        project: ProjectName,
        /// Which environment.
        environment: EnvironmentName,
    },
    /// Nothing serves there yet.
    #[error("nothing has been released to `{environment}` of project `{project}` yet")]
    NothingReleased {
        /// Which project.
        project: ProjectName,
        /// Which environment.
        environment: EnvironmentName,
    },
    /// The environment has no such release, or no longer.
    #[error("`{environment}` of project `{project}` has no release {number}")]
    NoRelease {
        /// Which project.
        project: ProjectName,
        /// Which environment.
        environment: EnvironmentName,
        /// Which number.
        number: i64,
    },
    /// There is no earlier release to go back to.
    #[error("`{environment}` of project `{project}` has no earlier release to go back to")]
    NothingEarlier {
        /// Which project.
        project: ProjectName,
        /// Which environment.
        environment: EnvironmentName,
    },
    /// The release serves already.
    #[error("release {0} serves already")]
    AlreadyCurrent(i64),
    /// The release was never healthy.
    #[error("release {0} never served, so there is nothing to go back to in it")]
    NeverServed(i64),
    /// A migration in between cannot be undone.
    #[error(
        "release {crossed} ran a release command that cannot be undone, so going back to release {to} is refused"
    )]
    Irreversible {
        /// Where to.
        to: i64,
        /// The release whose command stands in between.
        crossed: i64,
    },
    /// There is no such rollout.
    #[error("there is no rollout {0}")]
    NoRollout(RolloutId),
    /// The rollout is in a state that does not allow this.
    #[error("rollout {number} is {state}, so it cannot be {asked}")]
    RolloutState {
        /// Its number.
        number: i64,
        /// Its state.
        state: String,
        /// What was asked, as a participle.
        asked: &'static str,
    },
    /// The environment is on its way out.
    #[error("`{environment}` of project `{project}` is being removed")]
    Removing {
        /// Which project.
        project: ProjectName,
        /// Which environment.
        environment: EnvironmentName,
    },
    /// The branch is gone whose preview is asked for.
    #[error("branch `{branch}` of project `{project}` was deleted, so it has no preview")]
    BranchGone {
        /// Which project.
        project: ProjectName,
        /// Which branch.
        branch: String,
    },
    /// Another branch has the environment.
    #[error("`{environment}` of project `{project}` belongs to branch `{branch}`")]
    BranchTaken {
        /// Which project.
        project: ProjectName,
        /// Which environment.
        environment: EnvironmentName,
        /// Whose it is.
        branch: String,
    },
    /// There are as many previews as there may be.
    #[error("project `{project}` has {most} previews, and there may not be more")]
    TooManyPreviews {
        /// Which project.
        project: ProjectName,
        /// How many there may be.
        most: u32,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// The verb.
        action: &'static str,
        /// The file or folder.
        path: std::path::PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The specification has no service.
    #[error("the project has no `service`, so there is nothing to deploy")]
    NoService,
    /// A value of the request is out of its bounds.
    #[error("{key}: {problem}")]
    Invalid {
        /// The key of the specification or the request.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The same key was used for another request.
    #[error("the idempotency key `{0}` was used for another request")]
    KeyReused(String),
    /// Somebody else has the host name.
    #[error("service.hosts: `{host}{path}` belongs to `{environment}` of project `{project}`")]
    HostTaken {
        /// The host.
        host: String,
        /// The path prefix.
        path: String,
        /// Who has it.
        project: ProjectName,
        /// Where.
        environment: EnvironmentName,
    },
    /// This installation's engine cannot run it.
    #[error("{key}: {problem}")]
    Unsupported {
        /// The key of the specification.
        key: String,
        /// What it asks for and who could do it.
        problem: String,
    },
}

impl DeployError {
    /// Wraps an I/O error with the path it concerns.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<std::path::PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    pub(crate) fn room(what: impl Into<String>) -> impl FnOnce(Problem) -> Self {
        let what = what.into();
        move |source| Self::Room { what, source }
    }

    /// The message with its causes, for a reason that people read.
    pub(crate) fn told(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            let said = error.to_string();
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            next = error.source();
        }
        text
    }
}

impl Classified for DeployError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Denied(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Engine(error) => error.kind(),
            Self::Room { source, .. } => source.kind,
            Self::NoEnvironment { .. }
            | Self::NothingReleased { .. }
            | Self::NoRelease { .. }
            | Self::NothingEarlier { .. }
            | Self::NoRollout(_) => ErrorKind::NotFound,
            Self::AlreadyCurrent(_)
            | Self::NeverServed(_)
            | Self::Irreversible { .. }
            | Self::RolloutState { .. }
            | Self::Removing { .. }
            | Self::BranchGone { .. }
            | Self::BranchTaken { .. }
            | Self::TooManyPreviews { .. }
            | Self::KeyReused(_)
            | Self::HostTaken { .. } => ErrorKind::Conflict,
            Self::NoService | Self::Invalid { .. } => ErrorKind::InvalidInput,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Io { .. } => ErrorKind::Internal,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Denied(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Engine(error) => error.code(),
            Self::Room { source, .. } => source.code,
            Self::NoEnvironment { .. } => "deploy.environment.missing",
            Self::NothingReleased { .. } => "deploy.release.none",
            Self::NoRelease { .. } => "deploy.release.missing",
            Self::NothingEarlier { .. } => "deploy.release.none-earlier",
            Self::AlreadyCurrent(_) => "deploy.release.current",
            Self::NeverServed(_) => "deploy.release.never-served",
            Self::Irreversible { .. } => "deploy.release.irreversible",
            Self::NoRollout(_) => "deploy.rollout.missing",
            Self::RolloutState { .. } => "deploy.rollout.state",
            Self::Removing { .. } => "deploy.environment.removing",
            Self::BranchGone { .. } => "deploy.preview.branch-gone",
            Self::BranchTaken { .. } => "deploy.preview.branch-taken",
            Self::TooManyPreviews { .. } => "deploy.preview.too-many",
            Self::NoService => "deploy.service.none",
            Self::Invalid { .. } => "deploy.request.invalid",
            Self::KeyReused(_) => "deploy.request.key-reused",
            Self::HostTaken { .. } => "deploy.host.taken",
            Self::Unsupported { .. } => "deploy.engine.unsupported",
            Self::Io { .. } => "deploy.io",
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Denied(error) => return error.hint(),
            Self::Store(error) => return error.hint(),
            Self::Engine(error) => return error.hint(),
            Self::Room { source, .. } => return source.hint.clone(),
            Self::NoEnvironment { .. } | Self::NothingReleased { .. } => {
                "push to the default branch; the first release makes the environment"
            }
            Self::NoRelease { .. } | Self::NothingEarlier { .. } => {
                "`ondol releases` lists those that are kept"
            }
            Self::Irreversible { .. } => {
                "fix forward with a new push, or repeat with --force if the old code can live with the new schema"
            }
            Self::NoService => {
                "add `service: { run: … }` to ondol.yaml, or a file that says how it starts"
            }
            Self::HostTaken { .. } => "remove the host from one of the two projects and push again",
            Self::BranchGone { .. } => "push the branch again",
            Self::BranchTaken { .. } => "give one of the two branches another name",
            Self::TooManyPreviews { .. } => {
                "delete branches that are done, or name fewer under `previews.branches`"
            }
            Self::KeyReused(_) => "use a new key for a new request",
            _ => return None,
        };
        Some(text.to_owned())
    }
}
