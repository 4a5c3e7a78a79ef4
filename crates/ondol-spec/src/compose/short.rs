//! The short forms of ports, mounts, secrets and configs: what their parts are, and what makes two
//! of them the same.

use super::normalize::scalar;
use crate::node::Node;

/// The parts of `[[ip:]published:]target[/protocol]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShortPort<'a> {
    pub(super) ip: Option<&'a str>,
    pub(super) published: Option<&'a str>,
    pub(super) target: &'a str,
    pub(super) protocol: Option<&'a str>,
}

pub(super) fn port(text: &str) -> ShortPort<'_> {
    let (body, protocol) = match text.split_once('/') {
        Some((body, protocol)) => (body, Some(protocol)),
        None => (text, None),
    };
    let (rest, target) = match body.rsplit_once(':') {
        Some((rest, target)) => (Some(rest), target),
        None => (None, body),
    };
    let (ip, published) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            Some((ip, published)) => (
                Some(ip.trim_start_matches('[').trim_end_matches(']')),
                Some(published),
            ),
            None => (None, Some(rest)),
        },
    };
    ShortPort {
        ip,
        published: published.filter(|published| !published.is_empty()),
        target,
        protocol,
    }
}

/// The parts of `[source:]target[:options]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShortMount<'a> {
    pub(super) source: Option<&'a str>,
    pub(super) target: &'a str,
    pub(super) options: Vec<&'a str>,
}

pub(super) fn mount(text: &str) -> ShortMount<'_> {
    let parts: Vec<&str> = text.splitn(3, ':').collect();
    match parts.as_slice() {
        [source, target, options] => ShortMount {
            source: Some(source),
            target,
            options: options.split(',').collect(),
        },
        [source, target] => ShortMount {
            source: Some(source),
            target,
            options: Vec::new(),
        },
        _ => ShortMount {
            source: None,
            target: text,
            options: Vec::new(),
        },
    }
}

fn text_at<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    node.child(key).and_then(scalar)
}

pub(super) fn port_key(node: &Node) -> Option<String> {
    let short = match scalar(node) {
        Some(text) => port(text),
        None => ShortPort {
            ip: text_at(node, "host_ip"),
            published: text_at(node, "published"),
            target: text_at(node, "target")?,
            protocol: text_at(node, "protocol"),
        },
    };
    Some(format!(
        "{}|{}|{}|{}",
        short.ip.unwrap_or_default(),
        short.published.unwrap_or_default(),
        short.target,
        short.protocol.unwrap_or("tcp")
    ))
}

pub(super) fn mount_key(node: &Node) -> Option<String> {
    let target = match scalar(node) {
        Some(text) => mount(text).target,
        None => text_at(node, "target")?,
    };
    Some(target.trim_end_matches('/').to_owned())
}

/// The target, or the name where none is given.
pub(super) fn grant_key(node: &Node) -> Option<String> {
    let name = match scalar(node) {
        Some(text) => text,
        None => text_at(node, "target").or_else(|| text_at(node, "source"))?,
    };
    Some(
        name.trim_start_matches("/run/secrets/")
            .trim_start_matches('/')
            .to_owned(),
    )
}
