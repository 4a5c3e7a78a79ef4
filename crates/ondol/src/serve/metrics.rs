//! What the process itself counts.

use async_trait::async_trait;
use ondol_background::{Background, Outcome};
use ondol_gateway::GatewayControl;
use ondol_pipeline::Pipeline;
use ondol_telemetry::{Family, FamilyKind, MetricSource};

/// The control plane's own numbers.
pub(super) struct Platform {
    pub(super) background: Background,
    pub(super) pipeline: Pipeline,
}

#[async_trait]
impl MetricSource for Platform {
    async fn families(&self) -> Vec<Family> {
        use FamilyKind::{Counter, Gauge};
        let counted = self.pipeline.metrics();
        let mut ticks = Family::new(
            "ondol_loop_ticks_total",
            "Ticks of each background loop.",
            Counter,
        );
        let mut seconds = Family::new(
            "ondol_loop_last_tick_seconds",
            "Duration of the last tick of each loop.",
            Gauge,
        );
        let mut failing = Family::new(
            "ondol_loop_consecutive_failures",
            "Failed ticks in a row of each loop.",
            Gauge,
        );
        for status in self.background.status() {
            let failures = match status.outcome {
                Outcome::Failed { consecutive, .. } => f64::from(consecutive),
                _ => 0.0,
            };
            let labels = [("loop", status.name.as_str())];
            ticks = ticks.sample(&labels, status.ticks as f64);
            seconds = seconds.sample(&labels, status.seconds);
            failing = failing.sample(&labels, failures);
        }
        let mut families = vec![
            Family::new("ondol_build_info", "The version of this build.", Gauge)
                .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1.0),
            Family::single(
                "ondol_runs_finished_total",
                "Runs that have finished since the start.",
                Counter,
                counted.runs_finished as f64,
            ),
            Family::single(
                "ondol_steps_finished_total",
                "Steps that have finished since the start.",
                Counter,
                counted.steps_finished as f64,
            ),
            Family::single(
                "ondol_runs_pruned_total",
                "Runs that retention has deleted since the start.",
                Counter,
                counted.runs_pruned as f64,
            ),
            ticks,
            seconds,
            failing,
        ];
        families.extend(process());
        families
    }
}

/// Memory and processor time of this process, from /proc.
fn process() -> Vec<Family> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
        .map_or(0.0, |kibibytes| kibibytes * 1_024.0);
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu = usage.tv_sec as f64 + usage.tv_nsec as f64 / 1e9;
    vec![
        Family::single(
            "process_resident_memory_bytes",
            "Resident memory of the control plane.",
            FamilyKind::Gauge,
            resident,
        ),
        Family::single(
            "process_cpu_seconds_total",
            "Processor time of the control plane.",
            FamilyKind::Counter,
            cpu,
        ),
    ]
}

/// What gateways counted, already in the text format.
pub(super) struct Gateways(pub(super) GatewayControl);

#[async_trait]
impl MetricSource for Gateways {
    async fn families(&self) -> Vec<Family> {
        Vec::new()
    }

    async fn text(&self) -> String {
        self.0.metrics_text().await.unwrap_or_default()
    }
}
