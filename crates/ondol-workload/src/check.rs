//! What no engine could run is refused before anything is made, with the place in the spec.

use std::path::{Component, Path};

use crate::container::{ContainerSpec, Entrypoint, ImageRef};
use crate::error::EngineError;
use crate::model::WorkloadSpec;

/// More volumes, names or scratch directories than these are a mistake.
const MAX_PARTS: usize = 64;

impl WorkloadSpec {
    /// Refuses a spec that contradicts itself.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        self.problem().map_or(Ok(()), |problem| {
            Err(EngineError::Spec {
                id: self.id,
                problem,
            })
        })
    }

    fn problem(&self) -> Option<String> {
        let argv = self.command.argv();
        let image_knows = self
            .container
            .as_ref()
            .is_some_and(|container| container.entrypoint != Entrypoint::Replaced);
        if argv.first().is_none_or(String::is_empty) && !(argv.is_empty() && image_knows) {
            return Some("the command is empty".into());
        }
        if argv.iter().any(|argument| argument.contains('\0')) {
            return Some("the command has a NUL character".into());
        }
        let mut names = self.env.keys().chain(self.secret_env.keys());
        if let Some(name) = names.find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Some(format!(
                "`{}` cannot be the name of an environment variable",
                name.escape_debug()
            ));
        }
        if let Some((name, _)) = self.env.iter().find(|(_, value)| value.contains('\0')) {
            return Some(format!(
                "the value of the environment variable {name} has a NUL character"
            ));
        }
        if let Some((name, _)) = self
            .secret_env
            .iter()
            .find(|(_, value)| value.expose().contains('\0'))
        {
            return Some(format!(
                "the value of the secret {name} has a NUL character, so it can only be a file"
            ));
        }
        let cores = self.limits.cpu_cores;
        if cores.is_some_and(|cores| !cores.is_finite() || cores <= 0.0) {
            return Some("the processor limit must be more than zero".into());
        }
        if self
            .limits
            .memory_bytes
            .is_some_and(|bytes| bytes < 1 << 20)
        {
            return Some("the memory limit must be at least 1 MiB".into());
        }
        if self.limits.pids == Some(0) {
            return Some("the limit on processes must be at least 1".into());
        }
        self.container.as_deref().and_then(ContainerSpec::problem)
    }
}

impl ContainerSpec {
    fn problem(&self) -> Option<String> {
        if let ImageRef::Named(name) = &self.image
            && !is_image_name(name)
        {
            return Some(format!(
                "`{}` is not the name of an image",
                name.escape_debug()
            ));
        }
        if let Entrypoint::Own(argv) = &self.entrypoint
            && argv.first().is_none_or(String::is_empty)
        {
            return Some("the entrypoint is empty".into());
        }
        if self
            .volumes
            .len()
            .max(self.names.len())
            .max(self.scratch.len())
            .max(self.shared.len())
            > MAX_PARTS
        {
            return Some(format!(
                "it has more than {MAX_PARTS} volumes, names or scratch directories"
            ));
        }
        let shared = self.shared.iter().map(|dir| dir.target.as_str());
        let mut paths = self
            .volumes
            .iter()
            .map(|volume| volume.target.as_str())
            .chain(shared);
        let mut more = self
            .scratch
            .iter()
            .chain(&self.work_dir)
            .map(String::as_str);
        if let Some(path) = paths
            .by_ref()
            .chain(more.by_ref())
            .find(|path| !is_place(path))
        {
            return Some(format!(
                "`{}` is not an absolute path inside a container",
                path.escape_debug()
            ));
        }
        // A volume may belong to a part of a project: labels with dots between them.
        let volumes = self
            .volumes
            .iter()
            .flat_map(|volume| volume.name.split('.'));
        let names = self.names.iter().chain(&self.network).map(String::as_str);
        if let Some(label) = names.chain(volumes).find(|label| !is_label(label)) {
            return Some(format!(
                "`{}` is not a name of letters, digits and dashes",
                label.escape_debug()
            ));
        }
        let user = self.user.as_deref().unwrap_or("0");
        let is_user_letter = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        if user.is_empty() || user.len() > 64 || !user.chars().all(is_user_letter) {
            return Some(format!("`{}` is not a user", user.escape_debug()));
        }
        None
    }
}

/// The grammar of image names is the engine's; this keeps out what could mean something else in
/// an address.
fn is_image_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    (1..=512).contains(&name.len())
        && name.chars().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !name.contains("..")
        && !name.contains("//")
}

/// One DNS label, as names in a network are.
fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
}

fn is_place(path: &str) -> bool {
    let parts = Path::new(path).components();
    path.len() <= 4_096
        && path.starts_with('/')
        && path != "/"
        && !path.contains([':', ',', '\0'])
        && parts
            .skip(1)
            .all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use ondol_types::WorkloadId;

    use super::*;
    use crate::container::NamedVolume;
    use crate::model::{Command, WorkloadKind};

    fn spec() -> WorkloadSpec {
        let id = WorkloadId::derived("checked");
        let command = Command::Argv(vec!["true".into()]);
        let mut spec = WorkloadSpec::new(id, 1, "p".parse().unwrap(), WorkloadKind::Once, command);
        let image = ImageRef::Named("docker.io/library/busybox:1.36".into());
        spec.container = Some(Box::new(ContainerSpec::new(image)));
        spec
    }

    fn refused(change: impl FnOnce(&mut ContainerSpec)) -> String {
        let mut spec = spec();
        change(spec.container.as_mut().unwrap());
        spec.check().unwrap_err().to_string()
    }

    #[test]
    fn what_could_mean_something_else_to_an_engine_is_refused() {
        assert!(spec().check().is_ok());
        for name in ["", "-f", "../x", "a b", "a?b=c", "http://x//y", "a#b"] {
            let text = refused(|spec| spec.image = ImageRef::Named(name.into()));
            assert!(text.contains("not the name of an image"), "{name}: {text}");
        }
        for path in ["relative", "/", "/a/../b", "/a:/b", "/a,ro", ""] {
            let text = refused(|spec| spec.scratch = vec![path.into()]);
            assert!(text.contains("not an absolute path"), "{path}: {text}");
        }
        for name in ["", "A", ".b", "a..b", "-a", "a/b"] {
            let text = refused(|spec| {
                spec.volumes = vec![NamedVolume {
                    name: name.into(),
                    target: "/data".into(),
                    read_only: false,
                }];
            });
            assert!(text.contains("letters, digits"), "{name}: {text}");
        }
        assert!(refused(|spec| spec.user = Some("root;x".into())).contains("not a user"));
    }

    #[test]
    fn an_image_may_know_its_command_itself() {
        let mut spec = spec();
        spec.command = Command::Argv(Vec::new());
        assert!(spec.check().is_err());
        spec.container.as_mut().unwrap().entrypoint = Entrypoint::OfImage;
        assert!(spec.check().is_ok());
    }
}
