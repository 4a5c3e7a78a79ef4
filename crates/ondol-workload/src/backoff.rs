//! How long to wait before a kept-alive workload that ended is started again. Pure: reconcilers
//! ask, and keep the numbers in their own state.

use std::time::Duration;

/// Delays between restarts: they double, have a ceiling, and start over after a healthy time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failure.
    pub first: Duration,
    /// The longest delay.
    pub ceiling: Duration,
    /// After running this long, earlier failures are forgotten.
    pub healthy_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            ceiling: Duration::from_secs(60),
            healthy_after: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// How many failures in a row there are, now that a run which followed `failures` of them
    /// has ended after `ran_for`.
    pub fn failures_after(&self, failures: u32, ran_for: Duration) -> u32 {
        if ran_for >= self.healthy_after {
            1
        } else {
            failures.saturating_add(1)
        }
    }

    /// How long to wait before the next start after this many failures in a row; zero for none.
    pub fn delay(&self, failures: u32) -> Duration {
        if failures == 0 {
            return Duration::ZERO;
        }
        let doublings = (failures - 1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.ceiling)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn delays_double_up_to_the_ceiling() {
        let backoff = Backoff::default();
        let delays: Vec<u128> = (0..12)
            .map(|failures| backoff.delay(failures).as_millis())
            .collect();
        assert_eq!(
            delays,
            [
                0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 60_000
            ]
        );
    }

    #[test]
    fn a_healthy_run_starts_over() {
        let backoff = Backoff::default();
        assert_eq!(backoff.failures_after(9, Duration::from_secs(59)), 10);
        assert_eq!(backoff.failures_after(9, Duration::from_secs(60)), 1);
        assert_eq!(backoff.failures_after(u32::MAX, Duration::ZERO), u32::MAX);
    }

    proptest! {
        #[test]
        fn delays_never_shrink_and_never_pass_the_ceiling(failures in 0u32..u32::MAX) {
            let backoff = Backoff::default();
            prop_assert!(backoff.delay(failures) <= backoff.delay(failures + 1));
            prop_assert!(backoff.delay(failures) <= backoff.ceiling);
        }
    }
}
