//! What a configuration must keep before it is accepted. The specification's own rules were
//! checked at push; these are those of this installation.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ondol_spec::model::Spec;
use ondol_types::ProjectName;

use crate::error::DeployError;
use crate::model::ReleaseConfig;
use crate::plan::{EngineKind, choose};
use crate::ports::ImageConfig;
use crate::room::Room;
use crate::routes::claims;

const MAX_HOSTS: usize = 60;
const MAX_VOLUMES: usize = 32;
const MAX_SECRETS: usize = 200;
const MAX_ENV_BYTES: usize = 64 << 10;
const MAX_DRAIN_SECS: u64 = 3_600;

fn invalid(key: impl Into<String>, problem: impl Into<String>) -> DeployError {
    DeployError::Invalid {
        key: key.into(),
        problem: problem.into(),
    }
}

/// The configuration of a specification, fit for this installation and this image.
pub(super) fn config_of(
    room: &Room,
    project: &ProjectName,
    spec: &Spec,
    image: &ImageConfig,
) -> Result<ReleaseConfig, DeployError> {
    let config = ReleaseConfig::of(spec).ok_or(DeployError::NoService)?;
    let own_root = spec.needs_container().or_else(|| {
        image
            .own_root
            .then(|| ("image", "it has a root filesystem of its own".to_owned()))
    });
    let own_root = own_root.as_ref().map(|(key, why)| (*key, why.as_str()));
    let kind = choose(
        config.asked_engine(image.own_root),
        own_root,
        room.config.engines,
    )
    .map_err(|refusal| DeployError::Unsupported {
        key: refusal.key.to_owned(),
        problem: refusal.problem,
    })?;
    if kind == EngineKind::Container && !image.own_root {
        return Err(DeployError::Unsupported {
            key: own_root.map_or("service.engine", |(key, _)| key).to_owned(),
            problem: "the image has no root filesystem of its own: set `build.base` or write a Dockerfile".to_owned(),
        });
    }
    hosts(room, project, &config)?;
    bounds(&config)?;
    Ok(config)
}

fn hosts(room: &Room, project: &ProjectName, config: &ReleaseConfig) -> Result<(), DeployError> {
    let service = &config.service;
    if service.hosts.len() > MAX_HOSTS || service.paths.len() > MAX_HOSTS {
        return Err(invalid(
            "service.hosts",
            format!("at most {MAX_HOSTS} hosts and as many paths are allowed"),
        ));
    }
    let own = format!(".{project}.localhost");
    for host in &service.hosts {
        let name = host.as_str();
        let bare = name.strip_prefix("*.").unwrap_or(name);
        if bare.parse::<IpAddr>().is_ok() {
            return Err(invalid(
                "service.hosts",
                format!("`{name}` is an address; every project shares those"),
            ));
        }
        let local = bare == "localhost" || bare.ends_with(".localhost");
        if local && !format!(".{bare}").ends_with(&own) {
            return Err(invalid(
                "service.hosts",
                format!(
                    "`{name}` belongs to another project or to nobody: below `.localhost` only names that end in `{own}` are this project's"
                ),
            ));
        }
        if room
            .config
            .reserved_hosts
            .iter()
            .any(|reserved| reserved.eq_ignore_ascii_case(bare))
        {
            return Err(invalid(
                "service.hosts",
                format!("`{name}` is a name of the installation itself"),
            ));
        }
    }
    for (_, path) in claims(config) {
        let plain = path.len() <= 256
            && !path.contains("//")
            && !path.split('/').any(|part| part == ".")
            && path
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte));
        if !plain {
            return Err(invalid(
                "service.paths",
                format!(
                    "`{path}` may only have letters, digits, `-`, `.`, `_`, `~` and single `/`"
                ),
            ));
        }
    }
    Ok(())
}

fn bounds(config: &ReleaseConfig) -> Result<(), DeployError> {
    let service = &config.service;
    if service.replicas.min > crate::MAX_REPLICAS {
        return Err(invalid(
            "service.replicas.min",
            format!("at most {} replicas are allowed", crate::MAX_REPLICAS),
        ));
    }
    if service.replicas.max > crate::MAX_REPLICAS {
        return Err(invalid(
            "service.replicas.max",
            format!("at most {} replicas are allowed", crate::MAX_REPLICAS),
        ));
    }
    if service.health.timeout.is_zero() || service.health.deadline.is_zero() {
        return Err(invalid(
            "service.health",
            "`timeout` and `deadline` must be more than nothing",
        ));
    }
    for (key, period) in [
        ("service.drain", service.drain),
        ("service.websocket_grace", service.websocket_grace),
        ("service.stop", service.stop),
    ] {
        if period.duration().as_secs() > MAX_DRAIN_SECS {
            return Err(invalid(key, "more than one hour is too long"));
        }
    }
    let steps = &config.release.steps;
    let ascending = steps.windows(2).all(|pair| pair[0] < pair[1]);
    if steps.iter().any(|step| *step == 0 || *step > 100) || !ascending {
        return Err(invalid(
            "release.steps",
            "must be shares from 1 to 100 that grow",
        ));
    }
    if let Some(check) = &config.release.check {
        check
            .check_canary_names()
            .map_err(|error| invalid("release.check", error.to_string()))?;
    }
    if config.volumes.len() > MAX_VOLUMES {
        return Err(invalid(
            "volumes",
            format!("at most {MAX_VOLUMES} volumes are allowed"),
        ));
    }
    let places: BTreeSet<_> = config.volumes.values().collect();
    if places.len() != config.volumes.len() {
        return Err(invalid("volumes", "two volumes have the same place"));
    }
    if config.secrets.len() > MAX_SECRETS {
        return Err(invalid(
            "secrets",
            format!("at most {MAX_SECRETS} secrets are allowed"),
        ));
    }
    let bytes: usize = config
        .service_env()
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > MAX_ENV_BYTES {
        return Err(invalid(
            "env",
            format!("the variables have {bytes} bytes, more than {MAX_ENV_BYTES}"),
        ));
    }
    Ok(())
}

/// Keys stand in a unique column and in events.
pub(super) fn key(key: &str) -> Result<(), DeployError> {
    let sound =
        !key.is_empty() && key.len() <= 200 && key.bytes().all(|byte| byte.is_ascii_graphic());
    if sound {
        Ok(())
    } else {
        Err(invalid(
            "idempotency key",
            "must have 1 to 200 visible ASCII characters",
        ))
    }
}
