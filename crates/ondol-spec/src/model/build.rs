//! Commands, tests and how a repository becomes an image.

use std::collections::BTreeMap;

use ondol_types::{RelPath, SecretName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::text::text_form;
use super::{Engine, Limits, Matrix, Pattern, Period, ServiceName, StepService, TextError};

/// A command that ends, run by `/bin/sh -ec` in the work directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Shell command.
    pub run: String,
    /// How long it may take before it is stopped.
    #[serde(default = "Command::default_timeout")]
    pub timeout: Period,
    /// Environment variables of this command, over those of the project.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

impl Command {
    /// A command with the default timeout and no variables of its own.
    pub fn new(run: impl Into<String>) -> Self {
        Self {
            run: run.into(),
            timeout: Self::default_timeout(),
            env: BTreeMap::new(),
        }
    }

    fn default_timeout() -> Period {
        Period::from_secs(15 * 60)
    }
}

/// The test stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Test {
    /// Shell command; the stage passes when it exits with 0.
    pub run: String,
    /// How long it may take before it is stopped.
    #[serde(default = "Command::default_timeout")]
    pub timeout: Period,
    /// JUnit XML files that the tests write, as patterns; results of each case are read from them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub junit: Vec<Pattern>,
    /// Tests whose failures are shown and do not fail the stage, as patterns over the names in the JUnit
    /// files, such as `tests.test_net::*`. It takes effect when nothing else failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine: Vec<Pattern>,
    /// Files that are kept with the run, as patterns; as under `steps`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Pattern>,
    /// Image that the tests run in; as under `steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What runs the tests. Default: `container` with an `image`, `process` without.
    #[serde(default, skip_serializing_if = "Engine::is_auto")]
    pub engine: Engine,
    /// Programs that run beside the tests, by name, such as a database; as under `steps`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<ServiceName, StepService>,
    /// One test stage per combination of values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matrix: Option<Matrix>,
    /// Environment variables of the tests, over those of the project.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// How the repository becomes an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Build {
    /// Command that installs dependencies, before tests and before the build. Default: detected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install: Option<Command>,
    /// Commands that build, in order, after `install`. Default: detected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Command>,
    /// Programs that `install`, `commands` and the service need on the host. Default: detected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Image that the layers are put on, such as `docker.io/library/python:3.13-slim`.
    /// Without it the image says by label what it expects of its host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<ImageRef>,
    /// Dockerfile to build with, from the root of the repository; needs the container engine. The
    /// service then runs the image's own command, unless `service.run` names another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<RelPath>,
    /// Folder that the Dockerfile's `COPY` reads from. Default: the whole repository. Files that its
    /// `.dockerignore` names, or that of the Dockerfile, are not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<RelPath>,
    /// Stage of the Dockerfile to build. Default: the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Values of the Dockerfile's `ARG`. They can be read in the image, so they are no secrets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
    /// Secrets of the project that `RUN --mount=type=secret,id=<name>` reads. They are in no layer
    /// of the image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretName>,
    /// What the build with a Dockerfile may use.
    #[serde(skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// Files that go into the image, as patterns. Default: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<Pattern>,
    /// Files that stay out of the image, as patterns; stronger than `include`. `.git` never goes in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Pattern>,
    /// Folders that `install` and `commands` fill, kept from one run to the next while the files
    /// under `lock` stay the same. Default: detected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cache: Vec<RelPath>,
    /// Files that decide what `install` installs. With none, `cache` is always kept. Default: detected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lock: Vec<RelPath>,
    /// Folders put in front of `PATH` for every command of the project. Default: detected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<RelPath>,
    /// Environment variables of `install` and `commands`, over those of the project.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// Reference of an image in a registry: `[host[:port]/]path[:tag][@digest]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef(Box<str>);

impl ImageRef {
    /// The reference as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for ImageRef {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || {
            TextError::new(
                text,
                "an image reference such as `docker.io/library/python:3.13-slim`",
            )
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| digest.parse::<ondol_types::Digest>().is_err()) {
            return Err(bad());
        }
        let slash = name.rfind('/').map_or(0, |at| at + 1);
        let (path, tag) = match name[slash..].find(':') {
            Some(colon) => (&name[..slash + colon], Some(&name[slash + colon + 1..])),
            None => (name, None),
        };
        let word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if tag.is_some_and(|tag| {
            tag.is_empty()
                || tag.len() > 128
                || !tag.bytes().all(word)
                || tag.starts_with(['.', '-'])
        }) {
            return Err(bad());
        }
        let mut components = path.split('/').enumerate();
        let several = path.contains('/');
        let sound = components.all(|(index, part)| {
            let host = index == 0 && several;
            let body = if host {
                part.rsplit_once(':').map_or(part, |(host, port)| {
                    if port.parse::<u16>().is_ok() {
                        host
                    } else {
                        ""
                    }
                })
            } else {
                part
            };
            !body.is_empty()
                && body
                    .bytes()
                    .all(|byte| word(byte) && (host || !byte.is_ascii_uppercase()))
                && body.starts_with(|c: char| c.is_ascii_alphanumeric())
                && body.ends_with(|c: char| c.is_ascii_alphanumeric())
        });
        if !sound || text.len() > 512 {
            return Err(bad());
        }
        Ok(Self(text.into()))
    }
}

impl std::fmt::Display for ImageRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(
    ImageRef,
    "image reference such as `docker.io/library/python:3.13-slim`"
);
