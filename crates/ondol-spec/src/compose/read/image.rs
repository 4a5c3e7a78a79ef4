//! Images: named, or built from the repository; and the commands that run in them.

use std::collections::BTreeMap;

use super::at::{At, maybe};
use super::network::extra_hosts;
use super::{Context, grant_names};
use crate::compose::load::in_repository;
use crate::compose::model::{BuildNetwork, Dockerfile, ImageBuild, PullPolicy};
use crate::compose::normalize::{rebased, scalar};
use crate::compose::policy::Permission;
use crate::compose::template::{Template, marked};
use crate::compose::words;
use crate::error::SpecError;
use crate::node::Kind;

/// Words of a command line, or the items of a list. Empty text and an empty list are no words.
pub(super) fn command(at: &At<'_>) -> Result<Vec<Template>, SpecError> {
    match &at.node.kind {
        Kind::List(_) => at.items()?.iter().map(At::template).collect(),
        _ => {
            let Some(line) = scalar(at.node) else {
                return Err(at.wrong("must be text or a list"));
            };
            let words = words::split(line).map_err(|why| {
                at.wrong_hint(
                    format!("cannot be divided into words: {why}"),
                    "write it as a list, or close the quote",
                )
            })?;
            Ok(words
                .iter()
                .map(|word| Template::from_marked(word))
                .collect())
        }
    }
}

pub(super) fn pull_policy(at: &At<'_>) -> Result<PullPolicy, SpecError> {
    let day = crate::model::Period::from_secs(86_400);
    let words = [
        ("missing", PullPolicy::Missing),
        ("if_not_present", PullPolicy::Missing),
        ("always", PullPolicy::Always),
        ("refresh", PullPolicy::Always),
        ("never", PullPolicy::Never),
        ("build", PullPolicy::Build),
        ("daily", PullPolicy::Every(day)),
        (
            "weekly",
            PullPolicy::Every(crate::model::Period::from_secs(7 * 86_400)),
        ),
    ];
    let Some(every) = at.text()?.strip_prefix("every_") else {
        return at.word(&words);
    };
    let every = match every.strip_suffix('w').map(str::parse::<u64>) {
        Some(Ok(weeks @ 1..=500)) => crate::model::Period::from_secs(weeks * 7 * 86_400),
        _ => every
            .parse()
            .map_err(|_| at.wrong("must end in a duration, such as `every_12h`"))?,
    };
    Ok(PullPolicy::Every(every))
}

pub(super) fn build(ctx: &Context<'_>, at: &At<'_>) -> Result<ImageBuild, SpecError> {
    let context = match at.key("context") {
        Some(context) => folder(ctx, &context)?,
        None => None,
    };
    let base = context.as_ref().map_or("", |path| path.as_str());
    let inline = at.key("dockerfile_inline");
    let dockerfile = match (at.key("dockerfile"), inline) {
        (Some(_), Some(inline)) => {
            return Err(inline.conflict("stands beside `dockerfile`", "keep one of them"));
        }
        (None, Some(inline)) => Dockerfile::Inline(inline.string()?),
        (Some(file), None) => {
            let path = rebased(file.text()?, base);
            match in_repository(&path).filter(|path| ctx.view.has(path.as_str())) {
                Some(path) => Dockerfile::File(path),
                None => {
                    return Err(file.wrong_hint(
                        format!("names `{path}`, which is not in the repository"),
                        "its path begins in `context`",
                    ));
                }
            }
        }
        (None, None) => {
            let names = ["Dockerfile", "Containerfile"];
            let there = |name: &&str| ctx.view.has(rebased(name, base).trim_start_matches("./"));
            if !names.iter().any(there) {
                let place = if base.is_empty() { "." } else { base };
                return Err(at.wrong_hint(
                    format!("finds no Dockerfile in `{place}`"),
                    "commit one, or name it by `dockerfile`",
                ));
            }
            Dockerfile::Default
        }
    };
    let network = maybe(at, "network", |at| {
        if at.text()? == "host" {
            ctx.require(at, Permission::HostNetwork)?;
            return Ok(BuildNetwork::Host);
        }
        at.word(&[
            ("default", BuildNetwork::Default),
            ("none", BuildNetwork::None),
        ])
    })?;
    let secrets = match at.key("secrets") {
        Some(secrets) => grant_names(ctx, &secrets)?,
        None => BTreeMap::new(),
    };
    Ok(ImageBuild {
        dockerfile,
        args: maybe(at, "args", |at| arguments(ctx, at))?.unwrap_or_default(),
        target: maybe(at, "target", At::string)?,
        secrets,
        labels: maybe(at, "labels", At::pairs)?.unwrap_or_default(),
        no_cache: maybe(at, "no_cache", At::boolean)?.unwrap_or(false),
        pull: maybe(at, "pull", At::boolean)?.unwrap_or(false),
        network: network.unwrap_or(BuildNetwork::Default),
        elevated: Default::default(),
        shm_size: maybe(at, "shm_size", At::bytes)?,
        extra_hosts: maybe(at, "extra_hosts", extra_hosts)?.unwrap_or_default(),
        context,
    })
}

/// A folder of the repository; `None` is its root.
fn folder(ctx: &Context<'_>, at: &At<'_>) -> Result<Option<ondol_types::RelPath>, SpecError> {
    let text = at.text()?;
    if text == "." {
        return Ok(None);
    }
    if text.contains("://") || text.starts_with("git@") || text.starts_with(['/', '~']) {
        return Err(at.unsupported(
            format!(": a context outside the repository, `{text}`,"),
            "build from a folder of the repository, or use `image`",
        ));
    }
    match in_repository(text) {
        Some(path) if ctx.view.has_folder(path.as_str()) => Ok(Some(path)),
        _ => Err(at.wrong_hint(
            format!("names the folder `{text}`, which is not in the repository"),
            "commit it, or correct the path",
        )),
    }
}

fn arguments(ctx: &Context<'_>, at: &At<'_>) -> Result<BTreeMap<String, String>, SpecError> {
    let mut arguments = BTreeMap::new();
    for (name, value) in at.entries()? {
        let secret = |secret: &str| {
            value.wrong_hint(
                format!(
                    "uses `{secret}`, which is a secret: arguments stay in the image's history"
                ),
                "use `build.secrets`, which leave no trace",
            )
        };
        let text = match scalar(value.node) {
            Some(text) => text.to_owned(),
            None => match ctx.variables.get(name) {
                Some(text) => text,
                None => continue,
            },
        };
        if let Some(name) = marked(&text) {
            return Err(secret(name));
        }
        arguments.insert(name.to_owned(), text);
    }
    Ok(arguments)
}
