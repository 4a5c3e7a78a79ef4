//! Models and their versions.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ondol_types::{
    CommitId, DatasetName, Digest, ModelName, ProjectName, RelPath, RunId, Timestamp,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use crate::gate::Metrics;

/// Where a version stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VersionState {
    /// Trained, not judged yet.
    Candidate,
    /// The one that is served.
    Champion,
    /// Was champion, or was accepted after a newer one.
    Archived,
    /// The gate refused it.
    Refused,
}

impl fmt::Display for VersionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Candidate => "candidate",
            Self::Champion => "champion",
            Self::Archived => "archived",
            Self::Refused => "refused",
        })
    }
}

impl FromStr for VersionState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "candidate" => Ok(Self::Candidate),
            "champion" => Ok(Self::Champion),
            "archived" => Ok(Self::Archived),
            "refused" => Ok(Self::Refused),
            _ => Err(format!("`{text}` is not the state of a model version")),
        }
    }
}

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelEntry {
    /// Its place below the model's folder.
    pub path: RelPath,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// What a version came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lineage {
    /// The dataset it was trained on.
    pub dataset: Option<DatasetName>,
    /// The version of the dataset.
    pub data: Option<Digest>,
    /// The number of that version in the dataset's history.
    pub data_number: Option<i64>,
    /// The commit whose code trained it.
    pub commit: Option<CommitId>,
    /// The run that trained it.
    pub run: Option<RunId>,
}

/// One trained, evaluated instance of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelVersion {
    /// Whose model.
    pub project: ProjectName,
    /// Which model.
    pub model: ModelName,
    /// The version, from 1.
    pub version: i64,
    /// Digest of the names and contents of its files.
    pub digest: Digest,
    /// Length of all files together in bytes.
    pub size: u64,
    /// What it came from.
    pub lineage: Lineage,
    /// Its metrics, measured at its evaluation. NaN and infinities are texts in JSON.
    #[serde(serialize_with = "write_metrics", deserialize_with = "read_metrics")]
    #[schema(value_type = BTreeMap<String, f64>)]
    pub metrics: Metrics,
    /// What candidates are compared by when there is no `accept`.
    pub primary_metric: Option<String>,
    /// What it was trained with, for people.
    pub params: BTreeMap<String, String>,
    /// Where it stands.
    pub state: VersionState,
    /// Why the gate or a person put it there.
    pub reason: Option<String>,
    /// Who registered it.
    pub author: String,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it was judged.
    pub decided_at: Option<Timestamp>,
}

/// A named model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// Whose model.
    pub project: ProjectName,
    /// Its name.
    pub name: ModelName,
    /// The version that is champion.
    pub champion: Option<i64>,
    /// The newest version.
    pub newest: i64,
    /// When its first version was registered.
    pub created_at: Timestamp,
    /// When its champion changed last, or its newest version was registered.
    pub updated_at: Timestamp,
}

/// A version about to be registered.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// Whose model.
    pub project: ProjectName,
    /// Which model; made when it is new.
    pub model: ModelName,
    /// What it came from. A second registration for the same run gives the first one's version.
    pub lineage: Lineage,
    /// Its metrics.
    pub metrics: Metrics,
    /// What candidates are compared by when there is no `accept`.
    pub primary_metric: Option<String>,
    /// What it was trained with, for people.
    pub params: BTreeMap<String, String>,
    /// The chain of events that it belongs to.
    pub chain: Option<String>,
}

/// One change of the champion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Promotion {
    /// The version that became champion.
    pub version: i64,
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// The digest of a model: BLAKE3 over the sorted paths, lengths and digests of its files.
pub(crate) fn digest_of(files: &[ModelEntry]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for file in files {
        let path = file.path.as_str().as_bytes();
        hasher.update(&(path.len() as u64).to_le_bytes());
        hasher.update(path);
        hasher.update(&file.size.to_le_bytes());
        hasher.update(&file.digest.to_bytes());
    }
    Digest::from_bytes(ondol_types::Algorithm::Blake3, hasher.finalize().as_bytes())
}

/// A metric in JSON, which has no word for NaN.
pub(crate) fn metric_json(value: f64) -> serde_json::Value {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 {
            "Infinity".into()
        } else {
            "-Infinity".into()
        }
    } else {
        value.into()
    }
}

pub(crate) fn write_metrics<S: Serializer>(
    metrics: &Metrics,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(
        metrics
            .iter()
            .map(|(name, value)| (name, metric_json(*value))),
    )
}

pub(crate) fn read_metrics<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Metrics, D::Error> {
    let values = BTreeMap::<String, serde_json::Value>::deserialize(deserializer)?;
    let number = |value: &serde_json::Value| match value {
        serde_json::Value::Number(number) => number.as_f64(),
        serde_json::Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    };
    values
        .into_iter()
        .map(|(name, value)| {
            let number = number(&value).ok_or_else(|| {
                serde::de::Error::custom(format!("the metric `{name}` is not a number"))
            })?;
            Ok((name, number))
        })
        .collect()
}
