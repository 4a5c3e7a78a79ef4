//! Counts wrong credentials per address in a table of fixed size.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);
const ALLOWED: u32 = 30;
const ADDRESSES: usize = 4_096;

struct Window {
    began: Instant,
    failures: u32,
}

/// Wrong credentials of the last minute, per IPv4 address or IPv6 network of 64 bits.
#[derive(Default)]
pub(super) struct FailureLimiter(Mutex<HashMap<IpAddr, Window>>);

fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
        v4 => v4,
    }
}

impl FailureLimiter {
    fn table(&self) -> MutexGuard<'_, HashMap<IpAddr, Window>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long an address must wait, when it is over its limit.
    pub(super) fn blocked(&self, peer: IpAddr) -> Option<Duration> {
        let table = self.table();
        let window = table.get(&network(peer))?;
        let left = WINDOW.checked_sub(window.began.elapsed())?;
        (window.failures >= ALLOWED).then_some(left)
    }

    /// Notes one failure.
    pub(super) fn note(&self, peer: IpAddr) {
        let peer = network(peer);
        let now = Instant::now();
        let mut table = self.table();
        if table.len() >= ADDRESSES && !table.contains_key(&peer) {
            table.retain(|_, window| now.duration_since(window.began) < WINDOW);
            if table.len() >= ADDRESSES {
                let oldest = table.iter().min_by_key(|(_, window)| window.began);
                if let Some(oldest) = oldest.map(|(address, _)| *address) {
                    table.remove(&oldest);
                }
            }
        }
        let window = table.entry(peer).or_insert(Window {
            began: now,
            failures: 0,
        });
        if now.duration_since(window.began) >= WINDOW {
            *window = Window {
                began: now,
                failures: 0,
            };
        }
        window.failures = window.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_blocked_after_its_failures_and_others_are_not() {
        let limiter = FailureLimiter::default();
        let guesser: IpAddr = "2001:db8::1".parse().unwrap();
        for _ in 0..ALLOWED {
            assert_eq!(limiter.blocked(guesser), None);
            limiter.note(guesser);
        }
        assert!(limiter.blocked(guesser).is_some());
        assert!(limiter.blocked("2001:db8::ffff".parse().unwrap()).is_some());
        assert_eq!(limiter.blocked("2001:db8:0:1::1".parse().unwrap()), None);
        assert_eq!(limiter.blocked("127.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn the_table_does_not_grow() {
        let limiter = FailureLimiter::default();
        for n in 0..(ADDRESSES as u32 + 500) {
            limiter.note(IpAddr::V4(n.into()));
        }
        assert_eq!(limiter.table().len(), ADDRESSES);
    }
}
