//! The order in which services start: pure, from the model alone.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{ComposeProject, ComposeService, ServiceName};

impl ComposeProject {
    /// Services in layers: everything that a service depends on is in a layer before its own. What
    /// shares a layer can start at the same time. Stopping goes through the layers backwards.
    pub fn layers(&self) -> Vec<Vec<ServiceName>> {
        layers(&self.services)
    }
}

fn layers(services: &BTreeMap<ServiceName, ComposeService>) -> Vec<Vec<ServiceName>> {
    let mut done: BTreeSet<&ServiceName> = BTreeSet::new();
    let mut layers = Vec::new();
    while done.len() < services.len() {
        let ready: Vec<&ServiceName> = services
            .iter()
            .filter(|(name, service)| {
                !done.contains(name)
                    && service
                        .depends_on
                        .keys()
                        .all(|to| done.contains(to) || !services.contains_key(to))
            })
            .map(|(name, _)| name)
            .collect();
        if ready.is_empty() {
            break;
        }
        done.extend(ready.iter().copied());
        layers.push(ready.into_iter().cloned().collect());
    }
    layers
}

/// A ring of dependencies, its first service at both ends.
pub(super) fn ring(services: &BTreeMap<ServiceName, ComposeService>) -> Option<Vec<ServiceName>> {
    let placed: BTreeSet<ServiceName> = layers(services).into_iter().flatten().collect();
    let mut at = services.keys().find(|name| !placed.contains(*name))?;
    let mut path: Vec<&ServiceName> = Vec::new();
    // Everything that is not placed depends on something that is not placed.
    while !path.contains(&at) {
        path.push(at);
        at = services[at]
            .depends_on
            .keys()
            .find(|to| services.contains_key(*to) && !placed.contains(*to))?;
    }
    let start = path.iter().position(|name| *name == at)?;
    let mut ring: Vec<ServiceName> = path[start..].iter().map(|name| (*name).clone()).collect();
    ring.push(at.clone());
    Some(ring)
}
