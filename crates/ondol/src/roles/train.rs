//! `ondol train-auto` and `ondol model-server`: the built-in trainer and the server of what it
//! trains, as workloads like any other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ondol_ml::auto::{AutoOptions, Metric, Task, TrainArgs, train_main};
use ondol_ml::server::{ServerOptions, model_server_main};
use ondol_ml::table::TableLimits;
use ondol_spec::model::AutoTrain;

use crate::error::{Exit, Failure, Outcome};
use crate::output;

/// Serve the model in a folder on $PORT, by MLflow's scoring protocol.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelServer {
    /// The folder of the model.
    #[arg(long, env = "ONDOL_MODEL_DIR")]
    model: PathBuf,
    /// Where to listen.
    #[arg(long, env = "HOST", default_value = "127.0.0.1")]
    host: std::net::IpAddr,
    /// The port.
    #[arg(long, env = "PORT", default_value_t = 8000)]
    port: u16,
    /// Name of the model, shown at `/`.
    #[arg(long, env = "ONDOL_MODEL")]
    name: Option<String>,
    /// Version of the model, shown at `/`.
    #[arg(long, env = "ONDOL_MODEL_VERSION")]
    version: Option<String>,
}

impl ModelServer {
    pub(crate) fn run(self) -> Outcome<Exit> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(Failure::io("start the runtime"))?;
        let options = ServerOptions {
            model: self.name,
            version: self.version,
            ..ServerOptions::default()
        };
        let ready = |address| output::note(format!("model server listens on {address}"));
        let serving = model_server_main(
            &self.model,
            (self.host, self.port).into(),
            options,
            ready,
            super::asked_to_stop(),
        );
        runtime.block_on(serving)?;
        Ok(Exit::Success)
    }
}

/// Train a model on a folder of tables.
#[derive(Debug, clap::Args)]
pub(crate) struct TrainAuto {
    /// The folder with the tables, or one table.
    #[arg(long)]
    data: PathBuf,
    /// The folder that the model is written to.
    #[arg(long)]
    out: PathBuf,
    /// The column to predict.
    #[arg(long)]
    target: String,
    /// classification or regression (default: by the target).
    #[arg(long)]
    task: Option<String>,
    /// What candidates are compared by.
    #[arg(long)]
    metric: Option<String>,
    /// A column to learn from; may be repeated.
    #[arg(long)]
    feature: Vec<String>,
    /// A column to leave out; may be repeated.
    #[arg(long)]
    exclude: Vec<String>,
    /// Folds of the cross-validation.
    #[arg(long)]
    folds: Option<usize>,
    /// Where all randomness begins.
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds after which no further candidate is begun.
    #[arg(long)]
    time_budget: Option<f64>,
}

fn word<T: serde::de::DeserializeOwned>(what: &str, text: Option<String>) -> Outcome<Option<T>> {
    text.map(|text| {
        serde_json::from_value(serde_json::Value::String(text.clone()))
            .map_err(|error| Failure::usage(format!("`{text}` is not a {what}")).because(error))
    })
    .transpose()
}

impl TrainAuto {
    pub(crate) fn run(self) -> Outcome<Exit> {
        let mut options = AutoOptions::new(self.target);
        options.task = word::<Task>("task", self.task)?;
        options.metric = self.metric.map(|text| text.parse::<Metric>()).transpose()?;
        options.features = self.feature;
        options.exclude = self.exclude;
        options.folds = self.folds;
        options.seed = self.seed.unwrap_or(options.seed);
        options.time_budget = self
            .time_budget
            .map_or(options.time_budget, Duration::from_secs_f64);
        let arguments = TrainArgs {
            data: self.data,
            out: self.out,
            options,
            champion: None,
            limits: TableLimits::default(),
        };
        let code = train_main(&arguments, &mut std::io::stdout().lock());
        Ok(if code == std::process::ExitCode::SUCCESS {
            Exit::Success
        } else {
            Exit::Failed
        })
    }
}

/// The arguments of a training, as [`TrainAuto`] reads them.
pub(crate) fn train_arguments(
    program: &Path,
    auto: &AutoTrain,
    data: &Path,
    out: &Path,
) -> Vec<String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut arguments = vec![
        text(program),
        "train-auto".to_owned(),
        "--data".to_owned(),
        text(data),
        "--out".to_owned(),
        text(out),
        "--target".to_owned(),
        auto.target.clone(),
    ];
    let mut add = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    // Both are one word in JSON too; `auto` is the default of the command line.
    for (name, value) in [
        ("task", serde_json::to_value(auto.task)),
        ("metric", serde_json::to_value(auto.metric)),
    ] {
        if let Ok(serde_json::Value::String(word)) = value
            && word != "auto"
        {
            add(name, word);
        }
    }
    for feature in &auto.features {
        add("feature", feature.clone());
    }
    for column in &auto.exclude {
        add("exclude", column.clone());
    }
    add("folds", auto.folds.to_string());
    add("seed", auto.seed.to_string());
    add(
        "time-budget",
        auto.time_budget.duration().as_secs_f64().to_string(),
    );
    arguments
}
