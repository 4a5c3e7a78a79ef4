//! The bodies of `/invocations`: MLflow's four JSON forms, and CSV.
//!
//! As in MLflow, columns that the model does not know are ignored, columns that it requires must
//! be there, and columns are found by name in any order. A row that is a bare list is read in
//! the order of the model's features. A value that is null or missing is filled in as in
//! training; a category that was not there in training counts as unknown. Both are counted.

use std::io::Read;

use serde_json::{Map, Value as Json};

use crate::auto::Value;
use crate::error::{MlError, MlResult};
use crate::predict::{Mismatch, Predictor, Rows};
use crate::table::{Cell, Delimiter, Sink, TableLimits, read_csv};

const FORMS: [&str; 4] = [
    "dataframe_split",
    "dataframe_records",
    "instances",
    "inputs",
];

/// A request, read.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) rows: Rows,
    /// Whether probabilities are wanted beside the predictions.
    pub(crate) probabilities: bool,
}

/// A request that cannot be answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) String);

fn refused<T>(what: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(what.into()))
}

/// Reads a JSON body.
pub(crate) fn read_json(
    predictor: &Predictor,
    body: &[u8],
    limit: usize,
) -> Result<Request, Refused> {
    let parsed: Json = match serde_json::from_slice(body) {
        Ok(parsed) => parsed,
        Err(error) => return refused(format!("the body is not JSON: {error}")),
    };
    let Json::Object(object) = parsed else {
        return refused(format!(
            "the body must be a JSON object with exactly one of {}",
            FORMS.join(", ")
        ));
    };
    let given: Vec<&str> = FORMS
        .into_iter()
        .filter(|form| object.contains_key(*form))
        .collect();
    let [form] = given[..] else {
        let got = if given.is_empty() {
            let keys: Vec<&str> = object.keys().take(10).map(String::as_str).collect();
            if keys.is_empty() {
                "none".to_owned()
            } else {
                format!("`{}`", keys.join("`, `"))
            }
        } else {
            given.join(" and ")
        };
        return refused(format!(
            "the body must have exactly one of {}; it has {got}",
            FORMS.join(", ")
        ));
    };
    let probabilities = match object.get("params") {
        None | Some(Json::Null) => false,
        Some(Json::Object(params)) => match params.get("probabilities") {
            None | Some(Json::Null) => false,
            Some(Json::Bool(wanted)) => *wanted,
            Some(_) => return refused("`params.probabilities` must be true or false"),
        },
        Some(_) => return refused("`params` must be an object"),
    };
    if probabilities && predictor.model().target.labels.is_none() {
        return refused(
            "`params.probabilities` is for classification; this model predicts a number",
        );
    }
    let data = &object[form];
    let rows = match form {
        "dataframe_split" => split(predictor, data, limit),
        "dataframe_records" => match data {
            Json::Array(rows) => records(predictor, rows, limit),
            _ => refused("`dataframe_records` must be a list of objects"),
        },
        "instances" => match data {
            Json::Array(rows) => listed(predictor, "instances", rows, limit),
            _ => refused("`instances` must be a list of rows"),
        },
        _ => match data {
            Json::Array(rows) => listed(predictor, "inputs", rows, limit),
            Json::Object(columns) => columnar(predictor, columns, limit),
            _ => refused("`inputs` must be an object of columns or a list of rows"),
        },
    }?;
    Ok(Request {
        rows,
        probabilities,
    })
}

fn within(rows: usize, limit: usize) -> Result<(), Refused> {
    if rows > limit {
        refused(format!(
            "the request has {rows} rows; at most {limit} are allowed at once"
        ))
    } else {
        Ok(())
    }
}

/// Where each feature stands among the given columns. Required ones must be there.
fn places<'a>(
    predictor: &Predictor,
    columns: impl Iterator<Item = &'a str>,
) -> Result<Vec<Option<usize>>, Refused> {
    let mut places = vec![None; predictor.features().len()];
    let mut given = 0;
    for (place, column) in columns.enumerate() {
        given += 1;
        if let Some(feature) = predictor.feature(column)
            && places[feature].replace(place).is_some()
        {
            return refused(format!("the column `{column}` stands twice"));
        }
    }
    let missing: Vec<String> = predictor
        .features()
        .iter()
        .zip(&places)
        .filter(|(feature, place)| feature.required && place.is_none())
        .map(|(feature, _)| format!("`{}`", feature.name))
        .collect();
    if missing.is_empty() {
        return Ok(places);
    }
    let all: Vec<&str> = predictor
        .features()
        .iter()
        .take(50)
        .map(|feature| feature.name.as_str())
        .collect();
    refused(format!(
        "the model needs the columns {}, which are not among the {given} given; it takes {}",
        missing.join(", "),
        all.join(", ")
    ))
}

fn at(row: usize, column: &str, what: &str) -> Refused {
    Refused(format!("row {}, column `{column}`: {what}", row + 1))
}

fn push(
    predictor: &Predictor,
    out: &mut Rows,
    row: usize,
    feature: usize,
    value: Option<&Json>,
) -> Result<(), Refused> {
    let value = predictor
        .json_value(feature, value.unwrap_or(&Json::Null))
        .map_err(|Mismatch(what)| at(row, &predictor.features()[feature].name, &what))?;
    out.values.push(value);
    Ok(())
}

fn split(predictor: &Predictor, data: &Json, limit: usize) -> Result<Rows, Refused> {
    let Json::Object(data) = data else {
        return refused("`dataframe_split` must be an object with `columns` and `data`");
    };
    let Some(Json::Array(rows)) = data.get("data") else {
        return refused("`dataframe_split` must have `data`, a list of rows");
    };
    let columns = match data.get("columns") {
        None => return listed(predictor, "dataframe_split.data", rows, limit),
        Some(Json::Array(columns)) => columns,
        Some(_) => return refused("`dataframe_split.columns` must be a list of names"),
    };
    let mut names = Vec::with_capacity(columns.len());
    for column in columns {
        let Json::String(name) = column else {
            return refused("`dataframe_split.columns` must be a list of names");
        };
        names.push(name.as_str());
    }
    within(rows.len(), limit)?;
    let places = places(predictor, names.iter().copied())?;
    let mut out = Rows {
        values: Vec::with_capacity(rows.len() * places.len()),
        rows: rows.len(),
    };
    for (number, row) in rows.iter().enumerate() {
        let Json::Array(row) = row else {
            return refused(format!("row {}: expected a list of values", number + 1));
        };
        if row.len() != names.len() {
            return refused(format!(
                "row {}: {} values for {} columns",
                number + 1,
                row.len(),
                names.len()
            ));
        }
        for (feature, place) in places.iter().enumerate() {
            push(
                predictor,
                &mut out,
                number,
                feature,
                place.and_then(|place| row.get(place)),
            )?;
        }
    }
    Ok(out)
}

fn records(predictor: &Predictor, rows: &[Json], limit: usize) -> Result<Rows, Refused> {
    within(rows.len(), limit)?;
    let features = predictor.features();
    let mut out = Rows {
        values: Vec::with_capacity(rows.len() * features.len()),
        rows: rows.len(),
    };
    let mut seen = vec![false; features.len()];
    for (number, row) in rows.iter().enumerate() {
        let Json::Object(row) = row else {
            return refused(format!("row {}: expected an object of columns", number + 1));
        };
        for (feature, seen) in seen.iter_mut().enumerate() {
            let value = row.get(&features[feature].name);
            *seen |= value.is_some();
            push(predictor, &mut out, number, feature, value)?;
        }
    }
    if !rows.is_empty() {
        // A column that only some of the rows lack is missing in those.
        places(
            predictor,
            features
                .iter()
                .zip(&seen)
                .filter(|(_, seen)| **seen)
                .map(|(feature, _)| feature.name.as_str()),
        )?;
    }
    Ok(out)
}

fn listed(predictor: &Predictor, form: &str, rows: &[Json], limit: usize) -> Result<Rows, Refused> {
    if rows.first().is_some_and(Json::is_object) {
        return records(predictor, rows, limit);
    }
    within(rows.len(), limit)?;
    let features = predictor.features().len();
    let mut out = Rows {
        values: Vec::with_capacity(rows.len() * features),
        rows: rows.len(),
    };
    for (number, row) in rows.iter().enumerate() {
        match row {
            Json::Array(row) if row.len() == features => {
                for (feature, value) in row.iter().enumerate() {
                    push(predictor, &mut out, number, feature, Some(value))?;
                }
            }
            Json::Array(row) => {
                let names: Vec<&str> = predictor
                    .features()
                    .iter()
                    .take(50)
                    .map(|feature| feature.name.as_str())
                    .collect();
                return refused(format!(
                    "row {} of `{form}`: {} values, the model takes {features}: {}",
                    number + 1,
                    row.len(),
                    names.join(", ")
                ));
            }
            Json::Object(_) => {
                return refused(format!(
                    "row {} of `{form}`: an object among lists",
                    number + 1
                ));
            }
            value if features == 1 => push(predictor, &mut out, number, 0, Some(value))?,
            _ => {
                return refused(format!(
                    "row {} of `{form}`: expected a list or an object",
                    number + 1
                ));
            }
        }
    }
    Ok(out)
}

fn columnar(
    predictor: &Predictor,
    columns: &Map<String, Json>,
    limit: usize,
) -> Result<Rows, Refused> {
    places(predictor, columns.keys().map(String::as_str))?;
    let known = || {
        predictor
            .features()
            .iter()
            .filter_map(|feature| Some((feature.name.as_str(), columns.get(&feature.name)?)))
    };
    let length = |value: &Json| value.as_array().map(Vec::len);
    // Scalars stand for one row, as in MLflow.
    let rows = known()
        .find_map(|(_, value)| length(value))
        .unwrap_or(usize::from(!columns.is_empty()));
    for (name, value) in known() {
        let own = length(value).unwrap_or(1);
        if own != rows {
            return refused(format!(
                "column `{name}` has {own} values, others have {rows}"
            ));
        }
    }
    within(rows, limit)?;
    let mut out = Rows {
        values: Vec::with_capacity(rows * predictor.features().len()),
        rows,
    };
    for row in 0..rows {
        for (feature, info) in predictor.features().iter().enumerate() {
            let value = match columns.get(&info.name) {
                Some(Json::Array(values)) => values.get(row),
                other => other,
            };
            push(predictor, &mut out, row, feature, value)?;
        }
    }
    Ok(out)
}

/// Takes CSV cells straight to the values of features.
struct CsvRows<'a> {
    predictor: &'a Predictor,
    limits: TableLimits,
    names: Vec<String>,
    /// The feature of each column.
    features: Vec<Option<usize>>,
    checked: bool,
    row: Vec<Value>,
    out: Rows,
}

impl Sink for CsvRows<'_> {
    fn column(&mut self, name: &str) -> MlResult<usize> {
        self.features.push(self.predictor.feature(name));
        self.names.push(name.to_owned());
        Ok(self.names.len() - 1)
    }

    fn cell(&mut self, column: usize, cell: Cell<'_>) -> MlResult<()> {
        if !self.checked {
            places(self.predictor, self.names.iter().map(String::as_str))
                .map_err(|Refused(what)| MlError::Invalid(what))?;
            self.checked = true;
        }
        let (Some(feature), Cell::Untyped(text)) = (self.features[column], cell) else {
            return Ok(());
        };
        let value = self.predictor.text_value(feature, text);
        self.row[feature] = value.map_err(|Mismatch(what)| {
            let Refused(what) = at(self.out.rows, &self.names[column], &what);
            MlError::Invalid(what)
        })?;
        Ok(())
    }

    fn end_row(&mut self) -> MlResult<()> {
        self.out.values.extend_from_slice(&self.row);
        self.row.fill(Value::Missing);
        self.out.rows += 1;
        within(self.out.rows, self.limits.rows).map_err(|Refused(what)| MlError::Invalid(what))
    }

    fn limits(&self) -> &TableLimits {
        &self.limits
    }
}

/// Reads a CSV body.
pub(crate) fn read_csv_body(
    predictor: &Predictor,
    body: impl Read,
    limit: usize,
) -> Result<Request, Refused> {
    let mut sink = CsvRows {
        predictor,
        limits: TableLimits {
            rows: limit,
            ..TableLimits::default()
        },
        names: Vec::new(),
        features: Vec::new(),
        checked: false,
        row: vec![Value::Missing; predictor.features().len()],
        out: Rows::default(),
    };
    match read_csv("the CSV body", body, Delimiter::Detect, &mut sink) {
        Ok(()) => Ok(Request {
            rows: sink.out,
            probabilities: false,
        }),
        Err(error) => refused(error.to_string()),
    }
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
