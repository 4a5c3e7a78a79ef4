//! Keys of the top level, and of what stands there besides services.

use super::Class::{Honoured, Partly, Policy, Unsupported, WithoutEffect};
use super::Inside::{Each, Free, Keys};
use super::service::SERVICE;
use super::{Key, key, with};
use crate::compose::policy::Permission;

pub(in crate::compose) const ROOT: &[Key] = &[
    key(
        "version",
        WithoutEffect,
        "every file is read by the newest specification",
    ),
    key(
        "name",
        Honoured,
        "name of the project, where Ondol has none for it",
    ),
    with(
        "include",
        Honoured,
        "other files, each with variables and paths of its own",
        Each(INCLUDE),
    ),
    with("services", Honoured, "what runs", Each(SERVICE)),
    key(
        "models",
        Unsupported,
        "language models run as services of their own",
    ),
    with(
        "networks",
        Honoured,
        "private networks of each environment",
        Each(NETWORK),
    ),
    with(
        "volumes",
        Honoured,
        "data that outlives releases, for each environment its own",
        Each(VOLUME),
    ),
    with(
        "secrets",
        Honoured,
        "files whose content is kept apart",
        Each(SECRET),
    ),
    with(
        "configs",
        Honoured,
        "files that come with the release",
        Each(CONFIG),
    ),
    with("x-ondol", Honoured, "what only Ondol reads", Keys(X_ROOT)),
];

pub(super) const X_ROOT: &[Key] = &[key(
    "route",
    Honoured,
    "service that gets the project's own host",
)];

pub(super) const INCLUDE: &[Key] = &[
    key("path", Honoured, "file, or files laid over each other"),
    key(
        "env_file",
        Honoured,
        "variables of these files, weaker than the project's",
    ),
    key(
        "project_directory",
        Honoured,
        "folder that their paths begin in",
    ),
];

pub(super) const NETWORK: &[Key] = &[
    key(
        "attachable",
        WithoutEffect,
        "nothing outside the project is attached",
    ),
    key(
        "driver",
        Partly,
        "`bridge`, and `overlay` as such; others are not supported",
    ),
    key("driver_opts", WithoutEffect, "the network is Ondol's"),
    key(
        "enable_ipv4",
        WithoutEffect,
        "programs find each other by name",
    ),
    key(
        "enable_ipv6",
        WithoutEffect,
        "programs find each other by name",
    ),
    key(
        "external",
        Unsupported,
        "a project is on its own networks only; the gateway reaches its services by itself",
    ),
    key("internal", Honoured, "no way outside"),
    with(
        "ipam",
        WithoutEffect,
        "addresses are chosen so that environments do not collide",
        Free,
    ),
    key("labels", Honoured, "labels"),
    key(
        "name",
        WithoutEffect,
        "each environment has a network of its own",
    ),
];

pub(super) const VOLUME: &[Key] = &[
    key("driver", Partly, "`local`; others are not supported"),
    key(
        "driver_opts",
        Policy(Permission::HostMounts),
        "options of `local` mount paths of the host",
    ),
    key(
        "external",
        Unsupported,
        "a project has its own volumes only",
    ),
    key("labels", Honoured, "labels"),
    key(
        "name",
        WithoutEffect,
        "each environment has a volume of its own",
    ),
];

pub(super) const SECRET: &[Key] = &[
    key("driver", Unsupported, "secrets are Ondol's"),
    key("driver_opts", Unsupported, "secrets are Ondol's"),
    key("environment", Honoured, "Ondol's secret of this name"),
    key("external", Honoured, "Ondol's secret of its name"),
    key(
        "file",
        Honoured,
        "a file of the repository; Ondol's secret when it is not committed",
    ),
    key("labels", WithoutEffect, "nothing reads them"),
    key("name", Honoured, "name of Ondol's secret"),
    key(
        "template_driver",
        Unsupported,
        "content is not a template; use variables",
    ),
];

pub(super) const CONFIG: &[Key] = &[
    key("content", Honoured, "the text itself, variables replaced"),
    key("environment", Honoured, "the value of a variable"),
    key(
        "external",
        Unsupported,
        "configuration comes with the commit",
    ),
    key("file", Honoured, "a file of the repository"),
    key("labels", WithoutEffect, "nothing reads them"),
    key("name", WithoutEffect, "each release has files of its own"),
    key(
        "template_driver",
        Unsupported,
        "content is not a template; use variables",
    ),
];
