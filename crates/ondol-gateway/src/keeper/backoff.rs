//! How long to wait before a gateway that died is started again. Pure.

use std::time::Duration;

/// One that ran for so long did not die of starting.
const STABLE: Duration = Duration::from_secs(10);
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// Restarts in a row that did not last.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after a gateway that ran for `lifetime`: none the first time.
    pub(super) fn after(&mut self, lifetime: Duration) -> Duration {
        if lifetime >= STABLE {
            self.failures = 0;
        }
        let wait = match self.failures {
            0 => Duration::ZERO,
            count => FIRST.saturating_mul(1 << (count - 1).min(16)).min(LONGEST),
        };
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_a_crash_loop_slows_down() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..10)
            .map(|_| backoff.after(Duration::from_millis(30)).as_millis())
            .collect();
        assert_eq!(
            waits,
            [0, 50, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]
        );
        assert_eq!(backoff.after(Duration::from_secs(60)), Duration::ZERO);
    }
}
