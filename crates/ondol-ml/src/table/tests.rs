use proptest::prelude::*;

use super::*;
use crate::table::{TextValues, Values};

fn limited(text: &[u8], limits: &TableLimits) -> MlResult<Table> {
    load(limits, |sink| {
        csv::read("t.csv", text, csv::Delimiter::Detect, sink)
    })
}

fn csv_table(text: &[u8]) -> MlResult<Table> {
    limited(text, &TableLimits::default())
}

#[test]
fn kinds_are_found_and_missing_values_kept() {
    let table =
        csv_table(b"\xEF\xBB\xBFa,b,c,d,e\r\n1,true,x,,1\n2.5,FALSE,\"y, z\",NA,x\n,,,null,\n")
            .unwrap();
    assert_eq!(table.rows, 3);
    assert_eq!(table.names().collect::<Vec<_>>(), ["a", "b", "c", "d", "e"]);
    let Values::Number(a) = &table.columns[0].values else {
        panic!("a is a number")
    };
    assert_eq!(a[..2], [1.0, 2.5]);
    assert!(a[2].is_nan());
    assert_eq!(
        table.columns[1].values,
        Values::Bool(vec![Some(true), Some(false), None])
    );
    let Values::Text(c) = &table.columns[2].values else {
        panic!("c is text")
    };
    assert_eq!(
        (c.get(0), c.get(1), c.codes[2]),
        (Some("x"), Some("y, z"), TextValues::MISSING)
    );
    assert_eq!(table.columns[3].values, Values::Empty);
    let Values::Text(e) = &table.columns[4].values else {
        panic!("e is mixed, so text")
    };
    assert_eq!((e.get(0), e.get(1)), (Some("1"), Some("x")));
}

#[test]
fn errors_name_the_row_and_the_column() {
    for (text, code, words) in [
        (&b""[..], "ml.table.empty", "no header"),
        (b"a,b\n", "ml.table.empty", "no rows"),
        (b"a,b\n1,2\n3\n", "ml.table.ragged", "row 2 (line 3)"),
        (
            b"a,b\n1,2,3\n",
            "ml.table.ragged",
            "has 3 cells but the header has 2",
        ),
        (
            b"a,b,a\n1,2,3\n",
            "ml.table.duplicate-column",
            "`a` stands twice, at places 1 and 3",
        ),
        (
            b"a,name\n1,Andr\xE9\n",
            "ml.table.encoding",
            "row 1, column `name`: is not UTF-8 (byte 0xE9)",
        ),
        (b"\xFF\xFEa\0", "ml.table.encoding", "UTF-16"),
    ] {
        let error = csv_table(text).unwrap_err();
        assert_eq!(ondol_types::Classified::code(&error), code);
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn ceilings_hold() {
    let limits = TableLimits {
        rows: 2,
        columns: 2,
        cells: 3,
        cell_bytes: 3,
        bytes: 100,
    };
    let refused = |text: &[u8]| matches!(limited(text, &limits), Err(MlError::TooLarge { .. }));
    assert!(refused(b"a\n1\n2\n3\n"));
    assert!(refused(b"a,b,c\n1,2,3\n"));
    assert!(refused(b"a,b\n1,2\n3,4\n"));
    assert!(refused(b"a\nlong\n"));
    assert!(!refused(b"a\n1\n2\n"));
}

#[test]
fn a_folder_is_one_table() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("b.csv"), "y,x\nb,2\n").unwrap();
    fs::write(folder.path().join("a.csv"), "x;y\n1;a\n").unwrap();
    fs::create_dir(folder.path().join("more")).unwrap();
    fs::write(
        folder.path().join("more/c.jsonl"),
        "{\"x\": 3, \"y\": null}\n\n{\"y\": \"c\"}\n",
    )
    .unwrap();
    fs::write(folder.path().join("README.md"), "words").unwrap();
    let limits = TableLimits::default();
    let files = find_tables(folder.path(), &limits).unwrap();
    assert_eq!(
        files
            .iter()
            .map(|file| file.name.as_str())
            .collect::<Vec<_>>(),
        ["a.csv", "b.csv", "more/c.jsonl"]
    );
    let table = read_tables(&files, &limits).unwrap();
    let Values::Number(x) = &table.columns[0].values else {
        panic!("x is a number")
    };
    assert_eq!(x[..3], [1.0, 2.0, 3.0]);
    assert!(x[3].is_nan());
    fs::write(folder.path().join("b.csv"), "x,z\n1,2\n").unwrap();
    let error = read_tables(&find_tables(folder.path(), &limits).unwrap(), &limits).unwrap_err();
    assert_eq!(error.to_string(), "b.csv: lacks `y` and has `z` instead");
    fs::write(folder.path().join("b.csv"), "x,y\n1,2\n").unwrap();
    fs::write(folder.path().join("more/c.jsonl"), "{\"x\": [1]}\n").unwrap();
    let error = read_tables(&find_tables(folder.path(), &limits).unwrap(), &limits).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("more/c.jsonl, row 1 (line 1), column `x`"),
        "{error}"
    );
}

#[test]
fn parquet_reads_as_csv_does() {
    use std::sync::Arc;

    use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let schema = "message t { REQUIRED INT64 n; OPTIONAL DOUBLE d; REQUIRED BYTE_ARRAY s (STRING); REQUIRED BOOLEAN b; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer =
        SerializedFileWriter::new(File::create(&path).unwrap(), schema, Default::default())
            .unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<Int64Type>()
        .write_batch(&[1, 2], None, None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<DoubleType>()
        .write_batch(&[0.5], Some(&[1, 0]), None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<ByteArrayType>()
        .write_batch(&[ByteArray::from("x"), ByteArray::from("y")], None, None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<BoolType>()
        .write_batch(&[true, false], None, None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let limits = TableLimits::default();
    let table = read_tables(&find_tables(&path, &limits).unwrap(), &limits).unwrap();
    let same = csv_table(b"n,d,s,b\n1,0.5,x,true\n2,,y,false\n").unwrap();
    assert_eq!(format!("{table:?}"), format!("{same:?}"));
    fs::write(&path, b"PAR1 not really PAR1").unwrap();
    assert!(read_tables(&find_tables(&path, &limits).unwrap(), &limits).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_a_table_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = csv_table(&bytes);
        let _ = load(&TableLimits::default(), |sink| jsonl::read("x", &bytes[..], sink));
    }

    #[test]
    fn numbers_survive_csv(values in proptest::collection::vec(proptest::num::f64::NORMAL, 1..20)) {
        let text: String = std::iter::once("x\n".to_owned()).chain(values.iter().map(|value| format!("{value:?}\n"))).collect();
        let table = csv_table(text.as_bytes()).unwrap();
        prop_assert_eq!(&table.columns[0].values, &Values::Number(values));
    }
}
