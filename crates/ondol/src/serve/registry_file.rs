//! What `ondol serve --registry FILE` says: retention, upstreams, private registries. The file is
//! JSON; a key that is not known is an error.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ondol_registry::{Config, Keep, Pattern, Rule, Upstream};
use ondol_types::Secret;
use serde::Deserialize;

use crate::error::{Failure, Outcome};

const HOUR: u64 = 3_600;
const MAX_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    retention: Option<Vec<RuleFile>>,
    #[serde(default)]
    upstreams: Vec<UpstreamFile>,
    #[serde(default)]
    private_registries: Vec<String>,
    #[serde(default)]
    upstream_minutes: Option<u64>,
    #[serde(default)]
    upstream_days: Option<u64>,
    #[serde(default)]
    upstream_gigabytes: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleFile {
    repositories: String,
    keep: Vec<KeepFile>,
    #[serde(default)]
    untagged_hours: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeepFile {
    tags: String,
    #[serde(default)]
    newest: Option<u32>,
    #[serde(default)]
    days: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UpstreamFile {
    name: String,
    url: String,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password_file: Option<PathBuf>,
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|problem| format!("`{text}`: {problem}"))
}

fn rule(file: &RuleFile) -> Result<Rule, String> {
    let keep = file.keep.iter().map(|keep| {
        Ok(Keep {
            tags: pattern(&keep.tags)?,
            newest: keep.newest,
            within: keep
                .days
                .map(|days| Duration::from_secs(days.saturating_mul(24 * HOUR))),
        })
    });
    Ok(Rule {
        repositories: pattern(&file.repositories)?,
        keep: keep.collect::<Result<_, String>>()?,
        untagged: Duration::from_secs(file.untagged_hours.unwrap_or(1).saturating_mul(HOUR)),
    })
}

fn upstream(file: UpstreamFile) -> Result<Upstream, String> {
    let name = file.name;
    let label =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    if !name.contains('.') || !name.bytes().all(label) {
        return Err(format!(
            "the upstream `{name}` needs a name with a dot, in lower case, such as `docker.io`"
        ));
    }
    let login = match (file.username, file.password_file) {
        (None, None) => None,
        (Some(user), Some(path)) => {
            let password = std::fs::read_to_string(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            Some((user, Secret::new(password.trim_end().to_owned())))
        }
        _ => {
            return Err(format!(
                "the upstream `{name}` has a user or a password alone"
            ));
        }
    };
    Ok(Upstream {
        name,
        url: file.url,
        login,
    })
}

fn config(text: &str) -> Result<Config, String> {
    let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut config = Config {
        private_registries: file.private_registries,
        ..Config::default()
    };
    if let Some(rules) = file.retention {
        config.rules = rules.iter().map(rule).collect::<Result<_, _>>()?;
    }
    for one in file.upstreams {
        let one = upstream(one)?;
        if config.upstreams.iter().any(|other| other.name == one.name) {
            return Err(format!("the upstream `{}` is there twice", one.name));
        }
        config.upstreams.push(one);
    }
    if let Some(minutes) = file.upstream_minutes {
        config.upstream_fresh = Duration::from_secs(minutes.saturating_mul(60));
    }
    if let Some(days) = file.upstream_days {
        config.upstream_idle = Duration::from_secs(days.max(1).saturating_mul(24 * HOUR));
    }
    if let Some(gigabytes) = file.upstream_gigabytes {
        config.upstream_bytes = gigabytes.saturating_mul(1_000_000_000);
    }
    Ok(config)
}

/// Reads the file; without one, the defaults.
pub(super) fn read(path: Option<&Path>) -> Outcome<Config> {
    let Some(path) = path else {
        return Ok(Config::default());
    };
    let wrong = |problem: String| Failure::usage(format!("{}: {problem}", path.display()));
    let size = std::fs::metadata(path)
        .map_err(|error| wrong(error.to_string()))?
        .len();
    if size > MAX_BYTES {
        return Err(wrong(format!("it has more than {MAX_BYTES} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    config(&text).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_what_stays_and_what_is_read_through() {
        let config = config(
            r#"{
                "retention": [{
                    "repositories": "web*",
                    "keep": [{ "tags": "v*" }, { "tags": "*", "newest": 20, "days": 30 }],
                    "untaggedHours": 2
                }],
                "upstreams": [{ "name": "docker.io", "url": "https://registry-1.docker.io" }],
                "privateRegistries": ["127.0.0.1:5000"],
                "upstreamMinutes": 5, "upstreamDays": 7, "upstreamGigabytes": 1
            }"#,
        )
        .unwrap();
        assert_eq!(config.rules.len(), 1);
        assert_eq!(config.rules[0].keep[1].newest, Some(20));
        assert_eq!(config.rules[0].untagged, Duration::from_secs(2 * HOUR));
        assert_eq!(config.upstreams[0].name, "docker.io");
        assert_eq!(config.upstream_bytes, 1_000_000_000);
        assert_eq!(super::config("{}").unwrap().rules, Config::default().rules);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, problem) in [
            (r#"{"retain": []}"#, "unknown field `retain`"),
            (
                r#"{"upstreams": [{"name": "hub", "url": "https://x"}]}"#,
                "a dot",
            ),
            (
                r#"{"upstreams": [{"name": "a.b", "url": "https://x", "username": "u"}]}"#,
                "alone",
            ),
            (
                r#"{"retention": [{"repositories": "", "keep": []}]}"#,
                "1 to 255 characters",
            ),
        ] {
            let said = config(text).unwrap_err();
            assert!(said.contains(problem), "{said}");
        }
    }
}
