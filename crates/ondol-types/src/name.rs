//! Names that were checked once, where they came in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty or too long.
    #[error("{kind} name `{text}` must have 1 to {max} characters")]
    Length {
        /// What was to be named.
        kind: &'static str,
        /// The text, cut for display.
        text: String,
        /// The most characters allowed.
        max: usize,
    },
    /// A character that the kind does not allow.
    #[error("{kind} name `{text}` may only have {rule}")]
    Characters {
        /// What was to be named.
        kind: &'static str,
        /// The text, cut for display.
        text: String,
        /// The rule in words.
        rule: &'static str,
    },
    /// A word that Ondol keeps for itself.
    #[error("{kind} name `{text}` is reserved")]
    Reserved {
        /// What was to be named.
        kind: &'static str,
        /// The word.
        text: String,
    },
}

/// Text form of a type in JSON and OpenAPI: what `Display` and `FromStr` say.
macro_rules! text_type {
    ($name:ident, $schema:expr, $description:expr) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .description(Some($description))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                std::borrow::Cow::Borrowed($schema)
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                std::borrow::Cow::Borrowed($schema)
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $description })
            }
        }
    };
}
pub(crate) use text_type;

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

const DNS_RULE: &str = "lower-case letters, digits and inner hyphens, and begin with a letter";

fn dns_label(kind: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > 63 {
        return Err(NameError::Length {
            kind,
            text: cut(text),
            max: 63,
        });
    }
    let bytes = text.as_bytes();
    let allowed = bytes
        .iter()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-');
    if !allowed || !bytes[0].is_ascii_lowercase() || bytes[bytes.len() - 1] == b'-' {
        return Err(NameError::Characters {
            kind,
            text: cut(text),
            rule: DNS_RULE,
        });
    }
    Ok(())
}

const LOOSE_RULE: &str = "letters, digits, `.`, `_` and `-`, and begin with a letter or digit";

fn loose(kind: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > 100 {
        return Err(NameError::Length {
            kind,
            text: cut(text),
            max: 100,
        });
    }
    let bytes = text.as_bytes();
    let allowed = bytes
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte));
    if !allowed || !bytes[0].is_ascii_alphanumeric() || text.contains("..") {
        return Err(NameError::Characters {
            kind,
            text: cut(text),
            rule: LOOSE_RULE,
        });
    }
    Ok(())
}

const ENV_RULE: &str =
    "upper- or lower-case letters, digits and `_`, and begin with a letter or `_`";

fn variable(kind: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > 100 {
        return Err(NameError::Length {
            kind,
            text: cut(text),
            max: 100,
        });
    }
    let bytes = text.as_bytes();
    let allowed = bytes
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    if !allowed || bytes[0].is_ascii_digit() {
        return Err(NameError::Characters {
            kind,
            text: cut(text),
            rule: ENV_RULE,
        });
    }
    // Names that the platform sets itself, or that change how every program loads code.
    let taken = text.starts_with("ONDOL_")
        || text.starts_with("LD_")
        || matches!(text, "PORT" | "PATH" | "HOME");
    if taken {
        return Err(NameError::Reserved {
            kind,
            text: cut(text),
        });
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:expr, reserved: [$($word:literal),*]) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let check: fn(&'static str, &str) -> Result<(), NameError> = $check;
                check($kind, text)?;
                let reserved: &[&str] = &[$($word),*];
                if reserved.contains(&text) {
                    return Err(NameError::Reserved { kind: $kind, text: text.to_owned() });
                }
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        text_type!($name, stringify!($name), concat!($kind, " name"));
    };
}

name_type!(
    /// One repository and all that comes of it: a DNS label, unique per installation.
    ProjectName,
    "project",
    dns_label,
    reserved: ["api", "apps", "git", "admin", "ondol", "www", "health", "metrics", "static", "assets", "portal", "localhost"]
);
name_type!(
    /// Where a project runs, such as `production`.
    EnvironmentName,
    "environment",
    dns_label,
    reserved: []
);
name_type!(
    /// Who owns projects and grants permission on them.
    OrganizationName,
    "organization",
    dns_label,
    reserved: []
);
name_type!(
    /// Named data.
    DatasetName,
    "dataset",
    loose,
    reserved: []
);
name_type!(
    /// A named model.
    ModelName,
    "model",
    loose,
    reserved: []
);
name_type!(
    /// A node of the pipeline graph.
    StepName,
    "step",
    loose,
    reserved: []
);
name_type!(
    /// A volume that outlives releases.
    VolumeName,
    "volume",
    dns_label,
    reserved: []
);
name_type!(
    /// A secret: the name of the environment variable that carries it.
    SecretName,
    "secret",
    variable,
    reserved: []
);

impl EnvironmentName {
    /// The environment that every project has.
    pub fn production() -> Self {
        Self("production".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn project_names_are_dns_labels() {
        for good in ["web", "a1", "my-app"] {
            assert_eq!(good.parse::<ProjectName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "a-",
            "1a",
            "A",
            "a_b",
            "../x",
            ".git",
            "a\0b",
            "web.git",
            "wеb",
            "api",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<ProjectName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn secret_names_leave_the_platforms_own_alone() {
        assert!("DATABASE_URL".parse::<SecretName>().is_ok());
        for bad in ["PATH", "LD_PRELOAD", "ONDOL_TOKEN", "A-B", "1A", "A=B"] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad}");
        }
    }
}
