//! Label sets: sorted by name, without empty values, cheap to clone and to compare.
//!
//! Names may be any UTF-8 text. Names and values are shared: an [`Interner`] makes equal texts
//! of many series one allocation.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::matcher::Quoted;

/// The label that holds the name of the metric.
pub const METRIC_NAME: &str = "__name__";

/// One name with its value.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label {
    /// The name, never empty.
    pub name: Arc<str>,
    /// The value, never empty inside a [`Labels`].
    pub value: Arc<str>,
}

/// The identity of a series. Ordered by name, then value, label by label.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<[Label]>);

impl Default for Labels {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl Labels {
    /// The labels of these pairs. The last of equal names counts, and empty values are dropped.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let mut builder = LabelsBuilder::default();
        for (name, value) in pairs {
            builder.set(name.as_ref(), value.as_ref());
        }
        builder.build()
    }

    /// Labels that are sorted by name, unique and without empty values already.
    pub(crate) fn from_sorted(labels: impl Iterator<Item = Label>) -> Self {
        Self(labels.collect())
    }

    /// The value of a label, or the empty text when it is absent.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0
            .binary_search_by(|label| label.name.as_ref().cmp(name))
            .map_or("", |at| self.0[at].value.as_ref())
    }

    /// Whether a label of this name is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        !self.get(name).is_empty()
    }

    /// The name of the metric, or the empty text.
    #[must_use]
    pub fn metric_name(&self) -> &str {
        self.get(METRIC_NAME)
    }

    /// Every label, sorted by name.
    pub fn iter(&self) -> std::slice::Iter<'_, Label> {
        self.0.iter()
    }

    /// How many labels there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no label at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These labels without those whose name the condition holds for.
    #[must_use]
    pub fn without(&self, mut drop: impl FnMut(&str) -> bool) -> Self {
        if !self.0.iter().any(|label| drop(&label.name)) {
            return self.clone();
        }
        Self(
            self.0
                .iter()
                .filter(|label| !drop(&label.name))
                .cloned()
                .collect(),
        )
    }

    /// XXH64 over the labels, each name and value preceded by its length (one byte below 255,
    /// otherwise 255 and three bytes, least significant first). Prometheus hashes its compact
    /// label encoding like this, so that `limit_ratio` chooses the same series.
    #[must_use]
    pub fn hash64(&self) -> u64 {
        let mut bytes = Vec::with_capacity(64);
        for label in self.iter() {
            for text in [&label.name, &label.value] {
                let length = text.len();
                if length < 255 {
                    bytes.push(length as u8);
                } else {
                    bytes.push(255);
                    bytes.extend_from_slice(&(length as u32).to_le_bytes()[..3]);
                }
                bytes.extend_from_slice(text.as_bytes());
            }
        }
        xxh64(&bytes)
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = &'a Label;
    type IntoIter = std::slice::Iter<'a, Label>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// As a selector is written: `{__name__="up", job="node"}`; a name that is no identifier is quoted.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (at, label) in self.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            if valid_label_name(&label.name) {
                f.write_str(&label.name)?;
            } else {
                write!(f, "{}", Quoted(&label.name))?;
            }
            write!(f, "={}", Quoted(&label.value))?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether a label of this name needs no quotes: letters, digits and underscores, no digit first.
pub(crate) fn valid_label_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().enumerate().all(|(at, byte)| {
            byte == b'_' || byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit())
        })
}

/// Whether a metric of this name needs no quotes: as a label name, with colons.
#[must_use]
pub fn valid_metric_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().enumerate().all(|(at, byte)| {
            byte == b'_'
                || byte == b':'
                || byte.is_ascii_alphabetic()
                || (at > 0 && byte.is_ascii_digit())
        })
}

/// Makes [`Labels`], starting with none or with those of another series.
#[derive(Clone, Default)]
pub struct LabelsBuilder(Vec<Label>);

impl LabelsBuilder {
    /// Starts with these labels.
    #[must_use]
    pub fn from_labels(labels: &Labels) -> Self {
        Self(labels.0.to_vec())
    }

    /// Sets a label; an empty value removes it.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.set_shared(Arc::from(name), Arc::from(value))
    }

    /// Sets a label whose texts are shared already; an empty value removes it.
    pub fn set_shared(&mut self, name: Arc<str>, value: Arc<str>) -> &mut Self {
        match self.0.binary_search_by(|label| label.name.cmp(&name)) {
            Ok(at) if value.is_empty() => {
                self.0.remove(at);
            }
            Ok(at) => self.0[at].value = value,
            Err(_) if value.is_empty() => {}
            Err(at) => self.0.insert(at, Label { name, value }),
        }
        self
    }

    /// Removes a label.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.0.retain(|label| label.name.as_ref() != name);
        self
    }

    /// Keeps only the labels the condition holds for.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) -> &mut Self {
        self.0.retain(|label| keep(&label.name));
        self
    }

    /// The value that is set now, or the empty text.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0
            .binary_search_by(|label| label.name.as_ref().cmp(name))
            .map_or("", |at| self.0[at].value.as_ref())
    }

    /// The finished labels.
    #[must_use]
    pub fn build(self) -> Labels {
        Labels(self.0.into())
    }
}

/// Makes equal texts share one allocation, up to a ceiling.
///
/// At the ceiling, texts that nobody else holds any more are let go; when that frees nothing,
/// new texts are handed out unshared, which costs memory and never correctness.
pub struct Interner {
    texts: HashSet<Arc<str>>,
    ceiling: usize,
}

impl Interner {
    /// An interner that holds at most this many texts.
    #[must_use]
    pub fn new(ceiling: usize) -> Self {
        Self {
            texts: HashSet::new(),
            ceiling,
        }
    }

    /// The shared form of a text.
    pub fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let shared: Arc<str> = Arc::from(text);
        if self.texts.len() >= self.ceiling {
            self.sweep();
        }
        if self.texts.len() < self.ceiling {
            self.texts.insert(Arc::clone(&shared));
        }
        shared
    }

    /// The labels with every name and value shared.
    pub fn labels(&mut self, labels: &Labels) -> Labels {
        Labels(
            labels
                .iter()
                .map(|label| Label {
                    name: self.intern(&label.name),
                    value: self.intern(&label.value),
                })
                .collect(),
        )
    }

    /// Lets go of texts that nobody else holds.
    pub fn sweep(&mut self) {
        self.texts.retain(|text| Arc::strong_count(text) > 1);
    }

    /// How many texts are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether no text is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }
}

const PRIMES: [u64; 5] = [
    0x9E37_79B1_85EB_CA87,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0x85EB_CA77_C2B2_AE63,
    0x27D4_EB2F_1656_67C5,
];

/// XXH64 with seed 0, as its specification defines it.
fn xxh64(input: &[u8]) -> u64 {
    let lane = |bytes: &[u8]| {
        u64::from_le_bytes([
            bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
        ])
    };
    let round = |accumulator: u64, value: u64| {
        accumulator
            .wrapping_add(value.wrapping_mul(PRIMES[1]))
            .rotate_left(31)
            .wrapping_mul(PRIMES[0])
    };
    let mut rest = input;
    let mut hash = if input.len() >= 32 {
        let mut lanes = [
            PRIMES[0].wrapping_add(PRIMES[1]),
            PRIMES[1],
            0,
            0u64.wrapping_sub(PRIMES[0]),
        ];
        while rest.len() >= 32 {
            for (at, accumulator) in lanes.iter_mut().enumerate() {
                *accumulator = round(*accumulator, lane(&rest[at * 8..]));
            }
            rest = &rest[32..];
        }
        let mut merged = lanes[0]
            .rotate_left(1)
            .wrapping_add(lanes[1].rotate_left(7))
            .wrapping_add(lanes[2].rotate_left(12))
            .wrapping_add(lanes[3].rotate_left(18));
        for accumulator in lanes {
            merged = (merged ^ round(0, accumulator))
                .wrapping_mul(PRIMES[0])
                .wrapping_add(PRIMES[3]);
        }
        merged
    } else {
        PRIMES[4]
    };
    hash = hash.wrapping_add(input.len() as u64);
    while rest.len() >= 8 {
        hash = (hash ^ round(0, lane(rest)))
            .rotate_left(27)
            .wrapping_mul(PRIMES[0])
            .wrapping_add(PRIMES[3]);
        rest = &rest[8..];
    }
    if rest.len() >= 4 {
        let value = u64::from(u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]));
        hash = (hash ^ value.wrapping_mul(PRIMES[0]))
            .rotate_left(23)
            .wrapping_mul(PRIMES[1])
            .wrapping_add(PRIMES[2]);
        rest = &rest[4..];
    }
    for &byte in rest {
        hash = (hash ^ u64::from(byte).wrapping_mul(PRIMES[4]))
            .rotate_left(11)
            .wrapping_mul(PRIMES[0]);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(PRIMES[1]);
    hash ^= hash >> 29;
    hash = hash.wrapping_mul(PRIMES[2]);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_unique_and_never_empty() {
        let labels = Labels::from_pairs([("b", "1"), ("a", "x"), ("b", "2"), ("c", "")]);
        assert_eq!(labels.to_string(), r#"{a="x", b="2"}"#);
        assert_eq!(labels.get("c"), "");
        assert!(!labels.has("c"));
    }

    #[test]
    fn xxh64_agrees_with_its_published_vectors() {
        assert_eq!(xxh64(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(xxh64(b"a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(xxh64(b"abc"), 0x44BC_2CF5_AD77_0999);
    }

    #[test]
    fn an_interner_shares_and_lets_go() {
        let mut interner = Interner::new(2);
        let first = interner.intern("job");
        assert!(Arc::ptr_eq(&first, &interner.intern("job")));
        drop(interner.intern("one"));
        let _kept = interner.intern("two");
        assert_eq!(interner.len(), 2);
    }
}
