//! Replicas, resources, restarts and replacement: the keys of a service and those of `deploy`, which
//! must agree where they say the same.

use std::collections::{BTreeMap, BTreeSet};

use super::Context;
use super::at::{At, maybe};
use crate::compose::model::{
    FailureAction, Gpus, MemorySwap, Resources, Restart, RestartCondition, ServiceKind, Ulimit,
    Update, UpdateOrder,
};
use crate::error::SpecError;
use crate::model::{ByteSize, Period};
use crate::node::Kind;

/// The most replicas of one service.
const MAX_REPLICAS: i64 = 100;

/// Two places that say the same must say it alike.
fn agreed<'n, T: PartialEq>(
    first: (Option<T>, &str),
    second: (Option<T>, &str),
    at: impl Fn() -> Option<At<'n>>,
) -> Result<Option<T>, SpecError> {
    match (first.0, second.0, at()) {
        (Some(a), Some(b), Some(at)) if a != b => Err(at.conflict(
            format!("differs from `{}`", second.1),
            format!("keep `{}` or `{}`", first.1, second.1),
        )),
        (Some(a), _, _) => Ok(Some(a)),
        (None, b, _) => Ok(b),
    }
}

fn cores(at: &At<'_>) -> Result<u64, SpecError> {
    let cores = at.number()?;
    if cores > 1_024.0 {
        return Err(at.wrong("must be at most 1024 cores"));
    }
    Ok((cores * 1_000.0).ceil() as u64)
}

fn pids(at: &At<'_>) -> Result<i64, SpecError> {
    at.within(-1, i64::from(u32::MAX))
}

fn section<'n>(at: &At<'n>, path: &[&str]) -> Option<At<'n>> {
    path.iter().try_fold(at.clone(), |at, key| at.key(key))
}

fn below<'n, T>(
    at: &Option<At<'n>>,
    key: &str,
    read: impl FnOnce(&At<'n>) -> Result<T, SpecError>,
) -> Result<Option<T>, SpecError> {
    match at {
        Some(at) => maybe(at, key, read),
        None => Ok(None),
    }
}

pub(super) fn resources(at: &At<'_>) -> Result<Resources, SpecError> {
    let limits = section(at, &["deploy", "resources", "limits"]);
    let reserved = section(at, &["deploy", "resources", "reservations"]);
    let cpus = agreed(
        (maybe(at, "cpus", cores)?, "cpus"),
        (
            below(&limits, "cpus", cores)?,
            "deploy.resources.limits.cpus",
        ),
        || at.key("cpus"),
    )?;
    let quota = maybe(at, "cpu_quota", At::integer)?.filter(|quota| *quota > 0);
    let period = maybe(at, "cpu_period", |at| at.within(1_000, 1_000_000))?.unwrap_or(100_000);
    let quota = quota.map(|quota| quota.unsigned_abs() * 1_000 / period.unsigned_abs());
    let memory = agreed(
        (maybe(at, "mem_limit", At::bytes)?, "mem_limit"),
        (
            below(&limits, "memory", At::bytes)?,
            "deploy.resources.limits.memory",
        ),
        || at.key("mem_limit"),
    )?;
    let pids = agreed(
        (maybe(at, "pids_limit", pids)?, "pids_limit"),
        (
            below(&limits, "pids", pids)?,
            "deploy.resources.limits.pids",
        ),
        || at.key("pids_limit"),
    )?;
    let reserved_memory = agreed(
        (maybe(at, "mem_reservation", At::bytes)?, "mem_reservation"),
        (
            below(&reserved, "memory", At::bytes)?,
            "deploy.resources.reservations.memory",
        ),
        || at.key("mem_reservation"),
    )?;
    let memory = memory.filter(|memory| memory.bytes() > 0);
    if let (Some(kept), Some(most)) = (reserved_memory, memory)
        && kept > most
    {
        return Err(at.conflict(
            format!("keeps {kept} of memory and may use {most}"),
            "reserve no more than the limit",
        ));
    }
    let memory_swap = maybe(at, "memswap_limit", |at| {
        if at.text()?.trim() == "-1" {
            return Ok(Some(MemorySwap::Unlimited));
        }
        let both = at.bytes()?;
        if both == ByteSize::from_bytes(0) {
            return Ok(None);
        }
        match memory {
            Some(memory) if both >= memory => Ok(Some(MemorySwap::Limit(both))),
            Some(memory) => Err(at.wrong(format!("must be at least the memory limit, {memory}"))),
            None => Err(at.wrong_hint("needs a memory limit beside it", "set `mem_limit`")),
        }
    })?;
    let mut gpus = maybe(at, "gpus", |at| devices(at, true))?.unwrap_or_default();
    gpus.extend(below(&reserved, "devices", |at| devices(at, false))?.unwrap_or_default());
    Ok(Resources {
        cpu_millis: cpus.filter(|cpus| *cpus > 0).or(quota),
        memory,
        memory_swap: memory_swap.flatten(),
        pids: pids
            .and_then(|pids| u32::try_from(pids).ok())
            .filter(|pids| *pids > 0),
        cpu_shares: maybe(at, "cpu_shares", |at| at.within(0, 262_144))?
            .filter(|shares| *shares > 0)
            .map(i64::unsigned_abs),
        cpuset: maybe(at, "cpuset", cpuset)?.filter(|set| !set.is_empty()),
        reserved_cpu_millis: below(&reserved, "cpus", cores)?.filter(|cpus| *cpus > 0),
        reserved_memory: reserved_memory.filter(|memory| memory.bytes() > 0),
        gpus,
        oom_score_adj: maybe(at, "oom_score_adj", |at| at.within(-1_000, 1_000))?.unwrap_or(0)
            as i32,
        oom_kill_disable: maybe(at, "oom_kill_disable", At::boolean)?.unwrap_or(false),
    })
}

fn cpuset(at: &At<'_>) -> Result<String, SpecError> {
    let text = at.text()?;
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if first <= last)
    };
    match text.is_empty() || text.split(',').all(part) {
        true => Ok(text.to_owned()),
        false => Err(at.wrong(format!(
            "must name cores such as `0-3` or `0,1`, found `{text}`"
        ))),
    }
}

fn devices(at: &At<'_>, implied: bool) -> Result<Vec<Gpus>, SpecError> {
    let all = Gpus {
        count: None,
        ids: BTreeSet::new(),
        capabilities: ["gpu".to_owned()].into(),
        driver: None,
    };
    if implied && !matches!(at.node.kind, Kind::List(_)) {
        at.word(&[("all", ())])?;
        return Ok(vec![all]);
    }
    let mut gpus = Vec::new();
    for item in at.items()? {
        let mut capabilities: BTreeSet<String> =
            maybe(&item, "capabilities", At::texts)?.unwrap_or_default();
        if implied {
            capabilities.insert("gpu".to_owned());
        }
        let graphical =
            |name: &String| name == "gpu" || name == "nvidia" || name.starts_with("nvidia-");
        if !capabilities.iter().any(graphical) {
            let found: Vec<&str> = capabilities.iter().map(String::as_str).collect();
            return Err(item.unsupported(
                format!(": a device that can `{}`", found.join(", ")),
                "only graphics processors, `capabilities: [gpu]`, are reserved",
            ));
        }
        let ids: BTreeSet<String> = maybe(&item, "device_ids", At::texts)?.unwrap_or_default();
        let count = match item.key("count") {
            Some(count) if count.text()? == "all" || count.text()? == "-1" => None,
            Some(count) if !ids.is_empty() => {
                return Err(count.conflict("stands beside `device_ids`", "keep one of them"));
            }
            Some(count) => Some(count.within(1, 64)? as u32),
            None => None,
        };
        gpus.push(Gpus {
            count,
            ids,
            capabilities,
            driver: maybe(&item, "driver", At::string)?,
        });
    }
    Ok(gpus)
}

pub(super) fn replicas(at: &At<'_>) -> Result<u32, SpecError> {
    let count = |at: &At<'_>| at.within(0, MAX_REPLICAS);
    let deploy = at.key("deploy");
    let replicas = agreed(
        (maybe(at, "scale", count)?, "scale"),
        (below(&deploy, "replicas", count)?, "deploy.replicas"),
        || at.key("scale"),
    )?;
    Ok(replicas.unwrap_or(1) as u32)
}

/// Whether it is kept running, and when it is started again.
pub(super) fn restart(at: &At<'_>) -> Result<(ServiceKind, Restart), SpecError> {
    let mut kind = ServiceKind::Service;
    let mut restart = Restart {
        condition: RestartCondition::Always,
        max_attempts: None,
        delay: Period::from_secs(0),
        window: None,
    };
    if let Some(at) = at.key("restart") {
        let text = at.text()?;
        if let Some(attempts) = text.strip_prefix("on-failure:") {
            restart.condition = RestartCondition::OnFailure;
            restart.max_attempts = Some(attempts.parse().map_err(|_| {
                at.wrong(format!(
                    "must have a number behind `on-failure:`, found `{attempts}`"
                ))
            })?);
        } else {
            restart.condition = at.word(&[
                ("no", RestartCondition::Never),
                ("false", RestartCondition::Never),
                ("always", RestartCondition::Always),
                ("unless-stopped", RestartCondition::Always),
                ("on-failure", RestartCondition::OnFailure),
            ])?;
        }
    }
    let deploy = at.key("deploy");
    if let Some(policy) = deploy.as_ref().and_then(|at| at.key("restart_policy")) {
        restart = Restart {
            condition: maybe(&policy, "condition", |at| {
                at.word(&[
                    ("none", RestartCondition::Never),
                    ("on-failure", RestartCondition::OnFailure),
                    ("any", RestartCondition::Always),
                ])
            })?
            .unwrap_or(RestartCondition::Always),
            max_attempts: maybe(&policy, "max_attempts", |at| at.within(0, 1_000_000))?
                .map(|attempts| attempts as u32),
            delay: maybe(&policy, "delay", At::period)?.unwrap_or(Period::from_secs(0)),
            window: maybe(&policy, "window", At::period)?,
        };
    }
    let mode = below(&deploy, "mode", |at| {
        if at.text()? == "global-job" {
            return Err(at.unsupported(": `global-job`", "use `replicated-job`"));
        }
        at.word(&[
            ("replicated", false),
            ("global", false),
            ("replicated-job", true),
        ])
    })?;
    if mode == Some(true) {
        kind = ServiceKind::Job;
    }
    Ok((kind, restart))
}

/// How replicas are replaced. Two writers of one volume never run at once, unless the file says so.
pub(super) fn update(at: &At<'_>, stateful: bool) -> Result<Update, SpecError> {
    let usual = match stateful {
        true => UpdateOrder::StopFirst,
        false => UpdateOrder::StartFirst,
    };
    let config = section(at, &["deploy", "update_config"]);
    let order = below(&config, "order", |at| {
        at.word(&[
            ("start-first", UpdateOrder::StartFirst),
            ("stop-first", UpdateOrder::StopFirst),
        ])
    })?;
    let failure = below(&config, "failure_action", |at| {
        at.word(&[
            ("rollback", FailureAction::Rollback),
            ("pause", FailureAction::Pause),
            ("continue", FailureAction::Continue),
        ])
    })?;
    let ratio = below(&config, "max_failure_ratio", |at| {
        let ratio = at.number()?;
        match ratio <= 1.0 {
            true => Ok((ratio * 1_000.0).round() as u32),
            false => Err(at.wrong("must be from 0 to 1")),
        }
    })?;
    Ok(Update {
        order: order.unwrap_or(usual),
        parallelism: below(&config, "parallelism", |at| at.within(0, MAX_REPLICAS))?.unwrap_or(1)
            as u32,
        delay: below(&config, "delay", At::period)?.unwrap_or(Period::from_secs(0)),
        failure: failure.unwrap_or(FailureAction::Rollback),
        monitor: below(&config, "monitor", At::period)?.unwrap_or(Period::from_secs(0)),
        max_failure_permille: ratio.unwrap_or(0),
    })
}

pub(super) fn ulimits(
    ctx: &Context<'_>,
    at: &At<'_>,
) -> Result<BTreeMap<String, Ulimit>, SpecError> {
    const KNOWN: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let mut limits = BTreeMap::new();
    for (name, value) in at.entries()? {
        if !KNOWN.contains(&name) {
            return Err(ctx.unknown(&value, "limit", name, &KNOWN));
        }
        let number = |at: &At<'_>| at.within(-1, i64::MAX);
        let limit = if value.node.is_map() {
            match (
                maybe(&value, "soft", number)?,
                maybe(&value, "hard", number)?,
            ) {
                (Some(soft), Some(hard)) => Ulimit { soft, hard },
                _ => return Err(value.wrong("needs `soft` and `hard`")),
            }
        } else {
            let both = number(&value)?;
            Ulimit {
                soft: both,
                hard: both,
            }
        };
        if limit.hard >= 0 && (limit.soft < 0 || limit.soft > limit.hard) {
            return Err(value.wrong("has a soft limit above its hard limit"));
        }
        limits.insert(name.to_owned(), limit);
    }
    Ok(limits)
}
