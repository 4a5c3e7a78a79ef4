use std::sync::OnceLock;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::auto::{AutoOptions, train};
use crate::table::{find_tables, read_tables};

const NAMES: [&str; 4] = ["sepal_length", "sepal_width", "petal_length", "petal_width"];

fn trained(text: &str, target: &str) -> Predictor {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.csv"), text).unwrap();
    let limits = TableLimits::default();
    let table = read_tables(&find_tables(folder.path(), &limits).unwrap(), &limits).unwrap();
    let data = ondol_types::Digest::from_bytes(ondol_types::Algorithm::Blake3, &[1; 32]);
    Predictor::new(
        train(&table, &AutoOptions::new(target), &data, &mut |_| {})
            .unwrap()
            .model,
    )
}

fn iris() -> &'static Predictor {
    static IRIS: OnceLock<Predictor> = OnceLock::new();
    IRIS.get_or_init(|| trained(include_str!("../../tests/data/iris.csv"), "species"))
}

fn mixed() -> &'static Predictor {
    static MIXED: OnceLock<Predictor> = OnceLock::new();
    MIXED.get_or_init(|| {
        let mut text = String::from("size,city,new,price\n");
        for i in 0..120u32 {
            let size = if i % 10 == 0 {
                String::new()
            } else {
                (i * 7 % 90).to_string()
            };
            text.push_str(&format!(
                "{size},{},{},{}.5\n",
                ["Seoul", "Busan"][(i % 2) as usize],
                i % 3 == 0,
                i * 7 % 90 * 3
            ));
        }
        trained(&text, "price")
    })
}

fn ask(predictor: &Predictor, body: &Json) -> Result<Rows, String> {
    read_json(predictor, body.to_string().as_bytes(), 1_000)
        .map(|request| request.rows)
        .map_err(|Refused(what)| what)
}

fn ask_csv(predictor: &Predictor, body: &str) -> Result<Rows, String> {
    read_csv_body(predictor, body.as_bytes(), 1_000)
        .map(|request| request.rows)
        .map_err(|Refused(what)| what)
}

fn record(row: &[Option<f64>; 4]) -> Json {
    Json::Object(
        NAMES
            .iter()
            .zip(row)
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect(),
    )
}

proptest! {
    #[test]
    fn every_form_says_the_same(
        rows in proptest::collection::vec(proptest::array::uniform4(proptest::option::of(-1e6..1e6f64)), 1..8),
    ) {
        let expected = ask(iris(), &json!({ "instances": rows })).unwrap();
        prop_assert_eq!(expected.rows, rows.len());
        let reversed: Vec<Vec<Option<f64>>> = rows.iter().map(|row| row.iter().rev().copied().collect()).collect();
        let names: Vec<&str> = NAMES.iter().rev().copied().collect();
        let columns: serde_json::Map<String, Json> = NAMES
            .iter()
            .enumerate()
            .map(|(at, name)| ((*name).to_owned(), rows.iter().map(|row| json!(row[at])).collect()))
            .collect();
        let records: Vec<Json> = rows.iter().map(record).collect();
        let mut csv = format!("extra,{}\n", names.join(","));
        for row in &reversed {
            let cells: Vec<String> = row.iter().map(|cell| cell.map_or_else(String::new, |number| format!("{number:?}"))).collect();
            csv.push_str(&format!("x,{}\n", cells.join(",")));
        }
        for body in [
            json!({ "dataframe_split": { "columns": names, "data": reversed, "index": [1] } }),
            json!({ "dataframe_split": { "data": rows } }),
            json!({ "dataframe_records": records }),
            json!({ "instances": records }),
            json!({ "inputs": columns, "params": {} }),
            json!({ "inputs": rows }),
        ] {
            prop_assert_eq!(&ask(iris(), &body).unwrap(), &expected, "{}", body);
        }
        let from_csv = ask_csv(iris(), &csv).unwrap();
        prop_assert_eq!(&from_csv, &expected);
        prop_assert_eq!(iris().predict(&from_csv), iris().predict(&expected));
    }

    #[test]
    fn any_body_is_rows_or_a_refusal(bytes in proptest::collection::vec(any::<u8>(), 0..100), text in "\\PC{0,60}") {
        let _ = read_json(iris(), &bytes, 10);
        let _ = read_json(iris(), format!("{{\"instances\":{text}}}").as_bytes(), 10);
        let _ = read_csv_body(iris(), &bytes[..], 10);
    }
}

#[test]
fn refusals_name_the_place() {
    let row = [5.1, 3.5, 1.4, 0.2];
    for (body, words) in [
        (json!([1]), "must be a JSON object"),
        (json!({}), "it has none"),
        (json!({ "data": [] }), "it has `data`"),
        (
            json!({ "instances": [row], "inputs": [row] }),
            "instances and inputs",
        ),
        (
            json!({ "instances": [[1, 2]] }),
            "row 1 of `instances`: 2 values, the model takes 4",
        ),
        (
            json!({ "instances": [row, [1, 2, "x", 4]] }),
            "row 2, column `petal_length`: expected a number, got \"x\"",
        ),
        (
            json!({ "instances": [row, {}] }),
            "row 2 of `instances`: an object among lists",
        ),
        (
            json!({ "dataframe_records": [{ "sepal_length": 1 }] }),
            "needs the columns `sepal_width`, `petal_length`, `petal_width`",
        ),
        (
            json!({ "dataframe_split": { "columns": ["a"], "data": [[1]] } }),
            "not among the 1 given",
        ),
        (
            json!({ "dataframe_split": { "columns": NAMES, "data": [[1]] } }),
            "row 1: 1 values for 4 columns",
        ),
        (
            json!({ "dataframe_split": { "columns": ["sepal_width", "sepal_width"], "data": [] } }),
            "`sepal_width` stands twice",
        ),
        (
            json!({ "inputs": { "sepal_length": [1], "sepal_width": [1, 2], "petal_length": [1], "petal_width": [1] } }),
            "`sepal_width` has 2 values",
        ),
        (
            json!({ "instances": [row], "params": { "probabilities": 1 } }),
            "must be true or false",
        ),
        (
            json!({ "instances": vec![row; 1_001] }),
            "1001 rows; at most 1000",
        ),
    ] {
        let what = ask(iris(), &body).unwrap_err();
        assert!(what.contains(words), "{body}: {what}");
    }
    for (body, words) in [
        ("", "no header"),
        ("a,b\n1,2\n", "needs the columns"),
        (
            "sepal_length,sepal_width,petal_length,petal_width\n1,2,3,4\n1,2,x,4\n",
            "row 2, column `petal_length`: expected a number",
        ),
        (
            "sepal_length,sepal_width,petal_length,petal_width\n1,2,3\n",
            "row 1 (line 2): has 3 cells",
        ),
    ] {
        let what = ask_csv(iris(), body).unwrap_err();
        assert!(what.contains(words), "{body}: {what}");
    }
}

#[test]
fn categories_truths_and_optional_columns() {
    let full = ask(
        mixed(),
        &json!({ "dataframe_records": [{ "size": 3, "city": "Seoul", "new": true }] }),
    )
    .unwrap();
    let from_csv = ask_csv(mixed(), "new,city,size\nTRUE,Seoul,3.0\n").unwrap();
    assert_eq!(full, from_csv);
    let scalars = ask(
        mixed(),
        &json!({ "inputs": { "size": 3, "city": "Seoul", "new": 1 } }),
    )
    .unwrap();
    assert_eq!(full, scalars);
    let unknown = ask(
        mixed(),
        &json!({ "dataframe_records": [{ "city": "Atlantis", "new": false }] }),
    )
    .unwrap();
    assert_eq!(
        unknown.values,
        [Value::Missing, Value::Unknown, Value::Number(0.0)]
    );
    assert!(mixed().predict(&unknown)[0].outputs[0].is_finite());
    let what = ask(
        mixed(),
        &json!({ "dataframe_records": [{ "city": "Seoul", "new": "maybe" }] }),
    )
    .unwrap_err();
    assert!(
        what.contains("row 1, column `new`: expected true or false"),
        "{what}"
    );
    let what = ask(
        mixed(),
        &json!({ "instances": [[1, "Seoul", true]], "params": { "probabilities": true } }),
    )
    .unwrap_err();
    assert!(what.contains("for classification"), "{what}");
}
