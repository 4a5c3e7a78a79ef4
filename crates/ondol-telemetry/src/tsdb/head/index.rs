//! The active series: labels to series, and labels to lists of series.
//!
//! A series is a slot with a generation; the slot is used again when its series has left, and the
//! generation tells the two apart. Labels are pairs of symbol numbers.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32};

use foldhash::fast::RandomState;

use super::symbols::Symbols;
use crate::series::{Label, Labels, METRIC_NAME};
use crate::tsdb::postings::LabelIndex;

/// A series of the head, for as long as it is active. It costs nothing to keep: one that has
/// left is refused, and its labels find or make its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesRef(pub(crate) u64);

impl SeriesRef {
    pub(crate) fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(slot))
    }

    pub(crate) fn slot(self) -> u32 {
        self.0 as u32
    }

    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

const END: u32 = u32::MAX;

pub(crate) struct Meta {
    /// Symbols of names and values, sorted by the text of the name; empty when the slot is free.
    pub(crate) labels: Box<[(u32, u32)]>,
    pub(crate) generation: u32,
    /// The next slot whose labels have the same hash.
    next: u32,
    /// The generation of the log that describes this series.
    pub(crate) logged: AtomicU32,
    /// Asked for since the last time that idle series left.
    pub(crate) touched: AtomicBool,
}

enum Postings {
    One(u32),
    Many(Vec<u32>),
}

impl Postings {
    fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Many(slots) => slots,
        }
    }

    fn add(&mut self, slot: u32) {
        match self {
            Self::One(first) => {
                let mut both = vec![*first, slot];
                both.sort_unstable();
                *self = Self::Many(both);
            }
            Self::Many(slots) => match slots.last() {
                Some(&last) if last > slot => {
                    let at = slots.partition_point(|&other| other < slot);
                    slots.insert(at, slot);
                }
                _ => slots.push(slot),
            },
        }
    }
}

#[derive(Default)]
pub(crate) struct Index {
    pub(crate) symbols: Symbols,
    pub(crate) metas: Vec<Meta>,
    free: Vec<u32>,
    chains: HashMap<u64, u32, RandomState>,
    postings: HashMap<u32, HashMap<u32, Postings, RandomState>, RandomState>,
    hasher: RandomState,
    live: usize,
}

impl Index {
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    fn hash<'a>(&self, labels: impl Iterator<Item = (&'a str, &'a str)>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for (name, value) in labels {
            hasher.write(name.as_bytes());
            hasher.write_u8(0xff);
            hasher.write(value.as_bytes());
            hasher.write_u8(0xfe);
        }
        hasher.finish()
    }

    pub(crate) fn pairs(&self, slot: u32) -> impl Iterator<Item = (&str, &str)> {
        self.metas[slot as usize]
            .labels
            .iter()
            .map(|&(name, value)| (self.symbols.text(name), self.symbols.text(value)))
    }

    /// The series with exactly these labels, sorted by name.
    pub(crate) fn find(&self, labels: &[(&str, &str)]) -> Option<SeriesRef> {
        let hash = self.hash(labels.iter().copied());
        let mut slot = *self.chains.get(&hash)?;
        while slot != END {
            let meta = &self.metas[slot as usize];
            if meta.labels.len() == labels.len() && self.pairs(slot).eq(labels.iter().copied()) {
                return Some(SeriesRef::new(slot, meta.generation));
            }
            slot = meta.next;
        }
        None
    }

    /// Whether a series is still the one it was.
    pub(crate) fn is_live(&self, series: SeriesRef) -> bool {
        self.metas
            .get(series.slot() as usize)
            .is_some_and(|meta| meta.generation == series.generation() && !meta.labels.is_empty())
    }

    /// Makes a series that [`Index::find`] does not know.
    pub(crate) fn create(&mut self, labels: &[(&str, &str)]) -> SeriesRef {
        let hash = self.hash(labels.iter().copied());
        let pairs: Box<[(u32, u32)]> = labels
            .iter()
            .map(|(name, value)| (self.symbols.acquire(name), self.symbols.acquire(value)))
            .collect();
        let next = self.chains.get(&hash).copied().unwrap_or(END);
        let slot = match self.free.pop() {
            Some(slot) => {
                let meta = &mut self.metas[slot as usize];
                meta.generation = meta.generation.wrapping_add(1);
                meta.labels = pairs;
                meta.next = next;
                *meta.logged.get_mut() = 0;
                *meta.touched.get_mut() = true;
                slot
            }
            None => {
                self.metas.push(Meta {
                    labels: pairs,
                    generation: 0,
                    next,
                    logged: AtomicU32::new(0),
                    touched: AtomicBool::new(true),
                });
                (self.metas.len() - 1) as u32
            }
        };
        self.chains.insert(hash, slot);
        for &(name, value) in &*self.metas[slot as usize].labels {
            self.postings
                .entry(name)
                .or_default()
                .entry(value)
                .and_modify(|list| list.add(slot))
                .or_insert(Postings::One(slot));
        }
        self.live += 1;
        SeriesRef::new(slot, self.metas[slot as usize].generation)
    }

    /// Lets series go. The slots are sorted.
    pub(crate) fn remove(&mut self, slots: &[u32]) {
        let mut touched: HashMap<(u32, u32), ()> = HashMap::new();
        for &slot in slots {
            let hash = self.hash(self.pairs(slot));
            self.unchain(hash, slot);
            let labels = std::mem::take(&mut self.metas[slot as usize].labels);
            for &pair in &*labels {
                touched.insert(pair, ());
            }
            // Symbols are released after the lists: a number must not be reused in between.
            self.metas[slot as usize].labels = labels;
        }
        for (name, value) in touched.into_keys() {
            let Some(values) = self.postings.get_mut(&name) else {
                continue;
            };
            let empty = match values.get_mut(&value) {
                None => false,
                Some(Postings::One(slot)) => slots.binary_search(slot).is_ok(),
                Some(Postings::Many(list)) => {
                    list.retain(|slot| slots.binary_search(slot).is_err());
                    if list.capacity() > 4 * list.len() + 16 {
                        list.shrink_to_fit();
                    }
                    list.is_empty()
                }
            };
            if empty {
                values.remove(&value);
            }
            if values.is_empty() {
                self.postings.remove(&name);
            }
        }
        for &slot in slots {
            let labels = std::mem::take(&mut self.metas[slot as usize].labels);
            for &(name, value) in &*labels {
                self.symbols.release(name);
                self.symbols.release(value);
            }
            self.free.push(slot);
            self.live -= 1;
        }
    }

    fn unchain(&mut self, hash: u64, slot: u32) {
        let next = self.metas[slot as usize].next;
        let Some(first) = self.chains.get_mut(&hash) else {
            return;
        };
        if *first == slot {
            if next == END {
                self.chains.remove(&hash);
            } else {
                *first = next;
            }
            return;
        }
        let mut at = *first;
        while at != END {
            let meta = &mut self.metas[at as usize];
            if meta.next == slot {
                meta.next = next;
                return;
            }
            at = meta.next;
        }
    }

    /// The labels of a series, their texts shared.
    pub(crate) fn labels(&self, slot: u32) -> Labels {
        Labels::from_sorted(
            self.metas[slot as usize]
                .labels
                .iter()
                .map(|&(name, value)| Label {
                    name: self.symbols.arc(name),
                    value: self.symbols.arc(value),
                }),
        )
    }

    /// Sorts things of series by the labels of the series.
    pub(crate) fn sort_by_labels<T>(&self, things: &mut [T], slot: impl Fn(&T) -> u32) {
        let ranks = self.symbols.ranks();
        let key = |thing: &T| {
            self.metas[slot(thing) as usize]
                .labels
                .iter()
                .map(|&(name, value)| (ranks[name as usize], ranks[value as usize]))
        };
        things.sort_unstable_by(|a, b| key(a).cmp(key(b)));
    }

    /// How many series have this label.
    pub(crate) fn count(&self, name: &str, value: &str) -> usize {
        let (Some(name), Some(value)) = (self.symbols.find(name), self.symbols.find(value)) else {
            return 0;
        };
        self.postings
            .get(&name)
            .and_then(|values| values.get(&value))
            .map_or(0, |list| list.as_slice().len())
    }

    /// The values of a label that most series have, with how many, at most `limit`.
    pub(crate) fn top_values(&self, name: &str, limit: usize) -> Vec<(String, usize)> {
        let counted = self
            .symbols
            .find(name)
            .and_then(|name| self.postings.get(&name))
            .into_iter()
            .flatten()
            .map(|(&value, list)| (value, list.as_slice().len()));
        top(counted, limit)
            .into_iter()
            .map(|(value, count)| (self.symbols.text(value).to_owned(), count))
            .collect()
    }

    /// The labels with most values, with how many.
    pub(crate) fn top_names(&self, limit: usize) -> Vec<(String, usize)> {
        let counted = self
            .postings
            .iter()
            .map(|(&name, values)| (name, values.len()));
        top(counted, limit)
            .into_iter()
            .map(|(name, count)| (self.symbols.text(name).to_owned(), count))
            .collect()
    }

    /// The labels that most series have, with how many.
    pub(crate) fn top_pairs(&self, limit: usize) -> Vec<(String, String, usize)> {
        let counted = self.postings.iter().flat_map(|(&name, values)| {
            values
                .iter()
                .map(move |(&value, list)| ((name, value), list.as_slice().len()))
        });
        top(counted, limit)
            .into_iter()
            .map(|((name, value), count)| {
                (
                    self.symbols.text(name).to_owned(),
                    self.symbols.text(value).to_owned(),
                    count,
                )
            })
            .collect()
    }

    /// Who has most of the series, for a message.
    pub(crate) fn offender(&self) -> String {
        let most = |name: &str| self.top_values(name, 1).into_iter().next();
        let metric = most(METRIC_NAME).map_or_else(
            || "no metric".to_owned(),
            |(metric, count)| format!("metric {} with {count}", shorten(&metric)),
        );
        match most("job") {
            Some((job, count)) => format!("{metric}, job {} with {count}", shorten(&job)),
            None => metric,
        }
    }

    /// Every name of a label.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.postings.keys().map(|&name| self.symbols.text(name))
    }

    /// Every value of a label.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.symbols
            .find(name)
            .and_then(|name| self.postings.get(&name))
            .into_iter()
            .flat_map(|values| values.keys().map(|&value| self.symbols.text(value)))
    }
}

/// A text short enough for a message.
pub(crate) fn shorten(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

fn top<T: Ord + Copy>(counted: impl Iterator<Item = (T, usize)>, limit: usize) -> Vec<(T, usize)> {
    let mut least = std::collections::BinaryHeap::new();
    for (what, count) in counted {
        least.push((std::cmp::Reverse(count), what));
        if least.len() > limit {
            least.pop();
        }
    }
    least
        .into_sorted_vec()
        .into_iter()
        .map(|(count, what)| (what, count.0))
        .collect()
}

impl LabelIndex for Index {
    type Error = std::convert::Infallible;

    fn all(&self) -> Vec<u32> {
        (0..self.metas.len() as u32)
            .filter(|&slot| !self.metas[slot as usize].labels.is_empty())
            .collect()
    }

    fn lookup(&self, name: &str, value: &str, into: &mut Vec<u32>) -> Result<(), Self::Error> {
        if let (Some(name), Some(value)) = (self.symbols.find(name), self.symbols.find(value))
            && let Some(list) = self
                .postings
                .get(&name)
                .and_then(|values| values.get(&value))
        {
            into.extend_from_slice(list.as_slice());
        }
        Ok(())
    }

    fn scan(
        &self,
        name: &str,
        wanted: &mut dyn FnMut(&str) -> bool,
        into: &mut Vec<u32>,
    ) -> Result<(), Self::Error> {
        if let Some(values) = self
            .symbols
            .find(name)
            .and_then(|name| self.postings.get(&name))
        {
            for (&value, list) in values {
                if wanted(self.symbols.text(value)) {
                    into.extend_from_slice(list.as_slice());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::{Matcher, Operation};
    use crate::tsdb::postings::select;

    fn selected(index: &Index, matchers: &[(&str, Operation, &str)]) -> Vec<String> {
        let matchers: Vec<Matcher> = matchers
            .iter()
            .map(|(name, operation, value)| Matcher::new(name, *operation, value).unwrap())
            .collect();
        select(index, &matchers)
            .unwrap()
            .into_iter()
            .map(|slot| index.labels(slot).to_string())
            .collect()
    }

    #[test]
    fn series_are_found_by_every_kind_of_condition_and_leave() {
        let mut index = Index::default();
        let first = index.create(&[("__name__", "up"), ("job", "a")]);
        let second = index.create(&[("__name__", "up"), ("job", "b")]);
        index.create(&[("__name__", "down")]);
        assert_eq!(
            index.find(&[("__name__", "up"), ("job", "b")]),
            Some(second)
        );
        assert_eq!(index.find(&[("__name__", "up")]), None);
        let up = ("__name__", Operation::Equal, "up");
        assert_eq!(selected(&index, &[up]).len(), 2);
        assert_eq!(
            selected(&index, &[up, ("job", Operation::NotEqual, "a")]).len(),
            1
        );
        assert_eq!(selected(&index, &[("job", Operation::Equal, "")]).len(), 1);
        assert_eq!(
            selected(&index, &[("job", Operation::NotEqual, "")]).len(),
            2
        );
        assert_eq!(
            selected(&index, &[("job", Operation::Regex, "a|x")]).len(),
            1
        );
        assert_eq!(
            selected(&index, &[("job", Operation::Regex, ".*")]).len(),
            3
        );
        assert_eq!(
            selected(&index, &[("job", Operation::Regex, "[ab]+")]).len(),
            2
        );
        assert_eq!(
            selected(&index, &[("job", Operation::NotRegex, "[ab]+")]).len(),
            1
        );
        assert_eq!(
            selected(&index, &[("job", Operation::NotRegex, "a|")]).len(),
            1
        );
        assert!(index.offender().contains("metric up with 2"));
        index.remove(&[first.slot()]);
        assert!(!index.is_live(first) && index.is_live(second));
        assert_eq!(selected(&index, &[up]), [r#"{__name__="up", job="b"}"#]);
        let again = index.create(&[("__name__", "up"), ("job", "c")]);
        assert_eq!(again.slot(), first.slot());
        assert_ne!(again, first);
        assert_eq!(index.top_values("__name__", 1), [("up".to_owned(), 2)]);
    }
}
