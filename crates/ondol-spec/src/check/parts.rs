//! Checks of one section each.

use std::collections::{BTreeMap, BTreeSet};

use ondol_types::SecretName;

use super::Checker;
use crate::error::SpecError;
use crate::expr::ExprError;
use crate::model::{Column, ColumnType, Limits, Metric, Period, Scalar, Spec, Task};

/// The longest command, in bytes: far below what a kernel passes to a program.
const MAX_COMMAND: usize = 32 * 1024;
/// The most replicas of one service.
const MAX_REPLICAS: u32 = 1_000;
/// The least memory that any program starts in.
const LEAST_MEMORY: u64 = 4 << 20;

type Checked = Result<(), SpecError>;

/// Every command is text that a shell can be given, ends some day, and has sound variables.
pub(super) fn commands(spec: &Spec, checker: &Checker<'_>) -> Checked {
    let mut all: Vec<(Vec<String>, &str, Option<Period>)> = Vec::new();
    let mut envs: Vec<(Vec<String>, &BTreeMap<String, String>)> = vec![
        (path(&["env"]), &spec.env),
        (path(&["build", "env"]), &spec.build.env),
    ];
    if let Some(test) = &spec.test {
        all.push((path(&["test"]), &test.run, Some(test.timeout)));
        envs.push((path(&["test", "env"]), &test.env));
    }
    if let Some(install) = &spec.build.install {
        all.push((
            path(&["build", "install"]),
            &install.run,
            Some(install.timeout),
        ));
        envs.push((path(&["build", "install", "env"]), &install.env));
    }
    for (index, command) in spec.build.commands.iter().enumerate() {
        let at = index.to_string();
        all.push((
            path(&["build", "commands", &at]),
            &command.run,
            Some(command.timeout),
        ));
        envs.push((path(&["build", "commands", &at, "env"]), &command.env));
    }
    if let Some(service) = &spec.service {
        all.push((path(&["service"]), &service.run, None));
        envs.push((path(&["service", "env"]), &service.env));
    }
    if let Some(command) = &spec.release.command {
        all.push((
            path(&["release", "command"]),
            &command.run,
            Some(command.timeout),
        ));
        envs.push((path(&["release", "command", "env"]), &command.env));
    }
    if let Some(train) = &spec.train {
        if let Some(run) = &train.run {
            all.push((path(&["train"]), run, None));
        }
        positive(checker, &["train", "timeout"], train.timeout)?;
        envs.push((path(&["train", "env"]), &train.env));
    }
    for (name, step) in &spec.steps {
        all.push((
            path(&["steps", name.as_str()]),
            &step.run,
            Some(step.timeout),
        ));
        envs.push((path(&["steps", name.as_str(), "env"]), &step.env));
        if step.retries > 10 {
            checker.fail(
                &["steps", name.as_str(), "retries"],
                "at most 10 retries are allowed",
                None,
            )?;
        }
        limits(checker, &["steps", name.as_str(), "limits"], &step.limits)?;
    }
    for (at, run, timeout) in &all {
        let at: Vec<&str> = at.iter().map(String::as_str).collect();
        let with = |key| [at.as_slice(), &[key]].concat();
        if run.trim().is_empty() {
            checker.fail(
                &with("run"),
                "the command is empty",
                Some("write what a shell should run"),
            )?;
        }
        if run.len() > MAX_COMMAND || run.contains('\0') {
            let hint = "put it in a script in the repository and run that";
            checker.fail(
                &with("run"),
                format!("the command is longer than {MAX_COMMAND} bytes or has a NUL"),
                Some(hint),
            )?;
        }
        if let Some(timeout) = timeout {
            positive(checker, &with("timeout"), *timeout)?;
        }
    }
    envs.iter()
        .try_for_each(|(at, env)| variables(checker, at, env, &spec.secrets))
}

fn path(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

fn variables(
    checker: &Checker<'_>,
    at: &[String],
    env: &BTreeMap<String, String>,
    secrets: &[SecretName],
) -> Checked {
    for (name, value) in env {
        let at: Vec<&str> = at
            .iter()
            .map(String::as_str)
            .chain([name.as_str()])
            .collect();
        match name.parse::<SecretName>() {
            Err(error) => {
                let message = error
                    .to_string()
                    .replacen("secret name", "variable name", 1);
                checker.fail(&at, message, Some("the platform sets `PORT`, `PATH`, `HOME`, `LD_*` and `ONDOL_*` itself; see `build.path`"))?;
            }
            Ok(name) if secrets.contains(&name) => {
                checker.fail(
                    &at,
                    "there is a secret of this name",
                    Some("keep it under `secrets` or under `env`, not both"),
                )?;
            }
            Ok(_) => {}
        }
        if value.len() > MAX_COMMAND || value.contains('\0') {
            checker.fail(
                &at,
                format!("the value is longer than {MAX_COMMAND} bytes or has a NUL"),
                None,
            )?;
        }
    }
    Ok(())
}

fn positive(checker: &Checker<'_>, at: &[&str], period: Period) -> Checked {
    if period.is_zero() {
        checker.fail(at, "must be longer than nothing", None)
    } else {
        Ok(())
    }
}

fn limits(checker: &Checker<'_>, at: &[&str], limits: &Limits) -> Checked {
    let with = |key| [at, &[key]].concat();
    if limits
        .cpu
        .is_some_and(|cpu| !(0.01..=1024.0).contains(&cpu))
    {
        checker.fail(&with("cpu"), "must be from 0.01 to 1024 cores", None)?;
    }
    if limits
        .memory
        .is_some_and(|memory| memory.bytes() < LEAST_MEMORY)
    {
        checker.fail(&with("memory"), "no program starts in less than 4MiB", None)?;
    }
    if limits.pids.is_some_and(|pids| pids < 4) {
        checker.fail(&with("pids"), "a shell needs at least 4 processes", None)?;
    }
    Ok(())
}

pub(super) fn build(spec: &Spec, checker: &Checker<'_>) -> Checked {
    if spec.build.base.is_some() && spec.build.dockerfile.is_some() {
        let hint = "name the base image in the Dockerfile's FROM, or remove `dockerfile`";
        checker.fail(
            &["build", "base"],
            "a Dockerfile names its own base image",
            Some(hint),
        )?;
    }
    Ok(())
}

pub(super) fn service(spec: &Spec, checker: &Checker<'_>) -> Checked {
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

pub(super) fn release(spec: &Spec, checker: &Checker<'_>) -> Checked {
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

fn expression(checker: &Checker<'_>, at: &[&str], result: Result<(), ExprError>) -> Checked {
    let Err(error) = result else { return Ok(()) };
    let hint = match &error {
        ExprError::Unknown {
            nearest: Some(nearest),
            ..
        } => Some(format!("did you mean `{nearest}`?")),
        _ => None,
    };
    checker.fail(at, error.to_string(), hint.as_deref())
}

pub(super) fn data(spec: &Spec, checker: &Checker<'_>) -> Checked {
    for (name, dataset) in &spec.data {
        let at = ["data", name.as_str(), "schema"];
        if dataset.schema.len() > 10_000 {
            checker.fail(&at, "at most 10000 columns can have rules", None)?;
        }
        for (column, rules) in &dataset.schema {
            column_rules(checker, &[&at[..], &[column]].concat(), rules)?;
        }
    }
    Ok(())
}

fn column_rules(checker: &Checker<'_>, at: &[&str], rules: &Column) -> Checked {
    let with = |key| [at, &[key]].concat();
    let numeric = matches!(
        rules.kind,
        None | Some(ColumnType::Number | ColumnType::Integer)
    );
    for (key, bound) in [("min", rules.min), ("max", rules.max)] {
        if bound.is_some() && !numeric {
            checker.fail(
                &with(key),
                "only numbers have bounds",
                Some("set `type: number`, or remove the bound"),
            )?;
        }
        if bound.is_some_and(f64::is_nan) {
            checker.fail(&with(key), "must be a number", None)?;
        }
    }
    if let (Some(min), Some(max)) = (rules.min, rules.max)
        && min > max
    {
        checker.fail(
            &with("max"),
            format!("max ({max}) is less than min ({min})"),
            None,
        )?;
    }
    for (index, value) in rules.one_of.iter().enumerate() {
        let fits = match (rules.kind, value) {
            (None, _)
            | (Some(ColumnType::Text), Scalar::Text(_))
            | (Some(ColumnType::Boolean), Scalar::Boolean(_)) => true,
            (Some(ColumnType::Number), Scalar::Number(number)) => !number.is_nan(),
            (Some(ColumnType::Integer), Scalar::Number(number)) => number.fract() == 0.0,
            (Some(ColumnType::Date | ColumnType::Timestamp), Scalar::Text(_)) => true,
            _ => false,
        };
        if !fits {
            let index = index.to_string();
            let at = [at, &["in", &index]].concat();
            checker.fail(
                &at,
                "the value has not the column's type",
                Some("put text in quotes, and numbers not"),
            )?;
        }
    }
    if let Some(pattern) = &rules.pattern {
        let compiled = regex::RegexBuilder::new(pattern)
            .size_limit(1 << 20)
            .build();
        if let Err(error) = compiled {
            let text = error.to_string();
            let reason = text
                .lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned();
            checker.fail(
                &with("pattern"),
                format!("not a regular expression: {reason}"),
                None,
            )?;
        }
    }
    Ok(())
}

/// Secrets come once, and volumes do not lie in each other.
pub(super) fn names(spec: &Spec, checker: &Checker<'_>) -> Checked {
    let mut seen = BTreeSet::new();
    for (index, secret) in spec.secrets.iter().enumerate() {
        if !seen.insert(secret) {
            checker.fail(
                &["secrets", &index.to_string()],
                format!("`{secret}` is here twice"),
                None,
            )?;
        }
    }
    for (name, folder) in &spec.volumes {
        if folder.components().next() == Some(".git") {
            checker.fail(
                &["volumes", name.as_str()],
                "`.git` is not a place for a volume",
                None,
            )?;
        }
        let clash = spec.volumes.iter().find(|(other, other_folder)| {
            *other != name
                && other_folder
                    .components()
                    .zip(folder.components())
                    .all(|(a, b)| a == b)
        });
        if let Some((other, _)) = clash {
            let message = format!("`{folder}` and the volume `{other}` lie in each other");
            checker.fail(
                &["volumes", name.as_str()],
                message,
                Some("give each volume a folder of its own"),
            )?;
        }
    }
    Ok(())
}

pub(super) fn training(spec: &Spec, checker: &Checker<'_>) -> Checked {
    let Some(train) = &spec.train else {
        return Ok(());
    };
    if train.run.is_some() && train.auto.is_some() {
        let hint = "keep `run` for your own program, or `auto` for the built-in trainer";
        checker.fail(
            &["train", "auto"],
            "`run` and `auto` exclude each other",
            Some(hint),
        )?;
    }
    if train.run.is_none() && train.auto.is_none() {
        checker.fail(
            &["train"],
            "needs `run` or `auto`",
            Some("add `run: python train.py` or `auto: <target column>`"),
        )?;
    }
    if train.on.data.is_none() {
        let hint = "add `on: <dataset>`, one of those under `data`";
        checker.fail(
            &["train", "on"],
            "does not say which data starts training",
            Some(hint),
        )?;
    }
    limits(checker, &["train", "limits"], &train.limits)?;
    if let Some(gate) = &train.accept {
        expression(checker, &["train", "accept"], gate.check_gate_names())?;
    }
    let Some(auto) = &train.auto else {
        return Ok(());
    };
    if auto.target.is_empty() {
        checker.fail(&["train", "auto", "target"], "names no column", None)?;
    }
    if auto.features.contains(&auto.target) {
        checker.fail(
            &["train", "auto", "features"],
            format!("`{}` is the target", auto.target),
            Some("remove it"),
        )?;
    }
    if auto.exclude.contains(&auto.target) {
        checker.fail(
            &["train", "auto", "exclude"],
            format!("`{}` is the target", auto.target),
            Some("remove it"),
        )?;
    }
    if !(2..=20).contains(&auto.folds) {
        checker.fail(&["train", "auto", "folds"], "must be from 2 to 20", None)?;
    }
    positive(checker, &["train", "auto", "time_budget"], auto.time_budget)?;
    let regression = matches!(auto.metric, Metric::Rmse | Metric::Mae | Metric::R2);
    let clash = match auto.task {
        Task::Classification => regression,
        Task::Regression => !regression && auto.metric != Metric::Auto,
        Task::Auto => false,
    };
    if clash {
        checker.fail(
            &["train", "auto", "metric"],
            "does not go with the task",
            None,
        )?;
    }
    Ok(())
}

pub(super) fn monitor(spec: &Spec, checker: &Checker<'_>) -> Checked {
    positive(
        checker,
        &["monitor", "slo", "window"],
        spec.monitor.slo.window,
    )?;
    let Some(drift) = &spec.monitor.drift else {
        return Ok(());
    };
    if !(drift.threshold.is_finite() && drift.threshold > 0.0) {
        checker.fail(
            &["monitor", "drift", "threshold"],
            "must be greater than 0",
            None,
        )?;
    }
    if spec.train.is_none() {
        checker.fail(
            &["monitor", "drift"],
            "there is no model to compare with: the project has no `train`",
            Some("remove `drift`"),
        )?;
    }
    Ok(())
}
