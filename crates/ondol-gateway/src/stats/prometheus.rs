//! Counters as Prometheus text.

use std::fmt::Write;

use super::counters::{Counters, ReleaseCounters};

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

impl Counters {
    /// The text exposition format, version 0.0.4.
    pub fn to_prometheus(&self) -> String {
        let mut out = String::with_capacity(4_096);
        family(
            &mut out,
            "ondol_gateway_requests_total",
            "counter",
            "Requests answered by a release.",
        );
        for row in &self.releases {
            for (class, count) in CLASSES.iter().zip(row.classes) {
                let _ = writeln!(
                    out,
                    "ondol_gateway_requests_total{{{},class=\"{class}\"}} {count}",
                    labels(row)
                );
            }
        }
        type Column = fn(&ReleaseCounters) -> u64;
        let columns: [(&str, &str, &str, Column); 7] = [
            (
                "cancelled_total",
                "counter",
                "Requests whose client left early.",
                |row| row.cancelled,
            ),
            (
                "truncated_total",
                "counter",
                "Answers that broke off.",
                |row| row.truncated,
            ),
            (
                "upstream_errors_total",
                "counter",
                "Requests without a proper answer.",
                |row| row.upstream_errors,
            ),
            (
                "retries_total",
                "counter",
                "Requests that were repeated.",
                |row| row.retries,
            ),
            (
                "received_bytes_total",
                "counter",
                "Request body bytes.",
                |row| row.bytes_in,
            ),
            (
                "sent_bytes_total",
                "counter",
                "Response body bytes.",
                |row| row.bytes_out,
            ),
            ("in_flight", "gauge", "Requests in progress.", |row| {
                row.in_flight
            }),
        ];
        for (name, kind, help, column) in columns {
            let name = format!("ondol_gateway_{name}");
            family(&mut out, &name, kind, help);
            for row in &self.releases {
                let _ = writeln!(out, "{name}{{{}}} {}", labels(row), column(row));
            }
        }
        let name = "ondol_gateway_request_duration_seconds";
        family(
            &mut out,
            name,
            "histogram",
            "From the request's head to the end of the answer.",
        );
        for row in &self.releases {
            let labels = labels(row);
            // Powers of two from 256 µs to 67 s are exact bounds of the finer buckets.
            for exponent in (8..=26).step_by(2) {
                let bound = (1u64 << exponent) as f64 / 1e6;
                let count = row.durations.below_power(exponent);
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
            }
            let count = row.durations.count();
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
            let _ = writeln!(
                out,
                "{name}_sum{{{labels}}} {}",
                row.durations.sum_micros as f64 / 1e6
            );
            let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
        }
        family(
            &mut out,
            "ondol_gateway_replica_in_flight",
            "gauge",
            "Requests in progress at a replica.",
        );
        for row in &self.replicas {
            let _ = writeln!(
                out,
                "ondol_gateway_replica_in_flight{{project=\"{}\",environment=\"{}\",replica=\"{}\"}} {}",
                row.project, row.environment, row.replica, row.in_flight
            );
        }
        family(
            &mut out,
            "ondol_gateway_websockets",
            "gauge",
            "Upgraded connections open at a replica.",
        );
        for row in &self.replicas {
            let _ = writeln!(
                out,
                "ondol_gateway_websockets{{project=\"{}\",environment=\"{}\",replica=\"{}\"}} {}",
                row.project, row.environment, row.replica, row.tunnels
            );
        }
        family(
            &mut out,
            "ondol_gateway_own_replies_total",
            "counter",
            "Answers the gateway gave itself.",
        );
        for row in &self.routes {
            for (class, count) in CLASSES.iter().zip(row.classes) {
                let _ = writeln!(
                    out,
                    "ondol_gateway_own_replies_total{{project=\"{}\",environment=\"{}\",class=\"{class}\"}} {count}",
                    row.project, row.environment
                );
            }
        }
        let totals = self.totals;
        for (name, kind, help, value) in [
            (
                "accepted_connections_total",
                "counter",
                "Connections accepted.",
                totals.accepted,
            ),
            (
                "connections",
                "gauge",
                "Connections open.",
                totals.connections,
            ),
            (
                "unrouted_requests_total",
                "counter",
                "Requests that no route takes.",
                totals.unrouted,
            ),
            (
                "overloaded_requests_total",
                "counter",
                "Requests refused under load.",
                totals.overloaded,
            ),
            (
                "malformed_connections_total",
                "counter",
                "Connections ended for bad HTTP.",
                totals.malformed,
            ),
            (
                "access_log_dropped_total",
                "counter",
                "Access log entries dropped.",
                totals.log_dropped,
            ),
        ] {
            let name = format!("ondol_gateway_{name}");
            family(&mut out, &name, kind, help);
            let _ = writeln!(out, "{name} {value}");
        }
        out
    }
}

// Names and ids need no escaping: their types admit neither quotes, backslashes nor line ends.
fn labels(row: &ReleaseCounters) -> String {
    format!(
        "project=\"{}\",environment=\"{}\",release=\"{}\"",
        row.project, row.environment, row.release
    )
}

#[cfg(test)]
mod tests {
    use ondol_types::{EnvironmentName, ReleaseId};

    use super::*;
    use crate::stats::Histogram;

    #[test]
    fn buckets_are_cumulative_and_end_at_the_count() {
        let row = ReleaseCounters {
            project: "web".parse().unwrap(),
            environment: EnvironmentName::production(),
            release: ReleaseId::derived("r"),
            classes: [0, 3, 0, 0, 0],
            cancelled: 0,
            truncated: 0,
            upstream_errors: 0,
            retries: 0,
            bytes_in: 0,
            bytes_out: 7,
            in_flight: 0,
            durations: Histogram {
                buckets: vec![(3, 1), (100, 1), (300, 1)],
                sum_micros: 5,
            },
        };
        let text = Counters {
            releases: vec![row],
            ..Counters::default()
        }
        .to_prometheus();
        let counts: Vec<u64> = text
            .lines()
            .filter(|line| line.starts_with("ondol_gateway_request_duration_seconds_bucket"))
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(
            counts.windows(2).all(|pair| pair[0] <= pair[1]) && *counts.last().unwrap() == 3,
            "{counts:?}"
        );
        assert!(text.contains("class=\"2xx\"} 3"));
    }
}
