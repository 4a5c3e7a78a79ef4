//! What is deployed: environments, releases, rollouts and replicas.

mod environment;
mod preview;
mod probe;
mod release;
mod replica;
mod rollout;
mod scale;

pub(crate) use environment::{Accepted, AcceptedImage};
pub use environment::{Environment, Hold};
pub use preview::Preview;
pub(crate) use preview::PreviewRow;
pub use probe::Probe;
pub(crate) use probe::Probes;
pub use release::{ModelRef, Reason, Release, ReleaseConfig};
pub use replica::{Replica, ReplicaState};
pub(crate) use rollout::MAX_LOG_LINES;
pub use rollout::{Command, CommandState, Failure, Kind, Phase, Rollout, RolloutState};
pub use scale::{Peak, Scale};

/// An enum whose variants are words: in the database, in JSON and in messages alike.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        pub enum $name {
            $($(#[$inner])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word for it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|value| value.as_str() == text)
                    .ok_or_else(|| format!("`{text}` is not a {}", stringify!($name)))
            }
        }
    };
}
pub(crate) use words;

/// Cuts a text that people read, so that no row and no event grows without a bound.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// The longest reason that is kept, in bytes.
pub(crate) const MAX_REASON: usize = 2_000;
