//! The steps that the user wrote, and what a matrix makes of one of them.

use std::collections::BTreeMap;
use std::time::Duration;

use ondol_spec::model::{Combination, Matrix};
use ondol_types::StepName;

use super::graph::{GATHER_ACTION, Wish};
use crate::error::PipelineError;
use crate::model::{Definition, Member, Work};

/// The steps of the user, those of a matrix one by one.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes {
    pub(super) steps: BTreeMap<StepName, Wish>,
    /// The steps of each matrix, by the name of all of them.
    pub(super) groups: BTreeMap<StepName, Vec<StepName>>,
}

impl Wishes {
    /// Adds a step.
    ///
    /// # Errors
    /// There is one of this name.
    pub(super) fn add(&mut self, name: StepName, wish: Wish) -> Result<(), PipelineError> {
        if self.steps.contains_key(&name) {
            return Err(PipelineError::Graph(format!(
                "a matrix makes a step `{name}`, and there is one already"
            )));
        }
        self.steps.insert(name, wish);
        Ok(())
    }
}

/// Adds one step for each combination, and returns what the step does that stands for all of them.
///
/// # Errors
/// The combinations are too many, or make no sense of a text.
pub(super) fn expand(
    group: &str,
    matrix: &Matrix,
    wish: Wish,
    wishes: &mut Wishes,
) -> Result<Definition, PipelineError> {
    let bad = |problem: String| PipelineError::Graph(format!("the matrix of `{group}`: {problem}"));
    let name: StepName = group
        .parse()
        .map_err(|error: ondol_types::NameError| bad(error.to_string()))?;
    let mut members = Vec::new();
    for instance in matrix.instances(group).map_err(bad)? {
        let mut definition = wish.definition.clone();
        fill_in(&mut definition, &instance.combination).map_err(bad)?;
        definition.matrix = Some(Member {
            group: name.clone(),
            label: instance.label,
            fail_fast: matrix.fail_fast,
            max_parallel: matrix.max_parallel,
        });
        let member = Wish {
            definition,
            member_of: Some(name.clone()),
            ..wish.clone()
        };
        wishes.add(instance.name.clone(), member)?;
        members.push(instance.name);
    }
    wishes.groups.insert(name, members);
    let mut gather = Definition::action(GATHER_ACTION, Duration::from_secs(60));
    gather.waits = true;
    gather.allow_failure = wish.definition.allow_failure;
    Ok(gather)
}

/// Puts the values of a combination where they are asked for, and into the environment.
fn fill_in(definition: &mut Definition, combination: &Combination) -> Result<(), String> {
    let Work::Command(work) = &mut definition.work else {
        return Ok(());
    };
    if let Some(image) = &mut work.image {
        *image = combination.fill_in(image)?;
    }
    for service in work.services.values_mut() {
        service.image = combination.fill_in(&service.image)?;
        for value in service.env.values_mut() {
            *value = combination.fill_in(value)?;
        }
    }
    // What the step says itself was checked when it was pushed; a value of the whole project may
    // have text that only looks alike.
    for value in work.env.values_mut() {
        if let Ok(filled) = combination.fill_in(value) {
            *value = filled;
        }
    }
    work.env.extend(combination.variables());
    Ok(())
}
