//! What lets a container out of its confinement, value by value.

use std::collections::{BTreeMap, BTreeSet};

use super::Context;
use super::at::At;
use crate::compose::policy::Permission;
use crate::error::SpecError;
use crate::nearest::nearest;

/// Capabilities that stay inside the container.
const HARMLESS: [&str; 11] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The others that Linux has.
const OTHERS: [&str; 30] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "IPC_OWNER",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Namespaces of which `host` is the host's own.
const NAMESPACES: [(&str, Permission, &[&str]); 5] = [
    ("pid", Permission::HostPid, &["private"]),
    (
        "ipc",
        Permission::HostIpc,
        &["private", "shareable", "none"],
    ),
    ("uts", Permission::HostUts, &["private"]),
    ("userns_mode", Permission::HostUsers, &["private"]),
    ("cgroup", Permission::HostCgroup, &["private"]),
];

/// Refuses namespaces of the host and of other containers.
pub(super) fn namespaces(ctx: &Context<'_>, at: &At<'_>) -> Result<(), SpecError> {
    for (key, permission, own) in NAMESPACES {
        let Some(at) = at.key(key) else { continue };
        match at.text()? {
            "" => {}
            "host" => ctx.require(&at, permission)?,
            word if own.contains(&word) => {}
            word if word.starts_with("service:") || word.starts_with("container:") => {
                return Err(at.unsupported(
                    format!(": `{word}`"),
                    "run both programs in one container, or let them talk over their network",
                ));
            }
            word => {
                return Err(at.wrong(format!("must be `{}`, found `{word}`", own[0])));
            }
        }
    }
    if let Some(at) = at.key("isolation")
        && at.text()? != "default"
    {
        return Err(at.unsupported(
            format!(": `{}`", at.text()?),
            "remove it: it is of Windows containers",
        ));
    }
    if let Some(at) = at.key("oom_score_adj")
        && at.within(-1_000, 1_000)? < 0
    {
        ctx.require(&at, Permission::OutOfMemory)?;
    }
    Ok(())
}

fn capability(at: &At<'_>) -> Result<String, SpecError> {
    let text = at.text()?;
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let known = || HARMLESS.iter().chain(&OTHERS).copied().chain(["ALL"]);
    if known().any(|known| known == name) {
        return Ok(name.to_owned());
    }
    let what = format!("must be a capability of Linux, found `{text}`");
    Err(match nearest(name, known()) {
        Some(near) => at.wrong_hint(what, format!("did you mean `{near}`?")),
        None => at.wrong(what),
    })
}

pub(super) fn added(ctx: &Context<'_>, at: &At<'_>) -> Result<BTreeSet<String>, SpecError> {
    let mut names = BTreeSet::new();
    for item in at.items()? {
        let name = capability(&item)?;
        if !HARMLESS.contains(&name.as_str()) {
            let what = format!("`{}: {name}`", item.path);
            ctx.require_as(&item, Permission::Capabilities, &what)?;
        }
        names.insert(name);
    }
    Ok(names)
}

pub(super) fn dropped(at: &At<'_>) -> Result<BTreeSet<String>, SpecError> {
    at.items()?.iter().map(capability).collect()
}

pub(super) fn security(ctx: &Context<'_>, at: &At<'_>) -> Result<BTreeSet<String>, SpecError> {
    let mut options = BTreeSet::new();
    for item in at.items()? {
        let text = item.text()?;
        let (name, value) = text
            .split_once(['=', ':'])
            .map_or((text, ""), |(name, value)| (name, value));
        let usual = ["runtime/default", "docker-default", "builtin", "default"];
        let harmless = match name {
            "no-new-privileges" => value.is_empty() || value == "true",
            "label" => ["user:", "role:", "level:"]
                .iter()
                .any(|kind| value.starts_with(kind)),
            "apparmor" | "seccomp" => usual.contains(&value),
            "systempaths" | "mask" | "unmask" | "proc-opts" => false,
            _ => {
                return Err(item.wrong_hint(
                    format!("has the option `{name}`, which is not known"),
                    "the options are `no-new-privileges`, `label`, `apparmor` and `seccomp`",
                ));
            }
        };
        if !harmless {
            let what = format!("`{}: {text}`", item.path);
            ctx.require_as(&item, Permission::Unconfined, &what)?;
        }
        // What every container has anyway is no difference between two files.
        let anyway = name == "no-new-privileges" || (harmless && name != "label");
        if !(harmless && anyway) {
            options.insert(format!("{name}={value}"));
        }
    }
    Ok(options)
}

pub(super) fn sysctls(
    ctx: &Context<'_>,
    at: &At<'_>,
) -> Result<BTreeMap<String, String>, SpecError> {
    let mut parameters = BTreeMap::new();
    for (name, value) in at.entries()? {
        let own = name.starts_with("net.")
            || name.starts_with("fs.mqueue.")
            || name.starts_with("kernel.shm")
            || name.starts_with("kernel.msg")
            || name == "kernel.sem"
            || name == "kernel.domainname";
        if !own {
            let what = format!("`{}`", value.path);
            ctx.require_as(&value, Permission::Sysctls, &what)?;
        }
        parameters.insert(name.to_owned(), value.string()?);
    }
    Ok(parameters)
}

/// Devices as `host:container:permissions`.
pub(super) fn devices(at: &At<'_>) -> Result<BTreeSet<String>, SpecError> {
    let mut devices = BTreeSet::new();
    for item in at.items()? {
        let (source, target, permissions) = if item.node.is_map() {
            let text = |key: &str| super::at::maybe(&item, key, At::string);
            let Some(source) = text("source")? else {
                return Err(item.wrong("needs `source`"));
            };
            (source, text("target")?, text("permissions")?)
        } else {
            let mut parts = item.text()?.splitn(3, ':').map(str::to_owned);
            (parts.next().unwrap_or_default(), parts.next(), parts.next())
        };
        let target = target.unwrap_or_else(|| source.clone());
        let permissions = permissions.unwrap_or_else(|| "rwm".to_owned());
        devices.insert(format!("{source}:{target}:{permissions}"));
    }
    Ok(devices)
}
