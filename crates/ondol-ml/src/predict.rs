//! A model that answers: rows in, predictions out.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value as Json;

use crate::auto::{Target, Value, measure};
use crate::error::{MlError, MlResult};
use crate::gate::Metrics;
use crate::model_file::{Feature, FeatureKind, ModelFile};
use crate::table::Table;

/// Rows ready to be predicted, a value per feature each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rows {
    pub(crate) values: Vec<Value>,
    pub(crate) rows: usize,
}

/// The answer to one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The most probable class by number, for classification.
    pub class: Option<usize>,
    /// A probability per class, or the value.
    pub outputs: Vec<f64>,
}

/// A loaded model with what makes answering fast.
#[derive(Debug)]
pub struct Predictor {
    model: ModelFile,
    features: HashMap<String, usize>,
    categories: Vec<HashMap<String, u32>>,
}

/// Why one value does not fit its feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch(pub(crate) String);

fn shown(value: &Json) -> String {
    let text = value.to_string();
    let cut: String = text.chars().take(60).collect();
    if cut.len() < text.len() {
        format!("{cut}…")
    } else {
        cut
    }
}

impl Predictor {
    /// Makes a model ready.
    pub fn new(model: ModelFile) -> Self {
        let features = model
            .features
            .iter()
            .enumerate()
            .map(|(index, feature)| (feature.name.clone(), index))
            .collect();
        let categories = model
            .features
            .iter()
            .map(|feature| match &feature.kind {
                FeatureKind::Category { values } => values.iter().cloned().zip(0..).collect(),
                _ => HashMap::new(),
            })
            .collect();
        Self {
            model,
            features,
            categories,
        }
    }

    /// Loads the model in a folder and makes it ready.
    ///
    /// # Errors
    /// As [`ModelFile::load`], and when the model no longer says what it said when it was
    /// trained.
    pub fn load(dir: &Path) -> MlResult<Self> {
        let predictor = Self::new(ModelFile::load(dir)?);
        predictor.check()?;
        Ok(predictor)
    }

    /// The model.
    pub fn model(&self) -> &ModelFile {
        &self.model
    }

    /// The place of a feature.
    pub(crate) fn feature(&self, name: &str) -> Option<usize> {
        self.features.get(name).copied()
    }

    pub(crate) fn features(&self) -> &[Feature] {
        &self.model.features
    }

    /// Asks the model its made-up rows again, and compares.
    ///
    /// # Errors
    /// [`MlError::ModelFile`] when an answer differs by more than rounding.
    pub fn check(&self) -> MlResult<()> {
        for (number, check) in self.model.checks.iter().enumerate() {
            let mut values = Vec::with_capacity(self.model.features.len());
            for (index, feature) in self.model.features.iter().enumerate() {
                let value =
                    self.json_value(index, check.row.get(&feature.name).unwrap_or(&Json::Null));
                values.push(value.map_err(|Mismatch(what)| {
                    MlError::ModelFile(format!("check {}: {what}", number + 1))
                })?);
            }
            let prediction = self.predict_row(&values);
            let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-6 * (1.0 + a.abs().max(b.abs()));
            if !prediction.outputs.iter().zip(&check.outputs).all(near) {
                let what = format!(
                    "check {}: it says {:?}, and said {:?} when it was trained",
                    number + 1,
                    prediction.outputs,
                    check.outputs
                );
                return Err(MlError::ModelFile(what));
            }
        }
        Ok(())
    }

    /// The value of a feature from JSON.
    pub(crate) fn json_value(&self, feature: usize, value: &Json) -> Result<Value, Mismatch> {
        let expected = |what: &str| Err(Mismatch(format!("expected {what}, got {}", shown(value))));
        match (&self.model.features[feature].kind, value) {
            (_, Json::Null) => Ok(Value::Missing),
            (FeatureKind::Number, Json::Number(number)) => match number.as_f64() {
                Some(number) if number.is_finite() => Ok(Value::Number(number)),
                _ => expected("a finite number"),
            },
            (FeatureKind::Number, Json::Bool(truth)) => {
                Ok(Value::Number(f64::from(u8::from(*truth))))
            }
            // NaN has no number in JSON; MLflow's clients write it so.
            (FeatureKind::Number, Json::String(text)) if text == "NaN" || text == "nan" => {
                Ok(Value::Missing)
            }
            (FeatureKind::Number, _) => expected("a number"),
            (FeatureKind::Boolean, Json::Bool(truth)) => {
                Ok(Value::Number(f64::from(u8::from(*truth))))
            }
            (FeatureKind::Boolean, Json::Number(number)) if number.as_f64() == Some(0.0) => {
                Ok(Value::Number(0.0))
            }
            (FeatureKind::Boolean, Json::Number(number)) if number.as_f64() == Some(1.0) => {
                Ok(Value::Number(1.0))
            }
            (FeatureKind::Boolean, _) => expected("true or false"),
            (FeatureKind::Category { .. }, Json::String(text)) => Ok(self.category(feature, text)),
            (FeatureKind::Category { .. }, Json::Bool(truth)) => {
                Ok(self.category(feature, if *truth { "true" } else { "false" }))
            }
            (FeatureKind::Category { .. }, Json::Number(number)) => Ok(self.category(
                feature,
                &number
                    .as_f64()
                    .map_or_else(|| number.to_string(), |number| number.to_string()),
            )),
            (FeatureKind::Category { .. }, _) => expected("a text"),
        }
    }

    /// The value of a feature from untyped text, as CSV has it.
    pub(crate) fn text_value(&self, feature: usize, text: &str) -> Result<Value, Mismatch> {
        let text = text.trim();
        if crate::table::is_missing(text) {
            return Ok(Value::Missing);
        }
        let number = crate::table::parse_number(text).filter(|number| number.is_finite());
        let truth = crate::table::parse_bool(text).map(|truth| f64::from(u8::from(truth)));
        let expected = |what: &str| {
            Err(Mismatch(format!(
                "expected {what}, got {}",
                shown(&Json::from(text))
            )))
        };
        match &self.model.features[feature].kind {
            FeatureKind::Number => number
                .or(truth)
                .map_or_else(|| expected("a number"), |number| Ok(Value::Number(number))),
            FeatureKind::Boolean => {
                match truth.or(number.filter(|number| *number == 0.0 || *number == 1.0)) {
                    Some(number) => Ok(Value::Number(number)),
                    None => expected("true or false"),
                }
            }
            FeatureKind::Category { .. } => Ok(self.category(feature, text)),
        }
    }

    fn category(&self, feature: usize, text: &str) -> Value {
        self.categories[feature]
            .get(text)
            .map_or(Value::Unknown, |&code| Value::Category(code))
    }

    /// Predicts one row.
    pub(crate) fn predict_row(&self, values: &[Value]) -> Prediction {
        let mut numbers = Vec::with_capacity(self.model.encoder.width());
        self.model.encoder.encode(values, &mut numbers);
        let mut outputs = vec![0.0; self.model.outputs()];
        self.model.learner.predict(&numbers, &mut outputs);
        let class = self
            .model
            .target
            .labels
            .as_ref()
            .map(|_| crate::auto::best_class(&outputs));
        Prediction { class, outputs }
    }

    /// Predicts every row.
    pub(crate) fn predict(&self, rows: &Rows) -> Vec<Prediction> {
        rows.values
            .chunks_exact(self.model.features.len())
            .map(|values| self.predict_row(values))
            .collect()
    }

    /// The prediction as JSON: the class as it stood in the data, or the value.
    pub fn json(&self, prediction: &Prediction) -> Json {
        match (prediction.class, &self.model.target.labels) {
            (Some(class), Some(labels)) => labels.json(class),
            _ => prediction.outputs.first().copied().into(),
        }
    }

    /// The metrics of the model on a table, such as newer data. Rows without a target, or of a
    /// class that the model does not know, are left out and counted as `rows_left_out`.
    ///
    /// # Errors
    /// When the table lacks the target or a required column, or holds values of another type.
    pub fn evaluate(&self, table: &Table) -> MlResult<Metrics> {
        let column = |name: &str| {
            table
                .column(name)
                .ok_or_else(|| MlError::Invalid(format!("the data has no column `{name}`")))
        };
        let mut columns = Vec::with_capacity(self.model.features.len());
        for feature in &self.model.features {
            columns.push(if feature.required {
                Some(column(&feature.name)?)
            } else {
                table.column(&feature.name)
            });
        }
        let target = column(&self.model.target.name)?;
        let labels = self.model.target.labels.as_ref();
        let places: HashMap<String, u32> = labels.map_or_else(HashMap::new, |labels| {
            (0..labels.len())
                .map(|class| labels.text(class))
                .zip(0..)
                .collect()
        });
        let (mut classes, mut values, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
        let mut row_values = Vec::with_capacity(columns.len());
        for row in 0..table.rows {
            match (labels, target.text(row)) {
                (Some(_), Some(text)) if places.contains_key(&text) => classes.push(places[&text]),
                (None, Some(text))
                    if crate::table::parse_number(&text).is_some_and(f64::is_finite) =>
                {
                    values.extend(crate::table::parse_number(&text));
                }
                _ => continue,
            }
            row_values.clear();
            for (feature, column) in columns.iter().enumerate() {
                let value = match column.and_then(|column| column.text(row)) {
                    Some(text) => self.text_value(feature, &text).map_err(|Mismatch(what)| {
                        MlError::Invalid(format!(
                            "row {}, column `{}`: {what}",
                            row + 1,
                            self.model.features[feature].name
                        ))
                    })?,
                    None => Value::Missing,
                };
                row_values.push(value);
            }
            outputs.extend(self.predict_row(&row_values).outputs);
        }
        let rows = classes.len() + values.len();
        if rows == 0 {
            return Err(MlError::Invalid(
                "no row has a target that the model knows".to_owned(),
            ));
        }
        let target = match labels {
            Some(labels) => Target::Classes {
                of: classes,
                labels: labels.clone(),
            },
            None => Target::Values(values),
        };
        let mut metrics: Metrics = measure(&target, &outputs)
            .into_iter()
            .map(|(metric, value)| (metric.name().to_owned(), value))
            .collect();
        metrics.insert("rows".to_owned(), rows as f64);
        metrics.insert("rows_left_out".to_owned(), (table.rows - rows) as f64);
        Ok(metrics)
    }

    /// Predicts one row of JSON values by feature name, for tests and checks of a model.
    ///
    /// # Errors
    /// When a value does not fit its feature, or a required one is not there.
    pub fn predict_json(&self, row: &serde_json::Map<String, Json>) -> MlResult<Prediction> {
        let mut values = Vec::with_capacity(self.model.features.len());
        for (index, feature) in self.model.features.iter().enumerate() {
            match row.get(&feature.name) {
                None if feature.required => {
                    return Err(MlError::Invalid(format!(
                        "the column `{}` is not there",
                        feature.name
                    )));
                }
                value => {
                    let value = self.json_value(index, value.unwrap_or(&Json::Null));
                    values.push(value.map_err(|Mismatch(what)| {
                        MlError::Invalid(format!("column `{}`: {what}", feature.name))
                    })?);
                }
            }
        }
        Ok(self.predict_row(&values))
    }
}
