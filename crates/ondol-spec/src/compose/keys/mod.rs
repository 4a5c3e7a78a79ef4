//! Every key that the Compose specification knows, and what Ondol does with it.
//!
//! This one table decides which keys are unknown, which give a notice, which are refused, and what
//! the tables of `docs/compose.md` say. A key that is not here is a mistake of whoever wrote it.

mod parts;
mod project;
mod service;

pub(super) use project::ROOT;
pub(super) use service::SERVICE;

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
