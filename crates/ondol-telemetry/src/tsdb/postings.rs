//! Which series a list of conditions holds for, over any index of labels.
//!
//! Lists of series are sorted and without repetition. Conditions that an absent label cannot
//! fulfil are intersected; the others take away the series whose value breaks them.

use std::collections::HashSet;

use crate::series::{Matcher, Operation};

/// An index of labels: the head's or a block's.
pub(crate) trait LabelIndex {
    /// What reading it can fail with.
    type Error;

    /// Every series.
    fn all(&self) -> Vec<u32>;

    /// Appends the series with this label.
    fn lookup(&self, name: &str, value: &str, into: &mut Vec<u32>) -> Result<(), Self::Error>;

    /// Appends the series of each value of a label that is wanted.
    fn scan(
        &self,
        name: &str,
        wanted: &mut dyn FnMut(&str) -> bool,
        into: &mut Vec<u32>,
    ) -> Result<(), Self::Error>;
}

/// The series all conditions hold for.
pub(crate) fn select<I: LabelIndex>(index: &I, matchers: &[Matcher]) -> Result<Vec<u32>, I::Error> {
    let mut found: Option<Vec<u32>> = None;
    let (narrowing, rest): (Vec<&Matcher>, Vec<&Matcher>) =
        matchers.iter().partition(|matcher| !matcher.matches(""));
    let (listed, scanned): (Vec<&Matcher>, Vec<&Matcher>) = narrowing
        .into_iter()
        .partition(|matcher| matcher.candidates().is_some());
    for matcher in listed.into_iter().chain(scanned) {
        if found.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Vec::new());
        }
        let mut list = Vec::new();
        match matcher.candidates() {
            Some(candidates) => {
                let distinct: HashSet<&str> = candidates.into_iter().collect();
                for value in distinct {
                    index.lookup(&matcher.name, value, &mut list)?;
                }
            }
            None => index.scan(
                &matcher.name,
                &mut |value| matcher.matches(value),
                &mut list,
            )?,
        }
        list.sort_unstable();
        found = Some(match found {
            None => list,
            Some(before) => intersect(&before, &list),
        });
    }
    let mut found = found.unwrap_or_else(|| index.all());
    for matcher in rest {
        if found.is_empty() {
            break;
        }
        let mut list = Vec::new();
        if matcher.operation == Operation::NotEqual {
            index.lookup(&matcher.name, &matcher.value, &mut list)?;
        } else {
            index.scan(
                &matcher.name,
                &mut |value| !matcher.matches(value),
                &mut list,
            )?;
        }
        list.sort_unstable();
        found = subtract(&found, &list);
    }
    Ok(found)
}

/// Series in both lists.
pub(crate) fn intersect(a: &[u32], b: &[u32]) -> Vec<u32> {
    let (small, large) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let mut rest = large;
    let mut both = Vec::with_capacity(small.len());
    for &series in small {
        // Leaps, then halves: cheap when one list is much shorter.
        let mut leap = 1;
        while leap < rest.len() && rest[leap] < series {
            leap *= 2;
        }
        let reach = (leap + 1).min(rest.len());
        let at = rest[..reach].partition_point(|&other| other < series);
        rest = &rest[at..];
        if rest.first() == Some(&series) {
            both.push(series);
        }
    }
    both
}

fn subtract(from: &[u32], gone: &[u32]) -> Vec<u32> {
    let mut rest = gone;
    from.iter()
        .copied()
        .filter(|&series| {
            let at = rest.partition_point(|&other| other < series);
            rest = &rest[at..];
            rest.first() != Some(&series)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lists_are_sets(a in prop::collection::btree_set(0u32..300, 0..80), b in prop::collection::btree_set(0u32..300, 0..200)) {
            let (left, right): (Vec<u32>, Vec<u32>) = (a.iter().copied().collect(), b.iter().copied().collect());
            let both: BTreeSet<u32> = a.intersection(&b).copied().collect();
            let only: BTreeSet<u32> = a.difference(&b).copied().collect();
            prop_assert_eq!(intersect(&left, &right), both.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(subtract(&left, &right), only.into_iter().collect::<Vec<_>>());
        }
    }
}
