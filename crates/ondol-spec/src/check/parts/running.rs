//! What runs, and how one release replaces another.

use std::collections::BTreeSet;

use super::{Checked, Checker, expression, limits, positive};
use crate::model::Spec;

/// The most replicas of one service.
const MAX_REPLICAS: u32 = 1_000;

pub(in crate::check) fn service(spec: &Spec, checker: &Checker<'_>) -> Checked {
    let Some(service) = &spec.service else {
        return Ok(());
    };
    if service.port == Some(0) {
        let hint = "remove `port` to listen on $PORT";
        checker.fail(
            &["service", "port"],
            "no program can insist on port 0",
            Some(hint),
        )?;
    }
    if let Some(user) = &service.user {
        let parts: Vec<&str> = user.split(':').collect();
        let fits = |part: &&str| {
            (1..=32).contains(&part.len())
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
                && !part.starts_with('-')
        };
        if parts.len() > 2 || !parts.iter().all(fits) {
            checker.fail(
                &["service", "user"],
                format!("`{}` is not a user", user.escape_debug()),
                Some("write `uid`, `uid:gid` or a name that the image knows"),
            )?;
        }
    }
    let replicas = &service.replicas;
    if replicas.min == 0 || replicas.max > MAX_REPLICAS {
        checker.fail(
            &["service", "replicas"],
            format!("must be from 1 to {MAX_REPLICAS} replicas"),
            None,
        )?;
    }
    if replicas.max < replicas.min {
        let message = format!("max ({}) is less than min ({})", replicas.max, replicas.min);
        checker.fail(&["service", "replicas", "max"], message, None)?;
    }
    if let Some(target) = &replicas.target {
        let bad =
            |value: Option<f64>| value.is_some_and(|value| !(value.is_finite() && value > 0.0));
        if bad(target.rps) || bad(target.concurrency) {
            checker.fail(
                &["service", "replicas", "target"],
                "must be greater than 0",
                None,
            )?;
        }
        if target.rps.is_none() && target.concurrency.is_none() && target.cpu.is_none() {
            let hint = "add `rps`, `concurrency` or `cpu`";
            checker.fail(
                &["service", "replicas", "target"],
                "names no load",
                Some(hint),
            )?;
        }
    } else if replicas.max > replicas.min {
        let hint = "add `target`, such as `target: { rps: 50 }`";
        checker.fail(
            &["service", "replicas"],
            "nothing says when there should be more than `min`",
            Some(hint),
        )?;
    }
    positive(
        checker,
        &["service", "health", "interval"],
        service.health.interval,
    )?;
    positive(
        checker,
        &["service", "health", "timeout"],
        service.health.timeout,
    )?;
    positive(
        checker,
        &["service", "health", "deadline"],
        service.health.deadline,
    )?;
    if service.paths.is_empty() {
        checker.fail(
            &["service", "paths"],
            "no path reaches the service",
            Some("remove `paths` for all of them"),
        )?;
    }
    let mut seen = BTreeSet::new();
    for (index, host) in service.hosts.iter().enumerate() {
        if !seen.insert(host) {
            checker.fail(
                &["service", "hosts", &index.to_string()],
                format!("`{host}` is here twice"),
                None,
            )?;
        }
    }
    limits(checker, &["service", "limits"], &service.limits)
}

pub(in crate::check) fn release(spec: &Spec, checker: &Checker<'_>) -> Checked {
    let steps = &spec.release.steps;
    let ascending = steps.windows(2).all(|pair| pair[0] < pair[1]);
    let bounded =
        !steps.is_empty() && steps.len() <= 20 && steps.first().is_some_and(|first| *first >= 1);
    if !ascending || !bounded || steps.last() != Some(&100) {
        let hint = "write shares such as `[10, 50, 100]`";
        checker.fail(
            &["release", "steps"],
            "must ascend from at least 1 to 100, in at most 20 steps",
            Some(hint),
        )?;
    }
    if spec.release.keep > 100 {
        checker.fail(
            &["release", "keep"],
            "at most 100 earlier releases are kept",
            None,
        )?;
    }
    positive(checker, &["release", "patience"], spec.release.patience)?;
    match &spec.release.check {
        Some(check) => expression(checker, &["release", "check"], check.check_canary_names()),
        None => Ok(()),
    }
}
