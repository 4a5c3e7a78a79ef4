//! Networks, ports, names.

use std::collections::{BTreeMap, BTreeSet};

use super::Context;
use super::at::{At, maybe};
use crate::compose::model::{Exposed, NetworkMode, Port, Protocol, ResourceName, ServiceName};
use crate::compose::normalize::scalar;
use crate::compose::policy::Permission;
use crate::compose::short;
use crate::error::SpecError;
use crate::model::{HostName, UrlPath};
use crate::node::Kind;

/// The most ports of one service, ranges counted port by port.
const MAX_PORTS: usize = 1_000;

const PROTOCOLS: [(&str, Protocol); 3] = [
    ("tcp", Protocol::Tcp),
    ("udp", Protocol::Udp),
    ("sctp", Protocol::Sctp),
];

/// What a service says about its route.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RouteWish {
    /// Nothing: its ports decide.
    Open,
    /// None.
    Never,
    /// One, at this port or at the one that its ports decide.
    Wanted {
        port: Option<u16>,
        hosts: BTreeSet<HostName>,
        paths: Vec<UrlPath>,
    },
}

pub(super) fn mode(
    ctx: &Context<'_>,
    at: &At<'_>,
    name: &ServiceName,
) -> Result<NetworkMode, SpecError> {
    let networks = at.key("networks");
    if let Some(mode) = at.key("network_mode") {
        if let Some(networks) = &networks {
            return Err(networks.conflict("stands beside `network_mode`", "keep one of them"));
        }
        match mode.text()? {
            "none" => return Ok(NetworkMode::None),
            "bridge" | "default" => {}
            "host" => {
                ctx.require(&mode, Permission::HostNetwork)?;
                return Ok(NetworkMode::Host);
            }
            other if other.starts_with("service:") || other.starts_with("container:") => {
                return Err(mode.unsupported(
                    format!(": `{other}`"),
                    "put both services on one network; they find each other by name",
                ));
            }
            _ => {
                return Err(mode.wrong("must be `bridge`, `none` or `host`"));
            }
        }
    }
    let mut joined: BTreeMap<ResourceName, BTreeSet<String>> = BTreeMap::new();
    let container = maybe(at, "container_name", At::string)?.filter(|own| own != name.as_str());
    for (network, at) in networks.map_or(Ok(Vec::new()), |at| at.entries())? {
        let known = ctx.declared("networks", network) || network == "default";
        if !known {
            return Err(ctx.undeclared(&at, "network", "networks", network));
        }
        let aliases = maybe(&at, "aliases", At::texts)?.unwrap_or_default();
        joined.insert(ctx.resource(&at, network)?, aliases);
    }
    if joined.is_empty() {
        joined.insert(ctx.resource(at, "default")?, BTreeSet::new());
    }
    for aliases in joined.values_mut() {
        aliases.extend(container.clone());
        aliases.remove(name.as_str());
    }
    Ok(NetworkMode::Project(joined))
}

pub(super) fn extra_hosts(at: &At<'_>) -> Result<BTreeMap<String, Vec<String>>, SpecError> {
    let mut hosts = BTreeMap::new();
    for (name, addresses) in at.entries()? {
        let mut all = Vec::new();
        for address in addresses.items()? {
            let text = address.text()?;
            let plain = text.trim_start_matches('[').trim_end_matches(']');
            if plain != "host-gateway" && plain.parse::<std::net::IpAddr>().is_err() {
                return Err(address.wrong(format!(
                    "must be an address or `host-gateway`, found `{text}`"
                )));
            }
            all.push(plain.to_owned());
        }
        hosts.insert(name.to_owned(), all);
    }
    Ok(hosts)
}

fn range(at: &At<'_>, text: &str) -> Result<(u16, u16), SpecError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
        (Ok(first), Ok(last)) if first >= 1 && first <= last => Ok((first, last)),
        _ => Err(at.wrong_hint(
            format!("must have ports from 1 to 65535, found `{text}`"),
            "the form is `\"8080:80\"`, with quotes",
        )),
    }
}

pub(super) fn ports(at: &At<'_>) -> Result<Vec<Port>, SpecError> {
    let mut ports: Vec<Port> = Vec::new();
    for item in at.items()? {
        for port in port(&item)? {
            if ports.contains(&port) {
                return Err(item.conflict(
                    format!("publishes {}/{} a second time", port.target, port.protocol),
                    "keep one of them",
                ));
            }
            ports.push(port);
        }
        if ports.len() > MAX_PORTS {
            return Err(item.wrong(format!(
                "is beyond the {MAX_PORTS} ports that a service may have"
            )));
        }
    }
    // The order of ports has no meaning, and must not look like a change.
    ports.sort();
    Ok(ports)
}

fn port(at: &At<'_>) -> Result<Vec<Port>, SpecError> {
    let long = at.node.is_map();
    let texts = |key: &str| maybe(at, key, At::string);
    let (ip, published, target, protocol) = if long {
        let Some(target) = texts("target")? else {
            return Err(at.wrong_hint("needs `target`", "name the port in the container"));
        };
        (
            texts("host_ip")?,
            texts("published")?,
            target,
            texts("protocol")?,
        )
    } else {
        let parts = short::port(at.text()?);
        let owned = |text: Option<&str>| text.map(str::to_owned);
        (
            owned(parts.ip),
            owned(parts.published),
            parts.target.to_owned(),
            owned(parts.protocol),
        )
    };
    let host_ip = ip
        .filter(|ip| !ip.is_empty() && ip != "0.0.0.0")
        .map(|ip| {
            ip.parse().map_err(|_| {
                at.wrong(format!(
                    "must begin with an address of the host, found `{ip}`"
                ))
            })
        })
        .transpose()?;
    let protocol = match protocol.as_deref() {
        None => Protocol::Tcp,
        Some(word) => match PROTOCOLS.iter().find(|(name, _)| *name == word) {
            Some((_, protocol)) => *protocol,
            None => {
                return Err(at.wrong(format!(
                    "must end in `tcp`, `udp` or `sctp`, found `{word}`"
                )));
            }
        },
    };
    let (first, last) = range(at, &target)?;
    let published = published
        .filter(|text| text != "0" && !text.is_empty())
        .map(|text| range(at, &text))
        .transpose()?;
    let count = last - first;
    let one_to_one = published.is_some_and(|(low, high)| high - low == count);
    if let Some((low, high)) = published
        && count > 0
        && !one_to_one
    {
        return Err(at.wrong(format!(
            "has {} ports of the host for {} of the container",
            u32::from(high - low) + 1,
            u32::from(count) + 1
        )));
    }
    let (app_protocol, name) = match long {
        true => (texts("app_protocol")?, texts("name")?),
        false => (None, None),
    };
    Ok((0..=count)
        .map(|offset| Port {
            target: first + offset,
            protocol,
            published: published.map(|(low, high)| match one_to_one {
                true => (low + offset, low + offset),
                false => (low, high),
            }),
            host_ip,
            app_protocol: app_protocol.clone(),
            name: name.clone(),
        })
        .collect())
}

pub(super) fn expose(at: &At<'_>) -> Result<BTreeSet<Exposed>, SpecError> {
    let mut exposed = BTreeSet::new();
    for item in at.items()? {
        let text = item.text()?;
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = PROTOCOLS
            .iter()
            .find(|(name, _)| *name == protocol)
            .map(|(_, protocol)| *protocol)
            .ok_or_else(|| item.wrong("must end in `tcp`, `udp` or `sctp`"))?;
        let (first, last) = range(&item, ports)?;
        if usize::from(last - first) + exposed.len() >= MAX_PORTS {
            return Err(item.wrong(format!(
                "is beyond the {MAX_PORTS} ports that a service may have"
            )));
        }
        exposed.extend((first..=last).map(|port| Exposed { port, protocol }));
    }
    Ok(exposed)
}

/// `x-ondol.route` of a service.
pub(super) fn wish(at: &At<'_>) -> Result<RouteWish, SpecError> {
    let Some(route) = at.key("x-ondol").and_then(|at| at.key("route")) else {
        return Ok(RouteWish::Open);
    };
    let wanted = |port| RouteWish::Wanted {
        port,
        hosts: BTreeSet::new(),
        paths: vec![UrlPath::root()],
    };
    let number = |at: &At<'_>| at.within(1, 65_535).map(|port| port as u16);
    match &route.node.kind {
        Kind::Bool(false) => Ok(RouteWish::Never),
        Kind::Bool(true) => Ok(wanted(None)),
        Kind::Map(_) => {
            let hosts = match route.key("hosts") {
                Some(hosts) => hosts
                    .items()?
                    .iter()
                    .map(At::parsed)
                    .collect::<Result<_, _>>()?,
                None => BTreeSet::new(),
            };
            let paths = match route.key("paths") {
                Some(paths) => paths
                    .items()?
                    .iter()
                    .map(At::parsed)
                    .collect::<Result<_, _>>()?,
                None => vec![UrlPath::root()],
            };
            Ok(RouteWish::Wanted {
                port: maybe(&route, "port", number)?,
                hosts,
                paths,
            })
        }
        _ if scalar(route.node).is_some() => Ok(wanted(Some(number(&route)?))),
        _ => Err(route.wrong("must be `false`, a port, or a mapping")),
    }
}

/// `links`: the other service, and the name for it.
pub(super) fn links(at: &At<'_>) -> Result<Vec<(ServiceName, String)>, SpecError> {
    let mut links = Vec::new();
    for item in at.items()? {
        let text = item.text()?;
        let (service, alias) = text.split_once(':').unwrap_or((text, text));
        let service = service
            .parse()
            .map_err(|error| item.wrong(format!("names no service: {error}")))?;
        links.push((service, alias.to_owned()));
    }
    Ok(links)
}
