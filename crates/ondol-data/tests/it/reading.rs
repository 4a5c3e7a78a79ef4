//! Log, diff, checkout, statistics and rules.

use futures_util::StreamExt;
use ondol_data::DataError;
use ondol_data::client::Receiver;
use ondol_data::model::Change;
use ondol_data::table::ColumnKind;
use ondol_data::validate::Severity;
use ondol_spec::model::{Column, ColumnType, Dataset, Scalar};

use crate::fixture::*;

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_found_by_number_word_and_beginning_of_their_id() {
    for world in worlds().await {
        let first = world.push_files(&[("a.txt", "1")]).await.unwrap().version;
        let second = world.push_files(&[("a.txt", "2")]).await.unwrap().version;
        let find = async |which: &str| {
            world
                .service
                .version(&world.ctx(), &world.project, &world.dataset, which)
                .await
        };
        assert_eq!(find("1").await.unwrap(), first);
        assert_eq!(find("latest").await.unwrap(), second);
        assert_eq!(find(&first.id.to_string()).await.unwrap(), first);
        assert_eq!(find(&second.id.hex()[..12]).await.unwrap(), second);
        for absent in ["3", "0", "-1", "ffffffffffff", "nonsense", "blake3:", "%"] {
            assert!(
                matches!(find(absent).await, Err(DataError::NoVersion { .. })),
                "{absent}"
            );
        }
        let other = "other".parse().unwrap();
        let refused = world
            .service
            .version(&world.ctx(), &world.project, &other, "1")
            .await;
        assert!(matches!(refused, Err(DataError::NoDataset { .. })));
        let files = world
            .service
            .files(
                &world.ctx(),
                &world.project,
                &world.dataset,
                "latest",
                None,
                10,
            )
            .await
            .unwrap();
        assert_eq!((files.len(), files[0].size), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_tells_files_and_rows() {
    for world in worlds().await {
        world
            .push_files(&[
                ("t.csv", "id,x\n1,a\n2,b\n3,c\n4,d\n"),
                ("gone.txt", "x"),
                ("same.txt", "same"),
                ("wide.jsonl", "{\"a\":1}\n"),
            ])
            .await
            .unwrap();
        world
            .push_files(&[
                ("t.csv", "id,x\n4,d\n2,B\n5,e\n6,f\n1,a\n"),
                ("new.txt", "yy"),
                ("same.txt", "same"),
                ("wide.jsonl", "{\"a\":1,\"b\":2}\n"),
            ])
            .await
            .unwrap();
        let diff = world
            .service
            .diff(
                &world.ctx(),
                &world.project,
                &world.dataset,
                "1",
                "2",
                true,
                100,
            )
            .await
            .unwrap();
        assert_eq!((diff.added, diff.removed, diff.modified), (1, 1, 2));
        let shown: Vec<_> = diff
            .files
            .iter()
            .map(|file| (file.path.as_str(), file.change))
            .collect();
        assert_eq!(
            shown,
            [
                ("gone.txt", Change::Removed),
                ("new.txt", Change::Added),
                ("t.csv", Change::Modified),
                ("wide.jsonl", Change::Modified)
            ]
        );
        let rows = diff.files[2].rows.as_ref().unwrap();
        assert_eq!(
            (
                rows.before,
                rows.after,
                rows.added,
                rows.removed,
                rows.changed
            ),
            (4, 5, 2, 1, 1)
        );
        let changed = &rows.sample[0];
        assert_eq!(
            changed.before.as_deref(),
            Some(&["2".to_owned(), "b".to_owned()][..])
        );
        assert_eq!(
            changed.after.as_deref(),
            Some(&["2".to_owned(), "B".to_owned()][..])
        );
        let wide = diff.files[3].rows.as_ref().unwrap();
        assert_eq!(
            (wide.columns_added.as_slice(), wide.added, wide.removed),
            (&["b".to_owned()][..], 0, 0)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_travels_and_is_checked_on_arrival() {
    let world = worlds().await.remove(0);
    let folder = world.folder("in");
    write(
        &folder,
        &[
            ("a/b.txt", "text"),
            ("empty", ""),
            ("run.sh", "#!/bin/sh\n"),
        ],
    );
    std::fs::write(folder.join("large.bin"), noise(5_000_000, 5)).unwrap();
    std::os::unix::fs::PermissionsExt::set_mode(
        &mut std::fs::metadata(folder.join("run.sh"))
            .unwrap()
            .permissions(),
        0o755,
    );
    world.push(&folder).await.unwrap();
    let receive = async |bend: Option<usize>| {
        let (_, mut stream) = world
            .service
            .export(&world.ctx(), &world.project, &world.dataset, "latest")
            .await
            .unwrap();
        let dest = world.backend.dir.path().join(format!("out-{bend:?}"));
        let mut receiver = Receiver::new(&dest).unwrap();
        let mut at = 0;
        while let Some(part) = stream.next().await {
            let mut part = part.unwrap().to_vec();
            if let Some(bend) = bend
                && (at..at + part.len()).contains(&bend)
            {
                part[bend - at] ^= 1;
            }
            at += part.len();
            if let Err(error) = receiver.feed(&part) {
                return (Err(error), dest);
            }
        }
        (receiver.finish(), dest)
    };
    let (outcome, dest) = receive(None).await;
    assert_eq!(outcome.unwrap().0, 4);
    assert_eq!(contents(&dest), contents(&folder));
    let (outcome, dest) = receive(Some(2_000_000)).await;
    assert!(outcome.is_err() && !dest.exists());

    let (info, mut stream) = world
        .service
        .file(
            &world.ctx(),
            &world.project,
            &world.dataset,
            "latest",
            &"large.bin".parse().unwrap(),
        )
        .await
        .unwrap();
    let mut bytes = Vec::new();
    while let Some(part) = stream.next().await {
        bytes.extend_from_slice(&part.unwrap());
    }
    assert_eq!(info.size, 5_000_000);
    assert_eq!(bytes, std::fs::read(folder.join("large.bin")).unwrap());
    let absent = world
        .service
        .file(
            &world.ctx(),
            &world.project,
            &world.dataset,
            "latest",
            &"nope".parse().unwrap(),
        )
        .await;
    assert!(matches!(absent, Err(DataError::NoFile { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_does_not_write_into_a_folder_in_use() {
    let world = worlds().await.remove(0);
    world.push_files(&[("a.txt", "1")]).await.unwrap();
    let dest = world.folder("used");
    write(&dest, &[("mine.txt", "precious")]);
    let refused = world
        .service
        .materialise(&world.ctx(), &world.project, &world.dataset, "1", &dest)
        .await;
    assert!(matches!(refused, Err(DataError::Path { .. })));
    assert!(Receiver::new(&dest).is_err());
    assert_eq!(contents(&dest).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_are_made_on_push_also_of_large_tables() {
    for world in worlds().await {
        // Larger than what is read whole, so that it streams.
        let big: String = std::iter::once("n,word\n".to_owned())
            .chain((0..500_000).map(|n| format!("{n},w{}\n", n % 3)))
            .collect();
        assert!(big.len() > 4 << 20);
        let pushed = world
            .push_files(&[("big.csv", &big), ("small.jsonl", "{\"k\":true}\n")])
            .await
            .unwrap();
        assert_eq!(pushed.version.rows, Some(500_001));
        let detail = world
            .service
            .show(&world.ctx(), &world.project, &world.dataset, "latest")
            .await
            .unwrap();
        assert_eq!(detail.tables.len(), 2);
        let (n, word) = (&detail.tables[0].columns[0], &detail.tables[0].columns[1]);
        assert_eq!(
            (n.kind, n.min, n.max, n.mean),
            (
                ColumnKind::Integer,
                Some(0.0),
                Some(499_999.0),
                Some(249_999.5)
            )
        );
        assert_eq!(
            (word.kind, word.distinct, word.top.len()),
            (ColumnKind::Text, 3, 3)
        );
        assert_eq!(detail.tables[1].columns[0].kind, ColumnKind::Boolean);
        // A table that did not change keeps its profile without being read again.
        world
            .push_files(&[("big.csv", &big), ("small.jsonl", "{\"k\":1}\n")])
            .await
            .unwrap();
        let again = world
            .service
            .show(&world.ctx(), &world.project, &world.dataset, "latest")
            .await
            .unwrap();
        assert_eq!(again.tables[0], detail.tables[0]);
        assert_eq!(again.tables[1].columns[0].kind, ColumnKind::Integer);
        let bad = format!("{big}7\n");
        let refused = world.push_files(&[("big.csv", &bad)]).await.unwrap_err();
        assert!(
            refused.message.contains("row 500001 (line 500002)"),
            "{refused:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_asked_of_every_row_and_schema_changes_are_noted() {
    for world in worlds().await {
        world
            .push_files(&[(
                "iris.csv",
                "width,species,old\n1.5,setosa,1\n2.5,virginica,2\n",
            )])
            .await
            .unwrap();
        let rules = Dataset {
            schema: [
                (
                    "width".to_owned(),
                    Column {
                        kind: Some(ColumnType::Number),
                        min: Some(0.0),
                        max: Some(10.0),
                        required: true,
                        ..Column::default()
                    },
                ),
                (
                    "species".to_owned(),
                    Column {
                        one_of: vec![
                            Scalar::Text("setosa".into()),
                            Scalar::Text("virginica".into()),
                        ],
                        ..Column::default()
                    },
                ),
            ]
            .into(),
            min_rows: Some(2),
            ..Dataset::default()
        };
        let validate = async |rules: &Dataset| {
            world
                .service
                .validate(
                    &world.ctx(),
                    &world.project,
                    &world.dataset,
                    "latest",
                    rules,
                )
                .await
                .unwrap()
        };
        let good = validate(&rules).await;
        assert!(good.passed && good.findings.is_empty(), "{good:?}");
        assert_eq!((good.tables, good.rows), (1, 2));

        world
            .push_files(&[(
                "iris.csv",
                "width,species\nwide,setosa\n99,rose\n1,setosa\n",
            )])
            .await
            .unwrap();
        let bad = validate(&rules).await;
        assert!(!bad.passed);
        assert_eq!(bad.errors, 3);
        let errors: Vec<_> = bad
            .findings
            .iter()
            .filter(|f| f.severity == Severity::Error)
            .map(|f| (f.row, f.column.as_deref().unwrap(), f.rule.as_str()))
            .collect();
        assert_eq!(
            errors,
            [
                (Some(1), "width", "type"),
                (Some(2), "width", "max"),
                (Some(2), "species", "in")
            ]
        );
        assert!(
            bad.summary()
                .contains("iris.csv, row 1 (line 2), column `width`"),
            "{}",
            bad.summary()
        );
        let notes: Vec<_> = bad
            .findings
            .iter()
            .filter(|f| f.severity == Severity::Note)
            .map(|f| f.message.clone())
            .collect();
        assert!(
            notes
                .iter()
                .any(|note| note.contains("`old`") && note.contains("is gone")),
            "{notes:?}"
        );
        assert!(
            notes
                .iter()
                .any(|note| note.contains("was number") && note.contains("is text now")),
            "{notes:?}"
        );

        let strict = Dataset {
            extra_columns: false,
            min_rows: Some(100),
            ..rules.clone()
        };
        world
            .push_files(&[("iris.csv", "species,extra\nsetosa,1\n")])
            .await
            .unwrap();
        let report = validate(&strict).await;
        let rules_broken: Vec<_> = report
            .findings
            .iter()
            .filter(|f| f.severity == Severity::Error)
            .map(|f| f.rule.as_str())
            .collect();
        assert_eq!(rules_broken, ["min_rows", "exists", "extra_columns"]);
    }
}
