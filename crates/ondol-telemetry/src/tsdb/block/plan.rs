//! Which blocks are merged next, and which leave. Pure.
//!
//! Time is cut into windows of two hours, and those into windows of three times as much, up to a
//! tenth of the retention. Blocks of one window are merged by size while it is written to, and
//! into one when it has passed; then the blocks of a wider window that has passed.

use crate::tsdb::config::WINDOW;

/// Blocks of about one size in a window that is written to.
const ALIKE: usize = 4;
/// The widest window.
const WIDEST: i64 = 31 * 24 * 60 * 60 * 1000;

/// What the plan looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) id: u64,
    pub(crate) min: i64,
    pub(crate) max: i64,
    pub(crate) samples: u64,
    pub(crate) bytes: u64,
}

/// The widths of windows, from two hours on.
pub(crate) fn widths(retention: Option<i64>) -> Vec<i64> {
    let most = retention.map_or(WIDEST, |retention| (retention / 10).clamp(WINDOW, WIDEST));
    std::iter::successors(Some(WINDOW), |width| width.checked_mul(3))
        .take_while(|&width| width <= most)
        .collect()
}

/// The smallest width a span of time needs at most sixteen windows of.
pub(crate) fn width_for(min: i64, max: i64, retention: Option<i64>) -> i64 {
    let widths = widths(retention);
    let span = max.saturating_sub(min);
    let widest = widths.last().copied().unwrap_or(WINDOW);
    widths
        .into_iter()
        .find(|&width| span / width < 16)
        .unwrap_or_else(|| widest.max(span / 16 + 1))
}

/// Where the window of a time begins.
pub(crate) fn window(time: i64, width: i64) -> i64 {
    time.div_euclid(width).saturating_mul(width)
}

/// The blocks to merge next. `closed` is the time before which nothing is written any more.
pub(crate) fn merge(blocks: &[Summary], closed: i64, retention: Option<i64>) -> Option<Vec<u64>> {
    for (rank, width) in widths(retention).into_iter().enumerate() {
        let mut inside: Vec<(i64, &Summary)> = blocks
            .iter()
            .filter(|block| window(block.min, width) == window(block.max, width))
            .map(|block| (window(block.min, width), block))
            .collect();
        inside.sort_by_key(|(start, block)| (*start, block.id));
        for of_window in inside.chunk_by(|a, b| a.0 == b.0) {
            if of_window.len() < 2 {
                continue;
            }
            if of_window[0].0.saturating_add(width) <= closed {
                return Some(of_window.iter().map(|(_, block)| block.id).collect());
            }
            if rank == 0
                && let Some(alike) = alike(of_window)
            {
                return Some(alike);
            }
        }
    }
    None
}

/// As many blocks of about one size as make merging worth it.
fn alike(blocks: &[(i64, &Summary)]) -> Option<Vec<u64>> {
    let tier = |samples: u64| (64 - samples.leading_zeros()) / 2;
    let mut tiers: Vec<u32> = blocks
        .iter()
        .map(|(_, block)| tier(block.samples))
        .collect();
    tiers.sort_unstable();
    tiers.dedup();
    tiers.into_iter().find_map(|wanted| {
        let of_tier: Vec<&Summary> = blocks
            .iter()
            .map(|(_, block)| *block)
            .filter(|block| tier(block.samples) <= wanted)
            .collect();
        let total: u64 = of_tier.iter().map(|block| block.samples).sum();
        let largest = of_tier.iter().map(|block| block.samples).max().unwrap_or(0);
        // A large block is not written again for the sake of a few small ones.
        (of_tier.len() >= ALIKE && (total - largest).saturating_mul(2) >= largest)
            .then(|| of_tier.iter().map(|block| block.id).collect())
    })
}

/// The blocks that leave: those that are too old, then the oldest while all take too much.
pub(crate) fn expired(
    blocks: &[Summary],
    before: Option<i64>,
    most_bytes: Option<u64>,
) -> Vec<u64> {
    let mut by_age: Vec<&Summary> = blocks.iter().collect();
    by_age.sort_by_key(|block| (block.max, block.id));
    let mut total: u64 = blocks.iter().map(|block| block.bytes).sum();
    by_age
        .into_iter()
        .filter(|block| {
            let old = before.is_some_and(|before| block.max < before);
            let over = most_bytes.is_some_and(|most| total > most);
            if old || over {
                total -= block.bytes;
            }
            old || over
        })
        .map(|block| block.id)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(id: u64, min: i64, max: i64, samples: u64) -> Summary {
        Summary {
            id,
            min,
            max,
            samples,
            bytes: samples,
        }
    }

    #[test]
    fn a_window_that_has_passed_becomes_one_block_and_then_a_part_of_a_wider_one() {
        let (first, second) = (block(1, 0, 100, 10), block(2, 50, WINDOW - 1, 1_000_000));
        assert_eq!(merge(&[first, second], WINDOW - 1, None), None);
        assert_eq!(merge(&[first, second], WINDOW, None), Some(vec![1, 2]));
        let next = block(3, WINDOW, 2 * WINDOW - 1, 10);
        assert_eq!(merge(&[second, next], 2 * WINDOW, None), None);
        assert_eq!(merge(&[second, next], 3 * WINDOW, None), Some(vec![2, 3]));
        assert_eq!(merge(&[second, next], 3 * WINDOW, Some(2 * WINDOW)), None);
    }

    #[test]
    fn blocks_of_a_size_are_merged_while_their_window_is_written_to() {
        let blocks: Vec<Summary> = (0..4).map(|id| block(id, 0, 100, 1000 + id)).collect();
        assert_eq!(merge(&blocks, 0, None), Some(vec![0, 1, 2, 3]));
        assert_eq!(merge(&blocks[..3], 0, None), None);
        let mut mixed = blocks[..3].to_vec();
        mixed.push(block(9, 0, 100, 1_000_000));
        assert_eq!(merge(&mixed, 0, None), None);
        mixed.push(block(10, 0, 100, 20));
        assert_eq!(merge(&mixed, 0, None), Some(vec![0, 1, 2, 10]));
    }

    #[test]
    fn the_oldest_leave() {
        let blocks = [block(1, 0, 10, 5), block(2, 11, 20, 5), block(3, 21, 30, 5)];
        assert_eq!(expired(&blocks, Some(11), None), [1]);
        assert_eq!(expired(&blocks, None, Some(9)), [1, 2]);
        assert_eq!(expired(&blocks, Some(5), Some(15)), Vec::<u64>::new());
    }

    #[test]
    fn a_wide_span_is_cut_into_few_windows() {
        assert_eq!(width_for(0, 1000, None), WINDOW);
        assert_eq!(width_for(0, 20 * WINDOW, None), 3 * WINDOW);
        let century = 100 * 365 * 24 * 60 * 60 * 1000;
        assert!(century / width_for(0, century, None) <= 16);
    }
}
