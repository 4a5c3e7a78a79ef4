//! Keys below those of a service that have tables of their own: builds, `deploy`, ports, mounts.

use super::Class::{Honoured, Partly, Policy, Unsupported, WithoutEffect};
use super::Inside::{Each, Free, Keys};

use super::{Key, key, with};
use crate::compose::policy::Permission;

pub(super) const BUILD: &[Key] = &[
    key(
        "additional_contexts",
        Unsupported,
        "a build reads one folder of the repository",
    ),
    key("args", Honoured, "mapping or list"),
    key(
        "cache_from",
        WithoutEffect,
        "Ondol keeps a build cache of its own, between commits and branches",
    ),
    key(
        "cache_to",
        WithoutEffect,
        "Ondol keeps a build cache of its own, between commits and branches",
    ),
    key("context", Honoured, "a folder of the repository"),
    key(
        "dockerfile",
        Honoured,
        "a file in the context, or elsewhere in the repository",
    ),
    key("dockerfile_inline", Honoured, "the text itself"),
    key(
        "entitlements",
        Policy(Permission::Privileged),
        "builds are confined as containers are",
    ),
    key("extra_hosts", Honoured, "lines of `/etc/hosts`"),
    key("isolation", WithoutEffect, "of Windows containers only"),
    key("labels", Honoured, "labels of the image"),
    key(
        "network",
        Partly,
        "`default` and `none`; `host` needs permission",
    ),
    key("no_cache", Honoured, "nothing of earlier builds is used"),
    key(
        "platforms",
        WithoutEffect,
        "an image is built for the machine that runs it",
    ),
    key(
        "privileged",
        Policy(Permission::Privileged),
        "builds are confined as containers are",
    ),
    key(
        "provenance",
        WithoutEffect,
        "Ondol records where every image came from",
    ),
    key("pull", Honoured, "base images are looked for again"),
    key("sbom", WithoutEffect, "no program sees it"),
    with(
        "secrets",
        Honoured,
        "mounted during instructions, and in no layer",
        Each(GRANT),
    ),
    key("shm_size", Honoured, "size of `/dev/shm`"),
    key(
        "ssh",
        Unsupported,
        "keys of a person's agent are not on the server; use `secrets`",
    ),
    key(
        "tags",
        WithoutEffect,
        "Ondol names images by commit, and finds them by digest",
    ),
    key("target", Honoured, "stage to build"),
    key(
        "ulimits",
        WithoutEffect,
        "builds have the installation's limits",
    ),
];

pub(super) const DEPLOY: &[Key] = &[
    key(
        "endpoint_mode",
        WithoutEffect,
        "a name resolves to all replicas",
    ),
    key("labels", Honoured, "kept with the labels of the service"),
    key(
        "mode",
        Partly,
        "`replicated`, `replicated-job`, and `global` as one replica",
    ),
    with(
        "placement",
        WithoutEffect,
        "the whole project runs in one place",
        Keys(&[
            key(
                "constraints",
                WithoutEffect,
                "the whole project runs in one place",
            ),
            key(
                "max_replicas_per_node",
                WithoutEffect,
                "the whole project runs in one place",
            ),
            with(
                "preferences",
                WithoutEffect,
                "the whole project runs in one place",
                Free,
            ),
        ]),
    ),
    key("replicas", Honoured, "how many run"),
    with(
        "resources",
        Honoured,
        "limits and reservations",
        Keys(&[
            with(
                "limits",
                Honoured,
                "what one replica may use",
                Keys(&[
                    key("cpus", Honoured, "cores"),
                    key("memory", Honoured, "memory"),
                    key("pids", Honoured, "processes and threads"),
                ]),
            ),
            with(
                "reservations",
                Honoured,
                "what is kept for one replica",
                Keys(&[
                    key("cpus", Honoured, "cores"),
                    with(
                        "devices",
                        Partly,
                        "graphics processors; others are not supported",
                        Each(DEVICE),
                    ),
                    key(
                        "generic_resources",
                        Unsupported,
                        "there is no list of such resources",
                    ),
                    key("memory", Honoured, "memory"),
                ]),
            ),
        ]),
    ),
    with(
        "restart_policy",
        Honoured,
        "stronger than `restart`",
        Keys(&[
            key("condition", Honoured, "`none`, `on-failure`, `any`"),
            key("delay", Honoured, "the shortest time before a restart"),
            key("max_attempts", Honoured, "restarts in a row"),
            key(
                "window",
                Honoured,
                "how long it must have run to count as started",
            ),
        ]),
    ),
    with(
        "rollback_config",
        WithoutEffect,
        "a way back is a rollout of the release before, by `update_config`",
        Keys(UPDATE),
    ),
    with(
        "update_config",
        Honoured,
        "how replicas are replaced",
        Keys(UPDATE),
    ),
];

pub(super) const UPDATE: &[Key] = &[
    key("delay", Honoured, "time between two groups"),
    key(
        "failure_action",
        Honoured,
        "`rollback` (default), `pause`, `continue`",
    ),
    key(
        "max_failure_ratio",
        Honoured,
        "share of failures that is accepted",
    ),
    key("monitor", Honoured, "how long a new replica is watched"),
    key(
        "order",
        Honoured,
        "`start-first` by default, `stop-first` where a volume is written",
    ),
    key("parallelism", Honoured, "how many at a time"),
];

pub(super) const DEVICE: &[Key] = &[
    key("capabilities", Honoured, "what they must be able to do"),
    key("count", Honoured, "how many, or `all`"),
    key("device_ids", Honoured, "which"),
    key("driver", Honoured, "driver"),
    key(
        "options",
        WithoutEffect,
        "options of drivers are the engine's",
    ),
];

pub(super) const PORT: &[Key] = &[
    key(
        "app_protocol",
        Honoured,
        "`http` makes it a candidate for the route, others never",
    ),
    key("host_ip", Honoured, "address of the host, with permission"),
    key("mode", WithoutEffect, "the gateway balances"),
    key("name", Honoured, "what people call it"),
    key("protocol", Honoured, "`tcp`, `udp`, `sctp`"),
    key("published", Honoured, "port of the host, with permission"),
    key("target", Honoured, "port in the container"),
];

pub(super) const GRANT: &[Key] = &[
    key("gid", Honoured, "group of the file"),
    key(
        "mode",
        Honoured,
        "permissions, octal; bits for writing are dropped",
    ),
    key("source", Honoured, "which one"),
    key("target", Honoured, "path of the file"),
    key("uid", Honoured, "owner of the file"),
];

pub(super) const MOUNT: &[Key] = &[
    with(
        "bind",
        Honoured,
        "of files of the repository",
        Keys(&[
            key(
                "create_host_path",
                WithoutEffect,
                "nothing is created on the host",
            ),
            key(
                "propagation",
                WithoutEffect,
                "nothing of the host is mounted",
            ),
            key("recursive", WithoutEffect, "nothing of the host is mounted"),
            key(
                "selinux",
                WithoutEffect,
                "files of the release have the right label",
            ),
        ]),
    ),
    key(
        "consistency",
        WithoutEffect,
        "of desktop virtual machines only",
    ),
    with(
        "image",
        Unsupported,
        "copy from the image during a build",
        Free,
    ),
    key("read_only", Honoured, "can only be read"),
    key("source", Honoured, "volume, or path"),
    key("target", Honoured, "path in the container"),
    with(
        "tmpfs",
        Honoured,
        "of memory",
        Keys(&[
            key("mode", Honoured, "permissions, octal"),
            key("size", Honoured, "its ceiling"),
        ]),
    ),
    key(
        "type",
        Partly,
        "`volume`, `bind`, `tmpfs`; `image`, `npipe` and `cluster` are not supported",
    ),
    with(
        "volume",
        Honoured,
        "of named volumes",
        Keys(&[
            key(
                "labels",
                WithoutEffect,
                "a volume has the labels of the top-level key",
            ),
            key("nocopy", Honoured, "what the image has there is not copied"),
            key("subpath", Honoured, "a folder of the volume"),
        ]),
    ),
];
