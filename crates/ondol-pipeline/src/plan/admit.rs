//! Who gets a place when there are fewer places than steps.
//!
//! Places are shared evenly between projects, older runs first. Inside a run, a step that
//! changes the checkout runs while nobody copies it or changes it.

use std::collections::BTreeMap;

use ondol_types::{ProjectName, RunId, StepId};

use crate::model::Place;

/// A step that could start.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) step: StepId,
    pub(crate) run: RunId,
    pub(crate) run_seq: i64,
    pub(crate) ordinal: i64,
    pub(crate) project: ProjectName,
    /// Whether it mostly waits, so that it takes no place.
    pub(crate) waits: bool,
    /// Where it runs, for commands.
    pub(crate) place: Option<Place>,
}

/// What already has a place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Occupied {
    /// Steps with a place, by project.
    pub(crate) projects: BTreeMap<ProjectName, usize>,
    /// Runs whose checkout is being changed by a step.
    pub(crate) changing: std::collections::BTreeSet<RunId>,
    /// Runs whose checkout is being copied for a step.
    pub(crate) copying: std::collections::BTreeSet<RunId>,
}

/// The steps that may start now.
pub(crate) fn admit(
    mut candidates: Vec<Candidate>,
    mut occupied: Occupied,
    places: usize,
) -> Vec<StepId> {
    let mut admitted = Vec::new();
    let mut taken: usize = occupied.projects.values().sum();
    // Copies come first: they are quick to take, and then the checkout is free again.
    candidates.sort_by_key(|candidate| {
        (
            candidate.run_seq,
            candidate.place == Some(Place::Source),
            candidate.ordinal,
        )
    });
    while !candidates.is_empty() {
        let load = |candidate: &Candidate| {
            occupied
                .projects
                .get(&candidate.project)
                .copied()
                .unwrap_or(0)
        };
        let fits = |candidate: &Candidate| {
            let place = candidate.waits || taken < places.max(1);
            let checkout = match candidate.place {
                Some(Place::Source) => {
                    !occupied.changing.contains(&candidate.run)
                        && !occupied.copying.contains(&candidate.run)
                }
                Some(Place::Copy) => !occupied.changing.contains(&candidate.run),
                None => true,
            };
            place && checkout
        };
        let next = candidates
            .iter()
            .enumerate()
            .filter(|(_, candidate)| fits(candidate))
            .min_by_key(|(index, candidate)| (load(candidate), *index))
            .map(|(index, _)| index);
        let Some(index) = next else { break };
        let chosen = candidates.remove(index);
        if !chosen.waits {
            taken += 1;
            *occupied.projects.entry(chosen.project).or_default() += 1;
        }
        match chosen.place {
            Some(Place::Source) => {
                occupied.changing.insert(chosen.run);
            }
            Some(Place::Copy) => {
                occupied.copying.insert(chosen.run);
            }
            None => {}
        }
        admitted.push(chosen.step);
    }
    admitted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(project: &str, run: i64, ordinal: i64, place: Option<Place>) -> Candidate {
        Candidate {
            step: StepId::derived(&format!("{project}/{run}/{ordinal}")),
            run: RunId::derived(&format!("{project}/{run}")),
            run_seq: run,
            ordinal,
            project: project.parse().unwrap(),
            waits: false,
            place,
        }
    }

    #[test]
    fn places_go_round_between_projects() {
        let mut all: Vec<Candidate> = (0..10)
            .map(|n| candidate("busy", 1, n, Some(Place::Copy)))
            .collect();
        all.push(candidate("late", 9, 0, Some(Place::Copy)));
        let admitted = admit(all.clone(), Occupied::default(), 3);
        assert_eq!(admitted.len(), 3);
        assert!(admitted.contains(&all[10].step));
        let mut occupied = Occupied::default();
        occupied.projects.insert("busy".parse().unwrap(), 2);
        assert_eq!(admit(all.clone(), occupied, 3), vec![all[10].step]);
    }

    #[test]
    fn what_only_waits_takes_no_place() {
        let mut deploy = candidate("web", 1, 5, None);
        deploy.waits = true;
        let mut occupied = Occupied::default();
        occupied.projects.insert("web".parse().unwrap(), 4);
        assert_eq!(admit(vec![deploy.clone()], occupied, 2), vec![deploy.step]);
    }

    #[test]
    fn a_checkout_is_changed_by_one_step_at_a_time_and_never_while_it_is_copied() {
        let lint = candidate("web", 1, 2, Some(Place::Copy));
        let install = candidate("web", 1, 1, Some(Place::Source));
        let both = vec![install.clone(), lint.clone()];
        assert_eq!(admit(both.clone(), Occupied::default(), 8), vec![lint.step]);
        let mut occupied = Occupied::default();
        occupied.changing.insert(install.run);
        assert!(admit(both, occupied, 8).is_empty());
    }
}
