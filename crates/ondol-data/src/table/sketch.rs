//! Summaries of a column that stay small however many rows there are.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use super::profile::FrequentValue;

/// Values counted exactly before the estimate takes over.
const EXACT: usize = 4_096;
const REGISTER_BITS: u32 = 12;

pub(super) fn hash(text: &str) -> u64 {
    // Fixed keys: the same column has the same summary on every machine.
    BuildHasherDefault::<DefaultHasher>::default().hash_one(text)
}

/// How many distinct values: exact to a bound, then HyperLogLog with an error of about 1.6 %.
pub(super) struct Distinct {
    exact: Option<HashSet<u64>>,
    registers: Vec<u8>,
}

impl Distinct {
    pub(super) fn new() -> Self {
        Self {
            exact: Some(HashSet::new()),
            registers: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, hash: u64) {
        if let Some(exact) = &mut self.exact {
            exact.insert(hash);
            if exact.len() <= EXACT {
                return;
            }
            self.registers = vec![0; 1 << REGISTER_BITS];
            for hash in self.exact.take().unwrap_or_default() {
                self.note(hash);
            }
            return;
        }
        self.note(hash);
    }

    fn note(&mut self, hash: u64) {
        let register = (hash >> (64 - REGISTER_BITS)) as usize;
        let rank = ((hash << REGISTER_BITS) | (1 << (REGISTER_BITS - 1))).leading_zeros() as u8 + 1;
        self.registers[register] = self.registers[register].max(rank);
    }

    /// The number and whether it is exact.
    pub(super) fn count(&self) -> (u64, bool) {
        if let Some(exact) = &self.exact {
            return (exact.len() as u64, true);
        }
        let m = self.registers.len() as f64;
        let sum: f64 = self
            .registers
            .iter()
            .map(|rank| 2f64.powi(-i32::from(*rank)))
            .sum();
        let raw = 0.7213 / (1.0 + 1.079 / m) * m * m / sum;
        let zeros = self.registers.iter().filter(|rank| **rank == 0).count();
        let estimate = if raw <= 2.5 * m && zeros > 0 {
            m * (m / zeros as f64).ln()
        } else {
            raw
        };
        (estimate.round() as u64, false)
    }
}

/// Values kept for quantiles.
const SAMPLE: usize = 4_096;

/// Quantiles from a uniform sample: exact up to 4,096 values, then within some percent of rank.
pub(super) struct Quantiles {
    sample: Vec<f64>,
    seen: u64,
    state: u64,
}

impl Quantiles {
    pub(super) fn new() -> Self {
        Self {
            sample: Vec::new(),
            seen: 0,
            state: 0x9e37_79b9_7f4a_7c15,
        }
    }

    pub(super) fn add(&mut self, value: f64) {
        self.seen += 1;
        if self.sample.len() < SAMPLE {
            self.sample.push(value);
            return;
        }
        // Splitmix with a fixed seed: the same rows give the same sample.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let place = ((u128::from(z ^ (z >> 31)) * u128::from(self.seen)) >> 64) as usize;
        if place < SAMPLE {
            self.sample[place] = value;
        }
    }

    /// The values below which these shares of the rows lie.
    pub(super) fn at(&self, shares: &[f64]) -> Vec<f64> {
        if self.sample.is_empty() {
            return Vec::new();
        }
        let mut sorted = self.sample.clone();
        sorted.sort_by(f64::total_cmp);
        shares
            .iter()
            .map(|share| {
                let at = share * (sorted.len() - 1) as f64;
                let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
                low + (high - low) * at.fract()
            })
            .collect()
    }
}

/// Values that are counted at once.
const COUNTERS: usize = 256;
/// Characters kept of a frequent value.
const SHOWN: usize = 200;

/// The most frequent values (Misra and Gries): exact while a column has few values.
pub(super) struct Frequent {
    counts: HashMap<String, u64>,
    exact: bool,
}

impl Frequent {
    pub(super) fn new() -> Self {
        Self {
            counts: HashMap::new(),
            exact: true,
        }
    }

    pub(super) fn add(&mut self, text: &str) {
        let cut = match text.char_indices().nth(SHOWN) {
            Some((end, _)) => &text[..end],
            None => text,
        };
        if let Some(count) = self.counts.get_mut(cut) {
            *count += 1;
        } else if self.counts.len() < COUNTERS {
            self.counts.insert(cut.to_owned(), 1);
        } else {
            self.exact = false;
            self.counts.retain(|_, count| {
                *count -= 1;
                *count > 0
            });
        }
    }

    /// The most frequent, and whether the counts are exact rather than lower bounds.
    pub(super) fn top(&self, most: usize) -> (Vec<FrequentValue>, bool) {
        let mut all: Vec<FrequentValue> = self
            .counts
            .iter()
            .map(|(value, count)| FrequentValue {
                value: value.clone(),
                count: *count,
            })
            .collect();
        all.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
        all.truncate(most);
        (all, self.exact)
    }
}
