//! Secrets that programs receive, and how.

use std::fmt;

use ondol_types::SecretName;
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A secret that programs receive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// Its name, as `ondol secret set` has it.
    pub name: SecretName,
    /// How it is received.
    #[serde(rename = "as", default)]
    pub form: SecretForm,
}

/// How a program receives a secret.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum SecretForm {
    /// As the environment variable of its name.
    #[default]
    Env,
    /// As a file that only the program can read; the variable `<name>_FILE` has its path.
    File,
}

impl SecretRef {
    /// A secret that is an environment variable.
    pub fn env(name: SecretName) -> Self {
        Self {
            name,
            form: SecretForm::Env,
        }
    }

    /// A secret that is a file.
    pub fn file(name: SecretName) -> Self {
        Self {
            name,
            form: SecretForm::File,
        }
    }

    /// The variable that a program finds it by: the value itself, or the path of its file.
    pub fn variable(&self) -> String {
        match self.form {
            SecretForm::Env => self.name.to_string(),
            SecretForm::File => format!("{}_FILE", self.name),
        }
    }
}

/// The full form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Full {
    name: SecretName,
    #[serde(rename = "as", default)]
    form: SecretForm,
}

struct NameOrFull;

impl<'de> Visitor<'de> for NameOrFull {
    type Value = SecretRef;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping with `name` and `as`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretRef, E> {
        text.parse().map(SecretRef::env).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SecretRef, A::Error> {
        let Full { name, form } = Full::deserialize(MapAccessDeserializer::new(map))?;
        Ok(SecretRef { name, form })
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    /// A plain name is what specifications and releases have stored since their first version.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameOrFull)
    }
}
