//! The format of a built-in model: one JSON file, `model.json`, that says everything that is
//! needed to answer, and where the model came from.
//!
//! The same model is always the same bytes. Reading trusts nothing: the size is bounded, every
//! index, shape and number is checked before the first prediction, so that no file, however
//! hostile, makes a prediction panic, loop or allocate without bound. A change of the format gets
//! a new version in [`FORMAT`], and older files stay in the tests.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use ondol_types::Digest;
use serde::{Deserialize, Serialize};

use crate::auto::{Encoder, Task};
use crate::error::{MlError, MlResult};
use crate::learn::Learner;

/// Name and version of the format.
pub const FORMAT: &str = "ondol-model/1";
/// Name of the file in a model's folder.
pub const MODEL_FILE: &str = "model.json";
/// Largest model file in bytes.
pub const MAX_MODEL_BYTES: u64 = 128 << 20;

const MAX_FEATURES: usize = 2_000;
const MAX_LABELS: usize = 200;
const MAX_CATEGORIES: usize = 10_000;
const MAX_WIDTH: usize = 100_000;

/// A trained model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelFile {
    /// [`FORMAT`].
    pub format: String,
    /// The version of Ondol that trained it.
    pub library: String,
    /// What kind of answer it gives.
    pub task: Task,
    /// What it predicts.
    pub target: TargetInfo,
    /// What it predicts from, in order.
    pub features: Vec<Feature>,
    /// What kind of model it is, for people.
    pub algorithm: String,
    /// Its cross-validated metrics.
    pub metrics: BTreeMap<String, f64>,
    /// What it was trained on.
    pub training: Training,
    /// Made-up rows and what the model says to them.
    pub checks: Vec<Check>,
    pub(crate) encoder: Encoder,
    pub(crate) learner: Learner,
}

/// What a model predicts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetInfo {
    /// The column.
    pub name: String,
    /// The classes, for classification.
    pub labels: Option<Labels>,
}

/// The names of the classes, as they stood in the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// Texts.
    Text(Vec<String>),
    /// Numbers.
    Number(Vec<f64>),
    /// Truth values.
    Boolean(Vec<bool>),
}

impl Labels {
    /// How many classes there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(labels) => labels.len(),
            Self::Number(labels) => labels.len(),
            Self::Boolean(labels) => labels.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of a class as text. `class` is below [`Labels::len`].
    pub fn text(&self, class: usize) -> String {
        match self {
            Self::Text(labels) => labels[class].clone(),
            Self::Number(labels) => labels[class].to_string(),
            Self::Boolean(labels) => labels[class].to_string(),
        }
    }

    /// The name of a class as it stood in the data. `class` is below [`Labels::len`].
    pub fn json(&self, class: usize) -> serde_json::Value {
        match self {
            Self::Text(labels) => labels[class].clone().into(),
            Self::Number(labels) if labels[class].fract() == 0.0 && labels[class].abs() < 9e15 => {
                (labels[class] as i64).into()
            }
            Self::Number(labels) => labels[class].into(),
            Self::Boolean(labels) => labels[class].into(),
        }
    }
}

/// A column that a model predicts from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Feature {
    /// The column.
    pub name: String,
    /// What it holds.
    pub kind: FeatureKind,
    /// Whether a request must have it: when no value was missing in training.
    pub required: bool,
    /// How its numbers were distributed in training: the reference for drift.
    pub summary: Option<Summary>,
}

/// What a column holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeatureKind {
    /// Numbers.
    Number,
    /// Truth values.
    Boolean,
    /// Texts out of these, sorted. Others are possible in requests, and count as unknown.
    #[serde(rename_all = "camelCase")]
    Category {
        /// The texts.
        values: Vec<String>,
    },
}

/// The distribution of numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Summary {
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub std: f64,
    /// The least, the nine deciles, the greatest.
    pub deciles: [f64; 11],
}

impl Summary {
    /// The summary of sorted finite numbers, of which there is at least one.
    pub(crate) fn of_sorted(sorted: &[f64]) -> Self {
        let n = sorted.len() as f64;
        let mean = sorted.iter().map(|value| value / n).sum::<f64>();
        // Divided before they are squared and summed, so that large numbers stay finite.
        let std = sorted
            .iter()
            .map(|value| ((value - mean) / n.sqrt()).powi(2))
            .sum::<f64>()
            .sqrt();
        Self {
            mean,
            std,
            deciles: std::array::from_fn(|decile| sorted[(sorted.len() - 1) * decile / 10]),
        }
    }
}

/// What a model was trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Training {
    /// Digest of the data.
    pub data: Digest,
    /// How many rows.
    pub rows: u64,
    /// Where its randomness began.
    pub seed: u64,
}

/// A made-up row and what the model says to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Check {
    /// Values by feature.
    pub row: BTreeMap<String, serde_json::Value>,
    /// A probability per class, or the value.
    pub outputs: Vec<f64>,
}

fn invalid(what: impl Into<String>) -> MlError {
    MlError::ModelFile(what.into())
}

impl ModelFile {
    /// The bytes of the file; the same for equal models.
    ///
    /// # Errors
    /// When the model is too large for a file.
    pub fn to_bytes(&self) -> MlResult<Vec<u8>> {
        let bytes =
            serde_json::to_vec(self).map_err(|error| MlError::Internal(error.to_string()))?;
        if bytes.len() as u64 > MAX_MODEL_BYTES {
            let (actual, limit) = (bytes.len() as u64, MAX_MODEL_BYTES);
            return Err(MlError::TooLarge {
                what: "the model in bytes".to_owned(),
                actual,
                limit,
            });
        }
        Ok(bytes)
    }

    /// Reads a file from memory.
    ///
    /// # Errors
    /// [`MlError::ModelFile`] when it is anything but a sound model of this version.
    pub fn from_bytes(bytes: &[u8]) -> MlResult<Self> {
        if bytes.len() as u64 > MAX_MODEL_BYTES {
            return Err(invalid(format!(
                "it has {} bytes, more than {MAX_MODEL_BYTES}",
                bytes.len()
            )));
        }
        #[derive(Deserialize)]
        struct Head {
            format: String,
        }
        let head: Head =
            serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
        if head.format != FORMAT {
            let format: String = head.format.chars().take(40).collect();
            return Err(invalid(format!(
                "its format is `{format}`, this build reads `{FORMAT}`"
            )));
        }
        let model: Self =
            serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
        model.validate()?;
        Ok(model)
    }

    /// Reads `model.json` from a folder.
    ///
    /// # Errors
    /// [`MlError::Io`] when it cannot be read, and as [`ModelFile::from_bytes`].
    pub fn load(dir: &Path) -> MlResult<Self> {
        let path = dir.join(MODEL_FILE);
        let file =
            std::fs::File::open(&path).map_err(|source| MlError::io("reading", &path, source))?;
        let mut bytes = Vec::new();
        file.take(MAX_MODEL_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| MlError::io("reading", &path, source))?;
        Self::from_bytes(&bytes)
    }

    /// How many outputs the learner has.
    pub(crate) fn outputs(&self) -> usize {
        self.target.labels.as_ref().map_or(1, Labels::len)
    }

    /// Checks everything that a prediction relies on.
    pub(crate) fn validate(&self) -> MlResult<()> {
        let labels = self.target.labels.as_ref();
        match (self.task, labels) {
            (Task::Classification, Some(labels)) if (2..=MAX_LABELS).contains(&labels.len()) => {}
            (Task::Regression, None) => {}
            _ => return Err(invalid("the classes do not fit the task")),
        }
        if self.features.is_empty() || self.features.len() > MAX_FEATURES || self.checks.len() > 16
        {
            return Err(invalid("it has no features, or too many"));
        }
        let mut names = std::collections::HashSet::new();
        let mut categories = Vec::with_capacity(self.features.len());
        for feature in &self.features {
            if !names.insert(feature.name.as_str()) {
                return Err(invalid(format!(
                    "the feature `{}` stands twice",
                    feature.name
                )));
            }
            categories.push(match &feature.kind {
                FeatureKind::Category { values }
                    if values.is_empty() || values.len() > MAX_CATEGORIES =>
                {
                    return Err(invalid(format!(
                        "the feature `{}` has no categories, or too many",
                        feature.name
                    )));
                }
                FeatureKind::Category { values } => values.len(),
                _ => 0,
            });
        }
        self.encoder.validate(&categories).map_err(invalid)?;
        let width = self.encoder.width();
        if width > MAX_WIDTH {
            return Err(invalid("the encoding is too wide"));
        }
        self.learner
            .validate(width, self.outputs())
            .map_err(invalid)?;
        if self
            .checks
            .iter()
            .any(|check| check.outputs.len() != self.outputs())
        {
            return Err(invalid("a check has not the outputs of the model"));
        }
        if self.metrics.values().any(|value| !value.is_finite()) {
            return Err(invalid("a metric is not finite"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Predictor;

    /// Written by the first version of the format. It must be readable for as long as there are
    /// models in that format.
    const FIRST: &[u8] = include_bytes!("../tests/data/model-1.json");

    #[test]
    fn the_first_version_reads_and_answers_as_it_did() {
        let model = ModelFile::from_bytes(FIRST).unwrap();
        assert_eq!(model.to_bytes().unwrap(), FIRST);
        let predictor = Predictor::new(model);
        predictor.check().unwrap();
        let row = serde_json::json!({ "size": 12.5, "city": "Seoul", "member": true });
        let predicted = predictor.predict_json(row.as_object().unwrap()).unwrap();
        assert_eq!(predictor.json(&predicted), "yes");
    }

    #[test]
    fn damage_is_named() {
        let text = String::from_utf8(FIRST.to_vec()).unwrap();
        let refused = |text: String| {
            ModelFile::from_bytes(text.as_bytes())
                .unwrap_err()
                .to_string()
        };
        assert!(
            refused(text.replace("ondol-model/1", "ondol-model/9"))
                .contains("`ondol-model/9`, this build reads `ondol-model/1`")
        );
        assert!(refused(text.replacen("\"feature\":[", "\"feature\":[999,", 1)).contains("tree"));
        assert!(
            refused(text.replacen("\"name\":\"city\"", "\"name\":\"size\"", 1))
                .contains("`size` stands twice")
        );
        assert!(refused("{}".to_owned()).contains("format"));
        let mut changed = ModelFile::from_bytes(FIRST).unwrap();
        changed.checks[0].outputs[0] += 0.1;
        assert!(
            Predictor::new(changed)
                .check()
                .unwrap_err()
                .to_string()
                .contains("check 1")
        );
    }

    /// Whatever reads as a model must also answer.
    fn survive(bytes: &[u8]) {
        if let Ok(model) = ModelFile::from_bytes(bytes) {
            let predictor = Predictor::new(model);
            let _ = predictor.check();
            let row = serde_json::json!({ "size": 1e300, "city": "x", "member": false });
            if let Ok(predicted) = predictor.predict_json(row.as_object().unwrap()) {
                let _ = predictor.json(&predicted);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            survive(&bytes);
        }

        #[test]
        fn changed_models_never_panic(changes in proptest::collection::vec((any::<proptest::sample::Index>(), "[0-9\\[\\],{}\":.e-]{1,3}"), 1..4), cut in any::<proptest::sample::Index>(), truncate: bool) {
            let mut bytes = FIRST.to_vec();
            for (at, text) in changes {
                let at = at.index(bytes.len());
                let end = (at + text.len()).min(bytes.len());
                bytes.splice(at..end, text.bytes());
            }
            if truncate {
                bytes.truncate(cut.index(bytes.len()));
            }
            survive(&bytes);
        }

        #[test]
        fn changed_numbers_never_panic(which in any::<proptest::sample::Index>(), number in prop_oneof![Just("-1".to_owned()), Just("0".to_owned()), Just("4294967295".to_owned()), Just("1e308".to_owned()), "[0-9]{1,4}"]) {
            let text = std::str::from_utf8(FIRST).unwrap();
            let starts: Vec<usize> = text
                .match_indices(|c: char| c.is_ascii_digit())
                .map(|(at, _)| at)
                .filter(|&at| !text.as_bytes()[at - 1].is_ascii_alphanumeric() && text.as_bytes()[at - 1] != b'.')
                .collect();
            let at = starts[which.index(starts.len())];
            let length = text[at..].find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(0);
            survive(format!("{}{number}{}", &text[..at], &text[at + length..]).as_bytes());
        }
    }
}
