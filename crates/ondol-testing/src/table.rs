//! Small tables of training data, changed in the ways that data changes.

/// The header and the rows of a table whose cells have no quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns.
    pub header: Vec<String>,
    /// Rows of as many cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Reads a table.
    pub fn parse(csv: &str) -> Self {
        let mut lines = csv
            .lines()
            .map(|line| line.split(',').map(str::to_owned).collect());
        Self {
            header: lines.next().unwrap_or_default(),
            rows: lines.collect(),
        }
    }

    /// The table as CSV.
    pub fn csv(&self) -> String {
        let mut text = self.header.join(",");
        text.push('\n');
        for row in &self.rows {
            text.push_str(&row.join(","));
            text.push('\n');
        }
        text
    }

    /// Without every `nth` row.
    pub fn without_every(&self, nth: usize) -> Self {
        let rows = self
            .rows
            .iter()
            .enumerate()
            .filter(|(index, _)| (index + 1) % nth != 0);
        Self {
            header: self.header.clone(),
            rows: rows.map(|(_, row)| row.clone()).collect(),
        }
    }

    /// With the cells of the last column dealt out anew. The order depends on `seed` alone.
    pub fn with_shuffled_labels(&self, seed: u64) -> Self {
        let mut table = self.clone();
        let mut random = Random::new(seed);
        let mut labels: Vec<String> = self
            .rows
            .iter()
            .filter_map(|row| row.last().cloned())
            .collect();
        for index in (1..labels.len()).rev() {
            labels.swap(index, random.below(index as u64 + 1) as usize);
        }
        for (row, label) in table.rows.iter_mut().zip(labels) {
            if let Some(cell) = row.last_mut() {
                *cell = label;
            }
        }
        table
    }
}

/// Numbers that look random and depend on their seed alone (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffling_moves_labels_and_loses_none() {
        let rows: String = (0..60).map(|n| format!("{n},{}\n", n % 3)).collect();
        let table = Table::parse(&format!("x,y\n{rows}"));
        let shuffled = table.with_shuffled_labels(7);
        assert_ne!(table, shuffled);
        assert_eq!(shuffled, table.with_shuffled_labels(7));
        let count =
            |table: &Table, label: &str| table.rows.iter().filter(|row| row[1] == label).count();
        assert_eq!(count(&shuffled, "2"), 20);
        assert_eq!(table.without_every(5).rows.len(), 48);
        assert_eq!(Table::parse(&table.csv()), table);
    }
}
