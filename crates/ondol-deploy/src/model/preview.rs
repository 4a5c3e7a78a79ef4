//! Environments of branches.

use std::time::Duration;

use ondol_types::{EnvironmentName, EventId, ProjectName};

/// A branch that has an environment of its own, for as long as it is there and pushed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// The branch, without `refs/heads/`.
    pub branch: String,
    /// How long it lives after the last push.
    pub expire: Duration,
}

/// The most characters of a branch that stand in the name of its environment.
const MAX_SLUG: usize = 40;

impl Preview {
    /// The environment of a branch: `preview-` and the branch in lower-case letters, digits and
    /// hyphens. A branch that cannot be written so gets some letters at the end that tell it
    /// from those that would look alike.
    pub fn environment_of(branch: &str) -> EnvironmentName {
        let mut slug = String::new();
        for c in branch.chars() {
            let c = if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            };
            if c != '-' || !(slug.is_empty() || slug.ends_with('-')) {
                slug.push(c);
            }
            if slug.len() == MAX_SLUG {
                break;
            }
        }
        let slug = slug.trim_matches('-');
        let name = if slug == branch && !slug.is_empty() {
            format!("preview-{slug}")
        } else {
            let told = EventId::derived(&format!("branch:{branch}"))
                .to_string()
                .to_ascii_lowercase();
            let told = &told[told.len() - 6..];
            let hyphen = if slug.is_empty() { "" } else { "-" };
            format!("preview-{slug}{hyphen}{told}")
        };
        #[expect(
            clippy::expect_used,
            reason = "at most 55 lower-case letters, digits and inner hyphens, which a property test tries"
        )]
        name.parse().expect("a DNS label")
    }
}

/// A branch as the rows know it, also after its environment is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PreviewRow {
    pub(crate) project: ProjectName,
    pub(crate) environment: EnvironmentName,
    pub(crate) branch: String,
    /// The event that told of the branch's end.
    pub(crate) ended: Option<EventId>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_branches_keep_their_names_and_others_are_told_apart() {
        let of = |branch: &str| Preview::environment_of(branch).to_string();
        assert_eq!(of("topic"), "preview-topic");
        assert_eq!(of("fix-42"), "preview-fix-42");
        let alike = [
            "feature/a",
            "feature-a",
            "Feature/A",
            "feature--a",
            "feature/a/",
        ];
        let names: std::collections::BTreeSet<String> = alike.into_iter().map(of).collect();
        assert_eq!(names.len(), alike.len(), "{names:?}");
        assert!(of("feature/a").starts_with("preview-feature-a-"));
        assert!(of("온돌").starts_with("preview-"));
        let long = "x".repeat(200);
        assert_ne!(of(&long), of(&format!("{long}y")));
    }

    proptest! {
        #[test]
        fn every_branch_has_an_environment(branch in "\\PC{1,200}", other in "[a-zA-Z0-9/_-]{1,60}") {
            let name = Preview::environment_of(&branch);
            prop_assert!(name.as_str().len() <= 55 && name != EnvironmentName::production());
            if branch != other {
                prop_assert_ne!(Preview::environment_of(&other), name);
            }
        }
    }
}
