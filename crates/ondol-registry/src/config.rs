//! What an installation says about its registry: ceilings, retention, upstreams.

use std::time::Duration;

use ondol_types::Secret;

use crate::plan::Rule;

/// Ceilings and rules of the registry.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of one blob.
    pub max_blob_bytes: u64,
    /// Bytes of one manifest; the specification suggests at least 4 MiB.
    pub max_manifest_bytes: u64,
    /// Uploads under way at once.
    pub max_uploads: usize,
    /// How long an upload may lie still before it is forgotten.
    pub upload_idle: Duration,
    /// How long what nothing holds stays, so that pushes in progress find what they were told is
    /// here.
    pub loose_for: Duration,
    /// What stays, by repository; the first rule that names a repository decides.
    pub rules: Vec<Rule>,
    /// Other registries that are read through this one.
    pub upstreams: Vec<Upstream>,
    /// Private addresses, as `host:port`, that base images may come from. Upstreams need not be
    /// named again.
    pub private_registries: Vec<String>,
    /// How long a tag of an upstream is believed without asking.
    pub upstream_fresh: Duration,
    /// How long something of an upstream stays without being asked for.
    pub upstream_idle: Duration,
    /// Bytes of all upstreams together that are kept.
    pub upstream_bytes: u64,
}

/// A registry that is read through this one, as `<name>/<repository>`.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// What repositories of it begin with: a name with a dot, such as `docker.io`, which no
    /// project can have.
    pub name: String,
    /// Where it answers, such as `https://registry-1.docker.io`.
    pub url: String,
    /// Who asks there; nobody when absent.
    pub login: Option<(String, Secret<String>)>,
}

impl Config {
    pub(crate) fn upstream(&self, name: &str) -> Option<&Upstream> {
        self.upstreams.iter().find(|upstream| upstream.name == name)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_blob_bytes: 20 << 30,
            max_manifest_bytes: 4 << 20,
            max_uploads: 256,
            upload_idle: Duration::from_secs(24 * 3_600),
            loose_for: Duration::from_secs(3_600),
            rules: vec![Rule::default()],
            upstreams: Vec::new(),
            private_registries: Vec::new(),
            upstream_fresh: Duration::from_secs(600),
            upstream_idle: Duration::from_secs(30 * 24 * 3_600),
            upstream_bytes: 20 << 30,
        }
    }
}
