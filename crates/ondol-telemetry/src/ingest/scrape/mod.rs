//! The scraper: asks every target for its metrics, again and again.
//!
//! Each target has a loop of its own, spread over the interval by the target's hash. A scrape adds
//! what the target says, `up`, and the other series about the scrape itself, in one batch. A
//! series that a target no longer says, and every series of a target that fails or goes, gets a
//! marker that ends it. An answer is cut at a number of bytes and a scrape at its timeout, so a
//! target can only hurt itself.
//!
//! The loops must never write a sample of a target after the marker that ended it, and never keep
//! more than what the last scrape said.

mod cache;
mod fetch;
mod run;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ondol_types::Timestamp;

pub use cache::{Cache, Round, Rules};
pub use run::Scraper;

use crate::series::{Labels, LabelsBuilder};

/// Somebody in this process who says metrics in the text format.
#[async_trait]
pub trait Exposition: Send + Sync + 'static {
    /// The metrics now.
    async fn exposition(&self) -> String;
}

#[async_trait]
impl Exposition for crate::Metrics {
    async fn exposition(&self) -> String {
        Self::exposition(self).await
    }
}

/// Where a target is asked.
#[derive(Clone)]
pub enum Place {
    /// At this `http://` address.
    Http(String),
    /// In this process; the name stands where the address would.
    Own(&'static str, Arc<dyn Exposition>),
}

impl Place {
    /// The address that is shown.
    #[must_use]
    pub fn url(&self) -> &str {
        match self {
            Self::Http(url) => url,
            Self::Own(name, _) => name,
        }
    }
}

/// Something to scrape.
#[derive(Clone)]
pub struct Target {
    /// The group it belongs to, such as the name of its job.
    pub pool: String,
    /// Where it is asked.
    pub place: Place,
    /// Labels that every series of it gets: `job`, `instance` and what else says whose it is.
    pub labels: Labels,
    /// Time between two scrapes; that of the scraper when it is zero.
    pub interval: Duration,
    /// How long a scrape may take; that of the scraper when it is zero.
    pub timeout: Duration,
    /// Whether labels that the target says win over those it is given.
    pub honor_labels: bool,
    /// Whether it may have no metrics at all: then it is nothing until it answers once.
    pub optional: bool,
}

impl Target {
    /// A target of a job with the paces of the scraper.
    #[must_use]
    pub fn new(job: &str, instance: &str, place: Place) -> Self {
        Self {
            pool: job.to_owned(),
            place,
            labels: Labels::from_pairs([("job", job), ("instance", instance)]),
            interval: Duration::ZERO,
            timeout: Duration::ZERO,
            honor_labels: false,
            optional: false,
        }
    }

    /// Adds a label, such as `project`, `environment`, `release` or `replica`.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        let mut builder = LabelsBuilder::from_labels(&self.labels);
        builder.set(name, value);
        self.labels = builder.build();
        self
    }
}

/// Knows what there is to scrape.
#[async_trait]
pub trait TargetSource: Send + Sync + 'static {
    /// Every target as it is now. One that is missing has gone.
    async fn targets(&self) -> Vec<Target>;
}

/// Targets that never change.
pub struct StaticTargets(pub Vec<Target>);

#[async_trait]
impl TargetSource for StaticTargets {
    async fn targets(&self) -> Vec<Target> {
        self.0.clone()
    }
}

/// What is known about a target.
#[derive(Clone, Debug)]
pub struct TargetState {
    /// The group it belongs to.
    pub pool: String,
    /// Where it is asked.
    pub url: String,
    /// Its labels.
    pub labels: Labels,
    /// When it was asked last.
    pub last: Option<Timestamp>,
    /// How long the last scrape took.
    pub took: Duration,
    /// Why the last scrape failed.
    pub error: Option<String>,
    /// Time between two scrapes.
    pub interval: Duration,
    /// How long a scrape may take.
    pub timeout: Duration,
}

/// Paces and ceilings of the scraper.
#[derive(Clone, Debug)]
pub struct ScrapeConfig {
    /// Time between two scrapes.
    pub interval: Duration,
    /// How long a scrape may take; never more than the interval.
    pub timeout: Duration,
    /// Time between two looks at what there is to scrape.
    pub discovery: Duration,
    /// Targets at most; those beyond are left out.
    pub max_targets: usize,
    /// Answers that are read and stored at the same time; a target that says nothing yet has none.
    pub max_scrapes: usize,
    /// Bytes of an answer, decompressed.
    pub max_body: usize,
    /// Samples of an answer.
    pub max_samples: usize,
    /// What a series may be.
    pub rules: Rules,
}

impl Default for ScrapeConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15),
            timeout: Duration::from_secs(10),
            discovery: Duration::from_secs(5),
            max_targets: 5_000,
            max_scrapes: 16,
            max_body: 32 << 20,
            max_samples: 200_000,
            rules: Rules::default(),
        }
    }
}
