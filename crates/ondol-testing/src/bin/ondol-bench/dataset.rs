//! Many small files: how fast they are versioned, and what a change costs.
//!
//! DVC is measured where it is installed, or where `ONDOL_BENCH_DVC` names its program, such as
//! one in a virtual environment (`python3 -m venv v && v/bin/pip install dvc`).

use std::fs;
use std::path::Path;
use std::time::Instant;

use ondol_testing::platform::{PATIENCE, run};
use ondol_testing::table::Random;
use ondol_testing::{Platform, environment, has_program};

use crate::report::{Report, median, seconds, spread};

const ROUNDS: usize = 3;
const FILES: usize = 10_000;
const BYTES: usize = 10_000;

/// Bytes of all files below a folder.
fn below(dir: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => sum += below(&entry.path()),
            Ok(metadata) => sum += metadata.len(),
            Err(_) => {}
        }
    }
    sum
}

fn stored(platform: &Platform) -> f64 {
    below(&platform.data().join("blobs")) as f64
}

fn write(folder: &Path, index: usize, random: &mut Random) {
    let dir = folder.join(format!("{:02}", index % 100));
    fs::create_dir_all(&dir).expect("a folder");
    fs::write(dir.join(format!("{index}.bin")), random.bytes(BYTES)).expect("a file");
}

pub(crate) fn measure(report: &mut Report) {
    let platform = Platform::start();
    let project = platform.new_project("web", "store");
    platform
        .cli(&["projects", "create", "store"], project.dir())
        .ok();
    let (mut first, mut second, mut share, mut git) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let dvc_program =
        environment("ONDOL_BENCH_DVC").or_else(|| has_program("dvc").then(|| "dvc".to_owned()));
    let mut dvc = Dvc::default();
    for round in 0..ROUNDS {
        let folder = platform.folder().join(format!("files-{round}"));
        let mut random = Random::new(round as u64 + 1);
        for index in 0..FILES {
            write(&folder, index, &mut random);
        }
        let name = format!("files-{round}");
        let push = || {
            let began = Instant::now();
            platform
                .cli(
                    &[
                        "data",
                        "push",
                        &name,
                        folder.to_str().unwrap_or_default(),
                        "--json",
                    ],
                    project.dir(),
                )
                .ok();
            began.elapsed().as_secs_f64()
        };
        let before = stored(&platform);
        first.push(push());
        let after = stored(&platform);
        for index in (0..FILES).step_by(100) {
            write(&folder, index, &mut random);
        }
        second.push(push());
        share.push((stored(&platform) - after) / (after - before));
        git.push(with_git(&platform, &folder));
        if let Some(program) = &dvc_program {
            with_dvc(&platform, program, &folder, &mut random, &mut dvc);
        }
    }
    let git = format!("`git add && git commit`: {}", seconds(median(git)));
    let absent = "DVC is not installed here and was not measured".to_owned();
    let (rival_first, rival_second, rival_share) = match dvc_program {
        None => (format!("{absent}; {git}"), absent.clone(), absent),
        Some(_) => (
            format!(
                "`dvc add`: {}, `dvc push`: {}; {git}",
                seconds(median(dvc.add)),
                seconds(median(dvc.push))
            ),
            format!("`dvc add && dvc push`: {}", seconds(median(dvc.again))),
            format!("DVC: {:.2} % more", median(dvc.share) * 100.0),
        ),
    };
    report.row(
        "10,000 files of 10 KB: `data push`",
        spread(&first),
        rival_first,
        "≤ 2 s",
    );
    report.row(
        "1 % of them replaced: pushed again",
        spread(&second),
        rival_second,
        "—",
    );
    report.row(
        "1 % of them replaced: bytes stored",
        format!("{:.2} % more", median(share) * 100.0),
        rival_share,
        "≤ 2 %",
    );
    report.note(format!("Data versioning: {ROUNDS} rounds of random files in 100 folders; bytes are those of the blob store's files. `data push` sends them to a server of the same machine, durably; `dvc push` copies them into a local folder."));
}

fn with_git(platform: &Platform, folder: &Path) -> f64 {
    let git = |arguments: &[&str]| {
        let mut command = platform.command("git", folder);
        command.args(arguments);
        run(command, None, PATIENCE * 3).ok();
    };
    git(&["init", "--quiet"]);
    let began = Instant::now();
    git(&["add", "--all"]);
    git(&["commit", "--quiet", "-m", "All"]);
    let took = began.elapsed().as_secs_f64();
    let _ = fs::remove_dir_all(folder.join(".git"));
    took
}

/// What DVC needed, a figure per round.
#[derive(Default)]
struct Dvc {
    add: Vec<f64>,
    push: Vec<f64>,
    again: Vec<f64>,
    share: Vec<f64>,
}

fn with_dvc(
    platform: &Platform,
    program: &str,
    folder: &Path,
    random: &mut Random,
    figures: &mut Dvc,
) {
    let parent = folder.parent().unwrap_or(folder).join("with-dvc");
    let remote = folder.parent().unwrap_or(folder).join("dvc-remote");
    for old in [&parent, &remote] {
        let _ = fs::remove_dir_all(old);
        fs::create_dir_all(old).expect("a folder");
    }
    let in_parent = |program: &str, arguments: &[&str]| {
        let mut command = platform.command(program, &parent);
        command.env("DVC_NO_ANALYTICS", "1").args(arguments);
        let began = Instant::now();
        run(command, None, PATIENCE * 10).ok();
        began.elapsed().as_secs_f64()
    };
    in_parent("cp", &["-r", folder.to_str().unwrap_or_default(), "files"]);
    in_parent("git", &["init", "--quiet"]);
    in_parent(program, &["init", "--quiet"]);
    let url = remote.to_str().unwrap_or_default();
    in_parent(
        program,
        &["remote", "add", "--quiet", "--default", "local", url],
    );
    figures
        .add
        .push(in_parent(program, &["add", "--quiet", "files"]));
    figures.push.push(in_parent(program, &["push", "--quiet"]));
    let before = below(&remote);
    for index in (0..FILES).step_by(100) {
        write(&parent.join("files"), index, random);
    }
    let again = in_parent(program, &["add", "--quiet", "files"]);
    figures
        .again
        .push(again + in_parent(program, &["push", "--quiet"]));
    figures
        .share
        .push(below(&remote).saturating_sub(before) as f64 / before as f64);
}
