//! Operators between two vectors: which series belong together, and what becomes of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::super::ast::{BinaryOp, Cardinality, Expr, Matching};
use super::super::error::QueryError;
use super::{Cell, Column, Evaluator, Grid, Result, merge, misplaced, same_labelset};
use crate::series::{Labels, LabelsBuilder, METRIC_NAME};

/// The labels that decide which series belong together.
fn signature(labels: &Labels, matching: &Matching) -> Labels {
    let named = |name: &str| matching.labels.iter().any(|label| label == name);
    if matching.on {
        labels.without(|name| !named(name))
    } else {
        labels.without(|name| name == METRIC_NAME || named(name))
    }
}

/// Series of both sides that belong together, by their places.
#[derive(Default)]
struct Pairing {
    signature: Labels,
    many: Vec<usize>,
    one: Vec<usize>,
}

fn pairings(many: &[Column], one: &[Column], matching: &Matching) -> Vec<Pairing> {
    let mut places: HashMap<Labels, usize> = HashMap::new();
    let mut pairings: Vec<Pairing> = Vec::new();
    let mut place_of = |column: &Column, pairings: &mut Vec<Pairing>| {
        let key = signature(&column.labels, matching);
        *places.entry(key.clone()).or_insert_with(|| {
            pairings.push(Pairing {
                signature: key,
                ..Pairing::default()
            });
            pairings.len() - 1
        })
    };
    for (at, column) in many.iter().enumerate() {
        let place = place_of(column, &mut pairings);
        pairings[place].many.push(at);
    }
    for (at, column) in one.iter().enumerate() {
        let place = place_of(column, &mut pairings);
        pairings[place].one.push(at);
    }
    pairings
}

impl Evaluator<'_> {
    pub(super) fn vector_binary(&mut self, expr: &Expr, grid: Grid) -> Result<Vec<Column>> {
        let Expr::Binary {
            op,
            lhs,
            rhs,
            matching: Some(matching),
            ..
        } = expr
        else {
            return Err(misplaced(expr));
        };
        let only = self.only_sum_and_count;
        if matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower) {
            self.only_sum_and_count = false;
        }
        let left = self.vector(lhs, grid);
        let right = match &left {
            // Nothing on the left leaves nothing, whatever is on the right.
            Ok(left)
                if left.is_empty()
                    && matching.fill_left.is_none()
                    && matching.fill_right.is_none()
                    && *op != BinaryOp::Or =>
            {
                self.vector(rhs, grid).map(|_| Vec::new())
            }
            Ok(_) => self.vector(rhs, grid),
            Err(_) => Ok(Vec::new()),
        };
        self.only_sum_and_count = only;
        let (left, right) = (left?, right?);
        self.tick()?;
        match op {
            BinaryOp::And | BinaryOp::Unless => {
                Ok(keep_where(left, &right, matching, *op == BinaryOp::And))
            }
            BinaryOp::Or => merge(add_where_missing(left, right, matching)),
            _ => self.combine_vectors(expr, left, right, grid),
        }
    }

    fn combine_vectors(
        &mut self,
        expr: &Expr,
        left: Vec<Column>,
        right: Vec<Column>,
        grid: Grid,
    ) -> Result<Vec<Column>> {
        let Expr::Binary {
            op,
            matching: Some(matching),
            return_bool,
            range,
            ..
        } = expr
        else {
            return Err(misplaced(expr));
        };
        let (op, return_bool, range) = (*op, *return_bool, *range);
        let swapped = matching.cardinality == Cardinality::OneToMany;
        let (many, one) = if swapped {
            (right, left)
        } else {
            (left, right)
        };
        // Prometheus fills by the number of series, not by the side: with `group_right`,
        // `fill_left` is about the many, which are on the right.
        let (fill_many, fill_one) = (matching.fill_left, matching.fill_right);
        let mut results = Results {
            places: HashMap::new(),
            columns: Vec::new(),
            len: grid.len,
            grouped: matching.cardinality != Cardinality::OneToOne,
        };
        for pairing in pairings(&many, &one, matching) {
            self.tick()?;
            if (pairing.many.is_empty() && fill_many.is_none())
                || (pairing.one.is_empty() && fill_one.is_none())
            {
                // Even unmatched, two of the one side at one time are an error.
                for at in 0..grid.len {
                    the_one(&pairing, &one, at, swapped)?;
                }
                continue;
            }
            // Result labels depend on the pair only.
            let mut names: HashMap<(Option<usize>, Option<usize>), Labels> = HashMap::new();
            for at in 0..grid.len {
                let single = the_one(&pairing, &one, at, swapped)?;
                let present: Vec<usize> = pairing
                    .many
                    .iter()
                    .copied()
                    .filter(|&place| !many[place].cells[at].is_empty())
                    .collect();
                if single.is_none() && (fill_one.is_none() || present.is_empty()) {
                    continue;
                }
                if present.len() > 1 && matching.cardinality == Cardinality::OneToOne {
                    return Err(QueryError::Execution(
                        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
                            .to_owned(),
                    ));
                }
                let filled_many: Vec<Option<usize>> = if present.is_empty() {
                    if fill_many.is_none() {
                        continue;
                    }
                    vec![None]
                } else {
                    present.into_iter().map(Some).collect()
                };
                for place in filled_many {
                    let fill = |value: Option<f64>| value.map_or(Cell::Empty, Cell::Float);
                    let many_cell = place
                        .map_or_else(|| fill(fill_many), |place| many[place].cells[at].clone());
                    let one_cell =
                        single.map_or_else(|| fill(fill_one), |place| one[place].cells[at].clone());
                    let outcome = if swapped {
                        self.pair(op, &one_cell, &many_cell, range)
                    } else {
                        self.pair(op, &many_cell, &one_cell, range)
                    };
                    let Some(outcome) = outcome else { continue };
                    let value = if return_bool {
                        Cell::Float(f64::from(u8::from(outcome.keep)))
                    } else if outcome.keep {
                        outcome.value
                    } else {
                        continue;
                    };
                    let labels = names.entry((place, single)).or_insert_with(|| {
                        let many_labels =
                            place.map_or(&pairing.signature, |place| &many[place].labels);
                        let one_labels =
                            single.map_or(&pairing.signature, |place| &one[place].labels);
                        result_labels(many_labels, one_labels, op, matching)
                    });
                    let mut drop_name = place.is_some_and(|place| many[place].drop_name);
                    if return_bool {
                        drop_name |= self.config.delayed_name_removal;
                        if !self.config.delayed_name_removal {
                            *labels = super::without_metadata(labels);
                        }
                    }
                    results.set(labels, drop_name, at, value)?;
                }
            }
        }
        Ok(results.columns)
    }
}

/// The series of the one side that has a sample at a time.
///
/// # Errors
/// There are two.
fn the_one(pairing: &Pairing, one: &[Column], at: usize, swapped: bool) -> Result<Option<usize>> {
    let mut found = pairing
        .one
        .iter()
        .copied()
        .filter(|&place| !one[place].cells[at].is_empty());
    let first = found.next();
    if let (Some(first), Some(second)) = (first, found.next()) {
        let mut both = [&one[first].labels, &one[second].labels];
        both.sort();
        return Err(QueryError::Execution(format!(
            "found duplicate series for the match group {} on the {} hand-side of the operation: [{}, {}];many-to-many matching not allowed: matching labels must be unique on one side",
            pairing.signature,
            if swapped { "left" } else { "right" },
            both[0],
            both[1]
        )));
    }
    Ok(first)
}

struct Results {
    places: HashMap<Labels, usize>,
    columns: Vec<Column>,
    len: usize,
    grouped: bool,
}

impl Results {
    fn set(&mut self, labels: &Labels, drop_name: bool, at: usize, value: Cell) -> Result<()> {
        let place = match self.places.entry(labels.clone()) {
            Entry::Occupied(place) => *place.get(),
            Entry::Vacant(place) => {
                self.columns.push(Column {
                    labels: labels.clone(),
                    drop_name: false,
                    cells: vec![Cell::Empty; self.len],
                });
                *place.insert(self.columns.len() - 1)
            }
        };
        let column = &mut self.columns[place];
        column.drop_name |= drop_name;
        if !column.cells[at].is_empty() {
            return Err(if self.grouped {
                QueryError::Execution(
                    "multiple matches for labels: grouping labels must ensure unique matches"
                        .to_owned(),
                )
            } else {
                same_labelset()
            });
        }
        column.cells[at] = value;
        Ok(())
    }
}

fn result_labels(many: &Labels, one: &Labels, op: BinaryOp, matching: &Matching) -> Labels {
    let mut builder = LabelsBuilder::from_labels(many);
    if op.changes_metric() {
        builder.retain(|name| !super::METADATA.contains(&name));
    }
    if matching.cardinality == Cardinality::OneToOne {
        builder.retain(|name| matching.labels.iter().any(|label| label == name) == matching.on);
    }
    for label in &matching.include {
        builder.set(label, one.get(label));
    }
    builder.build()
}

/// `and` and `unless`: samples of the left that have, or have no, counterpart.
fn keep_where(
    mut left: Vec<Column>,
    right: &[Column],
    matching: &Matching,
    wanted: bool,
) -> Vec<Column> {
    let mut counterparts: HashMap<Labels, Vec<usize>> = HashMap::new();
    for (at, column) in right.iter().enumerate() {
        counterparts
            .entry(signature(&column.labels, matching))
            .or_default()
            .push(at);
    }
    for column in &mut left {
        let others = counterparts.get(&signature(&column.labels, matching));
        for (at, cell) in column.cells.iter_mut().enumerate() {
            let there = others.is_some_and(|others| {
                others
                    .iter()
                    .any(|&other| !right[other].cells[at].is_empty())
            });
            if there != wanted {
                *cell = Cell::Empty;
            }
        }
    }
    left.retain(|column| !column.is_empty());
    left
}

/// `or`: samples of the left, and of the right those without a counterpart.
fn add_where_missing(
    left: Vec<Column>,
    mut right: Vec<Column>,
    matching: &Matching,
) -> Vec<Column> {
    let mut counterparts: HashMap<Labels, Vec<usize>> = HashMap::new();
    for (at, column) in left.iter().enumerate() {
        counterparts
            .entry(signature(&column.labels, matching))
            .or_default()
            .push(at);
    }
    for column in &mut right {
        if let Some(others) = counterparts.get(&signature(&column.labels, matching)) {
            for (at, cell) in column.cells.iter_mut().enumerate() {
                if others
                    .iter()
                    .any(|&other| !left[other].cells[at].is_empty())
                {
                    *cell = Cell::Empty;
                }
            }
        }
    }
    right.retain(|column| !column.is_empty());
    let mut all = left;
    all.append(&mut right);
    all
}
