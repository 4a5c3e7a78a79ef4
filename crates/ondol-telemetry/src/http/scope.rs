//! What somebody may see and add: the decision about permission, as conditions on series.

use std::collections::BTreeSet;

use ondol_auth::{Action, Denied, Resource, VisibleScope, decide, visible_scope};

use super::Call;
use crate::series::{
    Batch, Hints, LabelsBuilder, Matcher, Operation, SeriesSet, SeriesSource, SourceError,
};

/// The label that says which project a series belongs to.
pub(crate) const PROJECT: &str = "project";

/// The condition on every series that somebody reads; `None` when they read everything.
#[derive(Clone, Debug)]
pub(super) struct Scope(Option<Matcher>);

impl Scope {
    /// What the caller may read.
    pub(super) fn of(call: &Call) -> Result<Self, Denied> {
        match visible_scope(&call.principal, Action::Read, call.now) {
            VisibleScope::Everything => Ok(Self(None)),
            VisibleScope::Projects(projects) if projects.is_empty() => {
                decide(
                    &call.principal,
                    Action::Read,
                    &Resource::Installation,
                    call.now,
                )?;
                // Whoever may read nothing was refused above.
                Err(Denied::Unauthenticated)
            }
            VisibleScope::Projects(projects) => {
                let names: Vec<String> = projects.iter().map(ToString::to_string).collect();
                // Names of projects are letters, digits and hyphens: no escapes are needed.
                let matcher = Matcher::new(PROJECT, Operation::Regex, &names.join("|"));
                matcher
                    .map(|matcher| Self(Some(matcher)))
                    .map_err(|_| Denied::Invisible("a label made of this many projects".to_owned()))
            }
        }
    }

    /// The sets with the condition in each; no set becomes the condition alone.
    pub(super) fn narrow(&self, mut sets: Vec<Vec<Matcher>>) -> Vec<Vec<Matcher>> {
        let Some(matcher) = &self.0 else {
            return sets;
        };
        if sets.is_empty() {
            sets.push(Vec::new());
        }
        for set in &mut sets {
            set.push(matcher.clone());
        }
        sets
    }

    /// Whether everything may be read.
    pub(super) fn is_everything(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a series with this value of the label `project` may be read.
    pub(super) fn shows(&self, project: &str) -> bool {
        self.0
            .as_ref()
            .is_none_or(|matcher| matcher.matches(project))
    }
}

/// A store as somebody may see it.
pub(super) struct Scoped<'a> {
    pub(super) source: &'a dyn SeriesSource,
    pub(super) scope: &'a Scope,
}

impl SeriesSource for Scoped<'_> {
    fn select<'a>(
        &'a self,
        matchers: &[Matcher],
        start: i64,
        end: i64,
        hints: &Hints,
    ) -> Result<Box<dyn SeriesSet + 'a>, SourceError> {
        match &self.scope.0 {
            None => self.source.select(matchers, start, end, hints),
            Some(condition) => {
                let mut narrowed = matchers.to_vec();
                narrowed.push(condition.clone());
                self.source.select(&narrowed, start, end, hints)
            }
        }
    }
}

/// Makes sure that a batch adds to nothing but what the caller may add to. Somebody with a single
/// project need not name it: series without a project get it.
///
/// # Errors
/// The refusal, when a series names a project that the caller may not add to, or none.
pub(super) fn admit(call: &Call, batch: &mut Batch) -> Result<(), Denied> {
    let projects = match visible_scope(&call.principal, Action::Push, call.now) {
        VisibleScope::Everything => return Ok(()),
        VisibleScope::Projects(projects) => projects,
    };
    if projects.is_empty() {
        return decide(
            &call.principal,
            Action::Push,
            &Resource::Installation,
            call.now,
        );
    }
    let names: BTreeSet<&str> = projects.iter().map(|project| project.as_str()).collect();
    let only = (projects.len() == 1).then(|| projects[0].as_str());
    for labels in &mut batch.series {
        let named = labels.get(PROJECT);
        if names.contains(named) {
            continue;
        }
        match only {
            Some(project) if named.is_empty() => {
                let mut builder = LabelsBuilder::from_labels(labels);
                builder.set(PROJECT, project);
                *labels = builder.build();
            }
            _ => {
                return Err(Denied::Forbidden {
                    principal: call.principal.name.clone(),
                    action: Action::Push,
                    resource: if named.is_empty() {
                        "series without the label `project`".to_owned()
                    } else {
                        format!("project `{}`", named.chars().take(80).collect::<String>())
                    },
                    needs: Action::Push.needs(),
                });
            }
        }
    }
    Ok(())
}
