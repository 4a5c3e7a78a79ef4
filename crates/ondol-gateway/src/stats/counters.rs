//! What gateways counted, as others see it: cumulative, keyed by replica, release and route, and
//! summed over gateways, so that swaps and restarts of gateways do not show.

use std::collections::BTreeMap;

use ondol_types::{EnvironmentName, ProjectName, ReleaseId, ReplicaId};
use serde::{Deserialize, Serialize};

use super::histogram::Histogram;

/// The newest format of counters this version reads.
pub(crate) const COUNTERS_FORMAT: u32 = 1;

/// Everything counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Rate, errors and durations per release, over all its replicas.
    pub releases: Vec<ReleaseCounters>,
    /// Work in progress and totals per replica.
    pub replicas: Vec<ReplicaCounters>,
    /// What the gateway answered itself, per project and environment.
    pub routes: Vec<RouteCounters>,
    /// What belongs to no route.
    pub totals: Totals,
}

/// What one release answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseCounters {
    /// Whose release.
    pub project: ProjectName,
    /// Where it runs.
    pub environment: EnvironmentName,
    /// Which release.
    pub release: ReleaseId,
    /// Finished requests by status class, 1xx to 5xx; a replica that could not be reached or did
    /// not answer in time counts as 5xx.
    pub classes: [u64; 5],
    /// Requests whose client left before the answer was complete.
    pub cancelled: u64,
    /// Answers that the replica broke off after they had begun.
    pub truncated: u64,
    /// Requests that failed because the replica could not be reached, answered nonsense or nothing.
    pub upstream_errors: u64,
    /// Requests repeated on a fresh connection or another replica.
    pub retries: u64,
    /// Request body bytes.
    pub bytes_in: u64,
    /// Response body bytes.
    pub bytes_out: u64,
    /// Requests in progress now.
    pub in_flight: u64,
    /// From the end of the request's head to the end of the answer.
    pub durations: Histogram,
}

/// One replica's work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaCounters {
    /// Which replica.
    pub replica: ReplicaId,
    /// Its release.
    pub release: ReleaseId,
    /// Whose.
    pub project: ProjectName,
    /// Where.
    pub environment: EnvironmentName,
    /// Whether new requests go to it.
    pub routed: bool,
    /// Requests in progress now.
    pub in_flight: u64,
    /// WebSockets and other upgraded connections open now.
    pub tunnels: u64,
    /// Requests sent to it.
    pub requests: u64,
    /// Requests it did not answer properly, and 5xx it answered.
    pub errors: u64,
}

/// What the gateway answered for a project without any replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteCounters {
    /// Whose route.
    pub project: ProjectName,
    /// Which environment.
    pub environment: EnvironmentName,
    /// Answers by status class, 1xx to 5xx.
    pub classes: [u64; 5],
    /// Requests waiting now because the route is held.
    pub held: u64,
}

/// What belongs to no route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub connections: u64,
    /// Requests for hosts and paths that nobody has.
    pub unrouted: u64,
    /// Requests refused because too many were in progress.
    pub overloaded: u64,
    /// Connections ended because they did not speak HTTP properly, or too slowly.
    pub malformed: u64,
    /// Access log entries that were dropped because the log could not keep up.
    pub log_dropped: u64,
}

impl ReleaseCounters {
    /// Finished requests.
    pub fn requests(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// Requests that failed: 5xx, and answers that broke off.
    pub fn errors(&self) -> u64 {
        self.classes[4] + self.truncated
    }

    /// The share of failed requests; none without requests.
    pub fn error_rate(&self) -> Option<f64> {
        let requests = self.requests();
        (requests > 0).then(|| (self.errors() as f64 / requests as f64).min(1.0))
    }

    /// What was counted since an earlier state. Gauges keep their present value.
    pub fn since(&self, earlier: &ReleaseCounters) -> ReleaseCounters {
        let mut difference = self.clone();
        for (class, before) in difference.classes.iter_mut().zip(earlier.classes) {
            *class = class.saturating_sub(before);
        }
        difference.cancelled = self.cancelled.saturating_sub(earlier.cancelled);
        difference.truncated = self.truncated.saturating_sub(earlier.truncated);
        difference.upstream_errors = self.upstream_errors.saturating_sub(earlier.upstream_errors);
        difference.retries = self.retries.saturating_sub(earlier.retries);
        difference.bytes_in = self.bytes_in.saturating_sub(earlier.bytes_in);
        difference.bytes_out = self.bytes_out.saturating_sub(earlier.bytes_out);
        difference.durations = self.durations.since(&earlier.durations);
        difference
    }

    fn merge(&mut self, other: &ReleaseCounters) {
        for (class, more) in self.classes.iter_mut().zip(other.classes) {
            *class += more;
        }
        self.cancelled += other.cancelled;
        self.truncated += other.truncated;
        self.upstream_errors += other.upstream_errors;
        self.retries += other.retries;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.in_flight += other.in_flight;
        self.durations.merge(&other.durations);
    }
}

impl Counters {
    /// The counters of one release, if any request ever went there.
    pub fn release(
        &self,
        project: &ProjectName,
        environment: &EnvironmentName,
        release: ReleaseId,
    ) -> Option<&ReleaseCounters> {
        self.releases.iter().find(|row| {
            row.release == release && row.project == *project && row.environment == *environment
        })
    }

    /// The counters of one replica.
    pub fn replica(&self, replica: ReplicaId) -> Option<&ReplicaCounters> {
        self.replicas.iter().find(|row| row.replica == replica)
    }

    /// Adds what another gateway counted.
    pub fn merge(&mut self, other: &Counters) {
        let mut releases: BTreeMap<_, usize> = BTreeMap::new();
        for (index, row) in self.releases.iter().enumerate() {
            releases.insert(
                (row.release, row.project.clone(), row.environment.clone()),
                index,
            );
        }
        for row in &other.releases {
            match releases.get(&(row.release, row.project.clone(), row.environment.clone())) {
                Some(&index) => self.releases[index].merge(row),
                None => self.releases.push(row.clone()),
            }
        }
        let replicas: BTreeMap<_, usize> = self
            .replicas
            .iter()
            .enumerate()
            .map(|(index, row)| (row.replica, index))
            .collect();
        for row in &other.replicas {
            match replicas.get(&row.replica) {
                Some(&index) => {
                    let mine = &mut self.replicas[index];
                    mine.routed |= row.routed;
                    mine.in_flight += row.in_flight;
                    mine.tunnels += row.tunnels;
                    mine.requests += row.requests;
                    mine.errors += row.errors;
                }
                None => self.replicas.push(row.clone()),
            }
        }
        for row in &other.routes {
            let found = self
                .routes
                .iter_mut()
                .find(|mine| mine.project == row.project && mine.environment == row.environment);
            match found {
                Some(mine) => {
                    for (class, more) in mine.classes.iter_mut().zip(row.classes) {
                        *class += more;
                    }
                    mine.held += row.held;
                }
                None => self.routes.push(row.clone()),
            }
        }
        self.totals.accepted += other.totals.accepted;
        self.totals.connections += other.totals.connections;
        self.totals.unrouted += other.totals.unrouted;
        self.totals.overloaded += other.totals.overloaded;
        self.totals.malformed += other.totals.malformed;
        self.totals.log_dropped += other.totals.log_dropped;
    }

    /// The same without what is only true at this moment: the part that survives a process.
    pub(crate) fn without_gauges(mut self) -> Self {
        for row in &mut self.releases {
            row.in_flight = 0;
        }
        for row in &mut self.replicas {
            (row.in_flight, row.tunnels, row.routed) = (0, 0, false);
        }
        for row in &mut self.routes {
            row.held = 0;
        }
        self.totals.connections = 0;
        self
    }

    /// Keeps the newest rows of what is no longer routed. Ids sort by time.
    pub(crate) fn bounded(mut self, releases: usize, replicas: usize, routes: usize) -> Self {
        self.releases
            .sort_by_key(|row| std::cmp::Reverse(row.release));
        self.releases.truncate(releases);
        self.replicas
            .sort_by_key(|row| std::cmp::Reverse((row.routed, row.replica)));
        self.replicas.truncate(replicas);
        self.routes.truncate(routes);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(release: &str, ok: u64, failed: u64) -> ReleaseCounters {
        ReleaseCounters {
            project: "web".parse().unwrap(),
            environment: EnvironmentName::production(),
            release: ReleaseId::derived(release),
            classes: [0, ok, 0, 0, failed],
            cancelled: 0,
            truncated: 0,
            upstream_errors: 0,
            retries: 0,
            bytes_in: 0,
            bytes_out: 0,
            in_flight: 1,
            durations: Histogram::default(),
        }
    }

    #[test]
    fn two_gateways_sum_by_release() {
        let mut first = Counters {
            releases: vec![row("a", 10, 1)],
            ..Counters::default()
        };
        let second = Counters {
            releases: vec![row("a", 5, 0), row("b", 2, 0)],
            ..Counters::default()
        };
        first.merge(&second);
        assert_eq!(first.releases.len(), 2);
        assert_eq!(
            (first.releases[0].requests(), first.releases[0].in_flight),
            (16, 2)
        );
        assert_eq!(first.without_gauges().releases[0].in_flight, 0);
    }

    #[test]
    fn a_canary_check_reads_the_difference() {
        let difference = row("a", 110, 10).since(&row("a", 10, 0));
        assert_eq!(difference.requests(), 110);
        assert!((difference.error_rate().unwrap() - 10.0 / 110.0).abs() < 1e-12);
        assert_eq!(row("a", 0, 0).error_rate(), None);
    }
}
