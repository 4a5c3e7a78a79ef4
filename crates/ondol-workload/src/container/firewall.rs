//! The one rule that keeps the networks of different projects apart where the engine does not do
//! so reliably: Podman's network helper takes its own isolation rules away when one container of
//! a network ends while others live, and older ones have none.
//!
//! Ondol's networks have interfaces of a common prefix. What is routed from one of them to another
//! is dropped; what stays within one bridge is not touched. The rule is set in front of all
//! others, is the same for every installation of the host, and is never removed: without it
//! nothing of Ondol's is kept apart, and with it nothing else is changed.

use std::process::{Command, Stdio};

/// The beginning of the names of all interfaces of Ondol's networks.
pub(crate) const INTERFACE_PREFIX: &str = "ondol";

const PLACES: [&str; 3] = ["/usr/sbin/iptables", "/sbin/iptables", "/usr/bin/iptables"];

/// Sets the rule where it is not set.
///
/// # Errors
/// Why not, in words.
pub(crate) fn keep_apart() -> Result<(), String> {
    let program = PLACES
        .iter()
        .find(|path| std::path::Path::new(path).is_file())
        .ok_or("iptables is not installed")?;
    let any = format!("{INTERFACE_PREFIX}+");
    let rule = [
        "FORWARD",
        "-i",
        &any,
        "-o",
        &any,
        "-m",
        "physdev",
        "!",
        "--physdev-is-bridged",
        "-j",
        "DROP",
    ];
    let run = |verb: &str| {
        Command::new(program)
            .env_clear()
            .args(["-w", "5", verb])
            .args(rule)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())
    };
    if run("-C")?.status.success() {
        return Ok(());
    }
    let set = run("-I")?;
    if set.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&set.stderr);
    Err(said.lines().next().unwrap_or("iptables failed").to_owned())
}
