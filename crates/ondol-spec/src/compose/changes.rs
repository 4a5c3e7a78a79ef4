//! What differs between two models of one project, and whether a running replica can stay.
//!
//! A service counts as changed for a difference that has an effect and for no other: never for the
//! order of keys, comments, or another form of the same value, because these are gone from the model;
//! and it is replaced only for a difference that a running replica cannot take over. A database is
//! never restarted because somebody tidied the file.

use std::collections::{BTreeMap, BTreeSet};

use ondol_types::{Algorithm, Digest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::model::{ComposeProject, ComposeService, MountFrom, NetworkMode, ServiceName};
use super::policy::Permission;

/// Fields that a running replica takes over, or that only concern how others see it.
const IN_PLACE: [&str; 11] = [
    "depends_on",
    "expose",
    "kind",
    "labels",
    "pull",
    "replicas",
    "restart",
    "route",
    "stop_grace_period",
    "stop_signal",
    "update",
];

/// Fields that say nothing of their own.
const DERIVED: [&str; 2] = ["digest", "stateful"];

/// What differs between two models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Services that were not there.
    pub added: BTreeSet<ServiceName>,
    /// Services that differ.
    pub changed: BTreeMap<ServiceName, Change>,
    /// Services that stay as they are.
    pub unchanged: BTreeSet<ServiceName>,
    /// Services that are there no more.
    pub removed: BTreeSet<ServiceName>,
    /// Services that do not differ and are restarted all the same, with the dependencies that are
    /// replaced (`depends_on.*.restart`).
    pub restarted: BTreeMap<ServiceName, BTreeSet<ServiceName>>,
}

/// How a service differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The fields of the model, such as `environment.DEBUG`, `command`, `configs.app`.
    pub fields: BTreeSet<String>,
    /// Whether its replicas are replaced. Otherwise the change is taken over where it runs.
    pub replace: bool,
}

/// Compares the model that runs with the one that is to run.
pub fn changes(old: &ComposeProject, new: &ComposeProject) -> Changes {
    let mut changes = Changes::default();
    for name in old.services.keys() {
        if !new.services.contains_key(name) {
            changes.removed.insert(name.clone());
        }
    }
    for (name, service) in &new.services {
        let Some(before) = old.services.get(name) else {
            changes.added.insert(name.clone());
            continue;
        };
        let fields = differing(&all(before, old), &all(service, new));
        if fields.is_empty() {
            changes.unchanged.insert(name.clone());
            continue;
        }
        let replace = digest(before, old) != digest(service, new);
        changes
            .changed
            .insert(name.clone(), Change { fields, replace });
    }
    restarts(new, &mut changes);
    changes
}

/// Whoever asks to be restarted with a dependency, and whoever asks so of them.
fn restarts(new: &ComposeProject, changes: &mut Changes) {
    loop {
        let replaced = |name: &ServiceName| {
            changes
                .changed
                .get(name)
                .is_some_and(|change| change.replace)
                || changes.restarted.contains_key(name)
        };
        let mut found = Vec::new();
        for (name, service) in &new.services {
            if changes.added.contains(name) || replaced(name) {
                continue;
            }
            let causes: BTreeSet<ServiceName> = service
                .depends_on
                .iter()
                .filter(|(to, dependency)| dependency.restart && replaced(to))
                .map(|(to, _)| to.clone())
                .collect();
            if !causes.is_empty() {
                found.push((name.clone(), causes));
            }
        }
        if found.is_empty() {
            return;
        }
        changes.restarted.extend(found);
    }
}

/// Fills in the digest of every service.
pub(super) fn digests(project: &mut ComposeProject) {
    let digests: Vec<(ServiceName, Digest)> = project
        .services
        .iter()
        .map(|(name, service)| (name.clone(), digest(service, project)))
        .collect();
    for (name, digest) in digests {
        if let Some(service) = project.services.get_mut(&name) {
            service.digest = Some(digest);
        }
    }
}

/// Hash over what a running replica cannot take over.
fn digest(service: &ComposeService, project: &ComposeProject) -> Digest {
    let mut fields = all(service, project);
    fields.retain(|field, _| !IN_PLACE.contains(&field.as_str()));
    if !service.elevated.contains(&Permission::HostPorts) {
        fields.remove("ports");
    }
    if let Some(Value::Object(build)) = fields.get_mut("build") {
        // How it is built, not what is built.
        build.remove("no_cache");
        build.remove("pull");
        // The name of an image that is built says nothing about its content.
        fields.remove("image");
    }
    let text = Value::Object(fields.into_iter().collect()).to_string();
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"ondol compose service 1\n");
    hasher.update(text.as_bytes());
    Digest::from_bytes(Algorithm::Blake3, hasher.finalize().as_bytes())
}

/// The fields of a service with what they refer to. Whatever says nothing is left out, so that a
/// field that a later version adds does not change the digest of what does not use it.
fn all(service: &ComposeService, project: &ComposeProject) -> BTreeMap<String, Value> {
    // A model is plain data: its serialization cannot fail, and tests would see an empty one.
    let value = serde_json::to_value(service).unwrap_or_default();
    let mut fields: BTreeMap<String, Value> = match value {
        Value::Object(fields) => fields.into_iter().collect(),
        _ => BTreeMap::new(),
    };
    fields.retain(|field, value| {
        let commands = ["command", "entrypoint"].contains(&field.as_str());
        !DERIVED.contains(&field.as_str()) && (says(value) || (commands && value.is_array()))
    });
    for section in ["resources", "build"] {
        if let Some(Value::Object(below)) = fields.get_mut(section) {
            below.retain(|_, value| says(value));
        }
    }
    fields
        .retain(|field, value| ["command", "entrypoint"].contains(&field.as_str()) || says(value));
    let mut refer = |section: &str, found: Vec<(String, Value)>| {
        for (name, value) in found {
            fields.insert(format!("{section}.{name}"), value);
        }
    };
    if let NetworkMode::Project(networks) = &service.network {
        let internal = networks.keys().filter_map(|name| {
            let network = project.networks.get(name)?;
            network
                .internal
                .then(|| (name.to_string(), json!({ "internal": true })))
        });
        refer("networks", internal.collect());
    }
    let volumes = service.mounts.values().filter_map(|mount| {
        let MountFrom::Volume { name, .. } = &mount.from else {
            return None;
        };
        let options = &project.volumes.get(name)?.options;
        (!options.is_empty()).then(|| (name.to_string(), json!(options)))
    });
    refer("volumes", volumes.collect());
    for (section, grants, sources) in [
        ("secrets", &service.secrets, &project.secrets),
        ("configs", &service.configs, &project.configs),
    ] {
        let named = grants.values().filter_map(|grant| {
            let source = sources.get(&grant.source)?;
            let value = serde_json::to_value(source).unwrap_or_default();
            Some((grant.source.to_string(), value))
        });
        refer(section, named.collect());
    }
    let mut sorted = fields;
    sorted.values_mut().for_each(sort);
    sorted
}

fn says(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

/// Keys in order, at every depth, and no empty options.
fn sort(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<(String, Value)> = std::mem::take(fields)
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .collect();
            sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
            sorted.iter_mut().for_each(|(_, value)| sort(value));
            *fields = sorted.into_iter().collect::<Map<_, _>>();
        }
        Value::Array(items) => items.iter_mut().for_each(sort),
        _ => {}
    }
}

/// The fields in which two services differ; of mappings, which key.
fn differing(old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let empty = Value::Null;
    let mut fields = BTreeSet::new();
    for field in old.keys().chain(new.keys()) {
        let (before, after) = (
            old.get(field).unwrap_or(&empty),
            new.get(field).unwrap_or(&empty),
        );
        if before == after {
            // What cannot be compared counts as different.
            if !incomparable(after) {
                continue;
            }
        }
        let none = Map::new();
        match (below(before, &none), below(after, &none)) {
            (Some(before), Some(after))
                if before.len() + after.len() > 0 && !field.contains('.') =>
            {
                for key in before.keys().chain(after.keys()) {
                    if before.get(key) != after.get(key) || after.get(key).is_some_and(incomparable)
                    {
                        fields.insert(format!("{field}.{key}"));
                    }
                }
            }
            _ => {
                fields.insert(field.clone());
            }
        }
    }
    fields
}

/// The keys of a mapping; one that is not there has none.
fn below<'v>(value: &'v Value, none: &'v Map<String, Value>) -> Option<&'v Map<String, Value>> {
    match value {
        Value::Object(fields) => Some(fields),
        Value::Null => Some(none),
        _ => None,
    }
}

/// Whether a mount of the repository was too large to hash.
fn incomparable(value: &Value) -> bool {
    match value {
        Value::Object(fields) => {
            fields
                .get("repository")
                .is_some_and(|mount| mount.get("content").is_none())
                || fields.values().any(incomparable)
        }
        _ => false,
    }
}
