//! What can go wrong in the pipeline.

use std::path::PathBuf;

use ondol_auth::Denied;
use ondol_store::StoreError;
use ondol_types::{Classified, ErrorKind, Problem, RunId};
use ondol_workload::EngineError;

use crate::model::IllegalTransition;

/// An error of the pipeline.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The principal may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The database or the event log.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine that runs steps.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A state machine was asked for a step it does not have.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// No such run, or the caller may not know of it.
    #[error("run {0} does not exist, or is not visible to you")]
    NoRun(String),
    /// No such step in the run.
    #[error("run {run} has no step `{step}`")]
    NoStep {
        /// The run.
        run: RunId,
        /// The name that was asked for.
        step: String,
    },
    /// The run has ended, so it cannot be cancelled.
    #[error("run {0} has already finished")]
    Finished(RunId),
    /// The run has not ended, so it cannot be retried.
    #[error("run {0} has not finished yet")]
    Unfinished(RunId),
    /// There is nothing to run.
    #[error("project `{0}` has no code yet")]
    NoCode(String),
    /// A filter that cannot be answered.
    #[error("{0}")]
    Filter(String),
    /// A graph that cannot be run.
    #[error("the steps cannot be put in order: {0}")]
    Graph(String),
    /// A step that does not wait for a person, or does so no more.
    #[error("step `{step}` of run {run} does not wait for an approval")]
    NotWaiting {
        /// The run.
        run: RunId,
        /// The step.
        step: String,
    },
    /// Who started a run approves it.
    #[error("step `{0}` asks for the approval of somebody else than who started the run")]
    OwnApproval(String),
    /// A step left more than it may.
    #[error("{0}")]
    Artifacts(String),
    /// No such artifact in the run.
    #[error("step `{step}` of run {run} has no artifact `{path}`")]
    NoArtifact {
        /// The run.
        run: RunId,
        /// The step.
        step: String,
        /// The path that was asked for.
        path: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Another room refused.
    #[error("{0}")]
    Elsewhere(Problem),
}

impl PipelineError {
    /// Wraps an I/O error with the path it concerns.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

impl Classified for PipelineError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Denied(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Engine(error) => error.kind(),
            Self::Illegal(_) => ErrorKind::Internal,
            Self::NoRun(_) | Self::NoStep { .. } | Self::NoArtifact { .. } => ErrorKind::NotFound,
            Self::Artifacts(_) => ErrorKind::TooLarge,
            Self::NotWaiting { .. } => ErrorKind::Conflict,
            Self::OwnApproval(_) => ErrorKind::Forbidden,
            Self::Finished(_) | Self::Unfinished(_) | Self::NoCode(_) => ErrorKind::Conflict,
            Self::Filter(_) | Self::Graph(_) => ErrorKind::InvalidInput,
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    ErrorKind::Unavailable
                }
                _ => ErrorKind::Internal,
            },
            Self::Elsewhere(problem) => problem.kind,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Denied(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Engine(error) => error.code(),
            Self::Illegal(_) => "pipeline.transition.illegal",
            Self::NoRun(_) => "pipeline.run.missing",
            Self::NoStep { .. } => "pipeline.step.missing",
            Self::Finished(_) => "pipeline.run.finished",
            Self::Unfinished(_) => "pipeline.run.unfinished",
            Self::NoCode(_) => "pipeline.project.empty",
            Self::Filter(_) => "pipeline.filter.invalid",
            Self::Graph(_) => "pipeline.graph.invalid",
            Self::Artifacts(_) => "pipeline.artifacts.too-large",
            Self::NotWaiting { .. } => "pipeline.approval.not-waiting",
            Self::OwnApproval(_) => "pipeline.approval.own",
            Self::NoArtifact { .. } => "pipeline.artifact.missing",
            Self::Io { .. } => "pipeline.io",
            Self::Elsewhere(problem) => problem.code,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Denied(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Engine(error) => error.hint(),
            Self::NoRun(_) => Some("list the runs with `ondol runs`".to_owned()),
            Self::NoStep { .. } => Some("see its steps with `ondol run show`".to_owned()),
            Self::NoArtifact { .. } => {
                Some("see what there is with `ondol run artifacts`".to_owned())
            }
            Self::NotWaiting { .. } => {
                Some("see with `ondol run show` what its steps do".to_owned())
            }
            Self::OwnApproval(_) => Some("ask somebody else who may deploy".to_owned()),
            Self::Artifacts(_) => Some("let `artifacts` name less".to_owned()),
            Self::Finished(_) => Some("start it again with `ondol run retry`".to_owned()),
            Self::Unfinished(_) => {
                Some("wait for it, or stop it with `ondol run cancel`".to_owned())
            }
            Self::NoCode(_) => Some("push it with `git push ondol main`".to_owned()),
            Self::Graph(_) => {
                Some("change `needs`, `before` or `after` under `steps` in ondol.yaml".to_owned())
            }
            Self::Elsewhere(problem) => problem.hint.clone(),
            Self::Illegal(_) | Self::Filter(_) | Self::Io { .. } => None,
        }
    }
}
