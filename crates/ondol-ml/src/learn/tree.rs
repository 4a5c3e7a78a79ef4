//! Decision trees grown best split first over binned inputs.
//!
//! One builder serves forests and boosting. A row carries a gradient and a weight, or a class;
//! the gain of a split is the growth of Σ (Σ gradient)² / (Σ weight + λ), where a class counts as
//! one gradient of 1 out of many. With classes that is Gini, with a target as gradient it is
//! variance, with gradient and hessian it is Newton boosting.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};

use super::matrix::Matrix;
use super::random::Random;
use super::{Deadline, OutOfTime};

/// Inputs by bins of about equal frequency, column after column.
pub(crate) struct Binned {
    rows: usize,
    bins: Vec<u8>,
    /// Per column the upper bounds of all bins but the last.
    edges: Vec<Vec<f64>>,
}

const MAX_BINS: usize = 255;
/// Rows that are looked at to place the bounds of the bins.
const SAMPLE: usize = 100_000;

impl Binned {
    pub(crate) fn new(x: &Matrix) -> Self {
        let rows = x.rows();
        let step = rows.div_ceil(SAMPLE).max(1);
        let mut bins = Vec::with_capacity(rows * x.width);
        let mut edges = Vec::with_capacity(x.width);
        for column in 0..x.width {
            let mut values: Vec<f64> = (0..rows)
                .step_by(step)
                .map(|row| x.at(row, column))
                .collect();
            values.sort_unstable_by(f64::total_cmp);
            let bounds = bounds(&values);
            bins.extend((0..rows).map(|row| {
                let value = x.at(row, column);
                bounds.partition_point(|bound| *bound < value) as u8
            }));
            edges.push(bounds);
        }
        Self { rows, bins, edges }
    }

    fn column(&self, column: usize) -> &[u8] {
        &self.bins[column * self.rows..(column + 1) * self.rows]
    }
}

/// The upper bounds of bins for sorted values.
fn bounds(sorted: &[f64]) -> Vec<f64> {
    let mut distinct: Vec<(f64, usize)> = Vec::new();
    for &value in sorted {
        match distinct.last_mut() {
            Some((last, count)) if *last == value => *count += 1,
            _ => distinct.push((value, 1)),
        }
    }
    let between = |at: usize| {
        let (low, high) = (distinct[at].0, distinct[at + 1].0);
        let middle = low + (high - low) / 2.0;
        // Between neighbouring floats the middle is one of them; a bound belongs to the lower bin.
        if middle < high { middle } else { low }
    };
    if distinct.len() <= MAX_BINS {
        return (0..distinct.len().saturating_sub(1)).map(between).collect();
    }
    let mut out = Vec::with_capacity(MAX_BINS);
    let (mut left, mut taken) = (sorted.len(), 0);
    for (at, (_, count)) in distinct.iter().enumerate().take(distinct.len() - 1) {
        taken += count;
        if taken * (MAX_BINS - out.len()) >= left {
            out.push(between(at));
            left -= taken;
            taken = 0;
            if out.len() == MAX_BINS - 1 {
                break;
            }
        }
    }
    out
}

/// A tree as parallel arrays. Node 0 is the root; children stand behind their parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tree {
    /// The input that a node looks at, or -1 for a leaf.
    pub(crate) feature: Vec<i32>,
    /// A row whose input is at most this goes left.
    pub(crate) threshold: Vec<f64>,
    /// The left child, or the number of the leaf.
    pub(crate) left: Vec<u32>,
    /// The right child, or 0 for a leaf.
    pub(crate) right: Vec<u32>,
    /// The values of the leaves, one after the other.
    pub(crate) values: Vec<f32>,
}

impl Tree {
    /// The number of the leaf that a row reaches.
    pub(crate) fn leaf(&self, row: &[f64]) -> usize {
        let mut node = 0;
        loop {
            let feature = self.feature[node];
            if feature < 0 {
                return self.left[node] as usize;
            }
            let low = row[feature as usize] <= self.threshold[node];
            node = if low {
                self.left[node]
            } else {
                self.right[node]
            } as usize;
        }
    }

    /// Checks that [`Tree::leaf`] ends within bounds for every row of that width.
    pub(crate) fn validate(&self, width: usize, outputs: usize) -> Result<(), String> {
        let nodes = self.feature.len();
        let equal = [self.threshold.len(), self.left.len(), self.right.len()]
            .iter()
            .all(|length| *length == nodes);
        if nodes == 0 || !equal || !self.values.len().is_multiple_of(outputs) {
            return Err("a tree has arrays of unequal length".to_owned());
        }
        let leaves = self.values.len() / outputs;
        for node in 0..nodes {
            let (left, right) = (self.left[node] as usize, self.right[node] as usize);
            let sound = if self.feature[node] < 0 {
                left < leaves
            } else {
                let behind = |child: usize| child > node && child < nodes;
                (self.feature[node] as usize) < width
                    && behind(left)
                    && behind(right)
                    && self.threshold[node].is_finite()
            };
            if !sound {
                return Err(format!("node {node} of a tree points outside of it"));
            }
        }
        if self.values.iter().any(|value| !value.is_finite()) {
            return Err("a leaf is not finite".to_owned());
        }
        Ok(())
    }
}

/// How a tree is grown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    /// Most leaves.
    pub(crate) leaves: usize,
    /// Most splits from the root to a leaf.
    pub(crate) depth: usize,
    /// Least rows in a leaf.
    pub(crate) leaf_rows: usize,
    /// λ above.
    pub(crate) lambda: f64,
    /// How many inputs are tried at each split.
    pub(crate) tried: usize,
}

/// What each row says.
pub(crate) enum Signal<'a> {
    /// A gradient and a weight.
    Newton {
        gradients: &'a [f64],
        weights: &'a [f64],
    },
    /// A class below the count.
    Classes { of: &'a [u32], count: usize },
}

impl Signal<'_> {
    /// Numbers that a set of rows is summed up in: gradient and weight, or a count per class.
    fn stride(&self) -> usize {
        match self {
            Self::Newton { .. } => 2,
            Self::Classes { count, .. } => *count,
        }
    }

    /// What the sums are worth: higher is purer.
    fn score(&self, sums: &[f64], rows: f64, lambda: f64) -> f64 {
        match self {
            Self::Newton { .. } if sums[1] + lambda > 0.0 => sums[0] * sums[0] / (sums[1] + lambda),
            Self::Classes { .. } if rows > 0.0 => {
                sums.iter().map(|sum| sum * sum).sum::<f64>() / rows
            }
            _ => 0.0,
        }
    }

    fn total(&self, rows: &[u32], out: &mut [f64]) {
        out.fill(0.0);
        match self {
            Self::Newton { gradients, weights } => {
                for &row in rows {
                    out[0] += gradients[row as usize];
                    out[1] += weights[row as usize];
                }
            }
            Self::Classes { of, .. } => rows
                .iter()
                .for_each(|&row| out[of[row as usize] as usize] += 1.0),
        }
    }
}

struct Split {
    gain: f64,
    feature: usize,
    bin: u8,
    node: usize,
    depth: usize,
    from: usize,
    to: usize,
}

impl PartialEq for Split {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Split {}

impl PartialOrd for Split {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Split {
    fn cmp(&self, other: &Self) -> Ordering {
        self.gain
            .total_cmp(&other.gain)
            .then(other.node.cmp(&self.node))
    }
}

/// The growing of one tree, with its working memory.
struct Grower<'a> {
    binned: &'a Binned,
    signal: &'a Signal<'a>,
    growth: &'a Growth,
    /// Per bin the sums of its rows. Between two inputs, all zero.
    sums: Vec<f64>,
    counts: [u32; MAX_BINS + 1],
    /// The bins that are not empty, in order.
    filled: Vec<u8>,
    /// The gradients and weights of a node's rows, next to each other.
    pairs: Vec<[f64; 2]>,
    total: Vec<f64>,
    left: Vec<f64>,
    right: Vec<f64>,
    features: Vec<usize>,
}

/// Grows a tree over the rows listed in `members` (which is reordered; a row may stand more than
/// once). `leaf` writes the values of a leaf from its sums and its number of rows.
pub(crate) fn grow(
    binned: &Binned,
    signal: &Signal<'_>,
    members: &mut [u32],
    growth: &Growth,
    random: &mut Random,
    deadline: Deadline,
    leaf: impl Fn(&[f64], f64) -> Vec<f32>,
) -> Result<Tree, OutOfTime> {
    let stride = signal.stride();
    let mut grower = Grower {
        binned,
        signal,
        growth,
        sums: vec![0.0; (MAX_BINS + 1) * stride],
        counts: [0; MAX_BINS + 1],
        filled: Vec::with_capacity(MAX_BINS + 1),
        pairs: Vec::new(),
        total: vec![0.0; stride],
        left: vec![0.0; stride],
        right: vec![0.0; stride],
        features: (0..binned.edges.len()).collect(),
    };
    let mut tree = Tree {
        feature: vec![-1],
        threshold: vec![0.0],
        left: vec![0],
        right: vec![0],
        values: Vec::new(),
    };
    let mut spans = vec![(0, members.len())];
    let mut queue = BinaryHeap::new();
    queue.extend(grower.best_split(members, (0, members.len()), 0, 0, random));
    let mut leaves = 1;
    while leaves < growth.leaves {
        let Some(split) = queue.pop() else { break };
        deadline.check()?;
        let column = binned.column(split.feature);
        let part = &mut members[split.from..split.to];
        let mut middle = 0;
        for index in 0..part.len() {
            if column[part[index] as usize] <= split.bin {
                part.swap(index, middle);
                middle += 1;
            }
        }
        let middle = split.from + middle;
        let left = tree.feature.len();
        tree.feature[split.node] = split.feature as i32;
        tree.threshold[split.node] = binned.edges[split.feature][split.bin as usize];
        tree.left[split.node] = left as u32;
        tree.right[split.node] = left as u32 + 1;
        for (node, span) in [(left, (split.from, middle)), (left + 1, (middle, split.to))] {
            tree.feature.push(-1);
            tree.threshold.push(0.0);
            tree.left.push(0);
            tree.right.push(0);
            spans.push(span);
            let depth = split.depth + 1;
            if depth < growth.depth && leaves + 1 < growth.leaves {
                queue.extend(grower.best_split(members, span, node, depth, random));
            }
        }
        leaves += 1;
    }
    let mut count = 0;
    for (node, &(from, to)) in spans.iter().enumerate() {
        if tree.feature[node] < 0 {
            signal.total(&members[from..to], &mut grower.total);
            tree.values.extend(leaf(&grower.total, (to - from) as f64));
            tree.left[node] = count;
            count += 1;
        }
    }
    Ok(tree)
}

impl Grower<'_> {
    /// Sums up the rows of a node by the bins of an input.
    fn fill(&mut self, column: &[u8], rows: &[u32], bins: usize) {
        let few = rows.len() < bins;
        if few {
            // Only the bins that some row is in are looked at.
            for &row in rows {
                let bin = column[row as usize];
                if self.counts[bin as usize] == 0 {
                    self.filled.push(bin);
                }
                self.counts[bin as usize] += 1;
            }
            self.filled.sort_unstable();
        } else {
            for &row in rows {
                self.counts[column[row as usize] as usize] += 1;
            }
            self.filled.extend(
                (0..bins)
                    .filter(|&bin| self.counts[bin] > 0)
                    .map(|bin| bin as u8),
            );
        }
        if self.filled.len() < 2 {
            return;
        }
        match self.signal {
            Signal::Newton { .. } => {
                for (&row, pair) in rows.iter().zip(&self.pairs) {
                    let at = column[row as usize] as usize * 2;
                    let slot = &mut self.sums[at..at + 2];
                    slot[0] += pair[0];
                    slot[1] += pair[1];
                }
            }
            Signal::Classes { of, count } => {
                for &row in rows {
                    self.sums[column[row as usize] as usize * count + of[row as usize] as usize] +=
                        1.0;
                }
            }
        }
    }

    /// Makes the sums zero again.
    fn clear(&mut self) {
        let stride = self.total.len();
        for &bin in &self.filled {
            let bin = bin as usize;
            self.counts[bin] = 0;
            self.sums[bin * stride..(bin + 1) * stride].fill(0.0);
        }
        self.filled.clear();
    }

    fn best_split(
        &mut self,
        members: &[u32],
        (from, to): (usize, usize),
        node: usize,
        depth: usize,
        random: &mut Random,
    ) -> Option<Split> {
        let (binned, signal, growth) = (self.binned, self.signal, self.growth);
        let rows = &members[from..to];
        if rows.len() < 2 * growth.leaf_rows.max(1) {
            return None;
        }
        signal.total(rows, &mut self.total);
        if let Signal::Newton { gradients, weights } = signal {
            self.pairs.clear();
            self.pairs.extend(
                rows.iter()
                    .map(|&row| [gradients[row as usize], weights[row as usize]]),
            );
        }
        let stride = self.total.len();
        let whole = signal.score(&self.total, rows.len() as f64, growth.lambda);
        let mut best: Option<Split> = None;
        let columns = self.features.len();
        // Draws inputs without replacement; those that cannot split do not count as tried.
        let (mut tried, mut drawn) = (0, 0);
        while drawn < columns && tried < growth.tried {
            if growth.tried < columns {
                let other = drawn + random.below(columns - drawn);
                self.features.swap(drawn, other);
            }
            let feature = self.features[drawn];
            drawn += 1;
            let bins = binned.edges[feature].len() + 1;
            if bins < 2 {
                continue;
            }
            self.fill(binned.column(feature), rows, bins);
            if self.filled.len() < 2 {
                self.clear();
                continue;
            }
            tried += 1;
            self.left.fill(0.0);
            let mut count = 0;
            for at in 0..self.filled.len() - 1 {
                let bin = self.filled[at] as usize;
                count += self.counts[bin] as usize;
                for (sum, value) in self
                    .left
                    .iter_mut()
                    .zip(&self.sums[bin * stride..(bin + 1) * stride])
                {
                    *sum += value;
                }
                if count < growth.leaf_rows || rows.len() - count < growth.leaf_rows {
                    continue;
                }
                for ((right, total), left) in self.right.iter_mut().zip(&self.total).zip(&self.left)
                {
                    *right = total - left;
                }
                let gain = signal.score(&self.left, count as f64, growth.lambda)
                    + signal.score(&self.right, (rows.len() - count) as f64, growth.lambda)
                    - whole;
                let least = best
                    .as_ref()
                    .map_or(1e-10 * whole.abs().max(1e-12), |best| best.gain);
                if gain > least {
                    best = Some(Split {
                        gain,
                        feature,
                        bin: bin as u8,
                        node,
                        depth,
                        from,
                        to,
                    });
                }
            }
            self.clear();
        }
        best
    }
}
