//! Fuzz target over names, paths, digests and ids: whatever text is accepted is written as it was
//! read, and cannot leave the place it is used in.

use std::fmt::Display;
use std::path::{Component, Path};
use std::str::FromStr;

use crate::{
    CommitId, DatasetName, Digest, EnvironmentName, ModelName, ProjectName, RefName, RelPath,
    RunId, SecretName, StepName, TokenId, VolumeName,
};

fn same<T: FromStr + Display>(text: &str) -> Option<T> {
    let value = text.parse::<T>().ok()?;
    assert_eq!(value.to_string(), text);
    Some(value)
}

fn one_component(name: Option<impl Display>) {
    let Some(name) = name else { return };
    let name = name.to_string();
    let mut parts = Path::new(&name).components();
    assert!(
        matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none(),
        "{name:?} is not one component of a path"
    );
    assert!(!name.starts_with('-') && !name.contains(['\0', '/', '\\', '\n', ' ']));
}

/// Every typed text.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    one_component(same::<ProjectName>(text));
    one_component(same::<EnvironmentName>(text));
    one_component(same::<VolumeName>(text));
    one_component(same::<DatasetName>(text));
    one_component(same::<ModelName>(text));
    one_component(same::<StepName>(text));
    one_component(same::<SecretName>(text));
    same::<RunId>(text);
    same::<TokenId>(text);
    if let Some(digest) = same::<Digest>(text) {
        let again = Digest::from_bytes(digest.algorithm(), &digest.to_bytes());
        assert_eq!(again, digest);
        assert!(
            digest
                .hex()
                .starts_with(digest.short().trim_end_matches('…'))
        );
    }
    if let Some(commit) = same::<CommitId>(text) {
        assert!(commit.as_str().starts_with(commit.short()));
    }
    if let Some(name) = same::<RefName>(text) {
        let plain = name.as_str().starts_with("refs/") && !name.as_str().contains("..");
        // Git lets the spaces of other alphabets stand in a name.
        assert!(plain && !name.as_str().contains(|c: char| c == ' ' || c.is_control()));
    }
    if let Some(path) = same::<RelPath>(text) {
        let root = Path::new("/root-of-all");
        let below = path.below(root);
        assert!(below.starts_with(root) && below != root);
        assert!(
            below
                .components()
                .all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        );
        assert!(path.as_str().ends_with(path.file_name()));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpora_and_mutations() {
        ondol_fuzzing::exercise("types_names", super::names);
    }
}
