//! Our figures and the rivals', measured by the same run on the same machine, as Markdown.
//!
//! Usage: `ondol-bench [--clean-build] [SECTION…]`; without a section, all of them. Nothing is
//! asserted: a figure that misses its bar is printed like every other.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it prints its report and its progress"
)]

mod build;
mod dataset;
mod deploys;
mod gateway;
mod idle;
mod live;
mod registry;
mod report;
mod tracking;

use report::Report;

type Section = fn(&mut Report);

const SECTIONS: &[(&str, Section)] = &[
    ("idle", idle::measure),
    ("push", live::push),
    ("data", live::data),
    ("gateway", gateway::measure),
    ("dataset", dataset::measure),
    ("registry", registry::measure),
    ("tracking", tracking::measure),
    ("deploys", deploys::measure),
    ("containers", live::containers),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let clean_build = arguments.iter().any(|argument| argument == "--clean-build");
    let wanted: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let mut report = Report::default();
    for (name, measure) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|section| section == name) {
            eprintln!("measuring: {name}");
            measure(&mut report);
        }
    }
    if clean_build {
        eprintln!("measuring: clean build");
        build::measure(&mut report);
    }
    println!("{}", report.markdown());
}
