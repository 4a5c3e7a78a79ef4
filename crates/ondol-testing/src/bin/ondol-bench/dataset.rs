//! Many small files: how fast they are versioned, and what a change costs.

use std::fs;
use std::path::Path;
use std::time::Instant;

use ondol_testing::platform::{PATIENCE, run};
use ondol_testing::table::Random;
use ondol_testing::{Platform, has_program};

use crate::report::{Report, median, seconds, spread};

const ROUNDS: usize = 3;
const FILES: usize = 10_000;
const BYTES: usize = 10_000;

fn stored(platform: &Platform) -> f64 {
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
    let mut dvc = Vec::new();
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
        if has_program("dvc") {
            dvc.push(with_dvc(&platform, &folder));
        }
    }
    let rival = match (dvc.is_empty(), seconds(median(git))) {
        (true, git) => format!("`git add && git commit`: {git}; DVC is not installed here"),
        (false, git) => format!(
            "`dvc add`: {}; `git add && git commit`: {git}",
            seconds(median(dvc))
        ),
    };
    report.row(
        "10,000 files of 10 KB: `data push`",
        spread(&first),
        rival,
        "≤ 2 s",
    );
    report.row(
        "1 % of them replaced: pushed again",
        spread(&second),
        "—",
        "—",
    );
    report.row(
        "1 % of them replaced: bytes stored",
        format!("{:.2} % more", median(share) * 100.0),
        "—",
        "≤ 2 %",
    );
    report.note(format!("Data versioning: {ROUNDS} rounds of random files in 100 folders; bytes are those of the blob store's files."));
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

fn with_dvc(platform: &Platform, folder: &Path) -> f64 {
    let parent = folder.parent().unwrap_or(folder).join("with-dvc");
    let _ = fs::remove_dir_all(&parent);
    fs::create_dir_all(&parent).expect("a folder");
    let in_parent = |program: &str, arguments: &[&str]| {
        let mut command = platform.command(program, &parent);
        command.args(arguments);
        run(command, None, PATIENCE * 10).ok();
    };
    in_parent("cp", &["-r", folder.to_str().unwrap_or_default(), "files"]);
    in_parent("git", &["init", "--quiet"]);
    in_parent("dvc", &["init", "--quiet"]);
    let began = Instant::now();
    in_parent("dvc", &["add", "--quiet", "files"]);
    began.elapsed().as_secs_f64()
}
