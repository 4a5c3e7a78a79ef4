//! A push of data ends in a model that serves, or in a clear word why not.

use std::fs;
use std::path::Path;

use ondol_testing::platform::PATIENCE;
use ondol_testing::table::{Random, Table};
use ondol_testing::wait::holds_within;
use ondol_testing::{Output, Platform, Project, eventually};
use serde_json::{Value, json};

use crate::fixtures::{last_run_is, push_live, step};

/// Pushes one table as the Iris dataset and follows what it starts.
#[track_caller]
pub(crate) fn push_table(
    platform: &Platform,
    project: &Project,
    csv: &str,
    message: &str,
) -> Output {
    let file = platform.folder().join("pushed.csv");
    fs::write(&file, csv).unwrap();
    let path = file.to_str().unwrap();
    platform.cli(
        &[
            "data",
            "push",
            project.name(),
            path,
            "--as",
            "iris.csv",
            "-m",
            message,
            "--watch",
        ],
        project.dir(),
    )
}

/// The table of the model template.
#[track_caller]
pub(crate) fn iris(project: &Project) -> Table {
    Table::parse(&project.read("data/iris.csv"))
}

fn versions(platform: &Platform, project: &str) -> Vec<Value> {
    let output = platform.cli(
        &["data", "log", project, "--project", project, "--json"],
        platform.folder(),
    );
    match output.code {
        0 => output.json().as_array().cloned().unwrap_or_default(),
        // Not there yet is an answer too.
        4 => Vec::new(),
        code => panic!("data log exited with {code}: {}", output.text()),
    }
}

const QUESTION: &str = r#"{"dataframe_split":{"columns":["sepal_length","sepal_width","petal_length","petal_width"],"data":[[5.1,3.5,1.4,0.2],[6.7,3.0,5.2,2.3]]}}"#;

#[track_caller]
fn predicts(platform: &Platform, project: &str) {
    let answer = platform
        .invoke(project, "application/json", QUESTION)
        .is(200)
        .json();
    assert_eq!(answer, json!({"predictions": ["setosa", "virginica"]}));
}

/// Each of MLflow's forms of a question, with the same answer.
fn every_form_is_understood(platform: &Platform) {
    let expected = json!({"predictions": ["setosa", "virginica"]});
    let forms = [
        ("application/json", QUESTION),
        (
            "application/json",
            r#"{"dataframe_records":[{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2},{"sepal_length":6.7,"sepal_width":3.0,"petal_length":5.2,"petal_width":2.3}]}"#,
        ),
        (
            "application/json",
            r#"{"instances":[{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2},{"sepal_length":6.7,"sepal_width":3.0,"petal_length":5.2,"petal_width":2.3}]}"#,
        ),
        (
            "application/json",
            r#"{"inputs":{"sepal_length":[5.1,6.7],"sepal_width":[3.5,3.0],"petal_length":[1.4,5.2],"petal_width":[0.2,2.3]}}"#,
        ),
        (
            "text/csv",
            "sepal_length,sepal_width,petal_length,petal_width\n5.1,3.5,1.4,0.2\n6.7,3.0,5.2,2.3\n",
        ),
    ];
    for (content_type, body) in forms {
        let answer = platform.invoke("iris", content_type, body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(answer.json(), expected, "{body}");
    }
    platform.app("iris", "/ping").unwrap().is(200);
    let wrong = platform.invoke(
        "iris",
        "application/json",
        r#"{"dataframe_split":{"columns":["x"],"data":[[1]]}}"#,
    );
    assert_eq!(wrong.status, 400, "{}", wrong.text());
    assert!(
        wrong.text().contains("sepal_length"),
        "a missing column is named: {}",
        wrong.text()
    );
    assert_eq!(platform.invoke("iris", "application/json", "{").status, 400);
}

#[test]
fn data_trains_gates_and_serves() {
    let platform = Platform::start();
    let iris_project = platform.new_project("model", "iris");
    let all = iris(&iris_project);

    // Code alone: everything passes and waits for data.
    platform.push(&iris_project).ok();
    let run = last_run_is(&platform, "iris", "success");
    assert_eq!(step(&run, "test"), "success", "{run:#}");
    for name in ["validate", "train", "evaluate", "deploy"] {
        assert_eq!(step(&run, name), "skipped", "{name} of {run:#}");
    }
    assert!(run.to_string().contains("waiting for data"), "{run:#}");

    // The first data: trained, and its own champion.
    push_table(
        &platform,
        &iris_project,
        &all.without_every(5).csv(),
        "The first rows",
    )
    .ok();
    let run = last_run_is(&platform, "iris", "success");
    for name in ["validate", "train", "evaluate", "image", "deploy"] {
        assert_eq!(step(&run, name), "success", "{name} of {run:#}");
    }
    assert_eq!(run["trigger"]["kind"], "data", "{run:#}");
    assert_eq!(platform.champion("iris"), 1);
    every_form_is_understood(&platform);
    let release = platform.current_release("iris");
    assert_eq!(release["model"]["name"], "iris", "{release:#}");
    assert_eq!(release["model"]["version"], 1, "{release:#}");

    // More rows: promoted by itself.
    push_table(&platform, &iris_project, &all.csv(), "All rows").ok();
    last_run_is(&platform, "iris", "success");
    assert_eq!(platform.champion("iris"), 2);
    assert_eq!(platform.current_release("iris")["model"]["version"], 2);
    predicts(&platform, "iris");
    lineage_is_kept(&platform);

    // Shuffled labels: the gate refuses.
    let serving = platform.current_release("iris");
    let shuffled = all.with_shuffled_labels(7).csv();
    let output = push_table(&platform, &iris_project, &shuffled, "Shuffled labels").exits(1);
    let run = last_run_is(&platform, "iris", "refused");
    assert_eq!(step(&run, "evaluate"), "refused", "{run:#}");
    output.says("accuracy");
    assert_eq!(platform.champion("iris"), 2);
    let refused = &platform.models("iris")[0];
    assert_eq!(refused["state"], "refused", "{refused:#}");
    assert!(
        refused["reason"].as_str().unwrap().contains("accuracy"),
        "{refused:#}"
    );

    // A broken schema: refused with row and column, before anything is trained.
    let broken = format!("{}5.1,3.5,-1.4,0.2,setosa\n", all.csv());
    let output = push_table(&platform, &iris_project, &broken, "A negative length").exits(1);
    output.says("petal_length").says("151");
    let run = last_run_is(&platform, "iris", "refused");
    assert_eq!(step(&run, "validate"), "refused", "{run:#}");
    assert_eq!(step(&run, "train"), "skipped", "{run:#}");
    assert_eq!(
        platform.models("iris").len(),
        3,
        "nothing was trained on it"
    );

    let unknown = format!("{}5.1,3.5,1.4,0.2,tulip\n", all.csv());
    push_table(&platform, &iris_project, &unknown, "An unknown species")
        .exits(1)
        .says("species")
        .says("tulip");
    assert_eq!(
        platform.current_release("iris"),
        serving,
        "the old model keeps serving"
    );
    predicts(&platform, "iris");
}

/// A model version knows the data, the code and the run that it came from.
fn lineage_is_kept(platform: &Platform) {
    let newest = platform.models("iris")[0].clone();
    let run = platform.runs("iris")[0].clone();
    let data = versions(platform, "iris")[0].clone();
    let text = newest.to_string();
    for (what, value) in [
        ("run", &run["id"]),
        ("commit", &run["commit"]),
        ("data", &data["id"]),
    ] {
        let id = value
            .as_str()
            .unwrap_or_else(|| panic!("no {what} in {run} or {data}"));
        assert!(
            text.contains(id),
            "the {what} {id} is not part of {newest:#}"
        );
    }
    assert!(
        newest["metrics"]["accuracy"]
            .as_f64()
            .is_some_and(|accuracy| accuracy > 0.8),
        "{newest:#}"
    );
}

#[test]
fn code_of_a_model_project_is_tested_and_keeps_the_model() {
    let platform = Platform::start();
    let project = platform.new_project("model", "iris");
    // Data first, code later: nothing to do yet, and nothing is lost.
    platform
        .cli(&["projects", "create", "iris"], project.dir())
        .ok();
    let early = push_table(
        &platform,
        &project,
        &iris(&project).csv(),
        "Before any code",
    );
    let run = last_run_is(&platform, "iris", "skipped");
    assert!(
        run.to_string().contains("code"),
        "{run:#}\n{}",
        early.text()
    );
    push_live(&platform, &project);
    assert_eq!(
        platform.champion("iris"),
        1,
        "the first code trains on the data that waited"
    );
    predicts(&platform, "iris");
    // Further code keeps the champion.
    project.write("README.md", "changed\n");
    project.commit(&platform, "Words");
    push_live(&platform, &project);
    assert_eq!(platform.champion("iris"), 1);
    assert_eq!(platform.models("iris").len(), 1);
    predicts(&platform, "iris");
    // A test that fails stops data as well.
    project.edit("test_contract.py", "\"species\"]", "\"colour\"]");
    project.commit(&platform, "Break the contract");
    platform.push(&project).ok();
    last_run_is(&platform, "iris", "failure");
    push_table(
        &platform,
        &project,
        &iris(&project).without_every(7).csv(),
        "Fewer rows",
    )
    .exits(1);
    let run = last_run_is(&platform, "iris", "failure");
    assert_eq!(step(&run, "test"), "failure", "{run:#}");
    assert_eq!(platform.champion("iris"), 1);
    predicts(&platform, "iris");
}

#[test]
fn tables_that_are_none_are_refused_when_pushed() {
    let platform = Platform::start();
    let project = platform.new_project("model", "iris");
    platform.push(&project).ok();
    platform.last_run("iris");
    let good = iris(&project).csv();
    let events = platform.events().len();
    let runs = platform.runs("iris").len();

    let ragged = good.replacen("\n4.9,", "\n4.9,9.9,", 1);
    assert_ne!(ragged, good);
    let bytes: &[(&str, Vec<u8>, &[&str])] = &[
        ("ragged", ragged.into_bytes(), &["iris.csv", "row 2"]),
        (
            "not UTF-8",
            [good.as_bytes(), b"5.1,3.5,1.4,0.2,set\xffosa\n"].concat(),
            &["iris.csv", "UTF-8"],
        ),
        ("empty", Vec::new(), &["iris.csv", "empty"]),
        (
            "duplicate columns",
            good.replacen("sepal_width", "sepal_length", 1).into_bytes(),
            &["iris.csv", "sepal_length"],
        ),
    ];
    for (what, bytes, words) in bytes {
        let file = platform.folder().join("bad.csv");
        fs::write(&file, bytes).unwrap();
        let output = platform.cli(
            &[
                "data",
                "push",
                "iris",
                file.to_str().unwrap(),
                "--as",
                "iris.csv",
                "-m",
                what,
            ],
            project.dir(),
        );
        assert_eq!(output.code, 2, "{what}: {}", output.text());
        for word in *words {
            output.says(word);
        }
        output.says("hint:");
    }
    let missing = platform.cli(
        &["data", "push", "iris", "/no/such/file.csv"],
        project.dir(),
    );
    assert_eq!(missing.code, 2, "{missing:?}");
    missing.says("/no/such/file.csv");

    assert_eq!(
        versions(&platform, "iris"),
        Vec::<Value>::new(),
        "nothing half-made"
    );
    assert_eq!(platform.events().len(), events, "nothing was recorded");
    assert_eq!(platform.runs("iris").len(), runs, "nothing was started");

    // The same dataset takes a good table afterwards.
    push_table(&platform, &project, &good, "Good rows").ok();
    predicts(&platform, "iris");
}

fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path
                    .strip_prefix(dir)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                found.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn versions_are_listed_compared_checked_out_and_verified() {
    let platform = Platform::start();
    let project = platform.new_project("web", "store");
    push_live(&platform, &project);
    let folder = platform.folder().join("files");
    let mut random = Random::new(11);
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    write("table.csv", b"id,colour\n1,red\n2,green\n3,blue\n");
    write("big.bin", &random.bytes(3_000_000));
    for index in 0..40 {
        write(
            &format!("deep/er/{index}.txt"),
            &random.bytes(2_000 + index * 100),
        );
    }
    let first = tree(&folder);
    let push = |message: &str| {
        platform
            .cli(
                &[
                    "data",
                    "push",
                    "files",
                    folder.to_str().unwrap(),
                    "-m",
                    message,
                ],
                project.dir(),
            )
            .ok()
    };
    push("First");
    write(
        "table.csv",
        b"id,colour\n1,red\n2,violet\n3,blue\n4,white\n",
    );
    fs::remove_file(folder.join("deep/er/0.txt")).unwrap();
    write("new.txt", b"new");
    let second = tree(&folder);
    push("Second");
    let again = push("Nothing new");

    let log = platform
        .cli(&["data", "log", "files", "--json"], project.dir())
        .ok()
        .json();
    let log = log.as_array().unwrap();
    assert!(log.len() >= 2, "{log:#?}\n{}", again.text());
    let of = |message: &str| {
        log.iter()
            .find(|version| version["message"] == message)
            .cloned()
            .unwrap_or_else(|| panic!("{message} in {log:#?}"))
    };
    let (one, two) = (of("First"), of("Second"));
    assert_eq!(one["number"], 1);
    assert_eq!(two["parent"], one["id"], "{two}");
    assert_eq!(two["files"], second.len());
    assert!(
        two["newBytes"].as_i64().unwrap() < 200_000,
        "only what changed is stored: {two}"
    );
    platform
        .cli(&["data", "log", "files"], project.dir())
        .ok()
        .says("Second");

    let diff = platform
        .cli(&["data", "diff", "files", "1", "2"], project.dir())
        .ok();
    diff.says("new.txt").says("deep/er/0.txt").says("table.csv");
    assert!(!diff.stdout.contains("big.bin"), "{}", diff.stdout);
    let rows = platform
        .cli(
            &["data", "diff", "files", "1", "2", "--rows", "--json"],
            project.dir(),
        )
        .ok()
        .json();
    let table = rows["files"]
        .as_array()
        .and_then(|files| files.iter().find(|file| file["path"] == "table.csv"))
        .unwrap_or_else(|| panic!("no table.csv in {rows:#}"));
    let counts = ["added", "removed", "changed"].map(|key| table["rows"][key].as_i64());
    assert_eq!(counts, [Some(1), Some(0), Some(1)], "{table:#}");
    assert!(table["rows"].to_string().contains("violet"), "{table:#}");

    for (version, expected) in [("1", &first), ("2", &second)] {
        let target = platform.folder().join(format!("out-{version}"));
        let to = target.to_str().unwrap();
        platform
            .cli(
                &["data", "checkout", "files", to, "--version", version],
                project.dir(),
            )
            .ok();
        assert!(
            tree(&target) == *expected,
            "version {version} came back changed"
        );
    }
    platform
        .cli(&["data", "verify", "files"], project.dir())
        .ok();

    let damaged = damage_something(platform.data());
    let verify = platform.cli(&["data", "verify", "files"], project.dir());
    assert_eq!(verify.code, 1, "{damaged} was damaged: {}", verify.text());
    verify.says("big.bin");
    let target = platform.folder().join("out-damaged");
    let checkout = platform.cli(
        &[
            "data",
            "checkout",
            "files",
            target.to_str().unwrap(),
            "--version",
            "1",
        ],
        project.dir(),
    );
    assert_ne!(checkout.code, 0, "damaged bytes are never handed out");
    platform.cli(&["status"], project.dir()).ok();
    assert_eq!(platform.version("store"), "1", "everything else goes on");
}

/// Flips one byte in the middle of the largest file of the blob store: the pack or blob that
/// holds the big random file.
fn damage_something(data: &Path) -> String {
    let blobs = data.join("blobs");
    let (name, bytes) = tree(&blobs)
        .into_iter()
        .max_by_key(|(_, bytes)| bytes.len())
        .expect("blobs");
    let mut bytes = bytes;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(blobs.join(&name), bytes).unwrap();
    name
}

#[test]
fn a_deleted_project_leaves_nothing_to_the_next_of_its_name() {
    let platform = Platform::start();
    let project = platform.new_project("model", "iris");
    push_live(&platform, &project);
    push_table(&platform, &project, &iris(&project).csv(), "All rows").ok();
    let cli = |arguments: &[&str]| platform.cli(arguments, project.dir());
    platform
        .cli_with(
            &["secret", "set", "SOME_KEY"],
            project.dir(),
            Some(b"a value of no meaning"),
        )
        .ok();
    cli(&["projects", "delete", "iris"]).exits(2).says("--yes");
    predicts(&platform, "iris");
    cli(&["projects", "delete", "iris", "--yes"]).ok();
    eventually("nothing of it answers or runs", PATIENCE, || {
        let gone = platform
            .app("iris", "/ping")
            .is_ok_and(|answer| answer.status == 404);
        gone && !platform
            .processes()
            .iter()
            .any(|process| process.is_role("shim"))
    });
    cli(&["projects", "create", "iris"]).ok();
    // Other rooms follow the deletion in the log.
    let left = || -> Vec<&str> {
        let paths = [
            "/projects/iris/runs",
            "/projects/iris/releases",
            "/projects/iris/data",
            "/projects/iris/data/iris/versions",
            "/projects/iris/models",
            "/projects/iris/secrets",
        ];
        let found = paths.into_iter().filter(|path| {
            let answer = platform.api("GET", path, None);
            let empty = || answer.json()["items"].as_array().is_some_and(Vec::is_empty);
            answer.status != 404 && !(answer.status == 200 && empty())
        });
        found.collect()
    };
    holds_within(PATIENCE / 4, || left().is_empty());
    assert_eq!(
        left(),
        Vec::<&str>::new(),
        "of the deleted project was left"
    );
    push_live(&platform, &project);
    assert_eq!(platform.champion("iris"), 0, "no model without data");
}
