//! Which rows of a table are new, gone or changed, whatever their order.
//!
//! Three passes in bounded memory: the earlier rows are counted by the hash of their common
//! columns, the later ones are taken off the counts (what is left over is new), and the earlier
//! ones are read again for those that nothing took off.

use std::collections::HashMap;

use crate::error::TableFault;
use crate::model::{Change, RowChange, RowDiff};
use crate::table::{Cell, Place, Rows};

/// Rows shown at most.
const SAMPLE: usize = 20;
/// Rows that differ whose first column is looked at to find changed ones.
const PAIRED: usize = 50_000;
/// Characters shown of one cell.
const SHOWN: usize = 200;

type RowHash = [u8; 16];

/// Picks the common columns out of rows.
#[derive(Default)]
struct Pick {
    common: Vec<String>,
    places: Vec<Option<usize>>,
}

impl Pick {
    fn columns(&mut self, names: &[String]) {
        let place = |name: &String| names.iter().position(|other| other == name);
        self.places = self.common.iter().map(place).collect();
    }

    fn cells<'a>(&self, cells: &'a [Cell<'a>]) -> impl Iterator<Item = Cell<'a>> {
        self.places.iter().map(|place| {
            place
                .and_then(|at| cells.get(at).copied())
                .unwrap_or(Cell::Missing)
        })
    }

    fn hash(&self, cells: &[Cell<'_>]) -> RowHash {
        let mut hasher = blake3::Hasher::new();
        for cell in self.cells(cells) {
            let text = cell.shown();
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        hash
    }

    fn shown(&self, cells: &[Cell<'_>]) -> Vec<String> {
        self.cells(cells)
            .map(|cell| cell.shown().chars().take(SHOWN).collect())
            .collect()
    }
}

/// Rows of one side that the other does not have.
#[derive(Default)]
struct Left {
    count: u64,
    /// By first column: the row, or `None` when several share it.
    rows: HashMap<String, Option<Vec<String>>>,
}

impl Left {
    fn add(&mut self, pick: &Pick, cells: &[Cell<'_>]) {
        self.count += 1;
        if self.count as usize > PAIRED {
            return;
        }
        let shown = pick.shown(cells);
        let key = shown.first().cloned().unwrap_or_default();
        self.rows
            .entry(key)
            .and_modify(|row| *row = None)
            .or_insert(Some(shown));
    }
}

/// The first pass: counts the rows of the earlier table.
pub(crate) struct Comparison {
    pick: Pick,
    counts: HashMap<RowHash, u32>,
}

impl Comparison {
    pub(crate) fn new(common: Vec<String>) -> Self {
        Self {
            pick: Pick {
                common,
                places: Vec::new(),
            },
            counts: HashMap::new(),
        }
    }
}

impl Rows for Comparison {
    fn columns(&mut self, names: &[String]) -> Result<(), TableFault> {
        self.pick.columns(names);
        Ok(())
    }

    fn row(&mut self, _: Place, cells: &[Cell<'_>]) -> Result<bool, TableFault> {
        *self.counts.entry(self.pick.hash(cells)).or_default() += 1;
        Ok(true)
    }
}

fn take(counts: &mut HashMap<RowHash, u32>, hash: &RowHash) -> bool {
    match counts.get_mut(hash) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    }
}

/// The second pass: takes the rows of the later table off.
pub(crate) struct Later {
    pick: Pick,
    counts: HashMap<RowHash, u32>,
    added: Left,
}

impl Later {
    pub(crate) fn new(earlier: Comparison) -> Self {
        Self {
            pick: earlier.pick,
            counts: earlier.counts,
            added: Left::default(),
        }
    }
}

impl Rows for Later {
    fn columns(&mut self, names: &[String]) -> Result<(), TableFault> {
        self.pick.columns(names);
        Ok(())
    }

    fn row(&mut self, _: Place, cells: &[Cell<'_>]) -> Result<bool, TableFault> {
        if !take(&mut self.counts, &self.pick.hash(cells)) {
            self.added.add(&self.pick, cells);
        }
        Ok(true)
    }
}

/// The third pass: finds the earlier rows that are gone.
pub(crate) struct EarlierAgain {
    pick: Pick,
    counts: HashMap<RowHash, u32>,
    added: Left,
    removed: Left,
}

impl EarlierAgain {
    pub(crate) fn new(later: Later) -> Self {
        Self {
            pick: later.pick,
            counts: later.counts,
            added: later.added,
            removed: Left::default(),
        }
    }

    /// Pairs what is new with what is gone by their first column, and reports.
    pub(crate) fn finish(mut self, diff: &mut RowDiff) {
        let mut keys: Vec<String> = self.removed.rows.keys().cloned().collect();
        keys.sort_unstable();
        let mut sample = Vec::new();
        for key in keys {
            let pair = (self.removed.rows.get(&key), self.added.rows.get(&key));
            let (Some(Some(before)), Some(Some(after))) = pair else {
                continue;
            };
            diff.changed += 1;
            if sample.len() < SAMPLE {
                sample.push(RowChange {
                    change: Change::Modified,
                    before: Some(before.clone()),
                    after: Some(after.clone()),
                });
            }
            self.removed.rows.remove(&key);
            self.added.rows.remove(&key);
        }
        diff.added = self.added.count - diff.changed;
        diff.removed = self.removed.count - diff.changed;
        sample.extend(first_rows(&self.added).map(|row| RowChange {
            change: Change::Added,
            before: None,
            after: Some(row),
        }));
        sample.extend(first_rows(&self.removed).map(|row| RowChange {
            change: Change::Removed,
            before: Some(row),
            after: None,
        }));
        sample.truncate(SAMPLE);
        diff.sample = sample;
        if self.added.count.max(self.removed.count) as usize > PAIRED {
            diff.note = Some(format!(
                "changed rows were looked for among the first {PAIRED} that differ"
            ));
        }
    }
}

/// Some rows of a side, in the order of their cells.
fn first_rows(left: &Left) -> impl Iterator<Item = Vec<String>> {
    let mut rows: Vec<Vec<String>> = left.rows.values().flatten().cloned().collect();
    rows.sort_unstable();
    rows.into_iter().take(SAMPLE / 2)
}

impl Rows for EarlierAgain {
    fn columns(&mut self, names: &[String]) -> Result<(), TableFault> {
        self.pick.columns(names);
        Ok(())
    }

    fn row(&mut self, _: Place, cells: &[Cell<'_>]) -> Result<bool, TableFault> {
        if take(&mut self.counts, &self.pick.hash(cells)) {
            self.removed.add(&self.pick, cells);
        }
        Ok(true)
    }
}
