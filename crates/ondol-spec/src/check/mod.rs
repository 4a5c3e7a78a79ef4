//! Values that are fine each must also go together.

mod graph;
mod parts;

use crate::error::{Fault, SpecError};
use crate::model::Spec;
use crate::node::{Node, dotted};

/// Checks a specification; `root` is the tree that it was read from and knows the places.
pub(crate) fn check(spec: &Spec, root: &Node) -> Result<(), SpecError> {
    let checker = Checker { root };
    parts::names(spec, &checker)?;
    parts::commands(spec, &checker)?;
    parts::build(spec, &checker)?;
    parts::service(spec, &checker)?;
    parts::release(spec, &checker)?;
    parts::data(spec, &checker)?;
    parts::training(spec, &checker)?;
    parts::monitor(spec, &checker)?;
    parts::contained(spec, &checker)?;
    graph::steps(spec, &checker)
}

/// Makes errors with the place of the value that they are about.
struct Checker<'a> {
    root: &'a Node,
}

impl Checker<'_> {
    fn fail(
        &self,
        path: &[&str],
        message: impl Into<String>,
        hint: Option<&str>,
    ) -> Result<(), SpecError> {
        Err(self.error(path, message, hint))
    }

    fn error(&self, path: &[&str], message: impl Into<String>, hint: Option<&str>) -> SpecError {
        SpecError::Meaning(Fault {
            message: format!("`{}`: {}", dotted(path), message.into()),
            origin: self.root.origin_of(path),
            path: dotted(path),
            hint: hint.map(str::to_owned),
        })
    }
}
