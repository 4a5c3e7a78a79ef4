//! Rows on their way out.

use std::str::FromStr;
use std::sync::Arc;

use ondol_types::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Column, Row as _, TypeInfo, ValueRef};

use super::value::{Kind, Value};
use crate::error::StoreError;

/// One row, already free of the connection it came from.
#[derive(Clone, Debug)]
pub struct Row {
    names: Arc<[String]>,
    values: Vec<Value>,
}

/// A Rust type that a column can be read as.
pub trait FromValue: Sized {
    /// Reads the value, or says what it should have been.
    fn from_value(value: &Value) -> Result<Self, String>;
}

impl FromValue for i64 {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Int(number) => Ok(*number),
            other => Err(format!("expected an integer, found {other:?}")),
        }
    }
}

impl FromValue for u64 {
    fn from_value(value: &Value) -> Result<Self, String> {
        u64::try_from(i64::from_value(value)?)
            .map_err(|_| "expected a number that is not negative".to_owned())
    }
}

impl FromValue for u32 {
    fn from_value(value: &Value) -> Result<Self, String> {
        u32::try_from(i64::from_value(value)?).map_err(|_| "expected a 32-bit number".to_owned())
    }
}

impl FromValue for u16 {
    fn from_value(value: &Value) -> Result<Self, String> {
        u16::try_from(i64::from_value(value)?).map_err(|_| "expected a 16-bit number".to_owned())
    }
}

impl FromValue for bool {
    fn from_value(value: &Value) -> Result<Self, String> {
        Ok(i64::from_value(value)? != 0)
    }
}

impl FromValue for f64 {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Real(number) => Ok(*number),
            Value::Int(number) => Ok(*number as f64),
            other => Err(format!("expected a number, found {other:?}")),
        }
    }
}

impl FromValue for String {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            other => Err(format!("expected text, found {other:?}")),
        }
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Blob(bytes) => Ok(bytes.clone()),
            other => Err(format!("expected bytes, found {other:?}")),
        }
    }
}

impl FromValue for Timestamp {
    fn from_value(value: &Value) -> Result<Self, String> {
        i64::from_value(value).map(Timestamp::from_micros)
    }
}

impl FromValue for serde_json::Value {
    fn from_value(value: &Value) -> Result<Self, String> {
        serde_json::from_str(&String::from_value(value)?)
            .map_err(|error| format!("is not JSON: {error}"))
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Null(_) => Ok(None),
            present => T::from_value(present).map(Some),
        }
    }
}

impl Row {
    /// The raw value of a column.
    pub fn value(&self, column: &str) -> Result<&Value, StoreError> {
        self.names
            .iter()
            .position(|name| name == column)
            .map(|index| &self.values[index])
            .ok_or_else(|| StoreError::Column {
                column: column.to_owned(),
                problem: "is not in the result".to_owned(),
            })
    }

    /// A column as a plain type.
    pub fn get<T: FromValue>(&self, column: &str) -> Result<T, StoreError> {
        T::from_value(self.value(column)?).map_err(|problem| StoreError::Column {
            column: column.to_owned(),
            problem,
        })
    }

    /// A text column as a checked type: an id, a name, a digest, an enum.
    pub fn parse<T>(&self, column: &str) -> Result<T, StoreError>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let text: String = self.get(column)?;
        text.parse().map_err(|error: T::Err| StoreError::Column {
            column: column.to_owned(),
            problem: error.to_string(),
        })
    }

    /// A text column that may be NULL as a checked type.
    pub fn parse_opt<T>(&self, column: &str) -> Result<Option<T>, StoreError>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        match self.value(column)? {
            Value::Null(_) => Ok(None),
            _ => self.parse(column).map(Some),
        }
    }

    /// A text column that holds JSON as a typed value.
    pub fn json<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        let text: String = self.get(column)?;
        serde_json::from_str(&text).map_err(|error| StoreError::Column {
            column: column.to_owned(),
            problem: format!("is not the JSON expected: {error}"),
        })
    }

    /// A text column that holds JSON or is NULL.
    pub fn json_opt<T: serde::de::DeserializeOwned>(
        &self,
        column: &str,
    ) -> Result<Option<T>, StoreError> {
        match self.value(column)? {
            Value::Null(_) => Ok(None),
            _ => self.json(column).map(Some),
        }
    }
}

fn names_of<R: sqlx::Row>(row: &R) -> Arc<[String]> {
    row.columns()
        .iter()
        .map(|column| column.name().to_owned())
        .collect()
}

pub(super) fn from_sqlite(rows: Vec<SqliteRow>) -> Result<Vec<Row>, sqlx::Error> {
    let Some(first) = rows.first() else {
        return Ok(Vec::new());
    };
    let names = names_of(first);
    rows.iter()
        .map(|row| {
            let values = (0..names.len())
                .map(|index| sqlite_value(row, index))
                .collect::<Result<_, _>>()?;
            Ok(Row {
                names: names.clone(),
                values,
            })
        })
        .collect()
}

fn sqlite_value(row: &SqliteRow, index: usize) -> Result<Value, sqlx::Error> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Value::Null(Kind::Text));
    }
    let kind = raw.type_info().name().to_owned();
    Ok(match kind.as_str() {
        "INTEGER" | "BOOLEAN" => Value::Int(row.try_get_unchecked(index)?),
        "REAL" => Value::Real(row.try_get_unchecked(index)?),
        "BLOB" => Value::Blob(row.try_get_unchecked(index)?),
        _ => Value::Text(row.try_get_unchecked(index)?),
    })
}

pub(super) fn from_postgres(rows: Vec<PgRow>) -> Result<Vec<Row>, sqlx::Error> {
    let Some(first) = rows.first() else {
        return Ok(Vec::new());
    };
    let names = names_of(first);
    rows.iter()
        .map(|row| {
            let values = (0..names.len())
                .map(|index| postgres_value(row, index))
                .collect::<Result<_, _>>()?;
            Ok(Row {
                names: names.clone(),
                values,
            })
        })
        .collect()
}

fn postgres_value(row: &PgRow, index: usize) -> Result<Value, sqlx::Error> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Value::Null(Kind::Text));
    }
    let kind = raw.type_info().name().to_owned();
    Ok(match kind.as_str() {
        "INT8" => Value::Int(row.try_get(index)?),
        "INT4" => Value::Int(i64::from(row.try_get::<i32, _>(index)?)),
        "BOOL" => Value::Int(i64::from(row.try_get::<bool, _>(index)?)),
        "FLOAT8" => Value::Real(row.try_get(index)?),
        "BYTEA" => Value::Blob(row.try_get(index)?),
        _ => Value::Text(row.try_get(index)?),
    })
}
