//! Runs, steps, their state machines, and what tests reported.

mod artifact;
mod report;
mod run;
mod step;

pub use artifact::Artifact;
pub use report::{CaseResult, CaseStatus, FlakyTest, TestReport};
pub use run::{CancelRequest, DataRef, Run, RunOutcome, RunState, Trigger};
pub(crate) use step::service_workloads;
pub use step::{
    CommandWork, Conclusion, DEFINITION_VERSION, Definition, Join, Member, Need, Place, Program,
    Step, StepKind, StepOutcome, StepState, Work,
};

/// A state machine was asked for a transition that it does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot go from {from} to {to}")]
pub struct IllegalTransition {
    /// The run or step.
    pub what: String,
    /// Where it is.
    pub from: String,
    /// Where it was to go.
    pub to: String,
}

/// The most bytes that a reason may have; events and lists carry it.
const MAX_REASON_BYTES: usize = 4_000;

/// A reason cut to what is kept of it.
pub(crate) fn shortened(mut reason: String) -> String {
    if reason.len() > MAX_REASON_BYTES {
        let mut end = MAX_REASON_BYTES;
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        reason.push('…');
    }
    reason
}

/// An enum with one word per variant: the same in the database, in JSON and in OpenAPI.
macro_rules! word_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word as it is stored and shown.
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
                match text {
                    $($word => Ok(Self::$variant),)*
                    other => Err(format!("`{other}` is none of {}", [$($word),*].join(", "))),
                }
            }
        }
    };
}
pub(crate) use word_enum;

#[cfg(test)]
pub(crate) use run::tests as tests_support;
