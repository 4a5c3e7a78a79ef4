//! Which points of a long history are shown: evenly spread, with the first and the last.

/// The places, from 0, of at most `limit` points out of `count`. One point is the last.
pub(crate) fn evenly(count: usize, limit: usize) -> Vec<usize> {
    if limit == 0 || count == 0 {
        return Vec::new();
    }
    if count <= limit {
        return (0..count).collect();
    }
    if limit == 1 {
        return vec![count - 1];
    }
    (0..limit)
        .map(|at| at * (count - 1) / (limit - 1))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ends_are_kept_and_none_is_shown_twice(count in 1usize..5_000, limit in 1usize..3_000) {
            let shown = evenly(count, limit);
            prop_assert_eq!(shown.len(), count.min(limit));
            prop_assert!(shown.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(*shown.last().unwrap(), count - 1);
            prop_assert!(limit == 1 || shown[0] == 0);
        }
    }
}
