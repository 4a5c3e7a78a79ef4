//! How the repository becomes an image.

use super::{Checked, Checker, limits};
use crate::model::Spec;

/// The most build arguments, and the most build secrets.
const MAX_VALUES: usize = 200;
/// The longest value of a build argument, in bytes.
const MAX_VALUE: usize = 16 * 1024;

pub(in crate::check) fn build(spec: &Spec, checker: &Checker<'_>) -> Checked {
    let build = &spec.build;
    if build.base.is_some() && build.dockerfile.is_some() {
        let hint = "name the base image in the Dockerfile's FROM, or remove `dockerfile`";
        checker.fail(
            &["build", "base"],
            "a Dockerfile names its own base image",
            Some(hint),
        )?;
    }
    let only_with_a_dockerfile = [
        ("context", build.context.is_some()),
        ("target", build.target.is_some()),
        ("args", !build.args.is_empty()),
        ("secrets", !build.secrets.is_empty()),
        ("limits", !build.limits.is_empty()),
    ];
    for (key, written) in only_with_a_dockerfile {
        if written && build.dockerfile.is_none() {
            checker.fail(
                &["build", key],
                "only a build with a Dockerfile has it",
                Some("add `build.dockerfile: Dockerfile`"),
            )?;
        }
    }
    if let Some(target) = &build.target {
        let first = target.starts_with(|c: char| c.is_ascii_alphanumeric());
        let all = target
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !first || !all || target.len() > 128 {
            checker.fail(
                &["build", "target"],
                "is no name of a stage",
                Some("write the name behind `AS` in the Dockerfile"),
            )?;
        }
    }
    if build.args.len() > MAX_VALUES || build.secrets.len() > MAX_VALUES {
        let key = if build.args.len() > MAX_VALUES {
            "args"
        } else {
            "secrets"
        };
        let message = format!("has more than {MAX_VALUES} entries");
        checker.fail(&["build", key], message, None)?;
    }
    for (name, value) in &build.args {
        let at = ["build", "args", name.as_str()];
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let sound = name.bytes().all(word)
            && name.len() <= 128
            && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !sound {
            checker.fail(&at, "is no name of an `ARG`", None)?;
        }
        if value.len() > MAX_VALUE || value.contains('\0') {
            let message = format!("is longer than {MAX_VALUE} bytes or has a NUL");
            checker.fail(&at, message, None)?;
        }
        if spec
            .secrets
            .iter()
            .any(|secret| secret.name.as_str() == name)
        {
            checker.fail(
                &at,
                "a build argument can be read in the image, and this is the name of a secret",
                Some("name it under `build.secrets`, and read it by `RUN --mount=type=secret`"),
            )?;
        }
    }
    for (index, name) in build.secrets.iter().enumerate() {
        let at = ["build", "secrets", &index.to_string()];
        if !spec.secrets.iter().any(|secret| secret.name == *name) {
            checker.fail(
                &at,
                format!("`{name}` is not a secret of this project"),
                Some("name it under `secrets` too"),
            )?;
        }
        if build.secrets[..index].contains(name) {
            checker.fail(&at, format!("`{name}` is named twice"), None)?;
        }
    }
    limits(checker, &["build", "limits"], &build.limits)
}
