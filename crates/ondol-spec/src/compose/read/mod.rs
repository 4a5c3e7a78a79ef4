//! From one tree to the model: every section and every service read, every reference found.

mod at;
mod image;
mod isolation;
mod limits;
mod network;
mod service;
mod storage;
mod whole;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use ondol_types::{Digest, SecretName};

use self::at::{At, maybe};
use self::network::RouteWish;
use self::service::Draft;
use super::interpolate::Variables;
use super::keys::{ROOT, SERVICE};
use super::known::{self, Counts, Seen};
use super::load::Loaded;
use super::model::{ComposeProject, ResourceName, ServiceName};
use super::policy::{self, Permission, Permissions};
use super::{ComposeSources, MAX_SERVICES, changes};
use crate::detect::View;
use crate::error::{Fault, SpecError};
use crate::nearest::nearest;
use crate::node::Node;
use crate::resolve::Note;

/// What every part of the reader needs.
pub(super) struct Context<'c> {
    view: &'c View<'c>,
    variables: &'c Variables<'c>,
    permissions: &'c Permissions,
    root: &'c Node,
    notices: RefCell<Vec<Note>>,
    /// Bind mounts that were written without `ro`.
    made_read_only: RefCell<BTreeSet<String>>,
    /// Secrets of Ondol's store that are named.
    secrets: RefCell<BTreeSet<SecretName>>,
    /// What was allowed to the service that is read.
    elevated: RefCell<BTreeSet<Permission>>,
    contents: RefCell<BTreeMap<String, Option<Digest>>>,
    budget: Cell<usize>,
}

impl Context<'_> {
    fn require(&self, at: &At<'_>, permission: Permission) -> Result<(), SpecError> {
        let shown = at.text().unwrap_or_default();
        self.require_as(at, permission, &format!("`{}: {shown}`", at.path))
    }

    fn require_as(&self, at: &At<'_>, permission: Permission, what: &str) -> Result<(), SpecError> {
        policy::require(self.permissions, permission, what, &at.path, at.origin())?;
        self.elevated.borrow_mut().insert(permission);
        Ok(())
    }

    fn notice(&self, note: Note) {
        let mut notices = self.notices.borrow_mut();
        if !notices.contains(&note) {
            notices.push(note);
        }
    }

    fn read_only(&self, path: &str, source: &str) {
        let service = path.split('.').nth(1).unwrap_or_default();
        let shown = format!("`{source}` ({service})");
        self.made_read_only.borrow_mut().insert(shown);
    }

    fn stored(&self, secret: &SecretName) {
        self.secrets.borrow_mut().insert(secret.clone());
    }

    /// Hash of files of the repository, each path once.
    fn content(&self, path: &str) -> Option<Digest> {
        if let Some(known) = self.contents.borrow().get(path) {
            return known.clone();
        }
        let mut left = self.budget.get();
        let digest = storage::hash(self.view, path, &mut left);
        self.budget.set(left);
        if digest.is_none() {
            let shown = if path.is_empty() { "." } else { path };
            self.notice(
                Note::new(
                    "compose-mount-large",
                    format!("`{shown}` is too large to compare: every commit replaces the services that mount it"),
                )
                .hint("mount a smaller folder, or copy the files into the image"),
            );
        }
        self.contents
            .borrow_mut()
            .insert(path.to_owned(), digest.clone());
        digest
    }

    fn declared(&self, section: &str, name: &str) -> bool {
        self.root
            .child(section)
            .is_some_and(|node| node.entries().iter().any(|entry| entry.key == name))
    }

    fn undeclared(&self, at: &At<'_>, noun: &str, section: &str, name: &str) -> SpecError {
        let names: Vec<&str> = self
            .root
            .child(section)
            .map(Node::entries)
            .unwrap_or_default()
            .iter()
            .map(|entry| entry.key.as_str())
            .collect();
        let hint = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("add `{section}: {{ {name}: }}` to the top level"),
        };
        at.conflict(
            format!("names the {noun} `{name}`, which is not declared"),
            hint,
        )
    }

    fn unknown(&self, at: &At<'_>, noun: &str, name: &str, known: &[&'static str]) -> SpecError {
        let what = format!("is not a {noun} that Ondol knows");
        match nearest(name, known.iter().copied()) {
            Some(near) => at.wrong_hint(what, format!("did you mean `{near}`?")),
            None => at.wrong_hint(what, format!("known here: {}", known.join(", "))),
        }
    }

    fn resource(&self, at: &At<'_>, name: &str) -> Result<ResourceName, SpecError> {
        name.parse()
            .map_err(|error| at.wrong(format!("has a name that cannot be used: {error}")))
    }
}

/// Secrets of a build by id.
fn grant_names(
    ctx: &Context<'_>,
    at: &At<'_>,
) -> Result<BTreeMap<String, ResourceName>, SpecError> {
    let grants = storage::grants(ctx, at, "secrets", "/run/secrets/")?;
    Ok(grants
        .into_iter()
        .map(|(path, grant)| {
            let id = path.rsplit('/').next().unwrap_or(&path);
            (id.to_owned(), grant.source)
        })
        .collect())
}

fn too_many(at: &At<'_>, most: usize) -> SpecError {
    SpecError::TooLarge(Fault {
        message: format!("`{}` has more than {most} entries", at.path),
        origin: at.origin().clone(),
        path: at.path.clone(),
        hint: Some("divide the project".to_owned()),
    })
}

pub(super) fn project(
    sources: &ComposeSources<'_>,
    view: &View<'_>,
    loaded: Loaded<'_>,
) -> Result<ComposeProject, SpecError> {
    let Loaded {
        root,
        files,
        variables,
        notices,
    } = loaded;
    let at = At::new(&root, "");
    let ctx = Context {
        view,
        variables: &variables,
        permissions: sources.permissions,
        root: &root,
        notices: RefCell::new(notices),
        made_read_only: RefCell::default(),
        secrets: RefCell::default(),
        elevated: RefCell::default(),
        contents: RefCell::default(),
        budget: Cell::new(storage::budget()),
    };
    let mut seen = sections(&ctx, &root)?;
    let Some(services) = section(&at, "services") else {
        return Err(SpecError::Value(Fault {
            message: "`services` is missing".to_owned(),
            origin: root.origin.clone(),
            path: "services".to_owned(),
            hint: Some("name what runs: `services: { web: { build: . } }`".to_owned()),
        }));
    };
    let active = active_profiles(sources, &variables);
    let mut drafts: BTreeMap<ServiceName, (Draft, At<'_>)> = BTreeMap::new();
    let mut disabled = BTreeMap::new();
    let mut entries = services.entries()?;
    if entries.len() > MAX_SERVICES {
        return Err(too_many(&services, MAX_SERVICES));
    }
    entries.sort_by_key(|(name, _)| *name);
    for (name, at) in entries {
        let name: ServiceName = name
            .parse()
            .map_err(|error| at.wrong(format!("has a name that cannot be used: {error}")))?;
        let profiles: BTreeSet<String> = maybe(&at, "profiles", At::texts)?.unwrap_or_default();
        let on = profiles.is_empty()
            || active.contains("*")
            || profiles.iter().any(|profile| active.contains(profile));
        let counts = if on {
            Counts::Everything
        } else {
            Counts::Names
        };
        let mut path = vec!["services".to_owned(), name.to_string()];
        let found = known::check(
            at.node,
            SERVICE,
            &mut path,
            name.as_str(),
            counts,
            ctx.permissions,
        )?;
        if !on {
            disabled.insert(name, profiles);
            continue;
        }
        let (allowed, in_build) = (found.allowed.clone(), found.allowed_in_build.clone());
        seen.absorb(found);
        let mut draft = service::read(&ctx, &name, &at)?;
        draft.service.elevated = ctx.elevated.take();
        draft.service.elevated.extend(allowed);
        if let Some(build) = &mut draft.service.build {
            build.elevated.extend(in_build);
        }
        drafts.insert(name, (draft, at));
    }
    whole::share_mounts(&mut drafts)?;
    whole::apply_links(&mut drafts);

    let mut project = ComposeProject {
        name: sources
            .project
            .map(ToString::to_string)
            .or_else(|| section(&at, "name").and_then(|at| at.string().ok())),
        files,
        services: BTreeMap::new(),
        disabled,
        volumes: BTreeMap::new(),
        networks: BTreeMap::new(),
        secrets: BTreeMap::new(),
        configs: BTreeMap::new(),
        notices: Vec::new(),
    };
    let wishes: BTreeMap<ServiceName, RouteWish> = drafts
        .iter()
        .map(|(name, (draft, _))| (name.clone(), draft.wish.clone()))
        .collect();
    let places: BTreeMap<ServiceName, At<'_>> = drafts
        .iter()
        .map(|(name, (_, at))| (name.clone(), at.clone()))
        .collect();
    project.services = drafts
        .into_iter()
        .map(|(name, (draft, _))| (name, draft.service))
        .collect();
    whole::used(&ctx, &mut project)?;
    whole::check(&ctx, &mut project, &places)?;
    let primary = section(&at, "x-ondol").and_then(|at| at.key("route"));
    whole::routes(&ctx, primary.as_ref(), &mut project, &wishes, &places)?;
    changes::digests(&mut project);

    let mut notices = ctx.notices.take();
    notices.extend(whole::said(&ctx, sources));
    notices.extend(seen.notices());
    project.notices = notices;
    Ok(project)
}

fn section<'n>(at: &At<'n>, key: &str) -> Option<At<'n>> {
    at.key(key).map(|found| At::new(found.node, key))
}

/// The keys of everything but services.
fn sections(ctx: &Context<'_>, root: &Node) -> Result<Seen, SpecError> {
    let mut without = root.clone();
    // Services have owners of their own in what is noticed; the key itself is known.
    without.remove(&["services"]);
    let seen = known::check(
        &without,
        ROOT,
        &mut Vec::new(),
        "",
        Counts::Everything,
        ctx.permissions,
    )?;
    let at = At::new(root, "");
    for (key, word, good) in [
        (
            "networks",
            "driver",
            &["", "default", "bridge", "overlay"][..],
        ),
        ("volumes", "driver", &["", "default", "local"][..]),
    ] {
        for (_, at) in section(&at, key).map_or(Ok(Vec::new()), |at| at.entries())? {
            let Some(driver) = at.key(word) else { continue };
            if !good.contains(&driver.text()?) {
                return Err(driver.unsupported(
                    format!(": `{}`", driver.text()?),
                    "remove it: networks and volumes are Ondol's",
                ));
            }
        }
    }
    Ok(seen)
}

fn active_profiles(sources: &ComposeSources<'_>, variables: &Variables<'_>) -> BTreeSet<String> {
    let mut active = sources.profiles.clone();
    if let Some(named) = variables.get("COMPOSE_PROFILES") {
        active.extend(
            named
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
        );
    }
    active
}
