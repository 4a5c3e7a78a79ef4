//! What an engine is asked for, as the query of its build request.
//!
//! Podman and Docker agree on most of it. Where they do not: Podman builds in the network of the
//! host unless it is told otherwise, takes labels in an order only as a list, and takes secrets as
//! names of files in the context.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::json;

use super::BuildRequest;
use super::context::{DOCKERFILE, SECRET};
use crate::model::Limits;

/// The period over which processor time is shared out, in microseconds.
const CPU_PERIOD: u32 = 100_000;

/// An eighth of what a service weighs.
pub(super) const CPU_SHARES: u32 = 128;

pub(super) struct Query<'q> {
    pub(super) podman: bool,
    pub(super) request: &'q BuildRequest,
    pub(super) labels: &'q BTreeMap<String, String>,
    pub(super) limits: &'q Limits,
    /// `None` is none at all.
    pub(super) network: Option<&'q str>,
    /// The control group that limits all of it.
    pub(super) parent: Option<&'q str>,
    pub(super) tag: String,
}

impl Query<'_> {
    pub(super) fn text(&self) -> String {
        let request = self.request;
        let mut query = String::new();
        let mut put = |name: &str, value: &str| {
            if !query.is_empty() {
                query.push('&');
            }
            query.push_str(name);
            query.push('=');
            escape(value, &mut query);
        };
        put("dockerfile", DOCKERFILE);
        put("t", &self.tag);
        put("rm", "true");
        put("forcerm", "true");
        if !request.cache {
            put("nocache", "true");
        }
        if let Some(target) = &request.target {
            put("target", target);
        }
        if !request.args.is_empty() {
            put("buildargs", &json!(request.args).to_string());
        }
        if self.podman {
            let labels: Vec<String> = self
                .labels
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            put("labels", &json!(labels).to_string());
            let path = self.network.unwrap_or_default();
            let namespace = json!([{ "Name": "network", "Host": false, "Path": path }]);
            put("nsoptions", &namespace.to_string());
            put("networkmode", if path.is_empty() { "1" } else { "2" });
            put("layers", "true");
        } else {
            put("version", "1");
            put("labels", &json!(self.labels).to_string());
            put("networkmode", self.network.unwrap_or("none"));
        }
        if !request.secrets.is_empty() {
            let secrets: Vec<String> = request
                .secrets
                .keys()
                .enumerate()
                .map(|(number, id)| format!("id={id},src={SECRET}{number}"))
                .collect();
            put("secrets", &json!(secrets).to_string());
        }
        match self.parent {
            // The group has the limits, over all of the build's containers together.
            Some(parent) => put("cgroupparent", parent),
            None => {
                put("cpushares", &CPU_SHARES.to_string());
                if let Some(memory) = self.limits.memory_bytes {
                    put("memory", &memory.to_string());
                    put("memswap", &memory.to_string());
                }
                if let Some(cores) = self.limits.cpu_cores {
                    let quota = (cores * f64::from(CPU_PERIOD)).max(1_000.0) as u64;
                    put("cpuperiod", &CPU_PERIOD.to_string());
                    put("cpuquota", &quota.to_string());
                }
            }
        }
        query
    }
}

fn escape(value: &str, query: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            query.push(char::from(byte));
        } else {
            let _ = write!(query, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(podman: bool, change: impl FnOnce(&mut BuildRequest)) -> String {
        let dockerfile = "Dockerfile".parse().unwrap();
        let mut request = BuildRequest::new("web".parse().unwrap(), "/source", dockerfile);
        change(&mut request);
        let query = Query {
            podman,
            request: &request,
            labels: &[("b".into(), "1".into()), ("a".into(), "2".into())].into(),
            limits: &Limits::default(),
            network: request.network.then_some("net"),
            parent: None,
            tag: "localhost/x/web".into(),
        };
        query.text()
    }

    #[test]
    fn no_build_is_in_the_network_of_the_host() {
        let podman = text(true, |_| {});
        assert!(podman.contains("nsoptions=%5B%7B%22Name%22%3A%22network%22%2C%22Host%22%3Afalse%2C%22Path%22%3A%22net%22%7D%5D&networkmode=2"), "{podman}");
        assert!(text(true, |request| request.network = false).contains("networkmode=1"));
        assert!(text(false, |_| {}).contains("networkmode=net"));
        assert!(text(false, |request| request.network = false).contains("networkmode=none"));
    }

    #[test]
    fn what_people_write_stays_in_its_value() {
        let query = text(true, |request| {
            request.args.insert("A".into(), "x&memory=0#%".into());
            request.target = Some("a b".into());
        });
        assert!(query.contains("target=a%20b"), "{query}");
        assert!(query.contains("x%26memory%3D0%23%25"), "{query}");
        assert!(
            query.contains("labels=%5B%22a%3D2%22%2C%22b%3D1%22%5D"),
            "{query}"
        );
    }
}
