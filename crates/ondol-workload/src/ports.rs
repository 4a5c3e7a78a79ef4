//! Ports for workloads: a reserved range, outside the one from which the kernel takes ports for
//! outgoing connections, so that nothing else is given them by chance.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;

use ondol_types::WorkloadId;

use crate::error::EngineError;

/// The range where nothing else is configured.
pub const DEFAULT_RANGE: RangeInclusive<u16> = 20_000..=29_999;

/// The ports from which the kernel takes those of outgoing connections.
pub fn ephemeral_range() -> RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) => first..=last,
        _ => 32_768..=60_999,
    }
}

/// Knows which port of the range belongs to whom. Nothing is stored: after a restart the living
/// workloads are asked.
#[derive(Debug)]
pub struct PortAllocator {
    range: RangeInclusive<u16>,
    ephemeral: RangeInclusive<u16>,
    taken: BTreeMap<u16, WorkloadId>,
    next: u16,
}

impl PortAllocator {
    /// An allocator over `range` without the ports of `ephemeral`.
    pub fn new(range: RangeInclusive<u16>, ephemeral: RangeInclusive<u16>) -> Self {
        let next = *range.start();
        Self {
            range,
            ephemeral,
            taken: BTreeMap::new(),
            next,
        }
    }

    /// The same allocator, beginning somewhere in the range.
    pub fn beginning_at(mut self, seed: u64) -> Self {
        let (first, last) = (*self.range.start(), *self.range.end());
        let count = u64::from(last.saturating_sub(first)) + 1;
        self.next = first.saturating_add((seed % count) as u16);
        self
    }

    /// Gives a free port to a workload. Ports are taken in turn, so that one just released is
    /// not given out at once.
    ///
    /// # Errors
    /// The whole range is taken.
    pub fn allocate(&mut self, id: &WorkloadId) -> Result<u16, EngineError> {
        self.allocate_if(id, is_free)
    }

    fn allocate_if(
        &mut self,
        id: &WorkloadId,
        is_free: impl Fn(u16) -> bool,
    ) -> Result<u16, EngineError> {
        let (first, last) = (*self.range.start(), *self.range.end());
        for _ in self.range.clone() {
            let port = self.next;
            self.next = if port >= last { first } else { port + 1 };
            let usable =
                port != 0 && !self.ephemeral.contains(&port) && !self.taken.contains_key(&port);
            if usable && is_free(port) {
                self.taken.insert(port, *id);
                return Ok(port);
            }
        }
        Err(EngineError::PortsExhausted { first, last })
    }

    /// Notes a port that the caller picked, or that a workload found running has.
    ///
    /// # Errors
    /// Another workload has it.
    pub fn reserve(&mut self, port: u16, id: &WorkloadId) -> Result<(), EngineError> {
        match self.taken.get(&port) {
            Some(owner) if owner != id => Err(EngineError::PortTaken {
                port,
                owner: format!("workload {owner}"),
            }),
            _ => {
                self.taken.insert(port, *id);
                Ok(())
            }
        }
    }

    /// Takes back all ports of a workload.
    pub fn release(&mut self, id: &WorkloadId) {
        self.taken.retain(|_, owner| owner != id);
    }
}

/// Whether a program could listen on the port now, on whichever address.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: usize) -> WorkloadId {
        WorkloadId::derived(&n.to_string())
    }

    #[test]
    fn a_port_just_released_waits_for_its_turn() {
        let mut ports = PortAllocator::new(100..=103, 40_000..=50_000);
        assert_eq!(ports.allocate_if(&id(1), |_| true).unwrap(), 100);
        ports.release(&id(1));
        assert_eq!(ports.allocate_if(&id(2), |_| true).unwrap(), 101);
    }

    #[test]
    fn the_beginning_is_within_the_range() {
        for seed in 0..10 {
            let mut ports = PortAllocator::new(100..=102, 40_000..=50_000).beginning_at(seed);
            let port = ports.allocate_if(&id(1), |_| true).unwrap();
            assert_eq!(u64::from(port), 100 + seed % 3);
        }
    }

    #[test]
    fn the_range_ends_with_an_error() {
        let mut ports = PortAllocator::new(100..=101, 40_000..=50_000);
        ports.allocate_if(&id(1), |_| true).unwrap();
        ports.allocate_if(&id(2), |_| true).unwrap();
        let error = ports.allocate_if(&id(3), |_| true).unwrap_err();
        assert!(error.to_string().contains("between 100 and 101"));
    }

    #[test]
    fn the_callers_port_is_refused_when_another_has_it() {
        let mut ports = PortAllocator::new(100..=101, 40_000..=50_000);
        ports.reserve(9_000, &id(1)).unwrap();
        ports.reserve(9_000, &id(1)).unwrap();
        assert!(matches!(
            ports.reserve(9_000, &id(2)),
            Err(EngineError::PortTaken { port: 9_000, .. })
        ));
    }

    #[test]
    fn a_port_in_use_by_another_program_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
    }

    proptest! {
        #[test]
        fn ports_are_given_once_and_never_from_the_ephemeral_range(
            busy in proptest::collection::btree_set(100u16..140, 0..20), count in 0usize..30,
        ) {
            let mut ports = PortAllocator::new(100..=139, 130..=150);
            let mut given = std::collections::BTreeSet::new();
            for n in 0..count {
                if let Ok(port) = ports.allocate_if(&id(n), |port| !busy.contains(&port)) {
                    prop_assert!((100..130).contains(&port) && !busy.contains(&port));
                    prop_assert!(given.insert(port));
                }
            }
        }
    }
}
