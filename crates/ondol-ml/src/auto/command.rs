//! The trainer as a program: what the step `train.auto` runs as a workload of its own, with its
//! own limits and log.
//!
//! It reads tables from one folder and writes three files into another: `model.json`,
//! `metrics.json` (what the gate reads) and `report.json` (what people read). Each appears whole
//! or not at all, the model last but one and the metrics last, so that metrics imply a model.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ondol_types::{Algorithm, Classified, Digest};

use super::{AutoOptions, TrainReport, Trained, train};
use crate::error::{MlError, MlResult};
use crate::model_file::MODEL_FILE;
use crate::predict::Predictor;
use crate::table::{TableFile, TableLimits, find_tables, read_tables};

/// Name of the metrics file in the output folder.
pub const METRICS_FILE: &str = "metrics.json";
/// Name of the report in the output folder.
pub const REPORT_FILE: &str = "report.json";

/// More than a report of the most columns and classes has.
const MAX_REPORT_BYTES: u64 = 16 << 20;

/// What the hidden subcommand `train-auto` takes.
#[derive(Clone, Debug)]
pub struct TrainArgs {
    /// The folder with the tables, or one table.
    pub data: PathBuf,
    /// The folder that the results go to; made when it is not there.
    pub out: PathBuf,
    /// How to train.
    pub options: AutoOptions,
    /// The champion, to be asked about the new data too.
    pub champion: Option<ChampionArgs>,
    /// Ceilings of the tables.
    pub limits: TableLimits,
}

/// The champion, as far as training has to do with it.
#[derive(Clone, Debug)]
pub struct ChampionArgs {
    /// The folder of its files.
    pub model: PathBuf,
    /// Where its metrics on the new data go, for the information of the gate. Not in the output
    /// folder: what stands there is the new model, and must depend on nothing but data and seed.
    pub metrics: PathBuf,
}

/// Trains and writes the results. Lines about progress, warnings and the result go to `lines`;
/// an error becomes two lines, `error: …` and `hint: …`.
///
/// The exit code is 0 for success, 2 for data or options that cannot be trained on (repeating
/// will not help), and 1 for anything else.
pub fn train_main(args: &TrainArgs, lines: &mut dyn Write) -> ExitCode {
    match run(args, lines) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, lines),
    }
}

fn complain(error: &MlError, lines: &mut dyn Write) -> ExitCode {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(next) = source {
        text.push_str(&format!(": {next}"));
        source = next.source();
    }
    // Nobody is left to tell when this cannot be written.
    let _ = writeln!(lines, "error: {text}");
    if let Some(hint) = error.hint() {
        let _ = writeln!(lines, "hint: {hint}");
    }
    let _ = lines.flush();
    let unusable = matches!(
        error,
        MlError::Table { .. }
            | MlError::TooLarge { .. }
            | MlError::Training { .. }
            | MlError::Invalid(_)
    );
    ExitCode::from(if unusable { 2 } else { 1 })
}

fn run(args: &TrainArgs, lines: &mut dyn Write) -> MlResult<()> {
    let files = find_tables(&args.data, &args.limits)?;
    let mut say = |line: &str| {
        // Progress that nobody reads must not end a training.
        let _ = writeln!(lines, "{line}").and_then(|()| lines.flush());
    };
    for file in &files {
        say(&format!("reading {} ({} bytes)", file.name, file.bytes));
    }
    let table = read_tables(&files, &args.limits)?;
    let fingerprint = fingerprint(&files)?;
    let trained = train(&table, &args.options, &fingerprint, &mut say)?;
    if let Some(champion) = &args.champion {
        // A champion of another format or task says nothing, and must not stand in the way.
        match Predictor::load(&champion.model).and_then(|model| model.evaluate(&table)) {
            Ok(metrics) => {
                let bytes = serde_json::to_vec_pretty(&metrics)
                    .map_err(|error| MlError::Internal(error.to_string()))?;
                write_whole(&champion.metrics, &bytes)?;
            }
            Err(error) => say(&format!(
                "the champion could not be asked about the new data: {error}"
            )),
        }
    }
    write_results(&trained, &args.out)?;
    for (name, value) in &trained.report.metrics {
        say(&format!("metric {name}={value}"));
    }
    say(&format!("model written: {}", trained.report.algorithm));
    Ok(())
}

/// The digest of the names and contents of the files, in order.
fn fingerprint(files: &[TableFile]) -> MlResult<Digest> {
    let mut hasher = blake3::Hasher::new();
    for file in files {
        let mut content = blake3::Hasher::new();
        let input = std::fs::File::open(&file.path)
            .map_err(|source| MlError::io("reading", &file.path, source))?;
        content
            .update_reader(input)
            .map_err(|source| MlError::io("reading", &file.path, source))?;
        hasher.update(&(file.name.len() as u64).to_le_bytes());
        hasher.update(file.name.as_bytes());
        hasher.update(content.finalize().as_bytes());
    }
    Ok(Digest::from_bytes(
        Algorithm::Blake3,
        hasher.finalize().as_bytes(),
    ))
}

/// Reads the report that a training left in its output folder. None when there is none, as
/// after `train.run`.
///
/// # Errors
/// [`MlError::Io`], and [`MlError::Corrupted`] when it is not a report.
pub fn read_report(out: &Path) -> MlResult<Option<TrainReport>> {
    let path = out.join(REPORT_FILE);
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(MlError::io("reading", &path, error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_REPORT_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|source| MlError::io("reading", &path, source))?;
    let report = serde_json::from_slice(&bytes);
    report
        .map(Some)
        .map_err(|error| MlError::Corrupted(format!("{}: {error}", path.display())))
}

/// Checks the model in a folder: that it can be read, and that it still says what it said when
/// it was trained. Lines go to `lines`, exit codes are those of [`train_main`].
pub fn check_main(model: &Path, lines: &mut dyn Write) -> ExitCode {
    match Predictor::load(model) {
        Ok(predictor) => {
            let model = predictor.model();
            // Nobody is left to tell when this cannot be written.
            let _ = writeln!(
                lines,
                "model {}: {} checks passed",
                model.algorithm,
                model.checks.len()
            );
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error, lines),
    }
}

/// Writes the three files into `out`.
fn write_results(trained: &Trained, out: &Path) -> MlResult<()> {
    std::fs::create_dir_all(out).map_err(|source| MlError::io("making", out, source))?;
    let json = |value: serde_json::Result<Vec<u8>>| {
        value.map_err(|error| MlError::Internal(error.to_string()))
    };
    write_whole(
        &out.join(REPORT_FILE),
        &json(serde_json::to_vec_pretty(&trained.report))?,
    )?;
    write_whole(&out.join(MODEL_FILE), &trained.model.to_bytes()?)?;
    write_whole(
        &out.join(METRICS_FILE),
        &json(serde_json::to_vec_pretty(&trained.report.metrics))?,
    )
}

/// Writes a file under another name, syncs it, and gives it its name.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> MlResult<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let write = || {
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|source| {
        // The partial file holds nothing that is wanted.
        let _ = std::fs::remove_file(&partial);
        MlError::io("writing", path, source)
    })
}
