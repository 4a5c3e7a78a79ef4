//! Keys of a service.

use super::Class::{Honoured, Partly, Policy, Unsupported, WithoutEffect};
use super::Inside::{Each, Free, Keys};
use super::parts::{BUILD, DEPLOY, DEVICE, GRANT, MOUNT, PORT};
use super::{Key, key, with};
use crate::compose::policy::Permission;

pub(in crate::compose) const SERVICE: &[Key] = &[
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

pub(super) const X_SERVICE: &[Key] = &[with(
    "route",
    Honoured,
    "`false`, a port, or the keys below: what the gateway sends here",
    Keys(&[
        key("port", Honoured, "port in the container that speaks HTTP"),
        key("hosts", Honoured, "host names besides the one that it gets"),
        key("paths", Honoured, "path prefixes; all by default"),
    ]),
)];

pub(super) const DEPENDENCY: &[Key] = &[
    key(
        "condition",
        Honoured,
        "`service_started`, `service_healthy`, `service_completed_successfully`",
    ),
    key("required", Honoured, "`false`: goes on without it"),
    key("restart", Honoured, "restarted when the other is replaced"),
];

pub(super) const DEVELOP: &[Key] = &[with(
    "watch",
    WithoutEffect,
    "for a developer's machine",
    Free,
)];

pub(super) const ENV_FILE: &[Key] = &[
    key("path", Honoured, "a file of the repository"),
    key("format", Honoured, "`raw`: nothing is replaced"),
    key("required", Honoured, "`false`: may be missing"),
];

pub(super) const EXTENDS: &[Key] = &[
    key("service", Honoured, "which service"),
    key("file", Honoured, "of which file of the repository"),
];

pub(super) const HEALTHCHECK: &[Key] = &[
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

pub(super) const LOGGING: &[Key] = &[
    key("driver", WithoutEffect, "Ondol keeps logs itself"),
    key("options", WithoutEffect, "Ondol keeps logs itself"),
];

pub(super) const ATTACHMENT: &[Key] = &[
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
