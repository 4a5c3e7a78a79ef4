//! Typed identifiers: a prefix that names the kind and a UUIDv7 in lower-case Crockford base 32,
//! so that ids sort by time and one kind is never taken for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;

/// Why a text is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind} id: expected `{kind}_` and 26 letters or digits")]
pub struct IdError {
    kind: &'static str,
    text: String,
}

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn encode(mut value: u128) -> String {
    let mut out = [0u8; 26];
    for slot in out.iter_mut().rev() {
        *slot = ALPHABET[(value & 31) as usize];
        value >>= 5;
    }
    out.iter().map(|&byte| byte as char).collect()
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != 26 || text.as_bytes()[0] > b'7' {
        return None;
    }
    text.bytes().try_fold(0u128, |value, byte| {
        let digit = ALPHABET.iter().position(|&letter| letter == byte)? as u128;
        Some((value << 5) | digit)
    })
}

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// A new id whose order follows the clock.
            pub fn generate(clock: &dyn Clock) -> Self {
                let millis = clock.now().as_millis().max(0) as u64;
                let mut random = [0u8; 10];
                rand::fill(&mut random);
                Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().as_u128())
            }

            /// An id that is a function of `seed`: the same seed gives the same id, so that an
            /// operation repeated after a crash finds what it made before.
            pub fn derived(seed: &str) -> Self {
                let mut state: [u64; 2] = [0xcbf2_9ce4_8422_2325, 0x9e37_79b9_7f4a_7c15];
                for (index, byte) in seed.bytes().enumerate() {
                    let lane = index & 1;
                    state[lane] = (state[lane] ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
                    state[1 - lane] = state[1 - lane].rotate_left(23) ^ state[lane].wrapping_mul(0xff51_afd7_ed55_8ccd);
                }
                Self((u128::from(state[0]) << 64) | u128::from(state[1]))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(Self)
                    .ok_or_else(|| IdError { kind: $prefix, text: text.chars().take(64).collect() })
            }
        }

        crate::name::text_type!($name, stringify!($name), concat!($prefix, "_ and 26 letters or digits"));
    };
}

typed_id!(
    /// One execution of the pipeline graph.
    RunId,
    "run"
);
typed_id!(
    /// One node of a run.
    StepId,
    "step"
);
typed_id!(
    /// One thing to execute, once or kept alive.
    WorkloadId,
    "wl"
);
typed_id!(
    /// An immutable release.
    ReleaseId,
    "rel"
);
typed_id!(
    /// The replacement of one release by another.
    RolloutId,
    "ro"
);
typed_id!(
    /// One running instance of a release.
    ReplicaId,
    "rep"
);
typed_id!(
    /// One entry of the event log.
    EventId,
    "ev"
);
typed_id!(
    /// An access token (its public part).
    TokenId,
    "tok"
);
typed_id!(
    /// A row of the work queue.
    JobId,
    "job"
);
typed_id!(
    /// One holding of a lease.
    LeaseId,
    "lease"
);
typed_id!(
    /// An upload session of the registry or a dataset push.
    UploadId,
    "up"
);
typed_id!(
    /// One request that came through a door.
    RequestId,
    "req"
);
typed_id!(
    /// An intent whose effect is outside the database.
    OperationId,
    "op"
);
typed_id!(
    /// One delivery of a notification.
    DeliveryId,
    "dl"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    #[test]
    fn ids_sort_by_time_and_round_trip() {
        let early = RunId::generate(&ManualClock::at(Timestamp::from_micros(1_000_000)));
        let late = RunId::generate(&ManualClock::at(Timestamp::from_micros(9_000_000)));
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(early.to_string().parse::<RunId>().unwrap(), early);
        assert!(early.to_string().parse::<StepId>().is_err());
    }

    #[test]
    fn derived_ids_are_functions_of_their_seed() {
        assert_eq!(RunId::derived("a"), RunId::derived("a"));
        let distinct: std::collections::BTreeSet<_> = (0..20_000)
            .map(|n| RunId::derived(&format!("seed-{n}")))
            .collect();
        assert_eq!(distinct.len(), 20_000);
    }
}
