//! What services say about each other: shared mounts, links, dependencies, ports, routes. Here every
//! service is read, so every reference can be followed.

use std::collections::{BTreeMap, BTreeSet};

use super::at::{At, maybe};
use super::network::RouteWish;
use super::service::Draft;
use super::{Context, storage};
use crate::compose::ComposeSources;
use crate::compose::model::{
    ComposeProject, ComposeService, Condition, Dependency, Healthcheck, MountFrom, Network,
    NetworkMode, Port, Protocol, ResourceName, RestartCondition, Route, ServiceKind, ServiceName,
    Source, UpdateOrder, Volume,
};
use crate::compose::policy::Permission;
use crate::error::SpecError;
use crate::model::UrlPath;
use crate::nearest::nearest;
use crate::resolve::Note;

/// Services with where they stand.
pub(super) type Drafts<'n> = BTreeMap<ServiceName, (Draft, At<'n>)>;
type Places<'n> = BTreeMap<ServiceName, At<'n>>;

const STARTED: Dependency = Dependency {
    condition: Condition::Started,
    required: true,
    restart: false,
};

/// Ports of programs that do not speak HTTP, or not without TLS.
const NOT_HTTP: [u16; 33] = [
    21, 22, 23, 25, 53, 110, 143, 389, 443, 465, 587, 636, 993, 995, 1433, 1521, 1883, 2181, 3306,
    4222, 5432, 5433, 5672, 6379, 8443, 8883, 9042, 9092, 11211, 26257, 27017, 50051, 61616,
];

/// Of several, the likeliest first.
const LIKELY: [u16; 6] = [80, 8080, 8000, 3000, 5000, 8888];

/// `volumes_from`: the mounts of other services, which their own are stronger than.
pub(super) fn share_mounts(drafts: &mut Drafts<'_>) -> Result<(), SpecError> {
    let own: BTreeMap<ServiceName, _> = drafts
        .iter()
        .map(|(name, (draft, _))| (name.clone(), draft.service.mounts.clone()))
        .collect();
    for (draft, at) in drafts.values_mut() {
        for (from, read_only) in std::mem::take(&mut draft.volumes_from) {
            let Some(mounts) = own.get(&from) else {
                return Err(at.conflict(
                    format!("has `volumes_from: {from}`, and there is no such service"),
                    "correct the name, or activate its profile",
                ));
            };
            for (path, mount) in mounts {
                // A volume without a name belongs to one replica alone.
                if mount.from == MountFrom::Anonymous {
                    continue;
                }
                let mut mount = mount.clone();
                mount.read_only |= read_only;
                draft.service.mounts.entry(path.clone()).or_insert(mount);
            }
            draft.service.depends_on.entry(from).or_insert(STARTED);
        }
        let stateful = storage::writes(&draft.service.mounts);
        if stateful && !draft.service.stateful && !draft.update_given {
            draft.service.update.order = UpdateOrder::StopFirst;
        }
        draft.service.stateful = stateful;
    }
    Ok(())
}

/// `links`: a dependency, and a name on the networks that both are on.
pub(super) fn apply_links(drafts: &mut Drafts<'_>) {
    let mut names: Vec<(ServiceName, ResourceName, String)> = Vec::new();
    for (draft, _) in drafts.values_mut() {
        for (to, alias) in std::mem::take(&mut draft.links) {
            if let NetworkMode::Project(networks) = &draft.service.network {
                let on = networks.keys();
                names.extend(on.map(|network| (to.clone(), network.clone(), alias.clone())));
            }
            draft.service.depends_on.entry(to).or_insert(STARTED);
        }
    }
    for (to, network, alias) in names {
        if !alias.is_empty()
            && alias != to.as_str()
            && let Some((draft, _)) = drafts.get_mut(&to)
            && let NetworkMode::Project(networks) = &mut draft.service.network
            && let Some(aliases) = networks.get_mut(&network)
        {
            aliases.insert(alias);
        }
    }
}

/// Reads what services use of the other sections. What nobody uses is left out.
pub(super) fn used(ctx: &Context<'_>, project: &mut ComposeProject) -> Result<(), SpecError> {
    let mut volumes = BTreeSet::new();
    let mut networks = BTreeSet::new();
    let mut secrets = BTreeSet::new();
    let mut configs = BTreeSet::new();
    for service in project.services.values() {
        for mount in service.mounts.values() {
            if let MountFrom::Volume { name, .. } = &mount.from {
                volumes.insert(name.clone());
            }
        }
        if let NetworkMode::Project(on) = &service.network {
            networks.extend(on.keys().cloned());
        }
        secrets.extend(service.secrets.values().map(|grant| grant.source.clone()));
        configs.extend(service.configs.values().map(|grant| grant.source.clone()));
        if let Some(build) = &service.build {
            secrets.extend(build.secrets.values().cloned());
        }
        let named = service.environment.values();
        let named = named
            .chain(service.command.iter().flatten())
            .chain(service.entrypoint.iter().flatten());
        named
            .flat_map(|text| text.secrets())
            .for_each(|secret| ctx.stored(secret));
    }
    let find = |section_name: &str, name: &ResourceName| {
        let found = ctx.root.get(&[section_name, name.as_str()]);
        found.map(|node| At::new(node, format!("{section_name}.{name}")))
    };
    for name in networks {
        let network = match find("networks", &name) {
            Some(at) => Network {
                internal: maybe(&at, "internal", At::boolean)?.unwrap_or(false),
                labels: maybe(&at, "labels", At::pairs)?.unwrap_or_default(),
            },
            None => Network::default(),
        };
        project.networks.insert(name, network);
    }
    for name in volumes {
        let volume = match find("volumes", &name) {
            Some(at) => Volume {
                options: maybe(&at, "driver_opts", At::pairs)?.unwrap_or_default(),
                labels: maybe(&at, "labels", At::pairs)?.unwrap_or_default(),
            },
            None => Volume::default(),
        };
        project.volumes.insert(name, volume);
    }
    let read = |section: &'static str,
                names: BTreeSet<ResourceName>|
     -> Result<BTreeMap<ResourceName, Source>, SpecError> {
        let mut all = BTreeMap::new();
        for name in names {
            let Some(found) = find(section, &name) else {
                continue;
            };
            let source = match section {
                "secrets" => storage::secret(ctx, &found, &name)?,
                _ => storage::config(ctx, &found)?,
            };
            all.insert(name, source);
        }
        Ok(all)
    };
    project.secrets = read("secrets", secrets)?;
    project.configs = read("configs", configs)?;
    for text in project.configs.values() {
        if let Source::Inline(text) = text {
            text.secrets().for_each(|secret| ctx.stored(secret));
        }
    }
    Ok(())
}

/// Dependencies exist, make no ring, and can be fulfilled; no port of the host is wanted twice.
pub(super) fn check(
    ctx: &Context<'_>,
    project: &mut ComposeProject,
    places: &Places<'_>,
) -> Result<(), SpecError> {
    let mut jobs = BTreeSet::new();
    let mut absent: Vec<(ServiceName, ServiceName)> = Vec::new();
    for (name, service) in &project.services {
        let at = &places[name];
        let at = at.key("depends_on").unwrap_or_else(|| at.clone());
        for (to, dependency) in &service.depends_on {
            let Some(target) = project.services.get(to) else {
                if !dependency.required {
                    absent.push((name.clone(), to.clone()));
                    continue;
                }
                return Err(missing(project, &at, to));
            };
            match dependency.condition {
                Condition::Started => {}
                Condition::Healthy if target.healthcheck == Some(Healthcheck::Disabled) => {
                    return Err(at.conflict(
                        format!("waits for the health of `{to}`, whose check is switched off"),
                        "give it a `healthcheck`, or wait for `service_started`",
                    ));
                }
                Condition::Healthy => {
                    if target.healthcheck.is_none() {
                        ctx.notice(
                            Note::new(
                                "compose-health-of-image",
                                format!("`{name}` waits for the health of `{to}`, which has no `healthcheck` here: its image must bring one"),
                            )
                            .hint("add a `healthcheck`"),
                        );
                    }
                }
                Condition::CompletedSuccessfully => {
                    let place = &places[to];
                    let policy = place.key("deploy").and_then(|at| at.key("restart_policy"));
                    let said = place.key("restart").is_some() || policy.is_some();
                    if said && target.restart.condition == RestartCondition::Always {
                        return Err(at.conflict(
                            format!(
                                "waits for `{to}` to end, which is started again after every end"
                            ),
                            format!("remove `restart` of `{to}`, or say `on-failure`"),
                        ));
                    }
                    jobs.insert((to.clone(), said));
                }
            }
        }
    }
    for (name, said) in jobs {
        if let Some(service) = project.services.get_mut(&name) {
            service.kind = ServiceKind::Job;
            if !said {
                service.restart.condition = RestartCondition::Never;
            }
        }
    }
    for (name, to) in absent {
        if let Some(service) = project.services.get_mut(&name) {
            service.depends_on.remove(&to);
        }
        ctx.notice(Note::new(
            "compose-dependency-absent",
            format!("`{name}` goes on without `{to}`, which is not there and not required"),
        ));
    }
    if let Some(ring) = crate::compose::plan::ring(&project.services) {
        let shown: Vec<&str> = ring.iter().map(ServiceName::as_str).collect();
        let at = &places[&ring[0]];
        let at = at.key("depends_on").unwrap_or_else(|| at.clone());
        return Err(at.conflict(
            format!("makes a ring: {}", shown.join(" → ")),
            "remove one of these dependencies",
        ));
    }
    host_ports(ctx, project, places)
}

fn missing(project: &ComposeProject, at: &At<'_>, to: &ServiceName) -> SpecError {
    if let Some(profiles) = project.disabled.get(to) {
        let profiles: Vec<&str> = profiles.iter().map(String::as_str).collect();
        return at.conflict(
            format!(
                "names `{to}`, which runs only with the profile {}",
                profiles.join(" or ")
            ),
            format!("activate the profile, or say `required: false` of `{to}`"),
        );
    }
    let names = project.services.keys().map(ServiceName::as_str);
    match nearest(to.as_str(), names) {
        Some(near) => at.conflict(
            format!("names `{to}`, and there is no such service"),
            format!("did you mean `{near}`?"),
        ),
        None => at.conflict(
            format!("names `{to}`, and there is no such service"),
            "add it to `services`, or remove the dependency",
        ),
    }
}

/// No two services publish one port of the host.
fn host_ports(
    ctx: &Context<'_>,
    project: &mut ComposeProject,
    places: &Places<'_>,
) -> Result<(), SpecError> {
    let mut taken: Vec<(&ServiceName, &Port)> = Vec::new();
    for (name, service) in &project.services {
        for port in &service.ports {
            let Some((first, last)) = port.published else {
                continue;
            };
            if first != last {
                continue;
            }
            let meets = |(_, other): &&(&ServiceName, &Port)| {
                let one_address = other.host_ip == port.host_ip
                    || other.host_ip.is_none()
                    || port.host_ip.is_none();
                other.published == port.published && other.protocol == port.protocol && one_address
            };
            if let Some((other, _)) = taken.iter().find(meets) {
                let at = &places[name];
                let at = at.key("ports").unwrap_or_else(|| at.clone());
                return Err(at.conflict(
                    format!("publishes {first}/{}, as `{other}` does", port.protocol),
                    "give one of them another port",
                ));
            }
            taken.push((name, port));
        }
    }
    if ctx.permissions.contains(&Permission::HostPorts) {
        for (name, service) in &mut project.services {
            let fixed = service
                .ports
                .iter()
                .any(|port| port.published.is_some_and(|(a, b)| a == b));
            if fixed && service.replicas > 1 {
                return Err(places[name].conflict(
                    format!(
                        "publishes a port of the host for {} replicas",
                        service.replicas
                    ),
                    "publish a range, or run one replica",
                ));
            }
            if service.ports.iter().any(|port| port.published.is_some()) {
                service.elevated.insert(Permission::HostPorts);
                service.update.order = UpdateOrder::StopFirst;
            }
        }
    }
    Ok(())
}

/// The port of a service that speaks HTTP, as far as its file tells.
fn http_port(service: &ComposeService) -> Option<u16> {
    let says_http = |port: &&Port| {
        let word = port.app_protocol.as_deref();
        matches!(word, Some("http" | "http2" | "h2c" | "ws" | "grpc-web"))
    };
    let tcp = || {
        service
            .ports
            .iter()
            .filter(|port| port.protocol == Protocol::Tcp)
    };
    if let Some(port) = tcp().find(says_http) {
        return Some(port.target);
    }
    let open: Vec<u16> = tcp()
        .filter(|port| port.app_protocol.is_none() && !NOT_HTTP.contains(&port.target))
        .map(|port| port.target)
        .collect();
    let likely = LIKELY.iter().find(|likely| open.contains(likely));
    likely.or(open.first()).copied()
}

/// Which services the gateway reaches, and which of them has the project's own host.
pub(super) fn routes(
    ctx: &Context<'_>,
    primary: Option<&At<'_>>,
    project: &mut ComposeProject,
    wishes: &BTreeMap<ServiceName, RouteWish>,
    places: &Places<'_>,
) -> Result<(), SpecError> {
    let mut labels: BTreeMap<String, ServiceName> = BTreeMap::new();
    for (name, service) in &mut project.services {
        let found = http_port(service);
        let can = service.kind == ServiceKind::Service && service.network != NetworkMode::None;
        let (port, hosts, paths) = match &wishes[name] {
            RouteWish::Never => continue,
            RouteWish::Open if !can => continue,
            RouteWish::Open => (found, BTreeSet::new(), vec![UrlPath::root()]),
            RouteWish::Wanted { port, hosts, paths } => {
                let exposed = service
                    .expose
                    .iter()
                    .find(|port| port.protocol == Protocol::Tcp);
                let port = port.or(found).or(exposed.map(|port| port.port));
                if port.is_none() || !can {
                    let why = if can {
                        "names no port"
                    } else {
                        "is no service that can be reached"
                    };
                    return Err(places[name].conflict(
                        format!("wants a route and {why}"),
                        "write `x-ondol: { route: 8080 }` with the port that speaks HTTP",
                    ));
                }
                (port, hosts.clone(), paths.clone())
            }
        };
        let Some(port) = port else { continue };
        let label = name.label();
        if label.is_empty() || label.len() > 63 || label.starts_with('-') {
            return Err(places[name].conflict(
                "has a route and a name that cannot be part of a host name",
                "rename it to letters, digits and `-`",
            ));
        }
        if let Some(other) = labels.insert(label.clone(), name.clone()) {
            return Err(places[name].conflict(
                format!("and `{other}` would have the same host name"),
                "rename one of them",
            ));
        }
        service.route = Some(Route {
            port,
            primary: false,
            label,
            hosts,
            paths,
        });
    }
    let routed: Vec<ServiceName> = labels.into_values().collect();
    let chosen = match primary {
        Some(at) => {
            let wanted = at.text()?;
            let found = routed.iter().find(|name| name.as_str() == wanted);
            if found.is_none() {
                return Err(at.conflict(
                    format!("names `{wanted}`, which has no route"),
                    "name a service with a port that speaks HTTP",
                ));
            }
            found
        }
        None => {
            let front = |name: &&ServiceName| {
                let ports = &project.services[*name].ports;
                let web = |port: &Port| matches!(port.published, Some((80, 80) | (443, 443)));
                ports.iter().any(web)
            };
            let fronts: Vec<&ServiceName> = routed.iter().filter(front).collect();
            match (routed.as_slice(), fronts.as_slice()) {
                ([only], _) => Some(only),
                (_, [only]) => Some(*only),
                _ => None,
            }
        }
    };
    match chosen {
        Some(name) => {
            let route = project
                .services
                .get_mut(name)
                .and_then(|service| service.route.as_mut());
            if let Some(route) = route {
                route.primary = true;
            }
        }
        None if routed.is_empty() => {}
        None => {
            let shown: Vec<&str> = routed.iter().map(ServiceName::as_str).collect();
            ctx.notice(
                Note::new(
                    "compose-no-primary",
                    format!(
                        "several services have routes, and none the project's own host: {}",
                        shown.join(", ")
                    ),
                )
                .hint(format!(
                    "choose one, such as `x-ondol: {{ route: {} }}` at the top level",
                    shown[0]
                )),
            );
        }
    }
    unpublished(ctx, project);
    Ok(())
}

/// Ports that people expect at the host and that are not there.
fn unpublished(ctx: &Context<'_>, project: &ComposeProject) {
    let mut shown = Vec::new();
    for (name, service) in &project.services {
        if service.elevated.contains(&Permission::HostPorts) {
            continue;
        }
        let routed = service.route.as_ref().map(|route| route.port);
        let others = service.ports.iter();
        let others = others.filter(|port| port.published.is_some() && Some(port.target) != routed);
        shown.extend(others.map(|port| format!("{name} {}/{}", port.target, port.protocol)));
    }
    if shown.is_empty() {
        return;
    }
    shown.truncate(20);
    ctx.notice(
        Note::new(
            "compose-ports",
            format!(
                "ports that are not published on the host: {}",
                shown.join(", ")
            ),
        )
        .hint(
            "services of the project reach them by name; an administrator can allow `host-ports`",
        ),
    );
}

pub(super) fn said(ctx: &Context<'_>, sources: &ComposeSources<'_>) -> Vec<Note> {
    let mut notes = Vec::new();
    let missing = ctx.variables.missing();
    if !missing.is_empty() {
        let shown: Vec<String> = missing
            .iter()
            .map(|(name, origin)| format!("{name} ({origin})"))
            .collect();
        notes.push(
            Note::new(
                "compose-variables",
                format!("variables that are not set are empty: {}", shown.join(", ")),
            )
            .hint("set them in `.env`, give them a default as in `${NAME:-default}`, or set a secret of their name"),
        );
    }
    let read_only = ctx.made_read_only.take();
    if !read_only.is_empty() {
        let shown: Vec<String> = read_only.into_iter().collect();
        notes.push(
            Note::new(
                "compose-bind-read-only",
                format!(
                    "files of the repository are mounted read-only: {}",
                    shown.join(", ")
                ),
            )
            .hint("say `:ro`, or use a named volume for what a program writes"),
        );
    }
    let unset: Vec<String> = ctx
        .secrets
        .take()
        .into_iter()
        .filter(|secret| !sources.secrets.contains(secret))
        .map(|secret| secret.to_string())
        .collect();
    if !unset.is_empty() {
        notes.push(
            Note::new(
                "compose-secrets",
                format!("secrets that are not set yet: {}", unset.join(", ")),
            )
            .hint(format!("ondol secret set {}", unset[0])),
        );
    }
    notes
}
