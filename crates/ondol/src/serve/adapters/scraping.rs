//! What runs, as targets of the scraper.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use ondol_deploy::DeployService;
use ondol_telemetry::ingest::scrape::{Place, Target, TargetSource};

/// The job of workloads.
const JOB: &str = "workload";

/// The replicas of every project, each at `/metrics` of the address that the gateway knows.
///
/// A workload need not have metrics. What it says of whose it is does not count: the labels given
/// here win.
pub(in crate::serve) struct Workloads {
    deploy: DeployService,
    /// What was found last, for when the database does not answer: a target that is missing once
    /// would end its series.
    last: Mutex<Vec<Target>>,
}

impl Workloads {
    pub(in crate::serve) fn new(deploy: DeployService) -> Self {
        Self {
            deploy,
            last: Mutex::default(),
        }
    }
}

#[async_trait]
impl TargetSource for Workloads {
    async fn targets(&self) -> Vec<Target> {
        let replicas = match self.deploy.running().await {
            Ok(replicas) => replicas,
            Err(error) => {
                tracing::warn!(error = %error, "the replicas to scrape are not known");
                let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                return last.clone();
            }
        };
        let targets: Vec<Target> = replicas
            .into_iter()
            .filter_map(|replica| {
                let address = replica.address?.to_string();
                let place = Place::Http(format!("http://{address}/metrics"));
                let mut target = Target::new(JOB, &address, place)
                    .label("project", replica.project.as_str())
                    .label("environment", replica.environment.as_str())
                    .label("release", &replica.release.to_string())
                    .label("replica", &replica.id.to_string());
                target.optional = true;
                Some(target)
            })
            .collect();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone_from(&targets);
        targets
    }
}
