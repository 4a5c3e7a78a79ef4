//! Attributes: names with values of any type, which become labels.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::names::Translation;
use crate::ingest::MAX_LABELS;
use crate::ingest::wire::{Message, WireError};
use crate::promql::format_plain;
use crate::promql::json::write_text;
use crate::series::LabelsBuilder;

/// Values inside values at most.
const MAX_DEPTH: usize = 8;

/// Attributes by their names. At most [`MAX_LABELS`]; a store refuses more than that anyway.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes(BTreeMap<String, String>);

impl Attributes {
    /// Adds a `KeyValue`.
    pub(super) fn read(&mut self, message: Message<'_>) -> Result<(), WireError> {
        let (key, value) = key_value(message, 0, false)?;
        if !key.is_empty() && self.0.len() <= MAX_LABELS {
            self.0.insert(key.to_owned(), value);
        }
        Ok(())
    }

    /// The value of an attribute, when it is there and not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn without(&self, names: &[&str]) -> Self {
        let mut rest = self.clone();
        rest.0.retain(|name, _| !names.contains(&name.as_str()));
        rest
    }

    /// Labels. Attributes whose names become the same label share it, with their values in the
    /// order of their names and a semicolon between them.
    pub(super) fn labels(&self, translation: Translation) -> LabelsBuilder {
        let mut builder = LabelsBuilder::default();
        for (name, value) in &self.0 {
            let label = translation.label(name);
            let before = builder.get(&label);
            if before.is_empty() {
                builder.set(&label, value);
            } else {
                let both = format!("{before};{value}");
                builder.set(&label, &both);
            }
        }
        builder
    }
}

fn key_value<'a>(
    mut message: Message<'a>,
    depth: usize,
    json: bool,
) -> Result<(&'a str, String), WireError> {
    let (mut key, mut value) = ("", String::new());
    while let Some(field) = message.next()? {
        match field.number {
            1 => key = field.text()?,
            2 => {
                value.clear();
                write_value(field.message()?, depth, json, &mut value)?;
            }
            _ => {}
        }
    }
    Ok((key, value))
}

/// Writes an `AnyValue`: a text as it is, and as JSON inside of others.
fn write_value(
    mut message: Message<'_>,
    depth: usize,
    json: bool,
    out: &mut String,
) -> Result<(), WireError> {
    if depth > MAX_DEPTH {
        out.push_str("null");
        return Ok(());
    }
    while let Some(field) = message.next()? {
        match field.number {
            1 if json => write_text(field.text()?, out),
            1 => out.push_str(field.text()?),
            2 => out.push_str(if field.unsigned()? == 0 {
                "false"
            } else {
                "true"
            }),
            3 => {
                let _ = write!(out, "{}", field.signed()?);
            }
            4 => out.push_str(&format_plain(field.double()?)),
            5 => {
                out.push('[');
                let mut list = field.message()?;
                let mut first = true;
                while let Some(field) = list.next()? {
                    if !std::mem::take(&mut first) {
                        out.push(',');
                    }
                    write_value(field.message()?, depth + 1, true, out)?;
                }
                out.push(']');
            }
            6 => {
                out.push('{');
                let mut list = field.message()?;
                let mut first = true;
                while let Some(field) = list.next()? {
                    if !std::mem::take(&mut first) {
                        out.push(',');
                    }
                    let (key, value) = key_value(field.message()?, depth + 1, true)?;
                    write_text(key, out);
                    out.push(':');
                    out.push_str(if value.is_empty() { "null" } else { &value });
                }
                out.push('}');
            }
            7 => {
                // Bytes as hexadecimal digits, which every label can hold.
                for byte in field.bytes()?.iter().take(256) {
                    let _ = write!(out, "{byte:02x}");
                }
            }
            _ => {}
        }
    }
    Ok(())
}
