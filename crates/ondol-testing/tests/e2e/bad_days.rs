//! Programs that misbehave, disks that fill, files with mistakes: a clear error, nothing lost,
//! nothing half-made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ondol_testing::platform::{PATIENCE, run};
use ondol_testing::process::Running;
use ondol_testing::table::Random;
use ondol_testing::wait::holds_within;
use ondol_testing::{Load, LoadPlan, Options, Platform, eventually, is_root, remark, skipped};
use serde_json::Value;

use crate::fixtures::{SMALL_APP, last_run_is, push_live, small_app, small_yaml, step};

fn bytes_below(dir: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => sum += bytes_below(&entry.path()),
            Ok(metadata) => sum += metadata.len(),
            Err(_) => {}
        }
    }
    sum
}

fn programs(platform: &Platform, argument: &str) -> Vec<Running> {
    let has = |process: &Running| process.arguments.iter().any(|word| word == argument);
    platform.processes().into_iter().filter(has).collect()
}

#[test]
fn a_program_that_forks_without_end_is_bounded_and_ended() {
    let platform = Platform::start();
    let bomb = small_app(&platform, "bomb", "  limits: { pids: 80 }\n", "");
    let calm = small_app(&platform, "calm", "", "");
    push_live(&platform, &bomb);
    push_live(&platform, &calm);
    let base = format!("{}/apps/calm", platform.gateway());
    let load = Load::start(LoadPlan::poll(base)).warmed_up(2);
    // They leave the process group and the session; only the engine's own bookkeeping finds them.
    let answer = platform
        .app("bomb", "/fork?count=400")
        .unwrap()
        .is(200)
        .json();
    let started = answer["started"].as_u64().unwrap();
    let notices = platform.get("/status")["notices"].to_string();
    if started < 400 {
        remark(format!(
            "{started} of 400 processes could be started under the limit of 80"
        ));
        assert!(started < 80, "{answer}");
    } else {
        remark(format!("no limit on this host: {notices}"));
        assert!(
            notices.contains("limit") || notices.contains("cgroup"),
            "a limit that is not enforced is told: {notices}"
        );
    }
    assert!(programs(&platform, "3600").len() as u64 >= started.min(50));

    bomb.set_version(&platform, "2");
    push_live(&platform, &bomb);
    assert_eq!(platform.version("bomb"), "2");
    eventually(
        "everything that the first version forked is gone",
        PATIENCE,
        || programs(&platform, "3600").is_empty(),
    );
    load.finish().assert_no_failure(5);

    // The same in a test step.
    bomb.write(
        "ondol.yaml",
        &small_yaml("bomb", "", "").replace(
            "\"true\"",
            "\"for i in 1 2 3 4 5; do setsid sleep 3600 & done; sleep 1\"",
        ),
    );
    bomb.commit(&platform, "Tests that leave something behind");
    platform.push(&bomb).ok();
    platform.last_run("bomb");
    eventually("what a test left behind is gone", PATIENCE, || {
        programs(&platform, "3600").is_empty()
    });
}

#[test]
fn a_flood_of_log_lines_is_bounded_on_disk() {
    let platform = Platform::start();
    let app = small_app(&platform, "noisy", "", "");
    push_live(&platform, &app);
    let before = bytes_below(platform.data());
    for _ in 0..3 {
        platform
            .app("noisy", "/flood?bytes=60000000")
            .unwrap()
            .is(200);
    }
    platform
        .app("noisy", "/say?text=after%20the%20flood")
        .unwrap()
        .is(200);
    eventually("the newest line is there", PATIENCE, || {
        let logs = platform.cli(&["logs", "--lines", "5"], app.dir()).ok();
        logs.stdout.contains("after the flood")
    });
    let kept = bytes_below(platform.data()).saturating_sub(before);
    remark(format!(
        "180 MB of log lines left {} MB on disk",
        kept / 1_000_000
    ));
    assert!(kept < 80_000_000, "{kept} bytes of log are kept");
    assert_eq!(platform.version("noisy"), "1");
    let status = platform.get("/status?project=noisy");
    let memory = ondol_testing::process::proportional_bytes(platform.serve_pid()).unwrap_or(0);
    assert!(memory < 500_000_000, "serve has {memory} bytes: {status}");
}

#[test]
fn a_program_that_ignores_sigterm_is_ended() {
    let platform = Platform::start();
    let app = small_app(
        &platform,
        "stubborn",
        "  stop: 1s\n  env: { IGNORE_TERM: \"1\" }\n",
        "",
    );
    push_live(&platform, &app);
    let old = platform.app("stubborn", "/version").unwrap().is(200).json()["pid"]
        .as_i64()
        .unwrap();
    app.set_version(&platform, "2");
    push_live(&platform, &app);
    assert_eq!(platform.version("stubborn"), "2");
    eventually("the old program is gone", PATIENCE, || {
        !ondol_testing::process::is_alive(old as i32)
    });
}

#[test]
fn a_program_that_exits_at_once_is_named_and_held_back() {
    let platform = Platform::start();
    let app = small_app(
        &platform,
        "brief",
        "",
        "env: { NOTES_DIR: state }\nvolumes: { state: state/ }\n",
    );
    push_live(&platform, &app);

    // A new version that exits at once never serves, and the run says how it ended.
    app.write(
        "ondol.yaml",
        &small_yaml("brief", "  env: { EXIT_AT_ONCE: \"7\" }\n", ""),
    );
    app.commit(&platform, "Exit at once");
    let output = platform.push(&app).ok();
    let run = last_run_is(&platform, "brief", "failure");
    assert_eq!(step(&run, "deploy"), "failure", "{run:#}");
    let told = format!(
        "{}{}",
        output.text(),
        platform.cli(&["run", "logs"], app.dir()).ok().text()
    );
    assert!(
        told.contains('7') && told.contains("the stars are not right"),
        "the exit code and the last words are shown:\n{told}"
    );
    assert_eq!(platform.version("brief"), "1");

    // A version that serves first and then exits again and again: started ever more rarely.
    let loops = SMALL_APP.replacen(
        "def main():",
        "def main():\n    count = NOTES.with_name(\"starts.txt\")\n    with count.open(\"a\") as file:\n        file.write(\"start\\n\")\n    if NOTES.exists():\n        sys.exit(9)",
        1,
    );
    app.write("app.py", &loops);
    app.write(
        "ondol.yaml",
        &small_yaml(
            "brief",
            "",
            "env: { NOTES_DIR: state }\nvolumes: { state: state/ }\n",
        ),
    );
    app.set_version(&platform, "3");
    push_live(&platform, &app);
    platform
        .app("brief", "/note?text=now%20fail")
        .unwrap()
        .is(200);
    platform.app("brief", "/crash").unwrap().is(200);
    let named = holds_within(PATIENCE, || {
        let status = platform.get("/status?project=brief").to_string();
        status.contains("exit") && status.contains('9')
    });
    let status = platform.get("/status?project=brief");
    assert!(named, "status names the exit code: {status:#}");
    std::thread::sleep(Duration::from_secs(12));
    let starts = starts_below(&platform.data().join("volumes"));
    remark(format!("{starts} starts within a quarter of a minute"));
    assert!((3..=20).contains(&starts), "{starts} starts");
    let answer = platform.app("brief", "/version").unwrap();
    assert!(
        (502..=504).contains(&answer.status),
        "nothing serves: {}",
        answer.status
    );
    platform.cli(&["status"], app.dir()).ok();
    platform.cli(&["rollback", "--to", "1"], app.dir()).ok();
    assert_eq!(platform.version("brief"), "1");
}

fn starts_below(dir: &Path) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            count += starts_below(&path);
        } else if path.ends_with("starts.txt") {
            count += fs::read_to_string(&path)
                .unwrap_or_default()
                .lines()
                .count();
        }
    }
    count
}

#[test]
fn a_mistake_in_the_configuration_is_named_with_its_line() {
    let platform = Platform::start();
    let app = small_app(&platform, "typo", "", "");
    push_live(&platform, &app);
    let good = app.read("ondol.yaml");
    for (bad, words) in [
        (
            good.replace("service:", "servce:"),
            &["ondol.yaml", "servce", ":3:", "service"][..],
        ),
        (
            format!("{good}  replicas: many\n"),
            &["ondol.yaml:", "replicas"],
        ),
        (
            format!("{good}release: {{ check: \"error_rate <\" }}\n"),
            &["ondol.yaml", "check"],
        ),
        (good.replace("service:", "service: [\n"), &["ondol.yaml:"]),
    ] {
        app.write("ondol.yaml", &bad);
        app.commit(&platform, "A mistake");
        let output = platform.push(&app).ok();
        for word in words {
            output.says(word);
        }
        let run = platform.last_run("typo");
        assert!(
            matches!(run["outcome"].as_str(), Some("failure" | "error")),
            "{run:#}"
        );
        let explained = platform.cli(&["explain"], app.dir()).exits(2);
        for word in words {
            explained.says(word);
        }
        assert_eq!(platform.version("typo"), "1");
    }
    app.write("ondol.yaml", &good);
    app.set_version(&platform, "2");
    push_live(&platform, &app);
    assert_eq!(platform.version("typo"), "2");
}

/// A small file system, unmounted when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=0700"),
                "ondol-e2e",
            ])
            .arg(at);
        (run(mount, None, PATIENCE).code == 0).then(|| Self(at.to_owned()))
    }

    /// Leaves so many bytes free.
    fn fill(&self, free: u64) -> PathBuf {
        let path = self.0.join("filler");
        let mut random = Random::new(1);
        let block = random.bytes(64 * 1024);
        let mut file = fs::File::create(&path).unwrap();
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(free)).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        umount.arg("--lazy").arg(&self.0);
        let _ = run(umount, None, PATIENCE);
    }
}

#[test]
fn a_full_disk_refuses_pushes_and_loses_nothing() {
    let test = "a_full_disk_refuses_pushes_and_loses_nothing";
    if !is_root() {
        skipped(test, "only root may mount a small file system");
        return;
    }
    let folder = tempfile::Builder::new()
        .prefix("ondol-disk-")
        .tempdir()
        .unwrap();
    let Some(disk) = SmallDisk::mount(folder.path(), "192m") else {
        skipped(test, "a tmpfs cannot be mounted here");
        return;
    };
    let data = folder.path().join("data");
    let platform = Platform::start_with(Options {
        data: Some(data),
        ..Options::default()
    });
    let app = small_app(&platform, "squeezed", "", "");
    push_live(&platform, &app);
    let good = app.head(&platform);
    let base = format!("{}/apps/squeezed", platform.gateway());
    let load = Load::start(LoadPlan::poll(base)).warmed_up(2);

    let filler = disk.fill(512 * 1024);
    fs::write(app.dir().join("big.bin"), Random::new(5).bytes(8_000_000)).unwrap();
    let commit = app.commit(&platform, "A large file");
    let push = platform.push(&app);
    assert_ne!(
        push.code,
        0,
        "a push that cannot be stored is refused:\n{}",
        push.text()
    );
    let told = push.text().to_lowercase();
    assert!(
        told.contains("space") || told.contains("disk"),
        "the reason is told:\n{}",
        push.text()
    );
    let rows = platform.folder().join("rows.csv");
    let lines: String = Random::new(6)
        .bytes(3_000_000)
        .chunks(10)
        .map(|chunk| format!("{chunk:?}\n").replace([' ', '[', ']'], ""))
        .collect();
    fs::write(&rows, format!("a,b,c,d,e,f,g,h,i,j\n{lines}")).unwrap();
    let push_data = || {
        platform.cli(
            &["data", "push", "rows", rows.to_str().unwrap(), "-m", "Rows"],
            app.dir(),
        )
    };
    let refused = push_data();
    assert_eq!(refused.code, 6, "{}", refused.text());
    let told = refused.text().to_lowercase();
    assert!(
        told.contains("space") || told.contains("disk"),
        "the reason is told:\n{}",
        refused.text()
    );
    assert_eq!(platform.version("squeezed"), "1", "what serves goes on");
    platform.get("/status");

    fs::remove_file(filler).unwrap();
    assert_eq!(
        platform.runs_of("squeezed", &commit),
        Vec::<Value>::new(),
        "nothing was started"
    );
    let refs = platform
        .git(&["ls-remote", "ondol", "refs/heads/main"], app.dir())
        .ok()
        .stdout;
    assert!(refs.starts_with(&good), "the branch did not move: {refs}");
    let log = platform.cli(&["data", "log", "rows", "--json"], app.dir());
    assert!(
        log.code == 4 || log.json().as_array().is_some_and(Vec::is_empty),
        "{}",
        log.text()
    );
    push_live(&platform, &app);
    push_data().ok();
    platform.cli(&["data", "verify", "rows"], app.dir()).ok();
    platform.events();
    load.finish().assert_no_failure(5);
    drop(platform);
    drop(disk);
}

#[test]
fn a_commit_that_unfolds_without_end_is_refused_in_words() {
    let platform = Platform::start();
    let app = small_app(&platform, "heavy", "", "");
    push_live(&platform, &app);
    // One large file of zeros under very many names: next to nothing to push, and more than any
    // disk to check out.
    fs::write(app.dir().join("zeros.bin"), vec![0u8; 64 << 20]).unwrap();
    platform.git(&["add", "zeros.bin"], app.dir()).ok();
    let staged = platform
        .git(&["rev-parse", ":zeros.bin"], app.dir())
        .ok()
        .stdout;
    let blob = staged.trim();
    let names: String = (0..20_000)
        .map(|index| format!("100644 {blob}\tbomb/{index}.bin\n"))
        .collect();
    let mut index = platform.client_command("git", app.dir());
    index.args(["update-index", "--add", "--index-info"]);
    run(index, Some(names.as_bytes()), PATIENCE).ok();
    platform
        .git(&["commit", "--quiet", "-m", "Much of nothing"], app.dir())
        .ok();
    let free = free_bytes(platform.data());
    let output = platform.push(&app).ok();
    let run = platform.last_run("heavy");
    assert!(
        matches!(run["outcome"].as_str(), Some("failure" | "error")),
        "{run:#}"
    );
    let told = format!("{}{run}", output.text()).to_lowercase();
    assert!(
        told.contains("more than") || told.contains("limit") || told.contains("too large"),
        "the reason is told: {told}"
    );
    eventually("what was written is gone again", PATIENCE, || {
        free_bytes(platform.data()) + (1 << 30) > free
    });
    assert_eq!(platform.version("heavy"), "1");
}

fn free_bytes(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(0, |stat| stat.f_bavail * stat.f_frsize)
}
