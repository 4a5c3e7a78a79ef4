//! One service.

use std::collections::BTreeMap;

use ondol_types::RelPath;

use super::at::{At, maybe};
use super::network::RouteWish;
use super::{Context, image, isolation, limits, network, storage};
use crate::compose::load::{self, in_repository};
use crate::compose::model::{
    ComposeService, Condition, Dependency, HealthTest, Healthcheck, ServiceName,
};
use crate::compose::normalize::scalar;
use crate::compose::template::Template;
use crate::error::SpecError;
use crate::model::Period;
use crate::node::Kind;
use crate::resolve::Note;

/// A service, and what it says about others.
pub(super) struct Draft {
    pub(super) service: ComposeService,
    pub(super) wish: RouteWish,
    pub(super) links: Vec<(ServiceName, String)>,
    /// Services whose mounts it has too, and whether it can only read them.
    pub(super) volumes_from: Vec<(ServiceName, bool)>,
    /// Whether it says how it is replaced.
    pub(super) update_given: bool,
}

pub(super) fn read(ctx: &Context<'_>, name: &ServiceName, at: &At<'_>) -> Result<Draft, SpecError> {
    if !at.node.is_map() {
        return Err(at.wrong_hint("must be a mapping", "a service needs `image` or `build`"));
    }
    let build = maybe(at, "build", |at| image::build(ctx, at))?;
    let build = build.map(|build| {
        // What a build may, its container may not.
        let elevated = ctx.elevated.take();
        crate::compose::model::ImageBuild { elevated, ..build }
    });
    isolation::namespaces(ctx, at)?;
    let image = maybe(at, "image", At::parsed)?;
    if build.is_none() && image.is_none() {
        return Err(at.wrong_hint(
            "needs `image` or `build`",
            "name an image, or write `build: .`",
        ));
    }
    let mounts = storage::mounts(ctx, at)?;
    let stateful = storage::writes(&mounts);
    let (kind, restart) = limits::restart(at)?;
    let secrets = maybe(at, "secrets", |at| {
        storage::grants(ctx, at, "secrets", "/run/secrets/")
    })?;
    let configs = maybe(at, "configs", |at| storage::grants(ctx, at, "configs", "/"))?;
    let (secrets, configs) = (secrets.unwrap_or_default(), configs.unwrap_or_default());
    for path in configs.keys().chain(mounts.keys()) {
        let twice =
            secrets.contains_key(path) || (mounts.contains_key(path) && configs.contains_key(path));
        if twice {
            return Err(at.conflict(
                format!("has two things at `{path}`"),
                "give one of them another `target`",
            ));
        }
    }
    let text = |key: &str| maybe(at, key, At::string);
    let flag = |key: &str| maybe(at, key, At::boolean).map(|value| value.unwrap_or(false));
    let service = ComposeService {
        pull: maybe(at, "pull_policy", image::pull_policy)?
            .unwrap_or(crate::compose::model::PullPolicy::Missing),
        platform: text("platform")?,
        entrypoint: maybe(at, "entrypoint", image::command)?,
        command: maybe(at, "command", image::command)?,
        working_dir: text("working_dir")?,
        user: text("user")?,
        groups: maybe(at, "group_add", At::texts)?.unwrap_or_default(),
        environment: environment(ctx, at)?,
        kind,
        replicas: limits::replicas(at)?,
        restart,
        update: limits::update(at, stateful)?,
        depends_on: maybe(at, "depends_on", dependencies)?.unwrap_or_default(),
        healthcheck: maybe(at, "healthcheck", healthcheck)?.flatten(),
        route: None,
        ports: maybe(at, "ports", network::ports)?.unwrap_or_default(),
        expose: maybe(at, "expose", network::expose)?.unwrap_or_default(),
        network: network::mode(ctx, at, name)?,
        hostname: maybe(at, "hostname", host_name)?,
        domainname: maybe(at, "domainname", host_name)?,
        extra_hosts: maybe(at, "extra_hosts", network::extra_hosts)?.unwrap_or_default(),
        dns: match at.key("dns") {
            Some(at) => at
                .items()?
                .iter()
                .map(At::parsed)
                .collect::<Result<_, _>>()?,
            None => Vec::new(),
        },
        dns_search: maybe(at, "dns_search", At::texts)?.unwrap_or_default(),
        dns_options: maybe(at, "dns_opt", At::texts)?.unwrap_or_default(),
        mounts,
        secrets,
        configs,
        resources: limits::resources(at)?,
        read_only: flag("read_only")?,
        cap_add: maybe(at, "cap_add", |at| isolation::added(ctx, at))?.unwrap_or_default(),
        cap_drop: maybe(at, "cap_drop", isolation::dropped)?.unwrap_or_default(),
        security: maybe(at, "security_opt", |at| isolation::security(ctx, at))?.unwrap_or_default(),
        sysctls: maybe(at, "sysctls", |at| isolation::sysctls(ctx, at))?.unwrap_or_default(),
        ulimits: maybe(at, "ulimits", |at| limits::ulimits(ctx, at))?.unwrap_or_default(),
        shm_size: maybe(at, "shm_size", At::bytes)?,
        init: flag("init")?,
        tty: flag("tty")?,
        stdin_open: flag("stdin_open")?,
        stop_signal: maybe(at, "stop_signal", signal)?,
        stop_grace_period: maybe(at, "stop_grace_period", At::period)?
            .unwrap_or(Period::from_secs(10)),
        labels: labels(ctx, at)?,
        elevated: Default::default(),
        devices: maybe(at, "devices", isolation::devices)?.unwrap_or_default(),
        device_rules: maybe(at, "device_cgroup_rules", At::texts)?.unwrap_or_default(),
        cgroup_parent: text("cgroup_parent")?,
        runtime: text("runtime")?,
        stateful,
        digest: None,
        image,
        build,
    };
    let update = at.key("deploy").and_then(|at| at.key("update_config"));
    Ok(Draft {
        wish: network::wish(at)?,
        links: maybe(at, "links", network::links)?.unwrap_or_default(),
        volumes_from: maybe(at, "volumes_from", volumes_from)?.unwrap_or_default(),
        update_given: update.and_then(|at| at.key("order")).is_some(),
        service,
    })
}

fn host_name(at: &At<'_>) -> Result<String, SpecError> {
    let text = at.text()?;
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match text.len() <= 253 && text.split('.').all(label) {
        true => Ok(text.to_owned()),
        false => Err(at.wrong(format!("must be a host name, found `{text}`"))),
    }
}

fn signal(at: &At<'_>) -> Result<String, SpecError> {
    let text = at.text()?.to_ascii_uppercase();
    if let Ok(1..=64) = text.parse::<u32>() {
        return Ok(text);
    }
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    let good = (2..=10).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-".contains(&byte));
    match good {
        true => Ok(format!("SIG{name}")),
        false => Err(at.wrong(format!(
            "must be a signal such as `SIGTERM`, found `{text}`"
        ))),
    }
}

fn variable_name(at: &At<'_>, name: &str) -> Result<(), SpecError> {
    let good = (1..=256).contains(&name.len()) && !name.contains(['=', '\0', '\n']);
    match good {
        true => Ok(()),
        false => Err(at.wrong("has a name that no variable can have")),
    }
}

fn environment(ctx: &Context<'_>, at: &At<'_>) -> Result<BTreeMap<String, Template>, SpecError> {
    let mut files: Vec<(RelPath, bool)> = Vec::new();
    for item in at.key("env_file").map_or(Ok(Vec::new()), |at| at.items())? {
        let path = item.key("path").unwrap_or_else(|| item.clone());
        let text = path.text()?;
        let raw = maybe(&item, "format", |at| at.word(&[("raw", true)]))?.unwrap_or(false);
        let required = maybe(&item, "required", At::boolean)?.unwrap_or(true);
        if text.starts_with(['/', '~']) || text.starts_with("..") {
            return Err(path.unsupported(
                format!(": `{text}`, outside the repository,"),
                "commit the file, or use `ondol secret set`",
            ));
        }
        match in_repository(text).filter(|path| ctx.view.has(path.as_str())) {
            Some(path) => files.push((path, raw)),
            None if required => {
                return Err(path.wrong_hint(
                    format!("names `{text}`, which is not in the repository"),
                    "commit it, say `required: false`, or set its secrets by `ondol secret set` and name them under `environment`",
                ));
            }
            None => ctx.notice(Note::new(
                "compose-env-file",
                format!("{text} is not in the repository, and is not required"),
            )),
        }
    }
    let mut environment: BTreeMap<String, Template> =
        load::env_files(&files, ctx.view, ctx.variables)?
            .into_iter()
            .map(|(name, value)| (name, Template::from_marked(&value)))
            .collect();
    for (name, value) in at
        .key("environment")
        .map_or(Ok(Vec::new()), |at| at.entries())?
    {
        variable_name(&value, name)?;
        let value = match value.node.kind {
            Kind::Null => ctx
                .variables
                .get(name)
                .map(|value| Template::from_marked(&value)),
            _ => Some(value.template()?),
        };
        match value {
            Some(value) => environment.insert(name.to_owned(), value),
            // Said and not set: it is not there, whatever a file says.
            None => environment.remove(name),
        };
    }
    Ok(environment)
}

fn dependencies(at: &At<'_>) -> Result<BTreeMap<ServiceName, Dependency>, SpecError> {
    let mut all = BTreeMap::new();
    for (name, at) in at.entries()? {
        let name: ServiceName = name
            .parse()
            .map_err(|error| at.wrong(format!("names no service: {error}")))?;
        let condition = maybe(&at, "condition", |at| {
            at.word(&[
                ("service_started", Condition::Started),
                ("service_healthy", Condition::Healthy),
                (
                    "service_completed_successfully",
                    Condition::CompletedSuccessfully,
                ),
            ])
        })?;
        all.insert(
            name,
            Dependency {
                condition: condition.unwrap_or(Condition::Started),
                required: maybe(&at, "required", At::boolean)?.unwrap_or(true),
                restart: maybe(&at, "restart", At::boolean)?.unwrap_or(false),
            },
        );
    }
    Ok(all)
}

fn healthcheck(at: &At<'_>) -> Result<Option<Healthcheck>, SpecError> {
    if maybe(at, "disable", At::boolean)?.unwrap_or(false) {
        return Ok(Some(Healthcheck::Disabled));
    }
    let test = match at.key("test") {
        None => HealthTest::Image,
        Some(test) if scalar(test.node).is_some() => match scalar(test.node) {
            Some("") => HealthTest::Image,
            Some("NONE") => return Ok(Some(Healthcheck::Disabled)),
            _ => HealthTest::Shell(test.template()?),
        },
        Some(test) => {
            let items = test.items()?;
            let words = |items: &[At<'_>]| -> Result<Vec<Template>, SpecError> {
                items.iter().map(At::template).collect()
            };
            match items.split_first() {
                None => HealthTest::Image,
                Some((first, rest)) => match (first.text()?, rest) {
                    ("NONE", _) => return Ok(Some(Healthcheck::Disabled)),
                    ("CMD", [_, ..]) => HealthTest::Exec(words(rest)?),
                    ("CMD-SHELL", [line]) => HealthTest::Shell(line.template()?),
                    ("CMD" | "CMD-SHELL", _) => {
                        return Err(test.wrong_hint(
                            "does not say what to run",
                            "write `[CMD, curl, -f, http://localhost]`, or `[CMD-SHELL, line]`",
                        ));
                    }
                    (other, _) => {
                        return Err(first.wrong_hint(
                            format!("must be `CMD`, `CMD-SHELL` or `NONE`, found `{other}`"),
                            format!("write `[CMD, {other}, …]`"),
                        ));
                    }
                },
            }
        }
    };
    let time = |key: &str, usual: u64| {
        maybe(at, key, At::period).map(|period| {
            period
                .filter(|period| !period.is_zero())
                .unwrap_or(Period::from_secs(usual))
        })
    };
    Ok(Some(Healthcheck::Check {
        test,
        interval: time("interval", 30)?,
        timeout: time("timeout", 30)?,
        retries: maybe(at, "retries", |at| at.within(0, 10_000))?
            .filter(|retries| *retries > 0)
            .unwrap_or(3) as u32,
        start_period: maybe(at, "start_period", At::period)?.unwrap_or(Period::from_secs(0)),
        start_interval: time("start_interval", 5)?,
    }))
}

fn labels(ctx: &Context<'_>, at: &At<'_>) -> Result<BTreeMap<String, String>, SpecError> {
    let mut labels = BTreeMap::new();
    for item in at
        .key("label_file")
        .map_or(Ok(Vec::new()), |at| at.items())?
    {
        let text = item.text()?;
        let Some(path) = in_repository(text).filter(|path| ctx.view.has(path.as_str())) else {
            return Err(item.wrong_hint(
                format!("names `{text}`, which is not in the repository"),
                "commit it, or correct the path",
            ));
        };
        let found = load::env_files(&[(path, false)], ctx.view, ctx.variables)?;
        labels.extend(found);
    }
    let sections = [
        at.key("annotations"),
        at.key("deploy").and_then(|at| at.key("labels")),
        at.key("labels"),
    ];
    for at in sections.into_iter().flatten() {
        labels.extend(at.pairs::<BTreeMap<String, String>>()?);
    }
    if let Some(secret) = labels
        .values()
        .find_map(|value| crate::compose::template::marked(value))
    {
        return Err(at.wrong_hint(
            format!("has a label that uses `{secret}`, which is a secret"),
            "labels are shown to everybody",
        ));
    }
    if let Some(name) = labels
        .keys()
        .find(|name| name.starts_with("com.docker.compose"))
    {
        return Err(at.wrong_hint(
            format!("has the label `{name}`, whose prefix is reserved"),
            "choose another name",
        ));
    }
    Ok(labels)
}

fn volumes_from(at: &At<'_>) -> Result<Vec<(ServiceName, bool)>, SpecError> {
    let mut all = Vec::new();
    for item in at.items()? {
        let text = item.text()?;
        if text.starts_with("container:") {
            return Err(item.unsupported(
                format!(": `{text}`"),
                "only mounts of services of this project can be shared",
            ));
        }
        let (name, option) = text.split_once(':').unwrap_or((text, "rw"));
        let read_only = match option {
            "ro" => true,
            "rw" => false,
            _ => return Err(item.wrong("must end in `:ro` or `:rw`")),
        };
        let name = name
            .parse()
            .map_err(|error| item.wrong(format!("names no service: {error}")))?;
        all.push((name, read_only));
    }
    Ok(all)
}
