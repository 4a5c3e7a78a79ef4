//! One node of a run: what it does, and where it is in its life.

use std::collections::BTreeMap;
use std::time::Duration;

use ondol_spec::model::{Approve, AutoTrain, Limits, Pattern, SecretRef, ServiceName, StepService};
use ondol_types::{RelPath, RunId, StepId, StepName, Timestamp, WorkloadId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{IllegalTransition, shortened, word_enum};

/// The version of [`Definition`] that this build writes.
pub const DEFINITION_VERSION: u32 = 1;

word_enum! {
    /// What kind of work a step is.
    StepKind {
        /// A command in a workload of its own.
        Command = "command",
        /// Something that Ondol does itself.
        Action = "action",
    }
}

word_enum! {
    /// Where a step is in its life.
    StepState {
        /// It waits for the steps it needs, or for a free place.
        Pending = "pending",
        /// It has a place and is being started.
        Ready = "ready",
        /// It runs.
        Running = "running",
        /// It has ended; its outcome says how.
        Finished = "finished",
    }
}

word_enum! {
    /// How a step ended.
    StepOutcome {
        /// Well.
        Success = "success",
        /// It failed.
        Failure = "failure",
        /// It never ran; the reason says why.
        Skipped = "skipped",
        /// Somebody stopped the run.
        Cancelled = "cancelled",
        /// It ran longer than it may.
        TimedOut = "timedOut",
        /// It worked, and refused the data or model it was given.
        Refused = "refused",
        /// The platform could not carry it out, or does not know how it ended.
        Error = "error",
    }
}

word_enum! {
    /// What a step asks of a step before it.
    Join {
        /// That it passed.
        Passed = "passed",
        /// That it ended, however.
        Ended = "ended",
    }
}

/// A step that must come first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Need {
    /// Which step of the run.
    pub step: StepName,
    /// What is asked of it.
    pub join: Join,
}

word_enum! {
    /// Where a command runs.
    Place {
        /// In the checkout itself: what it changes is what later steps and the image see.
        Source = "source",
        /// In a copy of the checkout: what it changes is gone with it.
        Copy = "copy",
    }
}

/// What a command step executes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Program {
    /// Text for `/bin/sh -ec`.
    Shell(String),
    /// The built-in trainer.
    TrainAuto(AutoTrain),
}

/// The work of a command step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandWork {
    /// What is executed.
    pub program: Program,
    /// Where.
    pub place: Place,
    /// Environment from the specification.
    pub env: BTreeMap<String, String>,
    /// Folders of the checkout in front of `PATH`.
    pub path: Vec<RelPath>,
    /// Folders of the checkout that a copy links to, because they hold what `install` made.
    pub links: Vec<RelPath>,
    /// Further JUnit files to read, as patterns.
    pub junit: Vec<Pattern>,
    /// Tests whose failures do not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine: Vec<Pattern>,
    /// What it may use.
    pub limits: Limits,
    /// Secrets that it receives.
    pub secrets: Vec<SecretRef>,
    /// For training: where in the work directory the data must appear.
    pub data: Option<RelPath>,
    /// For training: the name of the model.
    pub model: Option<String>,
    /// Whether its project trains a model, so that it is told where runs are tracked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tracked: bool,
    /// Files of the work directory that are kept with the run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Pattern>,
    /// Steps whose artifacts are laid out in the work directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub takes: Vec<StepName>,
    /// The image that it runs in; without one it is a process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Programs that run beside it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<ServiceName, StepService>,
}

/// The work of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Work {
    /// A workload.
    Command(Box<CommandWork>),
    /// An action of the platform, by its name.
    Action(String),
}

/// The matrix that a step is one of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The name of the step that passes when all of them have.
    pub group: StepName,
    /// What people call this one, such as `test (python=3.12)`.
    pub label: String,
    /// Whether the failure of another one ends it.
    pub fail_fast: bool,
    /// The most of them at the same time.
    pub max_parallel: Option<u32>,
}

/// Everything about a step that does not change while it lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    /// The form of this value.
    pub version: u32,
    /// What it does.
    pub work: Work,
    /// How long one attempt may take, in milliseconds.
    pub timeout_ms: u64,
    /// How often it is tried again after a failure of its own.
    pub retries: u32,
    /// Whether it may run again when its outcome is unknown.
    pub repeatable: bool,
    /// Whether the run passes when it fails.
    pub allow_failure: bool,
    /// Whether it mostly waits, so that it takes no place from others.
    pub waits: bool,
    /// The matrix that it is one of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matrix: Option<Member>,
    /// That it waits for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approve>,
}

impl Definition {
    /// An action.
    pub fn action(name: &str, timeout: Duration) -> Self {
        Self {
            version: DEFINITION_VERSION,
            work: Work::Action(name.to_owned()),
            timeout_ms: timeout.as_millis() as u64,
            retries: 0,
            repeatable: true,
            allow_failure: false,
            waits: false,
            matrix: None,
            approval: None,
        }
    }

    /// A command that may be repeated.
    pub fn command(work: CommandWork, timeout: Duration) -> Self {
        Self {
            work: Work::Command(Box::new(work)),
            ..Self::action("", timeout)
        }
    }

    /// How long one attempt may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// The kind of work.
    pub fn kind(&self) -> StepKind {
        match self.work {
            Work::Command(_) => StepKind::Command,
            Work::Action(_) => StepKind::Action,
        }
    }

    /// The command, when it is one.
    pub fn as_command(&self) -> Option<&CommandWork> {
        match &self.work {
            Work::Command(work) => Some(work),
            Work::Action(_) => None,
        }
    }

    /// The programs beside it.
    pub(crate) fn services(&self) -> impl Iterator<Item = (&ServiceName, &StepService)> {
        self.as_command()
            .into_iter()
            .flat_map(|work| &work.services)
    }
}

/// How an attempt ended for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// The outcome.
    pub outcome: StepOutcome,
    /// The exit code, for commands that have one.
    pub exit_code: Option<i32>,
    /// Why, in one line.
    pub reason: Option<String>,
    /// What the step hands to later ones.
    pub outputs: Option<Value>,
}

impl Conclusion {
    /// An outcome with its reason.
    pub fn because(outcome: StepOutcome, reason: impl Into<String>) -> Self {
        Self {
            outcome,
            exit_code: None,
            reason: Some(reason.into()),
            outputs: None,
        }
    }

    /// Success without anything to say.
    pub fn success() -> Self {
        Self {
            outcome: StepOutcome::Success,
            exit_code: None,
            reason: None,
            outputs: None,
        }
    }
}

/// One node of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Its id: a function of the run and the name.
    pub id: StepId,
    /// Whose it is.
    pub run: RunId,
    /// Its name in the run.
    pub name: StepName,
    /// What people call it, where that is more than its name: `test (python=3.12)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Its place in the list that people see.
    pub ordinal: i64,
    /// What kind of work it is.
    pub kind: StepKind,
    /// Steps that come first.
    pub needs: Vec<Need>,
    /// Where it is in its life.
    pub state: StepState,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<StepOutcome>,
    /// Which attempt it is at, from 1; 0 before the first.
    pub attempt: u32,
    /// How many attempts were lost to the platform.
    pub faults: u32,
    /// The workload that runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadId>,
    /// The exit code of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it ended as it did, or why it waits, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it hands to later steps, such as an image digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub outputs: Option<Value>,
    /// Whether it may run again when its outcome is unknown.
    pub repeatable: bool,
    /// Whether the run passes when it fails.
    pub allow_failure: bool,
    /// When the current attempt began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Not before this moment, after an attempt that failed.
    #[serde(skip)]
    pub not_before: Option<Timestamp>,
    /// What it does.
    #[serde(skip, default = "Step::no_definition")]
    pub definition: Definition,
    /// The `serve` process that runs the action.
    #[serde(skip)]
    pub holder: Option<String>,
    /// Grows with every taking of the action, so that a late writer is refused.
    #[serde(skip)]
    pub fence: i64,
    /// Until when the holder promised to be heard of.
    #[serde(skip)]
    pub lease_until: Option<Timestamp>,
}

impl Step {
    fn no_definition() -> Definition {
        Definition::action("", Duration::ZERO)
    }

    /// A step that has not begun.
    pub fn new(
        run: RunId,
        ordinal: i64,
        name: StepName,
        definition: Definition,
        needs: Vec<Need>,
    ) -> Self {
        let kind = definition.kind();
        let id = StepId::derived(&format!("{run}/{name}"));
        Self {
            id,
            run,
            label: definition.matrix.as_ref().map(|of| of.label.clone()),
            ordinal,
            kind,
            needs,
            state: StepState::Pending,
            outcome: None,
            attempt: 0,
            faults: 0,
            workload: (kind == StepKind::Command).then(|| WorkloadId::derived(&id.to_string())),
            exit_code: None,
            reason: None,
            outputs: None,
            repeatable: definition.repeatable,
            allow_failure: definition.allow_failure,
            started_at: None,
            finished_at: None,
            not_before: None,
            name,
            definition,
            holder: None,
            fence: 0,
            lease_until: None,
        }
    }

    fn illegal(&self, to: &str) -> IllegalTransition {
        IllegalTransition {
            what: format!("step `{}` of run {}", self.name, self.run),
            from: self.state.to_string(),
            to: to.to_owned(),
        }
    }

    /// Pending → ready: it has a place, and the next attempt is to be started.
    ///
    /// # Errors
    /// It is not pending.
    pub fn claim(&mut self, now: Timestamp) -> Result<(), IllegalTransition> {
        if self.state != StepState::Pending {
            return Err(self.illegal("ready"));
        }
        self.state = StepState::Ready;
        self.attempt += 1;
        self.started_at = Some(now);
        self.not_before = None;
        self.reason = None;
        self.exit_code = None;
        Ok(())
    }

    /// Ready → running.
    ///
    /// # Errors
    /// It is not ready.
    pub fn begin(&mut self, now: Timestamp) -> Result<(), IllegalTransition> {
        if self.state != StepState::Ready {
            return Err(self.illegal("running"));
        }
        self.state = StepState::Running;
        self.started_at = Some(now);
        Ok(())
    }

    /// Ready or running → pending: this attempt came to nothing, and there will be another.
    ///
    /// # Errors
    /// It is neither ready nor running.
    pub fn again(
        &mut self,
        not_before: Timestamp,
        fault: bool,
        reason: String,
    ) -> Result<(), IllegalTransition> {
        if !matches!(self.state, StepState::Ready | StepState::Running) {
            return Err(self.illegal("pending"));
        }
        self.state = StepState::Pending;
        self.not_before = Some(not_before);
        self.faults += u32::from(fault);
        self.reason = Some(shortened(reason));
        self.holder = None;
        self.lease_until = None;
        Ok(())
    }

    /// Anything but finished → finished. What never began can only have been skipped or
    /// cancelled; what runs cannot have been skipped, unless it is an action that said so.
    ///
    /// # Errors
    /// It has finished already, or the outcome does not fit.
    pub fn finish(
        &mut self,
        conclusion: Conclusion,
        now: Timestamp,
    ) -> Result<(), IllegalTransition> {
        use StepOutcome::{Cancelled, Error, Skipped};
        let fits = match self.state {
            StepState::Pending => matches!(conclusion.outcome, Skipped | Cancelled | Error),
            StepState::Ready => conclusion.outcome != StepOutcome::Success,
            StepState::Running => conclusion.outcome != Skipped || self.kind == StepKind::Action,
            StepState::Finished => false,
        };
        if !fits {
            return Err(self.illegal(conclusion.outcome.as_str()));
        }
        self.state = StepState::Finished;
        self.outcome = Some(conclusion.outcome);
        self.exit_code = conclusion.exit_code;
        self.reason = conclusion.reason.map(shortened);
        self.outputs = conclusion.outputs;
        self.finished_at = Some(now);
        self.not_before = None;
        self.holder = None;
        self.lease_until = None;
        Ok(())
    }

    /// Ready or running → held by `holder` under the next fencing number.
    ///
    /// # Errors
    /// It is not an action that is being worked on.
    pub fn take(&mut self, holder: &str, until: Timestamp) -> Result<i64, IllegalTransition> {
        if self.kind != StepKind::Action
            || !matches!(self.state, StepState::Ready | StepState::Running)
        {
            return Err(self.illegal("held"));
        }
        self.fence += 1;
        self.holder = Some(holder.to_owned());
        self.lease_until = Some(until);
        Ok(self.fence)
    }

    /// Its label or its name.
    pub fn title(&self) -> &str {
        self.label.as_deref().unwrap_or(self.name.as_str())
    }

    /// Whether it failed in a way that ends the rest of its matrix.
    pub(crate) fn ends_its_matrix(&self) -> bool {
        use StepOutcome::{Error, Failure, Refused, TimedOut};
        !self.allow_failure
            && self
                .outcome
                .is_some_and(|outcome| matches!(outcome, Failure | TimedOut | Error | Refused))
    }

    /// Whether steps that need it to have passed may go on.
    pub fn passed(&self) -> bool {
        match self.outcome {
            Some(StepOutcome::Success) => true,
            Some(
                StepOutcome::Failure
                | StepOutcome::TimedOut
                | StepOutcome::Error
                | StepOutcome::Refused,
            ) => self.allow_failure,
            Some(StepOutcome::Skipped | StepOutcome::Cancelled) | None => false,
        }
    }
}

/// The workloads of a program beside a step: the program, and what asks whether it is ready.
pub(crate) fn service_workloads(step: &StepId, service: &ServiceName) -> [WorkloadId; 2] {
    ["", "/ready"].map(|what| WorkloadId::derived(&format!("{step}/services/{service}{what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(kind: StepKind) -> Step {
        let definition = match kind {
            StepKind::Action => Definition::action("image", Duration::from_secs(1)),
            StepKind::Command => Definition::command(
                CommandWork {
                    program: Program::Shell("true".into()),
                    place: Place::Copy,
                    env: BTreeMap::new(),
                    path: Vec::new(),
                    links: Vec::new(),
                    junit: Vec::new(),
                    quarantine: Vec::new(),
                    limits: Limits::default(),
                    secrets: Vec::new(),
                    data: None,
                    model: None,
                    tracked: false,
                    artifacts: Vec::new(),
                    takes: Vec::new(),
                    image: None,
                    services: BTreeMap::new(),
                },
                Duration::from_secs(1),
            ),
        };
        Step::new(
            RunId::derived("r"),
            0,
            "x".parse().unwrap(),
            definition,
            Vec::new(),
        )
    }

    #[test]
    fn a_step_cannot_jump() {
        let now = Timestamp::from_micros(1);
        let mut step = step(StepKind::Command);
        assert!(step.begin(now).is_err());
        assert!(step.clone().finish(Conclusion::success(), now).is_err());
        step.claim(now).unwrap();
        assert!(step.claim(now).is_err());
        assert!(step.clone().finish(Conclusion::success(), now).is_err());
        step.begin(now).unwrap();
        assert!(
            step.take("me", now).is_err(),
            "commands are held by their shim"
        );
        let skipped = Conclusion::because(StepOutcome::Skipped, "no");
        assert!(step.clone().finish(skipped, now).is_err());
        step.again(now, true, "lost".into()).unwrap();
        assert_eq!((step.attempt, step.faults), (1, 1));
        step.claim(now).unwrap();
        step.begin(now).unwrap();
        step.finish(Conclusion::success(), now).unwrap();
        assert!(step.finish(Conclusion::success(), now).is_err());
        assert!(step.again(now, false, String::new()).is_err());
    }

    #[test]
    fn every_taking_of_an_action_has_a_greater_number() {
        let now = Timestamp::from_micros(1);
        let mut step = step(StepKind::Action);
        assert!(step.take("a", now).is_err());
        step.claim(now).unwrap();
        assert_eq!(step.take("a", now).unwrap(), 1);
        step.begin(now).unwrap();
        assert_eq!(step.take("b", now).unwrap(), 2);
    }

    #[test]
    fn definitions_have_a_stable_stored_form() {
        let definition = step(StepKind::Action).definition;
        let json = serde_json::to_string(&definition).unwrap();
        assert_eq!(
            json,
            r#"{"version":1,"work":{"action":"image"},"timeoutMs":1000,"retries":0,"repeatable":true,"allowFailure":false,"waits":false}"#
        );
        let command = step(StepKind::Command).definition;
        let stored = r#"{"version":1,"work":{"command":{"program":{"shell":"true"},"place":"copy","env":{},"path":[],"links":[],"junit":[],"limits":{},"secrets":[],"data":null,"model":null}},"timeoutMs":1000,"retries":0,"repeatable":true,"allowFailure":false,"waits":false}"#;
        assert_eq!(serde_json::to_string(&command).unwrap(), stored);
        assert_eq!(serde_json::from_str::<Definition>(stored).unwrap(), command);
        let named = stored.replace(r#""secrets":[]"#, r#""secrets":["TOKEN"]"#);
        let named: Definition = serde_json::from_str(&named).unwrap();
        let token = SecretRef::env("TOKEN".parse().unwrap());
        assert_eq!(named.as_command().unwrap().secrets, [token]);
    }
}
