//! What the routes are given.

use std::sync::Arc;

use ondol_auth::{Authenticator, Secrets, Tokens};
use ondol_background::Background;
use ondol_data::DataService;
use ondol_deploy::{DeployService, path_of};
use ondol_git::Git;
use ondol_ml::Models;
use ondol_pipeline::Pipeline;
use ondol_store::Store;
use ondol_store::events::EventLog;
use ondol_telemetry::Logs;
use ondol_types::{Clock, EnvironmentName, ProjectName};
use ondol_workload::Engine;

/// The addresses of this installation.
#[derive(Clone, Debug)]
pub struct Places {
    /// Of the API, git and the registry.
    pub control: String,
    /// Of applications.
    pub gateway: String,
}

impl Places {
    /// Where a project's service answers.
    pub fn application(&self, project: &ProjectName) -> String {
        self.environment(project, &EnvironmentName::production())
    }

    /// Where its service answers in one environment.
    pub fn environment(&self, project: &ProjectName, environment: &EnvironmentName) -> String {
        format!("{}{}", self.gateway, path_of(project, environment))
    }
}

/// Every room behind the API. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// The database.
    pub store: Store,
    /// The event log, from its oldest archived event to the newest.
    pub events: EventLog,
    /// Who asks.
    pub authenticator: Authenticator,
    /// Access tokens.
    pub tokens: Tokens,
    /// Secrets of projects.
    pub secrets: Secrets,
    /// The loops.
    pub background: Background,
    /// Repositories.
    pub git: Git,
    /// Runs.
    pub pipeline: Pipeline,
    /// Releases and rollouts.
    pub deploy: DeployService,
    /// Datasets.
    pub data: DataService,
    /// Models.
    pub models: Models,
    /// Logs.
    pub logs: Logs,
    /// What runs workloads, for its capabilities.
    pub engine: Arc<dyn Engine>,
    /// Addresses.
    pub places: Arc<Places>,
    /// Ends live views when the process stops.
    pub stopping: tokio_util::sync::CancellationToken,
}
