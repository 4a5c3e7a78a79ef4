//! How the steps of the user join the spine.
//!
//! - What a step names under `needs` must have passed; under `after`, ended; and what it names
//!   under `before` needs it.
//! - A step that names nothing in front of it comes after `test`, or, when it is to come before
//!   `test` or something earlier, directly after the part of the spine before that.
//! - A step that names nothing behind it stands in front of the next part of the spine, so that
//!   a failing check keeps an image from being made and a release from going out.
//! - `install` and `build` that a project does not have count as passed. What this run does not
//!   have for another reason (no training, no release from this branch, a step for other
//!   branches) takes the steps that need it out of the run as well.
//! - The steps of a matrix stand side by side in front of the step that has the name of all of
//!   them: what is to come before that one comes before each of them.
//! - Artifacts go along what the user wrote, not along what follows from it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ondol_types::StepName;

use super::graph::{Built, Node, Wish, built_in};
use super::instances::Wishes;
use crate::error::PipelineError;
use crate::model::{Definition, Join, Need, Work};

fn rank(name: &str) -> Option<usize> {
    let name = if name == built_in::RELEASE {
        built_in::DEPLOY
    } else {
        name
    };
    built_in::SPINE.iter().position(|known| *known == name)
}

const INSTALL: usize = 1;
const BUILD: usize = 2;
const TEST: usize = 3;

/// What a name under `needs`, `before` or `after` stands for in this run.
#[derive(Clone, Copy, PartialEq)]
enum Target {
    Vertex(usize),
    /// A part of the spine that the project does not have and that counts as passed.
    Void(usize),
    Absent,
}

struct Vertex {
    name: StepName,
    rank: Option<usize>,
    definition: Definition,
    skip: Option<String>,
    needs: BTreeMap<usize, Join>,
}

struct Builder<'a> {
    vertices: Vec<Vertex>,
    wishes: &'a BTreeMap<StepName, Wish>,
    groups: &'a BTreeMap<StepName, Vec<StepName>>,
    /// Spine vertices in order, by rank; the last of several `build` stands for all.
    spine: Vec<(usize, usize)>,
    explicit: Vec<(usize, usize)>,
    /// Whose artifacts are given to whom.
    gives: Vec<(usize, usize)>,
}

fn bad(text: String) -> PipelineError {
    PipelineError::Graph(text)
}

/// Joins everything and sorts it; `checkout` is left out of the result.
pub(super) fn join(
    wishes: &Wishes,
    taken: &[String],
    built: Vec<Built>,
    branch: &str,
) -> Result<Vec<Node>, PipelineError> {
    for name in wishes.steps.keys() {
        let reserved =
            rank(name.as_str()).is_some() || taken.iter().any(|word| word == name.as_str());
        if reserved {
            return Err(bad(format!(
                "`{name}` is a step that Ondol brings: give yours another name"
            )));
        }
    }
    let mut builder = Builder {
        vertices: Vec::new(),
        wishes: &wishes.steps,
        groups: &wishes.groups,
        spine: Vec::new(),
        explicit: Vec::new(),
        gives: Vec::new(),
    };
    builder.add_spine(built)?;
    builder.add_wishes(branch)?;
    builder.add_defaults();
    builder.sorted()
}

impl Builder<'_> {
    fn add_spine(&mut self, built: Vec<Built>) -> Result<(), PipelineError> {
        let has_checkout = built
            .first()
            .is_some_and(|first| first.name == built_in::CHECKOUT);
        if !has_checkout {
            self.push(
                built_in::CHECKOUT,
                Definition::action(built_in::CHECKOUT, Default::default()),
                None,
            )?;
            self.spine.push((0, 0));
        }
        let builds = built
            .iter()
            .filter(|part| part.name == built_in::BUILD)
            .count();
        let mut nth = 0;
        for part in built {
            let rank = rank(part.name).unwrap_or(0);
            let mut name = part.name.to_owned();
            if part.name == built_in::BUILD {
                nth += 1;
                if nth < builds {
                    name = format!("{}-{nth}", built_in::BUILD);
                }
            }
            let previous = self.vertices.len().checked_sub(1);
            let index = self.push(&name, part.definition, part.skip)?;
            if let Some(previous) = previous {
                self.vertices[index].needs.insert(previous, Join::Passed);
            }
            self.vertices[index].rank = Some(rank);
            match self.spine.last_mut() {
                Some((last, vertex)) if *last == rank => *vertex = index,
                _ => self.spine.push((rank, index)),
            }
        }
        Ok(())
    }

    fn push(
        &mut self,
        name: &str,
        definition: Definition,
        skip: Option<String>,
    ) -> Result<usize, PipelineError> {
        let name: StepName = name.parse().map_err(|error| bad(format!("{error}")))?;
        self.vertices.push(Vertex {
            rank: rank(name.as_str()),
            name,
            definition,
            skip,
            needs: BTreeMap::new(),
        });
        Ok(self.vertices.len() - 1)
    }

    /// The steps of the user that this run has.
    fn present(&self, branch: &str) -> Result<BTreeSet<StepName>, PipelineError> {
        let runs_here = |wish: &Wish| {
            wish.branches.is_empty() || wish.branches.iter().any(|pattern| pattern.matches(branch))
        };
        let mut present: BTreeSet<StepName> = self
            .wishes
            .iter()
            .filter(|(_, wish)| runs_here(wish))
            .map(|(name, _)| name.clone())
            .collect();
        loop {
            let mut gone = Vec::new();
            for name in &present {
                let wish = &self.wishes[name];
                let mut missing = false;
                for need in &wish.needs {
                    missing |= self.is_absent(name, need, &present)?;
                }
                let mut after = Vec::new();
                for earlier in &wish.after {
                    after.push(self.is_absent(name, earlier, &present)?);
                }
                for later in &wish.before {
                    self.is_absent(name, later, &present)?;
                }
                missing |= wish.needs.is_empty()
                    && !after.is_empty()
                    && after.iter().all(|absent| *absent);
                let members = self.groups.get(name).into_iter().flatten();
                missing |= members.into_iter().any(|member| !present.contains(member));
                if missing {
                    gone.push(name.clone());
                }
            }
            if gone.is_empty() {
                return Ok(present);
            }
            for name in gone {
                present.remove(&name);
            }
        }
    }

    fn is_absent(
        &self,
        who: &StepName,
        name: &StepName,
        present: &BTreeSet<StepName>,
    ) -> Result<bool, PipelineError> {
        if self.wishes.contains_key(name) {
            return Ok(!present.contains(name));
        }
        match rank(name.as_str()) {
            Some(INSTALL | BUILD) => Ok(false),
            Some(rank) => Ok(!self.spine.iter().any(|(known, _)| *known == rank)),
            None => Err(bad(format!(
                "step `{who}` names `{name}`, which does not exist"
            ))),
        }
    }

    fn target(&self, name: &StepName, users: &BTreeMap<StepName, usize>) -> Target {
        if let Some(vertex) = users.get(name) {
            return Target::Vertex(*vertex);
        }
        match rank(name.as_str()) {
            Some(rank) => match self.spine.iter().find(|(known, _)| *known == rank) {
                Some((_, vertex)) => Target::Vertex(*vertex),
                None if rank == INSTALL || rank == BUILD => Target::Void(rank),
                None => Target::Absent,
            },
            None => Target::Absent,
        }
    }

    /// The steps of a matrix, or the one step that is meant.
    fn members(
        &self,
        name: &StepName,
        vertex: usize,
        users: &BTreeMap<StepName, usize>,
    ) -> Vec<usize> {
        match self.groups.get(name) {
            Some(members) => members
                .iter()
                .filter_map(|member| users.get(member).copied())
                .collect(),
            None => vec![vertex],
        }
    }

    fn spine_before(&self, rank: usize) -> usize {
        self.spine
            .iter()
            .rfind(|(known, _)| *known < rank)
            .map_or(0, |(_, vertex)| *vertex)
    }

    fn spine_after(&self, rank: usize) -> Option<usize> {
        self.spine
            .iter()
            .find(|(known, _)| *known > rank)
            .map(|(_, vertex)| *vertex)
    }

    /// The first vertex of a rank: what must wait when something comes before that rank.
    fn entry(&self, vertex: usize) -> usize {
        let rank = self.vertices[vertex].rank;
        if rank.is_none() {
            return vertex;
        }
        self.vertices
            .iter()
            .position(|other| other.rank == rank)
            .unwrap_or(vertex)
    }

    fn link(&mut self, from: usize, to: usize, join: Join) {
        self.explicit.push((from, to));
        let strongest = self.vertices[to].needs.entry(from).or_insert(join);
        if join == Join::Passed {
            *strongest = Join::Passed;
        }
    }

    fn add_wishes(&mut self, branch: &str) -> Result<(), PipelineError> {
        let wishes = self.wishes;
        let present = self.present(branch)?;
        let mut users = BTreeMap::new();
        for name in &present {
            let vertex = self.push(name.as_str(), wishes[name].definition.clone(), None)?;
            users.insert(name.clone(), vertex);
        }
        for (name, &vertex) in &users {
            let wish = &wishes[name];
            for (list, join) in [(&wish.needs, Join::Passed), (&wish.after, Join::Ended)] {
                for earlier in list {
                    match self.target(earlier, &users) {
                        Target::Vertex(from) => {
                            self.link(from, vertex, join);
                            for giver in self.members(earlier, from, &users) {
                                self.gives.push((giver, vertex));
                            }
                        }
                        Target::Void(rank) => self.link(self.spine_before(rank), vertex, join),
                        Target::Absent => {}
                    }
                }
            }
            if let Some(group) = &wish.member_of
                && let Target::Vertex(to) = self.target(group, &users)
            {
                self.link(vertex, to, Join::Passed);
            }
            let own = self.members(name, vertex, &users);
            for later in &wish.before {
                match self.target(later, &users) {
                    Target::Vertex(0) => {
                        return Err(bad(format!(
                            "step `{name}` cannot come before `{}`: there is no code yet",
                            built_in::CHECKOUT
                        )));
                    }
                    Target::Vertex(to) => {
                        for to in self.members(later, self.entry(to), &users) {
                            self.link(vertex, to, Join::Passed);
                            self.gives.extend(own.iter().map(|giver| (*giver, to)));
                        }
                    }
                    Target::Void(rank) => {
                        if let Some(to) = self.spine_after(rank) {
                            self.link(vertex, self.entry(to), Join::Passed);
                        }
                    }
                    Target::Absent => {}
                }
            }
        }
        Ok(())
    }

    /// The spine ranks that can be reached from `vertex` along explicit edges.
    fn reach(&self, vertex: usize, forward: bool) -> Vec<usize> {
        let mut seen = BTreeSet::from([vertex]);
        let mut ranks = Vec::new();
        let mut queue = VecDeque::from([vertex]);
        while let Some(here) = queue.pop_front() {
            for &(from, to) in &self.explicit {
                let (near, far) = if forward { (from, to) } else { (to, from) };
                if near != here || !seen.insert(far) {
                    continue;
                }
                match self.vertices[far].rank {
                    Some(rank) => ranks.push(rank),
                    None => queue.push_back(far),
                }
            }
        }
        ranks
    }

    fn add_defaults(&mut self) {
        let users: Vec<usize> = (0..self.vertices.len())
            .filter(|&vertex| self.vertices[vertex].rank.is_none())
            .collect();
        let mut more = Vec::new();
        for vertex in users {
            let ceiling = self.reach(vertex, true).into_iter().min();
            let floor = self.reach(vertex, false).into_iter().max();
            let incoming: Vec<Join> = self.vertices[vertex].needs.values().copied().collect();
            if incoming.is_empty() {
                let limit = ceiling.unwrap_or(usize::MAX).min(TEST + 1);
                more.push((self.spine_before(limit), vertex));
            } else if !incoming.contains(&Join::Passed) {
                // Whatever it waits for may have been skipped for want of code.
                more.push((0, vertex));
            }
            let wish = &self.wishes[&self.vertices[vertex].name];
            let open_ended = wish.before.is_empty() && wish.member_of.is_none();
            let gate = self.spine_after(floor.unwrap_or(TEST).max(TEST));
            if let (true, Some(gate)) = (open_ended, gate) {
                more.push((vertex, self.entry(gate)));
            }
        }
        for (from, to) in more {
            self.link(from, to, Join::Passed);
        }
    }

    fn sorted(self) -> Result<Vec<Node>, PipelineError> {
        let count = self.vertices.len();
        let mut placed = vec![false; count];
        let mut order = Vec::with_capacity(count);
        while order.len() < count {
            let free = |vertex: &usize| {
                !placed[*vertex]
                    && self.vertices[*vertex]
                        .needs
                        .keys()
                        .all(|need| placed[*need])
            };
            // What belongs to the spine goes as late as it can, so that a check stands before its gate.
            let user = (0..count)
                .filter(|vertex| self.vertices[*vertex].rank.is_none())
                .find(free);
            let Some(next) = user.or_else(|| (0..count).find(free)) else {
                return Err(bad(self.circle(&placed)));
            };
            placed[next] = true;
            order.push(next);
        }
        let name = |vertex: usize| self.vertices[vertex].name.clone();
        Ok(order
            .iter()
            .filter(|&&vertex| vertex != 0)
            .map(|&vertex| {
                let this = &self.vertices[vertex];
                Node {
                    name: this.name.clone(),
                    definition: self.given(vertex),
                    needs: this
                        .needs
                        .iter()
                        .map(|(&need, &join)| Need {
                            step: name(need),
                            join,
                        })
                        .collect(),
                    skip: this.skip.clone(),
                }
            })
            .collect())
    }

    /// What a vertex does, with the names of those whose artifacts it is given.
    fn given(&self, vertex: usize) -> Definition {
        let mut definition = self.vertices[vertex].definition.clone();
        if let Work::Command(work) = &mut definition.work {
            let keeps = |giver: usize| {
                let work = self.vertices[giver].definition.as_command();
                work.is_some_and(|work| !work.artifacts.is_empty())
            };
            let takes: BTreeSet<StepName> = self
                .gives
                .iter()
                .filter(|(giver, to)| *to == vertex && keeps(*giver))
                .map(|(giver, _)| self.vertices[*giver].name.clone())
                .collect();
            work.takes = takes.into_iter().collect();
        }
        definition
    }

    /// Names the steps of one circle among those that could not be placed.
    fn circle(&self, placed: &[bool]) -> String {
        let start = placed.iter().position(|done| !done).unwrap_or(0);
        let mut path: Vec<usize> = vec![start];
        loop {
            let here = path[path.len() - 1];
            let next = self.vertices[here]
                .needs
                .keys()
                .copied()
                .find(|need| !placed[*need])
                .unwrap_or(here);
            if let Some(begin) = path.iter().position(|vertex| *vertex == next) {
                let mut names: Vec<String> = path[begin..]
                    .iter()
                    .rev()
                    .map(|&vertex| format!("`{}`", self.vertices[vertex].name))
                    .collect();
                names.push(names[0].clone());
                return format!("{} need each other", names.join(" → "));
            }
            path.push(next);
        }
    }
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
