//! Every key that the Compose specification knows, and what Ondol does with it.
//!
//! This one table decides which keys are unknown, which give a notice, which are refused, and what
//! the tables of `docs/compose.md` say. A key that is not here is a mistake of whoever wrote it.

use super::policy::Permission;

/// What Ondol does with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It has the effect that the specification says.
    Honoured,
    /// Some of its values have, and others are refused; the reader of the value decides.
    Partly,
    /// It is accepted and does nothing; a notice says so.
    WithoutEffect,
    /// It takes a container out of its confinement.
    Policy(Permission),
    /// Its effect would be missed, and Ondol does not have it.
    Unsupported,
}

/// What stands below a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Inside {
    /// Nothing that has keys of its own, or names that people choose.
    Free,
    /// These keys.
    Keys(&'static [Key]),
    /// Items of a list, or values of names that people choose, with these keys each.
    Each(&'static [Key]),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) class: Class,
    /// What it does here, or why it does not.
    pub(super) note: &'static str,
    pub(super) inside: Inside,
}

use Class::{Honoured, Partly, Policy, Unsupported, WithoutEffect};
use Inside::{Each, Free, Keys};

const fn key(name: &'static str, class: Class, note: &'static str) -> Key {
    Key {
        name,
        class,
        note,
        inside: Free,
    }
}

const fn with(name: &'static str, class: Class, note: &'static str, inside: Inside) -> Key {
    Key {
        name,
        class,
        note,
        inside,
    }
}

pub(super) const ROOT: &[Key] = &[
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

const X_ROOT: &[Key] = &[key(
    "route",
    Honoured,
    "service that gets the project's own host",
)];

const X_SERVICE: &[Key] = &[with(
    "route",
    Honoured,
    "`false`, a port, or the keys below: what the gateway sends here",
    Keys(&[
        key("port", Honoured, "port in the container that speaks HTTP"),
        key("hosts", Honoured, "host names besides the one that it gets"),
        key("paths", Honoured, "path prefixes; all by default"),
    ]),
)];

const INCLUDE: &[Key] = &[
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

pub(super) const SERVICE: &[Key] = &[
    key("annotations", Honoured, "kept as labels"),
    key("attach", WithoutEffect, "logs of every service are kept"),
    with(
        "blkio_config",
        Unsupported,
        "limits for single disks name devices of one host",
        Free,
    ),
    with(
        "build",
        Honoured,
        "the image is built from the repository",
        Keys(BUILD),
    ),
    key(
        "cap_add",
        Partly,
        "those that stay inside the container (`CHOWN`, `SETUID`, `NET_BIND_SERVICE` …); others need permission",
    ),
    key("cap_drop", Honoured, "`ALL` too"),
    key("cgroup", Partly, "`private`; `host` needs permission"),
    key(
        "cgroup_parent",
        Policy(Permission::CgroupParent),
        "its limits are Ondol's",
    ),
    key(
        "command",
        Honoured,
        "text is divided into words, without a shell",
    ),
    with(
        "configs",
        Honoured,
        "with `uid`, `gid` and `mode`",
        Each(GRANT),
    ),
    key(
        "container_name",
        Honoured,
        "a name on its networks; containers are named by Ondol, because two releases overlap",
    ),
    key("cpu_count", WithoutEffect, "of Windows containers only"),
    key("cpu_percent", WithoutEffect, "of Windows containers only"),
    key("cpu_period", Honoured, "with `cpu_quota`, as `cpus`"),
    key("cpu_quota", Honoured, "with `cpu_period`, as `cpus`"),
    key(
        "cpu_rt_period",
        Unsupported,
        "real-time scheduling is not shared between projects",
    ),
    key(
        "cpu_rt_runtime",
        Unsupported,
        "real-time scheduling is not shared between projects",
    ),
    key("cpu_shares", Honoured, "weight when cores are short"),
    key("cpus", Honoured, "cores"),
    key("cpuset", Honoured, "which cores"),
    key("credential_spec", Unsupported, "of Windows containers only"),
    with(
        "depends_on",
        Honoured,
        "order of starts, with `condition`, `required` and `restart`",
        Each(DEPENDENCY),
    ),
    with(
        "deploy",
        Honoured,
        "replicas, resources, replacement",
        Keys(DEPLOY),
    ),
    with(
        "develop",
        WithoutEffect,
        "watching is for a developer's machine; here a push deploys",
        Keys(DEVELOP),
    ),
    key(
        "device_cgroup_rules",
        Policy(Permission::Devices),
        "hardware of the host",
    ),
    key(
        "devices",
        Policy(Permission::Devices),
        "hardware of the host",
    ),
    key("dns", Honoured, "name servers"),
    key("dns_opt", Honoured, "options of the resolver"),
    key("dns_search", Honoured, "search domains"),
    key("domainname", Honoured, "domain of its host name"),
    key(
        "entrypoint",
        Honoured,
        "text is divided into words; the image's command is not used with it",
    ),
    with(
        "env_file",
        Honoured,
        "with `required` and `format: raw`; files of the repository",
        Each(ENV_FILE),
    ),
    key(
        "environment",
        Honoured,
        "mapping or list; a name alone takes its value from the project's variables",
    ),
    key(
        "expose",
        Honoured,
        "documentation: every port can be reached on its networks",
    ),
    with(
        "extends",
        Honoured,
        "a service of this file or another, merged by the rules",
        Keys(EXTENDS),
    ),
    key(
        "external_links",
        Unsupported,
        "containers of others cannot be reached",
    ),
    key(
        "extra_hosts",
        Honoured,
        "lines of `/etc/hosts`; `host-gateway` too",
    ),
    with("gpus", Honoured, "graphics processors", Each(DEVICE)),
    key("group_add", Honoured, "groups besides"),
    with(
        "healthcheck",
        Honoured,
        "with every form of `test`, and `disable`",
        Keys(HEALTHCHECK),
    ),
    key(
        "hostname",
        Honoured,
        "its own name; others find it by service name and aliases",
    ),
    key(
        "image",
        Honoured,
        "image to run, or name of the one that is built",
    ),
    key("init", Honoured, "a small init as process 1"),
    key(
        "ipc",
        Partly,
        "`private` and `shareable`; `host` needs permission, `service:` is not supported",
    ),
    key("isolation", Partly, "`default`; others are of Windows"),
    key(
        "label_file",
        Honoured,
        "labels of files, weaker than `labels`",
    ),
    key("labels", Honoured, "mapping or list"),
    key("links", Honoured, "a dependency, and a name for it"),
    with(
        "logging",
        WithoutEffect,
        "Ondol keeps the log of every container itself, with a bound",
        Keys(LOGGING),
    ),
    key(
        "mac_address",
        Unsupported,
        "two releases overlap, and cannot share an address",
    ),
    key("mem_limit", Honoured, "memory"),
    key("mem_reservation", Honoured, "memory that is kept for it"),
    key(
        "mem_swappiness",
        WithoutEffect,
        "how the kernel swaps is the host's business, and no program sees it",
    ),
    key("memswap_limit", Honoured, "memory and swap together"),
    key(
        "models",
        Unsupported,
        "language models run as services of their own",
    ),
    key(
        "network_mode",
        Partly,
        "`bridge` and `none`; `host` needs permission, `service:` and `container:` are not supported",
    ),
    with("networks", Honoured, "with `aliases`", Each(ATTACHMENT)),
    key(
        "oom_kill_disable",
        Policy(Permission::OutOfMemory),
        "the host would hang in its place",
    ),
    key(
        "oom_score_adj",
        Partly,
        "0 to 1000; below 0 needs permission",
    ),
    key(
        "pid",
        Partly,
        "`private`; `host` needs permission, `service:` is not supported",
    ),
    key(
        "pids_limit",
        Honoured,
        "processes and threads; -1 is the installation's ceiling",
    ),
    key("platform", Honoured, "platform of the image"),
    with(
        "ports",
        Honoured,
        "one that speaks HTTP becomes a route; others are published only with permission",
        Each(PORT),
    ),
    with(
        "post_start",
        Unsupported,
        "put it into the entrypoint, or into a service that others wait for",
        Free,
    ),
    with(
        "pre_stop",
        Unsupported,
        "let the program end itself on its stop signal",
        Free,
    ),
    key(
        "privileged",
        Policy(Permission::Privileged),
        "no container is the host",
    ),
    key(
        "profiles",
        Honoured,
        "services that run only when one of them is active",
    ),
    key(
        "provider",
        Unsupported,
        "programs of the host that manage resources are not run",
    ),
    key(
        "pull_policy",
        Honoured,
        "`missing`, `always`, `never`, `build`, `daily`, `weekly`, `every_…`",
    ),
    key(
        "pull_refresh_after",
        WithoutEffect,
        "`pull_policy: every_…` says the same",
    ),
    key("read_only", Honoured, "read-only root filesystem"),
    key(
        "restart",
        Honoured,
        "without it a service is kept running, and one that others wait for runs once",
    ),
    key(
        "runtime",
        Policy(Permission::Runtime),
        "the installation chooses it",
    ),
    key("scale", Honoured, "replicas"),
    with(
        "secrets",
        Honoured,
        "as files, with `uid`, `gid` and `mode`",
        Each(GRANT),
    ),
    key(
        "security_opt",
        Partly,
        "`no-new-privileges`, `label` of user, role and level, the default profiles; others need permission",
    ),
    key("shm_size", Honoured, "size of `/dev/shm`"),
    key(
        "stdin_open",
        Honoured,
        "an open standard input, at which nobody is",
    ),
    key("stop_grace_period", Honoured, "time before SIGKILL"),
    key("stop_signal", Honoured, "signal that asks it to stop"),
    key(
        "storage_opt",
        Unsupported,
        "its storage driver is the engine's; limit a volume instead",
    ),
    key(
        "sysctls",
        Partly,
        "of its own namespaces; others need permission",
    ),
    key(
        "tmpfs",
        Honoured,
        "memory as a folder, with `size`, `mode`, `uid`, `gid`",
    ),
    key("tty", Honoured, "a terminal"),
    with(
        "ulimits",
        Honoured,
        "one number, or `soft` and `hard`",
        Each(&[
            key("soft", Honoured, "what counts"),
            key("hard", Honoured, "how far it can be raised"),
        ]),
    ),
    key(
        "use_api_socket",
        Policy(Permission::EngineSocket),
        "no container commands the engine",
    ),
    key("user", Honoured, "user and group"),
    key("userns_mode", Partly, "empty; `host` needs permission"),
    key("uts", Partly, "empty; `host` needs permission"),
    with(
        "volumes",
        Honoured,
        "named volumes, files of the repository (read-only), memory; paths of the host need permission",
        Each(MOUNT),
    ),
    key(
        "volumes_from",
        Honoured,
        "the mounts of another service; not of containers outside",
    ),
    key("working_dir", Honoured, "working directory"),
    with(
        "x-ondol",
        Honoured,
        "what only Ondol reads",
        Keys(X_SERVICE),
    ),
];

const BUILD: &[Key] = &[
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

const DEPENDENCY: &[Key] = &[
    key(
        "condition",
        Honoured,
        "`service_started`, `service_healthy`, `service_completed_successfully`",
    ),
    key("required", Honoured, "`false`: goes on without it"),
    key("restart", Honoured, "restarted when the other is replaced"),
];

const DEPLOY: &[Key] = &[
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

const UPDATE: &[Key] = &[
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

const DEVELOP: &[Key] = &[with(
    "watch",
    WithoutEffect,
    "for a developer's machine",
    Free,
)];

const DEVICE: &[Key] = &[
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

const ENV_FILE: &[Key] = &[
    key("path", Honoured, "a file of the repository"),
    key("format", Honoured, "`raw`: nothing is replaced"),
    key("required", Honoured, "`false`: may be missing"),
];

const EXTENDS: &[Key] = &[
    key("service", Honoured, "which service"),
    key("file", Honoured, "of which file of the repository"),
];

const HEALTHCHECK: &[Key] = &[
    key("disable", Honoured, "no check, not the image's either"),
    key("interval", Honoured, "30s by default"),
    key("retries", Honoured, "3 by default"),
    key("start_interval", Honoured, "5s by default"),
    key("start_period", Honoured, "0s by default"),
    key(
        "test",
        Honoured,
        "text, or a list that begins with `CMD`, `CMD-SHELL` or `NONE`",
    ),
    key("timeout", Honoured, "30s by default"),
];

const LOGGING: &[Key] = &[
    key("driver", WithoutEffect, "Ondol keeps logs itself"),
    key("options", WithoutEffect, "Ondol keeps logs itself"),
];

const ATTACHMENT: &[Key] = &[
    key("aliases", Honoured, "names on this network"),
    key("driver_opts", WithoutEffect, "the network is Ondol's"),
    key("gw_priority", WithoutEffect, "there is one way outside"),
    key(
        "interface_name",
        WithoutEffect,
        "programs find each other by name",
    ),
    key(
        "ipv4_address",
        Unsupported,
        "two releases overlap, and cannot share an address; use the service's name",
    ),
    key(
        "ipv6_address",
        Unsupported,
        "two releases overlap, and cannot share an address; use the service's name",
    ),
    key(
        "link_local_ips",
        Unsupported,
        "two releases overlap, and cannot share an address",
    ),
    key(
        "mac_address",
        Unsupported,
        "two releases overlap, and cannot share an address",
    ),
    key(
        "priority",
        WithoutEffect,
        "the order of networks has no meaning here",
    ),
];

const PORT: &[Key] = &[
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

const GRANT: &[Key] = &[
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

const MOUNT: &[Key] = &[
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

const NETWORK: &[Key] = &[
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

const VOLUME: &[Key] = &[
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

const SECRET: &[Key] = &[
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

const CONFIG: &[Key] = &[
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

/// Every key with its path, in the order of the table.
fn rows(keys: &[Key], prefix: &str, out: &mut Vec<(String, Key)>) {
    for key in keys {
        let path = format!("{prefix}{}", key.name);
        out.push((path.clone(), *key));
        match key.inside {
            Keys(below) => rows(below, &format!("{path}."), out),
            // Services have their tables; the root names them.
            Each(below) if key.name != "services" => rows(below, &format!("{path}[]."), out),
            Each(_) | Free => {}
        }
    }
}

/// The tables of `docs/compose.md`.
pub(super) fn reference() -> String {
    let mut text = String::new();
    for (title, keys) in [("Top level", ROOT), ("Services", SERVICE)] {
        let mut all = Vec::new();
        rows(keys, "", &mut all);
        text.push_str(&format!(
            "### {title}\n\n| key | | what Ondol does |\n|---|---|---|\n"
        ));
        for (path, key) in all {
            let class = match key.class {
                Honoured => "honoured".to_owned(),
                Partly => "partly".to_owned(),
                WithoutEffect => "without effect".to_owned(),
                Policy(permission) => format!("refused without `{permission}`"),
                Unsupported => "not supported".to_owned(),
            };
            text.push_str(&format!("| `{path}` | {class} | {} |\n", key.note));
        }
        text.push('\n');
    }
    text.push_str("### Permissions\n\n| permission | what it gives a container |\n|---|---|\n");
    for permission in Permission::ALL {
        text.push_str(&format!("| `{permission}` | {} |\n", permission.means()));
    }
    text
}

/// The section that has a key which stands at the wrong place.
pub(super) fn elsewhere(name: &str) -> Option<String> {
    let mut all = Vec::new();
    rows(ROOT, "", &mut all);
    rows(SERVICE, "services.*.", &mut all);
    all.iter().find_map(|(path, key)| {
        let section = path.strip_suffix(name)?.strip_suffix('.')?;
        (key.name == name).then(|| section.trim_end_matches("[]").to_owned())
    })
}
