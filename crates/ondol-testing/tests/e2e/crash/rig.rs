//! A platform with a live application under a steady question, whose control plane is killed
//! again and again; after each death everything is checked.

use std::time::{Duration, Instant};

use ondol_testing::engine::{Podman, engine, site, with_engine};
use ondol_testing::platform::PATIENCE;
use ondol_testing::table::Table;
use ondol_testing::{
    Load, LoadPlan, Output, Platform, Project, eventually, eventually_some, remark,
};
use serde_json::Value;

use crate::fixtures::{push_live, small_app};
use crate::loop_data::{iris, push_table};

/// How long after the end of a run its last places may still be met: draining, stopping, cleaning.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// What is pushed while the control plane dies.
enum Cargo {
    Code { version: u32 },
    Data { table: Table, version: usize },
}

/// What a push left behind, seen after the restart.
pub(crate) struct Outcome {
    /// Whether the place was met.
    pub(crate) reached: bool,
    /// The run of the push.
    pub(crate) run: Value,
}

/// A platform, a project, and somebody who keeps asking.
pub(crate) struct Rig {
    pub(crate) platform: Platform,
    pub(crate) project: Project,
    cargo: Cargo,
    load: Option<Load>,
    /// Where the application runs in a container: whom to ask what runs.
    engine: Option<&'static Podman>,
}

impl Rig {
    /// A web service, whose first version is live.
    #[track_caller]
    pub(crate) fn code(rest: &str) -> Self {
        let platform = Platform::start();
        let project = small_app(&platform, "phoenix", "", rest);
        push_live(&platform, &project);
        Self::watched(platform, project, Cargo::Code { version: 1 }, "/version")
    }

    /// A site in a container, whose first version is live. `None` where there is no engine.
    #[track_caller]
    pub(crate) fn contained() -> Option<Self> {
        let engine = engine()?;
        let platform = Platform::start_with(with_engine(engine, &[]));
        let yaml = "test: \"true\"\nservice: { health: { path: /version, deadline: 60s } }\nrelease: { command: \"true\" }\n";
        let project = site(&platform, "phoenix", yaml);
        push_live(&platform, &project);
        let mut rig = Self::watched(platform, project, Cargo::Code { version: 1 }, "/version");
        rig.engine = Some(engine);
        Some(rig)
    }

    /// A model, whose first version is live.
    #[track_caller]
    pub(crate) fn data() -> Self {
        let platform = Platform::start();
        let project = platform.new_project("model", "phoenix");
        push_live(&platform, &project);
        let table = iris(&project);
        push_table(&platform, &project, &table.csv(), "version 1").ok();
        Self::watched(
            platform,
            project,
            Cargo::Data { table, version: 1 },
            "/ping",
        )
    }

    fn watched(platform: Platform, project: Project, cargo: Cargo, path: &str) -> Self {
        let base = format!("{}/apps/phoenix", platform.gateway());
        let plan = LoadPlan {
            path: path.to_owned(),
            ..LoadPlan::poll(base)
        };
        let load = Some(Load::start(plan).warmed_up(1));
        Self {
            platform,
            project,
            cargo,
            load,
            engine: None,
        }
    }

    /// The next thing to push.
    pub(crate) fn prepare(&mut self) -> Push {
        match &mut self.cargo {
            Cargo::Code { version } => {
                *version += 1;
                let commit = self
                    .project
                    .set_version(&self.platform, &version.to_string());
                Push::Code {
                    commit,
                    version: version.to_string(),
                }
            }
            Cargo::Data { table, version } => {
                *version += 1;
                let file = self.platform.folder().join("rows.csv");
                std::fs::write(&file, table.without_every(*version + 3).csv()).unwrap();
                Push::Data {
                    message: format!("version {version}"),
                }
            }
        }
    }

    /// Pushes it and waits for the client's end, whatever it is.
    pub(crate) fn push(&self, push: &Push) -> Output {
        match push {
            Push::Code { .. } => self.platform.push(&self.project),
            Push::Data { message } => {
                let file = self.platform.folder().join("rows.csv");
                let name = self.project.name();
                self.platform.cli(
                    &[
                        "data",
                        "push",
                        name,
                        file.to_str().unwrap(),
                        "--as",
                        "iris.csv",
                        "-m",
                        message,
                    ],
                    self.project.dir(),
                )
            }
        }
    }

    /// The run of a push, when there is one.
    ///
    /// # Panics
    /// When there are several.
    #[track_caller]
    pub(crate) fn run_of(&self, push: &Push) -> Option<Value> {
        let runs = self.platform.runs(self.project.name());
        let found: Vec<Value> = match push {
            Push::Code { commit, .. } => runs
                .into_iter()
                .filter(|run| run["commit"] == **commit && run["trigger"]["kind"] == "push")
                .collect(),
            Push::Data { message } => {
                let version = self.data_version(message)?;
                runs.into_iter()
                    .filter(|run| run["trigger"]["version"] == version["id"])
                    .collect()
            }
        };
        assert!(found.len() <= 1, "several runs of one push: {found:#?}");
        found.into_iter().next()
    }

    fn data_version(&self, message: &str) -> Option<Value> {
        let name = self.project.name();
        let log = self
            .platform
            .cli(&["data", "log", name, "--json"], self.project.dir())
            .ok()
            .json();
        let found: Vec<Value> = log
            .as_array()
            .into_iter()
            .flatten()
            .filter(|version| version["message"] == message)
            .cloned()
            .collect();
        assert!(found.len() <= 1, "several versions of one push: {found:#?}");
        found.into_iter().next()
    }

    /// Whether what was pushed is there.
    fn is_there(&self, push: &Push) -> bool {
        match push {
            Push::Code { commit, .. } => {
                let listed = self
                    .platform
                    .git(
                        &["ls-remote", "ondol", "refs/heads/main"],
                        self.project.dir(),
                    )
                    .ok();
                listed.stdout.starts_with(commit.as_str())
            }
            Push::Data { message } => self.data_version(message).is_some(),
        }
    }

    /// Pushes while the control plane is set to die at `point`, starts it again, and checks
    /// everything.
    #[track_caller]
    pub(crate) fn die_at(&mut self, point: &str) -> Outcome {
        let push = self.prepare();
        self.platform.kill9();
        let began = Instant::now();
        let ready = self.platform.crash_at(point);
        let output = ready.then(|| self.push(&push));
        let reached = self.dies_before_it_is_through(&push);
        self.platform.kill9();
        self.platform.restart();
        // A death before it was ready is one too; the push comes after it.
        let output = output.unwrap_or_else(|| self.push(&push).ok());
        let run = self.verify(point, &push, &output);
        let word = if reached { "died" } else { "was not met" };
        let (outcome, seconds) = (
            run["outcome"].as_str().unwrap_or(""),
            began.elapsed().as_secs_f32(),
        );
        remark(format!(
            "{point}: {word}; the push exited with {}, the run: {outcome} ({seconds:.1} s)",
            output.code
        ));
        Outcome { reached, run }
    }

    fn dies_before_it_is_through(&mut self, push: &Push) -> bool {
        let mut through: Option<Instant> = None;
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if self.platform.has_ended() {
                return true;
            }
            // It may die while it is being asked.
            let path = format!("/projects/{}/runs?limit=20", self.project.name());
            let request = self.platform.authorized("GET", &format!("/api/v1{path}"));
            if through.is_none()
                && let Ok(answer) = self.platform.send(request)
                && answer.status == 200
                && push.has_finished(&answer.json())
            {
                through = Some(Instant::now());
            }
            if through.is_some_and(|at| at.elapsed() > AFTERWARDS) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// Everything that must hold after a death, whenever it came.
    #[track_caller]
    pub(crate) fn verify(&self, place: &str, push: &Push, output: &Output) -> Value {
        if output.code == 0 {
            assert!(
                self.is_there(push),
                "{place}: an acknowledged push is lost\n{}",
                output.text()
            );
        }
        if !self.is_there(push) {
            assert!(
                self.run_of(push).is_none(),
                "{place}: a run of something that is not there"
            );
            self.push(push).ok();
        }
        let run = eventually_some(&format!("{place}: the push has a run"), PATIENCE, || {
            self.run_of(push)
        });
        let run = self.platform.wait_for_run(&run);
        let current = self.platform.current_release(self.project.name());
        let released: Vec<Value> = self
            .platform
            .releases(self.project.name())
            .into_iter()
            .filter(|release| release["run"] == run["id"])
            .collect();
        assert!(
            released.len() <= 1,
            "{place}: a run was released several times: {released:#?}"
        );
        match run["outcome"].as_str() {
            Some("success") => {
                assert_eq!(
                    current["run"], run["id"],
                    "{place}: what succeeded is current: {current:#}\n{run:#}"
                );
                if let Push::Code { version, .. } = push {
                    assert_eq!(
                        self.platform.version(self.project.name()),
                        *version,
                        "{place}"
                    );
                }
            }
            // A gate may say no, and a release command is never repeated when nobody knows how it
            // ended; then the release before serves.
            Some("refused") => assert_ne!(current["run"], run["id"], "{place}: {run:#}"),
            Some("failure") if place.starts_with("deploy.command.") => {
                assert_ne!(current["run"], run["id"], "{place}: {run:#}");
            }
            Some("failure") if place.starts_with("deploy.fail.") => {
                assert_ne!(current["run"], run["id"], "{place}: {run:#}");
            }
            _ => panic!(
                "{place}: the run did not end well: {run:#}\n{}",
                output.text()
            ),
        }
        for step in run["steps"].as_array().into_iter().flatten() {
            assert_eq!(step["state"], "finished", "{place}: {run:#}");
        }
        self.events_are_sound(place, &run);
        self.one_replica_is_left(place);
        run
    }

    /// The log has no gap, and one push made one run.
    fn events_are_sound(&self, place: &str, run: &Value) {
        let events = self.platform.events();
        let of = |kind: &str| {
            let same = |event: &&Value| {
                event["chain"] == run["chain"]
                    && event["type"].as_str().unwrap_or_default().contains(kind)
            };
            events.iter().filter(same).count()
        };
        assert_eq!(of("push.received") + of("dataset.committed"), 1, "{place}");
        assert_eq!(of("pipelinerun.queued"), 1, "{place}");
        assert_eq!(of("pipelinerun.finished"), 1, "{place}");
        assert!(
            of("service.deployed") + of("service.upgraded") <= 1,
            "{place}"
        );
    }

    /// What was replaced has gone, and nothing was started twice.
    fn one_replica_is_left(&self, place: &str) {
        if let Some(engine) = self.engine {
            let data = self.platform.data().canonicalize().unwrap();
            let directory = format!(
                "label=dev.ondol.directory={}",
                data.join("containers").display()
            );
            return eventually(&format!("{place}: one container is left"), PATIENCE, || {
                let running = engine.run(&["ps", "--quiet", "--filter", &directory]);
                running.lines().count() == 1
            });
        }
        let program = match self.cargo {
            Cargo::Code { .. } => "app.py",
            Cargo::Data { .. } => "model-server",
        };
        eventually(&format!("{place}: one replica is left"), PATIENCE, || {
            let found = self.platform.processes().into_iter().filter(|process| {
                process
                    .arguments
                    .iter()
                    .any(|argument| argument.contains(program))
                    && !process.is_role("shim")
                    && !process
                        .arguments
                        .first()
                        .is_some_and(|program| program.ends_with("sh"))
            });
            found.count() == 1
        });
    }

    /// Ends the questions and says how they were answered.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        let report = self.load.take().expect("the load runs").finish();
        remark(format!(
            "{} questions, the longest gap between answers {:.0} ms",
            report.done(),
            report.longest_gap.as_secs_f64() * 1e3
        ));
        report.assert_no_failure(20);
    }

    /// Ends the questions of a test that also kills the gateway: failures are reported.
    pub(crate) fn finish_leniently(mut self) {
        let report = self.load.take().expect("the load runs").finish();
        remark(format!(
            "{} questions, {} failed while the gateway was away, the longest gap {:.0} ms",
            report.done(),
            report.failed(),
            report.longest_gap.as_secs_f64() * 1e3
        ));
    }
}

/// Something that was or will be pushed.
pub(crate) enum Push {
    Code { commit: String, version: String },
    Data { message: String },
}

impl Push {
    fn has_finished(&self, page: &Value) -> bool {
        let runs = page["items"].as_array().cloned().unwrap_or_default();
        let finished = |run: &Value| run["state"] == "finished";
        match self {
            Self::Code { commit, .. } => runs
                .iter()
                .any(|run| run["commit"] == **commit && finished(run)),
            // The newest run is that of the data; nothing else starts one here.
            Self::Data { message } => {
                let number: i64 = message
                    .rsplit(' ')
                    .next()
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(0);
                runs.first().is_some_and(|run| {
                    run["trigger"]["number"].as_i64() >= Some(number) && finished(run)
                })
            }
        }
    }
}
