//! `compose.yaml`: a project of several services, read into one model that a deployer acts on.
//!
//! The files are read from the commit and from nowhere else, variables come from the caller and from
//! the repository's `.env`, and what takes a container out of its confinement is refused unless the
//! caller says that an administrator allowed it. Nothing here runs, pulls or opens anything, and no
//! value of a secret ever comes in: a variable that is one of the project's secrets stays a name.
//! `docs/compose.md` has the rules, and a table of every key that the specification knows.
//!
//! The way through: [`load`] finds the files and makes one tree (`interpolate`, `normalize`, `merge`),
//! `known` walks it beside the table of `keys`, `read` makes the model, and `plan` and `changes` answer
//! what a deployer asks.

mod changes;
mod dotenv;
mod interpolate;
mod keys;
mod known;
mod load;
mod merge;
mod model;
mod normalize;
mod plan;
mod policy;
mod read;
mod short;
mod template;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use ondol_types::{ProjectName, SecretName};

pub use changes::{Change, Changes, changes};
pub use model::*;
pub use policy::{Permission, Permissions};
pub use template::{Part, Template};

use crate::detect::View;
use crate::error::SpecError;
use crate::tree::Tree;

/// Names that the file may have, strongest first.
pub const FILE_NAMES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];

/// Names that a file may have which is laid over the first, strongest first.
pub const OVERRIDE_NAMES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// The most services of one project.
pub const MAX_SERVICES: usize = 100;

/// Everything that a Compose project is made from.
#[derive(Clone, Copy)]
pub struct ComposeSources<'a> {
    /// The files of the commit.
    pub tree: &'a dyn Tree,
    /// The project that it is deployed as, when it is known.
    pub project: Option<&'a ProjectName>,
    /// Variables that are stronger than those of `.env`.
    pub environment: &'a BTreeMap<String, String>,
    /// Names of the secrets that are set; a variable of such a name is never replaced by text.
    pub secrets: &'a BTreeSet<SecretName>,
    /// Active profiles, besides those of `COMPOSE_PROFILES`.
    pub profiles: &'a BTreeSet<String>,
    /// What an administrator allowed.
    pub permissions: &'a Permissions,
}

static NO_VARIABLES: BTreeMap<String, String> = BTreeMap::new();
static NO_SECRETS: BTreeSet<SecretName> = BTreeSet::new();
static NO_PROFILES: BTreeSet<String> = BTreeSet::new();
static NO_PERMISSIONS: Permissions = BTreeSet::new();

impl<'a> ComposeSources<'a> {
    /// A repository and nothing else.
    pub fn of(tree: &'a dyn Tree) -> Self {
        Self {
            tree,
            project: None,
            environment: &NO_VARIABLES,
            secrets: &NO_SECRETS,
            profiles: &NO_PROFILES,
            permissions: &NO_PERMISSIONS,
        }
    }
}

/// Reads the Compose project of a repository; `None` when it has no Compose file.
///
/// # Errors
/// The first thing that is wrong, refused or not supported, with its place.
pub fn read_compose(sources: &ComposeSources<'_>) -> Result<Option<ComposeProject>, SpecError> {
    let view = View::whole(sources.tree);
    match load::load(sources, &view)? {
        Some(loaded) => read::project(sources, &view, loaded).map(Some),
        None => Ok(None),
    }
}

/// The tables of keys and permissions, for `docs/compose.md`.
pub fn reference() -> String {
    keys::reference()
}
