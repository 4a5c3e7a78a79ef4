//! From a push to the moment at which the new thing serves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ondol_testing::engine::{engine, site, with_engine};
use ondol_testing::table::Table;
use ondol_testing::{Platform, Project, eventually};

use crate::report::{Report, spread};

const ROUNDS: usize = 9;

/// Pushes version after version until the last answer came from it. Seconds until then, and
/// until git has returned.
fn rounds(platform: &Platform, project: &Project) -> (Vec<f64>, Vec<f64>) {
    let name = project.name();
    platform.push(project).ok();
    platform.last_run(name);
    let mut live = Vec::new();
    let mut returned = Vec::new();
    for round in 0..ROUNDS {
        let version = format!("{}", round + 2);
        project.set_version(platform, &version);
        let done = AtomicBool::new(false);
        let began = Instant::now();
        let (push, moved) = std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                // All traffic is on the new release after the last answer of another one.
                let mut moved = None;
                while !done.load(Ordering::Relaxed) || moved.is_none() {
                    let answered = platform.version(name) == version;
                    match (answered, moved) {
                        (true, None) => moved = Some(began.elapsed()),
                        (false, Some(_)) => moved = None,
                        _ => {}
                    }
                    std::thread::sleep(Duration::from_millis(3));
                }
                moved.unwrap_or_default()
            });
            platform.push(project).ok();
            let push = began.elapsed();
            done.store(true, Ordering::Relaxed);
            (push, watching.join().expect("the watcher ends"))
        });
        live.push(moved.as_secs_f64());
        returned.push(push.as_secs_f64());
    }
    (live, returned)
}

/// `git push` of a repository with a Dockerfile, of which one line changes.
pub(crate) fn containers(report: &mut Report) {
    let Some(engine) = engine() else {
        report.note("Containers: not measured, there is no engine.");
        return;
    };
    let platform = Platform::start_with(with_engine(engine, &[]));
    let yaml = "test: \"true\"\nservice: { health: { path: /version } }\n";
    let (live, _) = rounds(&platform, &site(&platform, "site", yaml));
    report.row(
        "`git push` → all traffic on the new container (Dockerfile, cached)",
        spread(&live),
        "—",
        "≤ 5 s",
    );
    report.note(format!(
        "Containers: {ROUNDS} pushes of a changed line to a Dockerfile of two stages whose first `RUN` follows that line, on Podman \
         with overlay storage and runc."
    ));
}

/// `git push` of the web template until the last answer came from the new release.
pub(crate) fn push(report: &mut Report) {
    let platform = Platform::start();
    let project = platform.new_project("web", "shop");
    let (live, returned) = rounds(&platform, &project);
    report.row(
        "`git push` → all traffic on the new release (web template)",
        spread(&live),
        "—",
        "≤ 2 s",
    );
    report.row(
        "`git push` → git has returned with the verdict",
        spread(&returned),
        "—",
        "—",
    );
    report.note(format!(
        "Push: {ROUNDS} pushes of a changed line to the `web` template, tests and image included, while the service is asked \
         every 3 ms; the time ends at the first answer of the new release after which no other came."
    ));
}

/// `ondol data push` of Iris until the release with the new model is current and answers.
pub(crate) fn data(report: &mut Report) {
    let platform = Platform::start();
    let project = platform.new_project("model", "iris");
    platform.push(&project).ok();
    platform.last_run("iris");
    let table = Table::parse(&project.read("data/iris.csv"));
    let file = platform.folder().join("rows.csv");
    let question = r#"{"dataframe_split":{"columns":["sepal_length","sepal_width","petal_length","petal_width"],"data":[[5.1,3.5,1.4,0.2]]}}"#;
    let mut served = Vec::new();
    for round in 0..ROUNDS as i64 {
        // A row or two less each time: the model is as good, and the data is new.
        std::fs::write(&file, table.without_every(140 - 7 * round as usize).csv())
            .expect("rows are written");
        let began = Instant::now();
        platform
            .cli(
                &[
                    "data",
                    "push",
                    "iris",
                    file.to_str().unwrap_or_default(),
                    "--as",
                    "iris.csv",
                ],
                project.dir(),
            )
            .ok();
        eventually("the new model serves", Duration::from_secs(120), || {
            platform.releases("iris").iter().any(|release| {
                release["current"] == true && release["model"]["version"] == round + 1
            })
        });
        platform
            .invoke("iris", "application/json", question)
            .is(200);
        served.push(began.elapsed().as_secs_f64());
        platform.last_run("iris");
    }
    report.row(
        "`data push` → new model serving (Iris, `auto`)",
        spread(&served),
        "—",
        "≤ 3 s",
    );
    report.note(format!(
        "Data: {ROUNDS} pushes of about 150 rows; the time ends with a prediction of the release that carries the new model."
    ));
}
