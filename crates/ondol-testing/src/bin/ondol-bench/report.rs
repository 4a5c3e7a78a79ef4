//! The report: a table of figures beside their bars and rivals, and what was observed.

use std::process::Command;

use ondol_testing::binary;

/// One figure.
struct Row {
    what: String,
    ours: String,
    rival: String,
    bar: String,
}

/// Everything that was measured.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    /// Adds a figure. Cells that do not apply are `—`.
    pub(crate) fn row(
        &mut self,
        what: &str,
        ours: impl Into<String>,
        rival: impl Into<String>,
        bar: &str,
    ) {
        let row = Row {
            what: what.to_owned(),
            ours: ours.into(),
            rival: rival.into(),
            bar: bar.to_owned(),
        };
        self.rows.push(row);
    }

    /// Adds an observation.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from(
            "# Benchmarks\n\nWritten by `ONDOL_BENCH_WRITE=1 make bench`; repeat it with `make bench`. Every figure is a median \
             of several rounds, and each rival was measured in the same run on the same machine. Nothing here is asserted by a test.\n\n",
        );
        text.push_str(&machine());
        text.push_str("\n| what | Ondol | rival | bar |\n|---|---|---|---|\n");
        for row in &self.rows {
            text.push_str(&format!(
                "| {} | {} | {} | {} |\n",
                row.what, row.ours, row.rival, row.bar
            ));
        }
        if !self.notes.is_empty() {
            text.push_str("\n## How it was measured\n\n");
            for note in &self.notes {
                text.push_str(&format!("- {note}\n"));
            }
        }
        text
    }
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else {
        return "not installed".to_owned();
    };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or(": unknown");
    let cores = cpu
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let bytes = binary().metadata().map_or(0, |metadata| metadata.len());
    let versions = [
        first_line("git", &["--version"]),
        first_line("nginx", &["-v"]),
        first_line("docker-registry", &["--version"]),
        first_line("skopeo", &["--version"]),
    ];
    format!(
        "{}; {cores} cores of{}; kernel {}; the binary has {:.1} MB. {}.\n",
        first_line("date", &["-u", "+%Y-%m-%d"]),
        model.trim_start_matches(|c: char| c != ' '),
        first_line("uname", &["-r"]),
        bytes as f64 / 1e6,
        versions.join("; ")
    )
}

/// The middle of some numbers; the mean of the two middle ones of an even count.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    match numbers.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => numbers[count / 2],
        count => (numbers[count / 2 - 1] + numbers[count / 2]) / 2.0,
    }
}

/// Seconds as the report writes them.
pub(crate) fn seconds(value: f64) -> String {
    if value < 1.0 {
        format!("{:.0} ms", value * 1e3)
    } else {
        format!("{value:.2} s")
    }
}

/// The middle of some durations with the smallest and the largest.
pub(crate) fn spread(numbers: &[f64]) -> String {
    let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let most = numbers.iter().copied().fold(0.0, f64::max);
    format!(
        "{} ({}–{})",
        seconds(median(numbers.to_vec())),
        seconds(least),
        seconds(most)
    )
}
