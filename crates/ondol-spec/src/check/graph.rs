//! The graph of steps: every name in it exists, and it has no way back to where it began.

use std::collections::BTreeMap;

use super::Checker;
use crate::error::SpecError;
use crate::model::{BUILT_IN_STEPS, Spec};
use crate::nearest::nearest;

/// The most extra steps that a project may have.
const MAX_STEPS: usize = 200;

/// Edges between the built-in steps: the second starts after the first.
const BUILT_IN_EDGES: &[(&str, &str)] = &[
    ("install", "test"),
    ("install", "build"),
    ("build", "image"),
    ("test", "release"),
    ("image", "release"),
    ("validate", "train"),
    ("install", "train"),
    ("train", "evaluate"),
    ("evaluate", "release"),
];

pub(super) fn steps(spec: &Spec, checker: &Checker<'_>) -> Result<(), SpecError> {
    if spec.steps.len() > MAX_STEPS {
        return checker.fail(
            &["steps"],
            format!(
                "there are {} steps; at most {MAX_STEPS} are allowed",
                spec.steps.len()
            ),
            None,
        );
    }
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in BUILT_IN_EDGES {
        next.entry(from).or_default().push(to);
    }
    for (name, step) in &spec.steps {
        let name = name.as_str();
        if BUILT_IN_STEPS.contains(&name) {
            let hint = "give the step another name; the test command is set by `test:`, the build by `build:`";
            return checker.fail(
                &["steps", name],
                "a step of this name is built in",
                Some(hint),
            );
        }
        let lists = [
            ("needs", &step.needs),
            ("before", &step.before),
            ("after", &step.after),
        ];
        for (key, others) in lists {
            for (index, other) in others.iter().enumerate() {
                let other = other.as_str();
                let known = BUILT_IN_STEPS
                    .iter()
                    .copied()
                    .chain(spec.steps.keys().map(|step| step.as_str()));
                if !known.clone().any(|known| known == other) {
                    let hint = match nearest(other, known.clone()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("there are {}", known.collect::<Vec<_>>().join(", ")),
                    };
                    let path = ["steps", name, key, &index.to_string()];
                    return checker.fail(&path, format!("there is no step `{other}`"), Some(&hint));
                }
                if key == "before" {
                    next.entry(name).or_default().push(other);
                } else {
                    next.entry(other).or_default().push(name);
                }
            }
        }
    }
    match cycle(&next) {
        None => Ok(()),
        Some(way) => {
            // The circle has an extra step in it, since the built-in edges alone make none; it is
            // shown from there, because there it can be broken.
            let open = &way[..way.len() - 1];
            let turn = open
                .iter()
                .position(|name| !BUILT_IN_STEPS.contains(name))
                .unwrap_or(0);
            let at = open[turn];
            let way: Vec<&str> = open
                .iter()
                .cycle()
                .skip(turn)
                .take(way.len())
                .copied()
                .collect();
            let message = format!(
                "the steps wait for each other in a circle: {}",
                way.join(" → ")
            );
            checker.fail(
                &["steps", at],
                message,
                Some("remove one of their `needs`, `before` or `after`"),
            )
        }
    }
}

/// A way from a node back to itself, if there is one. Depth first without recursion.
fn cycle<'a>(next: &BTreeMap<&'a str, Vec<&'a str>>) -> Option<Vec<&'a str>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        OnTheWay,
        Done,
    }
    let mut marks: BTreeMap<&str, Mark> = BTreeMap::new();
    for start in next.keys().copied() {
        if marks.contains_key(start) {
            continue;
        }
        let mut way: Vec<(&str, usize)> = vec![(start, 0)];
        marks.insert(start, Mark::OnTheWay);
        while let Some((node, index)) = way.last_mut() {
            let node = *node;
            let Some(following) = next.get(node).and_then(|all| all.get(*index)).copied() else {
                marks.insert(node, Mark::Done);
                way.pop();
                continue;
            };
            *index += 1;
            match marks.get(following) {
                Some(Mark::Done) => {}
                Some(Mark::OnTheWay) => {
                    let from = way
                        .iter()
                        .position(|(name, _)| *name == following)
                        .unwrap_or(0);
                    let mut names: Vec<&str> = way[from..].iter().map(|(name, _)| *name).collect();
                    names.push(following);
                    return Some(names);
                }
                None => {
                    marks.insert(following, Mark::OnTheWay);
                    way.push((following, 0));
                }
            }
        }
    }
    None
}
