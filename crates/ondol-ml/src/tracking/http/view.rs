//! Things as the protocol's JSON. What is empty is left out, as its clients expect.

use serde_json::{Map, Value, json};

use crate::tracking::model::{
    DatasetInput, Experiment, FileEntry, LoggedModel, Metric, Pair, RegisteredModel,
    RegisteredVersion, Run, RunInfo,
};

/// An object under construction that leaves out what is empty.
#[derive(Default)]
pub(super) struct Object(Map<String, Value>);

impl Object {
    pub(super) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let empty = match &value {
            Value::Null => true,
            Value::Array(values) => values.is_empty(),
            _ => false,
        };
        if !empty {
            self.0.insert(key.to_owned(), value);
        }
        self
    }

    pub(super) fn done(self) -> Value {
        Value::Object(self.0)
    }
}

fn number(value: f64) -> Value {
    if value.is_nan() {
        "NaN".into()
    } else {
        value.into()
    }
}

pub(super) fn list<T>(items: &[T], view: impl Fn(&T) -> Value) -> Value {
    Value::Array(items.iter().map(view).collect())
}

pub(super) fn pair(pair: &Pair) -> Value {
    json!({ "key": pair.key, "value": pair.value })
}

pub(super) fn metric(metric: &Metric) -> Value {
    Object::default()
        .with("key", metric.key.as_str())
        .with("value", number(metric.value))
        .with("timestamp", metric.timestamp)
        .with("step", metric.step)
        .with("model_id", metric.model_id.clone())
        .with("dataset_name", metric.dataset_name.clone())
        .with("dataset_digest", metric.dataset_digest.clone())
        .with("run_id", metric.run_id.clone())
        .done()
}

pub(super) fn experiment(experiment: &Experiment) -> Value {
    Object::default()
        .with("experiment_id", experiment.id.to_string())
        .with("name", experiment.name.as_str())
        .with("artifact_location", experiment.location.as_str())
        .with("lifecycle_stage", experiment.stage.text())
        .with("last_update_time", experiment.updated)
        .with("creation_time", experiment.created)
        .with("tags", list(&experiment.tags, pair))
        .done()
}

pub(super) fn run_info(info: &RunInfo) -> Value {
    Object::default()
        .with("run_uuid", info.id.as_str())
        .with("experiment_id", info.experiment.to_string())
        .with("run_name", info.name.as_str())
        .with("user_id", info.user.as_str())
        .with("status", info.status.text())
        .with("start_time", info.start)
        .with("end_time", info.end)
        .with("artifact_uri", info.artifact_uri.as_str())
        .with("lifecycle_stage", info.stage.text())
        .with("run_id", info.id.as_str())
        .done()
}

fn dataset_input(input: &DatasetInput) -> Value {
    let dataset = Object::default()
        .with("name", input.dataset.name.as_str())
        .with("digest", input.dataset.digest.as_str())
        .with("source_type", input.dataset.source_type.as_str())
        .with("source", input.dataset.source.as_str())
        .with("schema", input.dataset.schema.clone())
        .with("profile", input.dataset.profile.clone())
        .done();
    Object::default()
        .with("tags", list(&input.tags, pair))
        .with("dataset", dataset)
        .done()
}

pub(super) fn run(run: &Run) -> Value {
    let data = Object::default()
        .with("metrics", list(&run.metrics, metric))
        .with("params", list(&run.params, pair))
        .with("tags", list(&run.tags, pair))
        .done();
    let inputs = Object::default()
        .with(
            "model_inputs",
            list(&run.model_inputs, |model| json!({ "model_id": model })),
        )
        .with("dataset_inputs", list(&run.datasets, dataset_input))
        .done();
    let outputs = list(
        &run.model_outputs,
        |(model, step)| json!({ "model_id": model, "step": step }),
    );
    let view = Object::default()
        .with("info", run_info(&run.info))
        .with("data", data)
        .with("inputs", inputs);
    if run.model_outputs.is_empty() {
        return view.done();
    }
    view.with("outputs", json!({ "model_outputs": outputs }))
        .done()
}

pub(super) fn file(file: &FileEntry) -> Value {
    Object::default()
        .with("path", file.path.as_str())
        .with("is_dir", file.size.is_none())
        .with("file_size", file.size)
        .done()
}

pub(super) fn logged_model(model: &LoggedModel) -> Value {
    let info = Object::default()
        .with("model_id", model.id.as_str())
        .with("experiment_id", model.experiment.to_string())
        .with("name", model.name.as_str())
        .with("creation_timestamp_ms", model.created)
        .with("last_updated_timestamp_ms", model.updated)
        .with("artifact_uri", model.artifact_uri.as_str())
        .with("status", model.status.text())
        .with("model_type", model.model_type.clone())
        .with("source_run_id", model.source_run.clone())
        .with("tags", list(&model.tags, pair))
        .done();
    let data = Object::default()
        .with("params", list(&model.params, pair))
        .with("metrics", list(&model.metrics, metric))
        .done();
    json!({ "info": info, "data": data })
}

pub(super) fn version(version: &RegisteredVersion) -> Value {
    Object::default()
        .with("name", version.name.as_str())
        .with("version", version.version.to_string())
        .with("creation_timestamp", version.created)
        .with("last_updated_timestamp", version.updated)
        .with("user_id", version.user.clone())
        .with("current_stage", version.stage.as_str())
        .with("description", version.description.clone())
        .with("source", version.source.as_str())
        .with("run_id", version.run_id.clone())
        .with("status", "READY")
        .with("run_link", version.run_link.clone())
        .with("model_id", version.model_id.clone())
        .with("tags", list(&version.tags, pair))
        .with("aliases", version.aliases.clone())
        .done()
}

/// A version as searches show it: MLflow's own server names no aliases there.
pub(super) fn found_version(version: &RegisteredVersion) -> Value {
    let mut value = self::version(version);
    if let Some(fields) = value.as_object_mut() {
        fields.shift_remove("aliases");
    }
    value
}

pub(super) fn registered(model: &RegisteredModel) -> Value {
    Object::default()
        .with("name", model.name.as_str())
        .with("creation_timestamp", model.created)
        .with("last_updated_timestamp", model.updated)
        .with("description", model.description.clone())
        .with("latest_versions", list(&model.latest, version))
        .with("tags", list(&model.tags, pair))
        .with(
            "aliases",
            list(
                &model.aliases,
                |(alias, version)| json!({ "alias": alias, "version": version.to_string() }),
            ),
        )
        .done()
}
