//! Commands and their variables.

use std::collections::BTreeMap;

use ondol_types::SecretName;

use super::{Checked, Checker, limits, positive};
use crate::model::{Period, SecretRef, Spec};

/// The longest command, in bytes: far below what a kernel passes to a program.
const MAX_COMMAND: usize = 32 * 1024;
/// The most variables of one command.
const MAX_VARIABLES: usize = 1_000;

/// Every command is text that a shell can be given, ends some day, and has sound variables.
pub(in crate::check) fn commands(spec: &Spec, checker: &Checker<'_>) -> Checked {
    let mut all: Vec<(Vec<String>, &str, Option<Period>)> = Vec::new();
    let mut envs: Vec<(Vec<String>, &BTreeMap<String, String>)> = vec![
        (path(&["env"]), &spec.env),
        (path(&["build", "env"]), &spec.build.env),
    ];
    if let Some(test) = &spec.test {
        all.push((path(&["test"]), &test.run, Some(test.timeout)));
        envs.push((path(&["test", "env"]), &test.env));
        for (service, known) in &test.services {
            let at = ["test", "services", service.as_str(), "env"];
            envs.push((path(&at), &known.env));
        }
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
        match &step.approve {
            None => all.push((
                path(&["steps", name.as_str()]),
                &step.run,
                Some(step.timeout),
            )),
            Some(approve) => {
                let at = ["steps", name.as_str(), "approve", "timeout"];
                positive(checker, &at, approve.timeout)?;
            }
        }
        envs.push((path(&["steps", name.as_str(), "env"]), &step.env));
        if step.retries > 10 {
            checker.fail(
                &["steps", name.as_str(), "retries"],
                "at most 10 retries are allowed",
                None,
            )?;
        }
        limits(checker, &["steps", name.as_str(), "limits"], &step.limits)?;
        for (service, known) in &step.services {
            let at = ["steps", name.as_str(), "services", service.as_str(), "env"];
            envs.push((path(&at), &known.env));
        }
    }
    for (at, run, timeout) in &all {
        let at: Vec<&str> = at.iter().map(String::as_str).collect();
        let with = |key| [at.as_slice(), &[key]].concat();
        // The image of a Dockerfile has a command of its own.
        let of_image = spec.build.dockerfile.is_some() && at == ["service"];
        if run.trim().is_empty() && !of_image {
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
    secrets: &[SecretRef],
) -> Checked {
    if env.len() > MAX_VARIABLES {
        let at: Vec<&str> = at.iter().map(String::as_str).collect();
        checker.fail(
            &at,
            format!("at most {MAX_VARIABLES} variables are allowed"),
            None,
        )?;
    }
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
            Ok(name)
                if secrets
                    .iter()
                    .any(|secret| secret.variable() == name.as_str() && secret.name != name) =>
            {
                checker.fail(
                    &at,
                    "this variable has the path of a secret's file",
                    Some("rename the variable or the secret"),
                )?;
            }
            Ok(name) if secrets.iter().any(|secret| secret.name == name) => {
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
