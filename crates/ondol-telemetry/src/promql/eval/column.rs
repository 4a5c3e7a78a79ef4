//! Series over a grid of times, as expressions result in them.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::error::QueryError;
use super::Result;
use crate::series::{Histogram, Labels};

/// Labels that describe the metric, not the thing that is measured.
pub(super) const METADATA: [&str; 3] = ["__name__", "__type__", "__unit__"];

/// The times at which an expression is evaluated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) struct Grid {
    pub(super) start: i64,
    step: i64,
    pub(super) len: usize,
}

impl Grid {
    pub(in super::super) fn single(time: i64) -> Self {
        Self {
            start: time,
            step: 1,
            len: 1,
        }
    }

    /// Times from `start` up to `end`; none when `end` is earlier.
    pub(in super::super) fn new(start: i64, end: i64, step: i64) -> Self {
        let step = step.max(1);
        Self {
            start,
            step,
            len: if end < start {
                0
            } else {
                ((end - start) / step + 1) as usize
            },
        }
    }

    pub(super) fn time(&self, at: usize) -> i64 {
        self.start + self.step * at as i64
    }

    pub(super) fn times(&self) -> impl Iterator<Item = i64> + use<> {
        let grid = *self;
        (0..grid.len).map(move |at| grid.time(at))
    }
}

/// What a series is at one time.
#[derive(Clone, Debug, Default)]
pub(super) enum Cell {
    #[default]
    Empty,
    Float(f64),
    Histogram(Arc<Histogram>),
}

impl Cell {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    pub(super) fn histogram(histogram: Histogram) -> Self {
        Self::Histogram(Arc::new(histogram))
    }
}

/// A series over the grid.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) labels: Labels,
    /// The name goes at the end of the query.
    pub(super) drop_name: bool,
    pub(super) cells: Vec<Cell>,
}

impl Column {
    pub(super) fn weight(&self) -> usize {
        self.cells.len()
            + self
                .cells
                .iter()
                .map(|cell| match cell {
                    Cell::Histogram(histogram) => histogram.weight(),
                    _ => 0,
                })
                .sum::<usize>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.cells.iter().all(Cell::is_empty)
    }
}

pub(super) fn without_metadata(labels: &Labels) -> Labels {
    labels.without(|name| METADATA.contains(&name))
}

pub(super) fn broadcast(columns: Vec<Column>, len: usize) -> Vec<Column> {
    columns
        .into_iter()
        .map(|mut column| {
            let cell = column.cells.first().cloned().unwrap_or_default();
            column.cells = vec![cell; len];
            column
        })
        .collect()
}

pub(super) fn same_labelset() -> QueryError {
    QueryError::Execution("vector cannot contain metrics with the same labelset".to_owned())
}

/// Brings together columns with the same labels.
///
/// # Errors
/// Two of them have a sample at the same time.
pub(super) fn merge(columns: Vec<Column>) -> Result<Vec<Column>> {
    let mut places: HashMap<Labels, usize> = HashMap::with_capacity(columns.len());
    let mut merged: Vec<Column> = Vec::with_capacity(columns.len());
    for column in columns {
        match places.entry(column.labels.clone()) {
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(merged.len());
                merged.push(column);
            }
            std::collections::hash_map::Entry::Occupied(place) => {
                let into = &mut merged[*place.get()];
                into.drop_name |= column.drop_name;
                for (slot, cell) in into.cells.iter_mut().zip(column.cells) {
                    if cell.is_empty() {
                        continue;
                    }
                    if !slot.is_empty() {
                        return Err(same_labelset());
                    }
                    *slot = cell;
                }
            }
        }
    }
    Ok(merged)
}
