use ondol_types::{Algorithm, Digest};

use super::*;
use crate::Predictor;
use crate::table::{TableLimits, find_tables, read_tables};

pub(crate) fn digest() -> Digest {
    Digest::from_bytes(Algorithm::Blake3, &[7; 32])
}

fn table(text: &str) -> crate::table::Table {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.csv"), text).unwrap();
    let limits = TableLimits::default();
    read_tables(&find_tables(folder.path(), &limits).unwrap(), &limits).unwrap()
}

const IRIS: &str = include_str!("../../tests/data/iris.csv");

fn trained(text: &str, options: &AutoOptions) -> Trained {
    train(&table(text), options, &digest(), &mut |_| {}).unwrap()
}

#[test]
fn iris_is_learnt_and_reproducible() {
    let options = AutoOptions::new("species");
    let first = trained(IRIS, &options);
    assert!(
        first.report.metrics["accuracy"] >= 0.95,
        "{:?}",
        first.report.metrics
    );
    assert_eq!(first.report.primary_metric, Metric::Accuracy);
    assert!(!first.report.cut_short && first.report.importance.len() == 4);
    assert!(
        first.report.importance[0].feature.starts_with("petal"),
        "{:?}",
        first.report.importance
    );
    let second = trained(
        IRIS,
        &AutoOptions {
            threads: 1,
            ..options.clone()
        },
    );
    assert_eq!(
        first.model.to_bytes().unwrap(),
        second.model.to_bytes().unwrap()
    );
    assert_eq!(first.report, second.report);
    let other = trained(IRIS, &AutoOptions { seed: 1, ..options });
    assert_ne!(
        first.model.to_bytes().unwrap(),
        other.model.to_bytes().unwrap()
    );
}

#[test]
fn shuffled_labels_are_measured_as_chance() {
    let mut lines: Vec<&str> = IRIS.trim().lines().collect();
    let header = lines.remove(0);
    let mut labels: Vec<&str> = lines
        .iter()
        .map(|line| line.rsplit_once(',').unwrap().1)
        .collect();
    crate::learn::Random::new(5, 5).shuffle(&mut labels);
    let rows: Vec<String> = lines
        .iter()
        .zip(labels)
        .map(|(line, label)| format!("{},{label}", line.rsplit_once(',').unwrap().0))
        .collect();
    let result = trained(
        &format!("{header}\n{}\n", rows.join("\n")),
        &AutoOptions::new("species"),
    );
    assert!(
        result.report.metrics["accuracy"] < 0.6,
        "{:?}",
        result.report.metrics
    );
}

#[test]
fn missing_values_and_categories_are_handled() {
    let mut text = String::from("id,age,city,member,constant,note,price\n");
    for i in 0..300u32 {
        let age = if i % 7 == 0 {
            String::new()
        } else {
            (20 + i * 13 % 50).to_string()
        };
        let city = ["Seoul", "Busan", "Jeju", ""][(i * 5 % 4) as usize];
        let member = i % 3 == 0;
        let price = 10 * (i * 13 % 50) + if member { 500 } else { 0 } + 300 * (i * 5 % 4);
        text.push_str(&format!(
            "{},{age},{city},{member},x,text number {i} has words,{price}\n",
            i + 1
        ));
    }
    let result = trained(&text, &AutoOptions::new("price"));
    assert_eq!(result.report.task, Task::Regression);
    assert!(
        result.report.metrics["r2"] > 0.9,
        "{:?}",
        result.report.metrics
    );
    let warned = result.report.warnings.join("\n");
    assert!(warned.contains("`id` numbers the rows"), "{warned}");
    assert!(warned.contains("`constant` is the same"), "{warned}");
    assert!(
        warned.contains("`note` has 300 different texts"),
        "{warned}"
    );
    let predictor = Predictor::new(result.model);
    predictor.check().unwrap();
    let row = serde_json::json!({"member": true, "city": "Atlantis"});
    let predicted = predictor.predict_json(row.as_object().unwrap()).unwrap();
    assert!(predicted.outputs[0].is_finite());
    let row = serde_json::json!({"city": "Seoul"});
    let error = predictor
        .predict_json(row.as_object().unwrap())
        .unwrap_err();
    assert_eq!(error.to_string(), "the column `member` is not there");
}

#[test]
fn columns_that_give_the_target_away_are_warned_of() {
    let mut text = String::from("a,copy,label\n");
    for i in 0..200u32 {
        text.push_str(&format!(
            "{},{},{}\n",
            i * 7_919 % 101,
            i % 2,
            if i % 2 == 0 { "no" } else { "yes" }
        ));
    }
    let result = trained(&text, &AutoOptions::new("label"));
    let warned = result.report.warnings.join("\n");
    assert!(
        warned.contains("`copy` alone predicts") && !warned.contains("`a` alone"),
        "{warned}"
    );
    assert!(result.report.metrics["roc_auc"] > 0.999);
    assert!(
        trained(IRIS, &AutoOptions::new("species"))
            .report
            .warnings
            .is_empty()
    );
    let without = trained(
        &text,
        &AutoOptions {
            exclude: vec!["copy".into()],
            ..AutoOptions::new("label")
        },
    );
    assert!(without.report.metrics["accuracy"] < 0.7);
    assert_eq!(without.model.features.len(), 1);
}

#[test]
fn the_task_follows_the_target() {
    let numbers = |label: &dyn Fn(u32) -> String| {
        let mut text = String::from("x,z,y\n");
        (0..100u32).for_each(|i| {
            text.push_str(&format!(
                "{}.5,{},{}\n",
                i * 31 % 100,
                i * 17 % 100,
                label(i)
            ))
        });
        trained(&text, &AutoOptions::new("y"))
    };
    assert_eq!(
        numbers(&|i| (i % 3).to_string()).report.task,
        Task::Classification
    );
    assert_eq!(
        numbers(&|i| (f64::from(i) / 3.0).to_string()).report.task,
        Task::Regression
    );
    assert_eq!(
        numbers(&|i| (i * 31 % 100).to_string()).report.task,
        Task::Regression
    );
    let truths = numbers(&|i| (i * 31 % 100 > 50).to_string());
    assert_eq!(truths.report.task, Task::Classification);
    let predictor = Predictor::new(truths.model);
    let predicted = predictor
        .predict_json(serde_json::json!({"x": 90.5, "z": 1}).as_object().unwrap())
        .unwrap();
    assert_eq!(predictor.json(&predicted), serde_json::json!(true));
}

#[test]
fn what_cannot_be_trained_says_why() {
    let message = |text: &str, options: AutoOptions| {
        train(&table(text), &options, &digest(), &mut |_| {})
            .unwrap_err()
            .to_string()
    };
    let rows = |value: &str| {
        format!(
            "x,y\n{}",
            (0..20)
                .map(|i| format!("{i}.5,{value}\n"))
                .collect::<String>()
        )
    };
    assert!(message(IRIS, AutoOptions::new("specie")).contains("has no column `specie`"));
    assert!(
        message("x,y\n1,2\n", AutoOptions::new("y")).contains("1 rows have a target; at least 10")
    );
    assert!(message(&rows("a"), AutoOptions::new("y")).contains("same class in every row"));
    assert!(
        message(
            &rows("1.5"),
            AutoOptions {
                task: Some(Task::Regression),
                ..AutoOptions::new("y")
            }
        )
        .contains("same value")
    );
    assert!(message(&rows(""), AutoOptions::new("y")).contains("0 rows"));
    let both = AutoOptions {
        metric: Some(Metric::Rmse),
        ..AutoOptions::new("species")
    };
    assert!(message(IRIS, both).contains("`rmse` is not for this task"));
    let regress = AutoOptions {
        task: Some(Task::Regression),
        ..AutoOptions::new("species")
    };
    assert!(message(IRIS, regress).contains("is not a number"));
}

#[test]
fn a_spent_budget_still_gives_a_model_and_says_so() {
    let options = AutoOptions {
        time_budget: Duration::ZERO,
        ..AutoOptions::new("species")
    };
    let result = trained(IRIS, &options);
    assert!(result.report.cut_short);
    assert!(result.report.metrics["accuracy"] >= 0.9);
    assert!(
        result
            .report
            .leaderboard
            .iter()
            .any(|entry| entry.skipped.is_some())
    );
}

#[test]
fn the_command_writes_its_files_and_explains_failures() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("iris.csv"), IRIS).unwrap();
    let mut args = TrainArgs {
        data: data.clone(),
        out: folder.path().join("out"),
        options: AutoOptions::new("species"),
        champion: None,
        limits: TableLimits::default(),
    };
    let mut lines = Vec::new();
    assert_eq!(
        format!("{:?}", train_main(&args, &mut lines)),
        format!("{:?}", std::process::ExitCode::SUCCESS)
    );
    let said = String::from_utf8(lines).unwrap();
    assert!(
        said.contains("best: ") && said.contains("metric accuracy=0.9"),
        "{said}"
    );
    let metrics = crate::metrics_file::read(&args.out.join(METRICS_FILE)).unwrap();
    assert!(metrics["accuracy"] >= 0.95);
    Predictor::load(&args.out).unwrap();
    let report = read_report(&args.out).unwrap().unwrap();
    assert!(read_report(folder.path()).unwrap().is_none());
    assert_eq!(
        format!("{:?}", check_main(&args.out, &mut Vec::new())),
        format!("{:?}", std::process::ExitCode::SUCCESS)
    );
    assert_eq!(
        format!("{:?}", check_main(&data, &mut Vec::new())),
        format!("{:?}", std::process::ExitCode::from(1))
    );
    assert_eq!(report.rows, 150);
    // The champion sees the new data: here the very rows it was trained on.
    let champion_metrics = folder.path().join("champion.json");
    args.champion = Some(ChampionArgs {
        model: args.out.clone(),
        metrics: champion_metrics.clone(),
    });
    args.out = folder.path().join("again");
    assert_eq!(
        format!("{:?}", train_main(&args, &mut Vec::new())),
        format!("{:?}", std::process::ExitCode::SUCCESS)
    );
    assert!(crate::metrics_file::read(&champion_metrics).unwrap()["accuracy"] >= 0.95);
    std::fs::write(data.join("iris.csv"), "a,b\n1\n").unwrap();
    let mut lines = Vec::new();
    assert_eq!(
        format!("{:?}", train_main(&args, &mut lines)),
        format!("{:?}", std::process::ExitCode::from(2))
    );
    let said = String::from_utf8(lines).unwrap();
    assert!(
        said.contains("error: iris.csv, row 1 (line 2): has 1 cells") && said.contains("hint: "),
        "{said}"
    );
}
