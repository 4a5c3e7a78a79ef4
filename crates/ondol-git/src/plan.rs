//! Which refs moved: stored and observed in, changes out. Pure.

use std::collections::BTreeMap;

use ondol_types::{CommitId, RefName};

/// Refs with what they point to.
pub(crate) type Refs = BTreeMap<RefName, CommitId>;

/// A ref that is not where the table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) name: RefName,
    pub(crate) old: Option<CommitId>,
    pub(crate) new: Option<CommitId>,
}

/// Everything that differs: the default branch first, because its run is what a person waits
/// for, then branches, then tags, each by name.
pub(crate) fn changes(stored: &Refs, observed: &Refs, default_branch: &str) -> Vec<Change> {
    let moved = observed.iter().filter_map(|(name, new)| {
        let old = stored.get(name);
        (old != Some(new)).then(|| Change {
            name: name.clone(),
            old: old.cloned(),
            new: Some(new.clone()),
        })
    });
    let gone = stored
        .iter()
        .filter(|(name, _)| !observed.contains_key(name))
        .map(|(name, old)| Change {
            name: name.clone(),
            old: Some(old.clone()),
            new: None,
        });
    let mut all: Vec<Change> = moved.chain(gone).collect();
    all.sort_by_key(|change| {
        let place = match change.name.branch() {
            Some(branch) if branch == default_branch => 0,
            Some(_) => 1,
            None => 2,
        };
        (place, change.name.clone())
    });
    all
}

/// The default branch that a repository should have, when the present one does not exist but
/// others do: a first push decides by what it calls its branch.
pub(crate) fn better_default(current: &str, observed: &Refs) -> Option<String> {
    let branches: Vec<&str> = observed.keys().filter_map(RefName::branch).collect();
    if branches.contains(&current) {
        return None;
    }
    ["main", "master", "trunk"]
        .into_iter()
        .find(|usual| branches.contains(usual))
        .or_else(|| branches.first().copied())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refs(pairs: &[(u8, u8)]) -> Refs {
        pairs
            .iter()
            .map(|(name, target)| {
                let name = match name % 6 {
                    0 => "refs/heads/main".to_owned(),
                    1 => "refs/tags/v1".to_owned(),
                    n => format!("refs/heads/b{n}"),
                };
                let target = format!("{:040x}", target % 3);
                (name.parse().unwrap(), target.parse().unwrap())
            })
            .collect()
    }

    #[test]
    fn the_default_branch_comes_first_and_tags_last() {
        let observed = refs(&[(0, 1), (1, 1), (2, 1)]);
        let order: Vec<_> = changes(&Refs::new(), &observed, "b2")
            .into_iter()
            .map(|change| change.name.to_string())
            .collect();
        assert_eq!(order, ["refs/heads/b2", "refs/heads/main", "refs/tags/v1"]);
    }

    #[test]
    fn a_first_push_names_the_default_branch() {
        let named = |pairs: &[(u8, u8)], current: &str| better_default(current, &refs(pairs));
        assert_eq!(named(&[], "main"), None);
        assert_eq!(named(&[(0, 1)], "main"), None);
        assert_eq!(named(&[(2, 1), (3, 1)], "main"), Some("b2".to_owned()));
        assert_eq!(named(&[(2, 1), (0, 1)], "gone"), Some("main".to_owned()));
        assert_eq!(named(&[(1, 1)], "main"), None);
    }

    proptest! {
        #[test]
        fn applying_the_changes_gives_what_was_observed(
            stored in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..8),
            observed in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..8),
        ) {
            let (mut stored, observed) = (refs(&stored), refs(&observed));
            for change in changes(&stored, &observed, "main") {
                prop_assert_ne!(&change.old, &change.new);
                prop_assert_eq!(stored.get(&change.name), change.old.as_ref());
                match change.new {
                    Some(new) => { stored.insert(change.name, new); }
                    None => { stored.remove(&change.name); }
                }
            }
            prop_assert_eq!(&stored, &observed);
            prop_assert!(changes(&stored, &observed, "main").is_empty());
        }
    }
}
