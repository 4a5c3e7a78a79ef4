//! Where training steps log their runs: the address of the one door, and a token that opens the
//! step's own project for reading and tracking and for nothing else.

use std::collections::BTreeMap;

use ondol_auth::{Grant, Role, Tokens};
use ondol_pipeline::model::{Run, Step};
use ondol_pipeline::{StepTracking, TrackingVariables};
use ondol_types::WorkloadId;
use serde_json::json;

use std::time::Duration;

/// How long a token outlives its step, for what is still on its way.
const MARGIN: Duration = Duration::from_secs(300);

/// The variables by which MLflow's clients find tracking.
pub(in crate::serve) struct TrackedSteps {
    pub(in crate::serve) tokens: Tokens,
    pub(in crate::serve) control: String,
}

/// What ties the runs that a step logs to the run of the pipeline. MLflow's clients set these
/// tags on every run that they begin.
fn context(run: &Run, step: &Step) -> String {
    let mut tags = json!({
        "ondol.project": run.project,
        "ondol.run": run.id,
        "ondol.run.number": run.number.to_string(),
        "ondol.step": step.name,
    });
    if let Some(commit) = &run.commit {
        tags["ondol.commit"] = json!(commit);
        tags["mlflow.source.git.commit"] = json!(commit);
    }
    if let Some(data) = &run.data {
        tags["ondol.data"] = json!(format!("{}@{}", data.dataset, data.number));
        tags["ondol.data.version"] = json!(data.version);
    }
    tags.to_string()
}

impl StepTracking for TrackedSteps {
    fn variables(&self, run: &Run, step: &Step, workload: WorkloadId) -> TrackingVariables {
        let token = self.tokens.mint_workload(
            workload,
            &format!("step {} of run {}", step.name, run.number),
            Grant::on(&run.project, Role::Viewer),
            step.definition.timeout() + MARGIN,
        );
        TrackingVariables {
            env: BTreeMap::from(
                [
                    ("MLFLOW_TRACKING_URI", self.control.clone()),
                    ("MLFLOW_EXPERIMENT_NAME", run.project.to_string()),
                    ("MLFLOW_RUN_CONTEXT", context(run, step)),
                ]
                .map(|(name, value)| (name.to_owned(), value)),
            ),
            secrets: BTreeMap::from([("MLFLOW_TRACKING_TOKEN".to_owned(), token)]),
        }
    }
}
