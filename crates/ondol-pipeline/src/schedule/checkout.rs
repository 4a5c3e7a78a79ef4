//! The first step of every run: fetch the code, read its specification, make the graph.
//!
//! Its end and the rows of all other steps are one transaction, so a run either has its whole
//! graph or is still at its first step.

use std::sync::Arc;

use ondol_types::{CommitId, ErrorKind, Problem, RunId};

use super::act::{Bounded, Ending, apply, ending, holds, say};
use super::launch::blocking;
use crate::error::PipelineError;
use crate::log::ActionLog;
use crate::model::{Conclusion, Run, Step, StepOutcome, StepState};
use crate::plan::{Graph, GraphInput, TrainingState, graph};
use crate::ports::{ActionOutcome, ResolvedSpec};
use crate::workspace::{Caches, cache, remove_tree};
use crate::{Inner, events, store};

/// The most bytes that the stored specification of a run may have.
const MAX_SPEC_BYTES: usize = 4 << 20;

/// What the first step found.
pub(super) enum Found {
    /// The project has no code.
    Nothing,
    Code(Box<Code>),
}

pub(super) struct Code {
    commit: CommitId,
    resolved: ResolvedSpec,
    graph: Graph,
}

impl Inner {
    pub(super) async fn check_out(
        self: &Arc<Self>,
        run: &Run,
        log: &ActionLog,
    ) -> Result<Found, Problem> {
        let commit = match &run.commit {
            Some(commit) => commit.clone(),
            None => match self.deps.sources.head(&run.project).await? {
                Some(commit) => commit,
                None => return Ok(Found::Nothing),
            },
        };
        let branch = self.branch_of(run).await?;
        self.fetch(run, &commit).await?;
        log.line(format!(
            "{} at {}, branch {branch}",
            run.project,
            commit.short()
        ));
        self.reached("pipeline.checkout.after-source");
        let source = self.workspace(&run.id).source();
        let resolved = self.deps.specs.resolve(&run.project, &source).await?;
        let size = store::json(&resolved.spec).len() + store::json(&resolved.explain).len();
        if size > MAX_SPEC_BYTES {
            let text = format!(
                "the specification has {size} bytes with every default, more than {} MiB",
                MAX_SPEC_BYTES >> 20
            );
            return Err(Problem::new(
                ErrorKind::TooLarge,
                "pipeline.spec.too-large",
                text,
            ));
        }
        let training = match &resolved.spec.train {
            Some(train) => {
                self.deps
                    .training
                    .state(&run.project, train.on.data.as_ref(), &train.model)
                    .await?
            }
            None => TrainingState::default(),
        };
        let input = GraphInput {
            spec: &resolved.spec,
            trigger: &run.trigger,
            branch: &branch,
            training: &training,
        };
        let graph = graph(input)?;
        let names: Vec<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
        log.line(format!("steps: {}", names.join(", ")));
        for note in resolved.notes.iter().chain(&graph.notes) {
            log.line(format!("note: {note}"));
        }
        let caches = Caches::of(&self.config.cache, &run.project);
        let build = resolved.spec.build.clone();
        blocking(move || {
            cache::restore(&caches, &source, &build.cache, &build.lock);
            Ok(())
        })
        .await?;
        Ok(Found::Code(Box::new(Code {
            commit,
            resolved,
            graph,
        })))
    }

    /// Writes the files of the commit; a half-written attempt before this one is replaced.
    async fn fetch(&self, run: &Run, commit: &CommitId) -> Result<(), Problem> {
        let workspace = self.workspace(&run.id);
        let (source, partial) = (workspace.source(), workspace.root().join("src.partial"));
        let dest = partial.clone();
        blocking(move || {
            remove_tree(&partial)?;
            remove_tree(&source)?;
            std::fs::create_dir_all(&partial).map_err(PipelineError::io("make", &partial))
        })
        .await?;
        self.deps
            .sources
            .checkout(&run.project, commit, &dest)
            .await?;
        let source = workspace.source();
        blocking(move || {
            std::fs::rename(&dest, &source).map_err(PipelineError::io("place", &source))
        })
        .await?;
        Ok(())
    }

    pub(super) async fn record_checkout(
        &self,
        held: &Step,
        log: &ActionLog,
        result: Bounded<Found>,
    ) -> Result<(), PipelineError> {
        let (code, end) = match result {
            Bounded::Done(Ok(Found::Code(code))) => {
                let outputs = serde_json::json!({ "commit": code.commit });
                let success = Conclusion {
                    outputs: Some(outputs),
                    ..Conclusion::success()
                };
                (Some(code), Ending::Finish(success))
            }
            Bounded::Done(Ok(Found::Nothing)) => {
                let reason = "the project has no code yet: push it with `git push ondol main`";
                (
                    None,
                    ending(
                        held,
                        Bounded::Done(Ok(ActionOutcome::Skipped(reason.to_owned()))),
                    ),
                )
            }
            Bounded::Done(Err(problem)) => (None, ending(held, Bounded::Done(Err(problem)))),
            Bounded::TimedOut => (None, ending(held, Bounded::TimedOut)),
            Bounded::Cancelled => (None, ending(held, Bounded::Cancelled)),
        };
        say(log, &end);
        self.reached("pipeline.checkout.before-graph");
        let recorded = match code {
            Some(code) => self.record_graph(held, &code).await?,
            None => {
                let changed = self
                    .change(&held.id, |run, step, now| {
                        if holds(step, held) {
                            apply(run, step, &end, now)
                        } else {
                            Ok(None)
                        }
                    })
                    .await?;
                changed.map(|(run, _)| run.id)
            }
        };
        self.reached("pipeline.checkout.after-graph");
        if let Some(run) = recorded {
            self.changed(run);
        }
        Ok(())
    }

    async fn record_graph(&self, held: &Step, code: &Code) -> Result<Option<RunId>, PipelineError> {
        let spec = store::json(&code.resolved.spec);
        let explain = store::json(&code.resolved.explain);
        let (spec, explain) = (&spec, &explain);
        self.deps
            .store
            .write::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    let Some(mut step) = store::load_step(tx, &held.id).await? else {
                        return Ok(None);
                    };
                    let Some(mut run) = store::load_run(tx, &held.run).await? else {
                        return Ok(None);
                    };
                    if !holds(&step, held) {
                        return Ok(None);
                    }
                    let now = tx.now();
                    run.commit = Some(code.commit.clone());
                    run.data = code.graph.data.clone();
                    for note in code.resolved.notes.iter().chain(&code.graph.notes) {
                        run.note(note.clone());
                    }
                    store::save_run(tx, &run).await?;
                    store::save_spec(tx, &run.id, spec, explain).await?;
                    let outputs = serde_json::json!({ "commit": code.commit });
                    step.finish(
                        Conclusion {
                            outputs: Some(outputs),
                            ..Conclusion::success()
                        },
                        now,
                    )?;
                    store::save_step(tx, &step).await?;
                    tx.append(events::step_finished(&run, &step).into()).await?;
                    for (index, node) in code.graph.nodes.iter().enumerate() {
                        let ordinal = index as i64 + 1;
                        let mut step = Step::new(
                            run.id,
                            ordinal,
                            node.name.clone(),
                            node.definition.clone(),
                            node.needs.clone(),
                        );
                        if let Some(reason) = &node.skip {
                            step.finish(
                                Conclusion::because(StepOutcome::Skipped, reason.clone()),
                                now,
                            )?;
                        }
                        store::insert_step(tx, &step).await?;
                        if step.state == StepState::Finished {
                            tx.append(events::step_finished(&run, &step).into()).await?;
                        }
                    }
                    Ok(Some(run.id))
                })
            })
            .await
    }
}
