//! Readers against well-formed and malformed tables, and profiles against sums by hand.

use std::sync::Arc;

use ::parquet::basic::{ConvertedType, Repetition, Type as Physical};
use ::parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::types::Type;
use proptest::prelude::*;

use super::*;

fn profile(format: Format, content: impl Into<bytes::Bytes>) -> Result<TableProfile, TableFault> {
    let mut profiler = Profiler::new(true);
    read(format, Source::Bytes(content.into()), &mut profiler)?;
    Ok(profiler.finish("t".parse().unwrap(), format))
}

fn fault(format: Format, content: &[u8]) -> TableFault {
    profile(format, content.to_vec()).unwrap_err()
}

#[test]
fn malformed_csv_is_named_by_row_line_and_column() {
    let ragged = fault(Format::Csv, b"a,b\n1,2\n\"x\ny\",2\n1\n");
    assert_eq!(
        (ragged.code, ragged.row, ragged.line),
        ("data.table.ragged", Some(3), Some(5))
    );
    assert!(
        ragged.problem.contains("1 cells, the header has 2"),
        "{}",
        ragged.problem
    );
    let encoding = fault(Format::Csv, b"a,b\n1,2\n1,\xff\n");
    assert_eq!(
        (encoding.code, encoding.row, encoding.column.as_deref()),
        ("data.table.encoding", Some(2), Some("b"))
    );
    assert_eq!(fault(Format::Csv, b"").code, "data.table.empty");
    assert_eq!(fault(Format::Csv, b"a,b\n").code, "data.table.empty");
    assert_eq!(
        fault(Format::Csv, b"\xff\xfea\0,\0").code,
        "data.table.encoding"
    );
    let twice = fault(Format::Csv, b"a,b,a\n1,2,3\n");
    assert_eq!(
        (twice.code, twice.column.as_deref()),
        ("data.table.duplicate-column", Some("a"))
    );
    assert!(twice.problem.contains("column 1 and column 3"));
}

#[test]
fn lines_are_counted_as_an_editor_does() {
    struct Lines(Vec<u64>);
    impl Rows for Lines {
        fn columns(&mut self, _: &[String]) -> Result<(), TableFault> {
            Ok(())
        }

        fn row(&mut self, place: Place, _: &[Cell<'_>]) -> Result<bool, TableFault> {
            self.0.push(place.line.unwrap());
            Ok(true)
        }
    }
    for (content, lines) in [
        ("a\n1\n2\n", vec![2, 3]),
        ("a\n1\n2", vec![2, 3]),
        ("a\n\n1\n\n\n2\n\n", vec![3, 6]),
        ("a\n\"1\n1\"\n2\n3", vec![2, 4, 5]),
        ("a\r\n1\r\n2\r\n", vec![2, 3]),
        ("a\r\n\r\n\"1\r\n1\"\r\n2", vec![3, 5]),
    ] {
        let mut found = Lines(Vec::new());
        read(Format::Csv, Source::Bytes(content.into()), &mut found).unwrap();
        assert_eq!(found.0, lines, "{content:?}");
    }
}

#[test]
fn an_open_quote_does_not_swallow_memory() {
    struct Endless(bool);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            buffer.fill(b'x');
            if !self.0 {
                self.0 = true;
                buffer[..4].copy_from_slice(b"a\n\"x");
            }
            Ok(buffer.len())
        }
    }
    let mut profiler = Profiler::new(true);
    let fault = read(
        Format::Csv,
        Source::Stream(Box::new(Endless(false))),
        &mut profiler,
    )
    .unwrap_err();
    assert_eq!(fault.code, "data.table.unreadable");
    assert!(fault.problem.contains("quote"), "{}", fault.problem);
}

#[test]
fn json_lines_grow_columns_and_name_bad_lines() {
    let table = profile(
        Format::Jsonl,
        "{\"a\":1}\n\n{\"b\":\"x\",\"a\":2.5,\"c\":[1,2]}\n{\"a\":null}\n",
    )
    .unwrap();
    assert_eq!(table.rows, 3);
    let shown: Vec<_> = table
        .columns
        .iter()
        .map(|c| (c.name.as_str(), c.kind, c.missing))
        .collect();
    assert_eq!(
        shown,
        [
            ("a", ColumnKind::Number, 1),
            ("b", ColumnKind::Text, 2),
            ("c", ColumnKind::Text, 2)
        ]
    );
    let bad = fault(Format::Jsonl, b"{\"a\":1}\n[1]\n");
    assert_eq!(
        (bad.code, bad.row, bad.line),
        ("data.table.malformed", Some(2), Some(2))
    );
    assert_eq!(fault(Format::Jsonl, b"\n").code, "data.table.empty");
    assert_eq!(
        fault(Format::Jsonl, b"{\"a\":\"\xff\"}\n").code,
        "data.table.encoding"
    );
}

#[test]
fn a_small_file_that_unfolds_to_the_memory_of_the_machine_is_refused() {
    let bomb =
        include_bytes!("../../../../fuzz/corpus/data_table/parquet-one-value-of-700-megabytes");
    // The first byte of a fuzzed input names the format.
    let fault = fault(Format::Parquet, &bomb[1..]);
    assert_eq!(fault.code, "data.table.unfolds", "{}", fault.problem);
}

fn parquet_file() -> Vec<u8> {
    let field = |name, physical, converted| {
        Arc::new(
            Type::primitive_type_builder(name, physical)
                .with_repetition(Repetition::OPTIONAL)
                .with_converted_type(converted)
                .build()
                .unwrap(),
        )
    };
    let schema = Arc::new(
        Type::group_type_builder("schema")
            .with_fields(vec![
                field("id", Physical::INT64, ConvertedType::NONE),
                field("x", Physical::DOUBLE, ConvertedType::NONE),
                field("name", Physical::BYTE_ARRAY, ConvertedType::UTF8),
            ])
            .build()
            .unwrap(),
    );
    let mut out = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut out, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let levels = [1i16, 0, 1];
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<Int64Type>()
        .write_batch(&[7, 8], Some(&levels), None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<DoubleType>()
        .write_batch(&[0.5, 1.5], Some(&levels), None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let names = [ByteArray::from("a"), ByteArray::from("b")];
    column
        .typed::<ByteArrayType>()
        .write_batch(&names, Some(&levels), None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    out
}

#[test]
fn parquet_is_read_by_row() {
    let table = profile(Format::Parquet, parquet_file()).unwrap();
    assert_eq!(table.rows, 3);
    let shown: Vec<_> = table
        .columns
        .iter()
        .map(|c| (c.name.as_str(), c.kind, c.missing, c.mean))
        .collect();
    assert_eq!(
        shown,
        [
            ("id", ColumnKind::Integer, 1, Some(7.5)),
            ("x", ColumnKind::Number, 1, Some(1.0)),
            ("name", ColumnKind::Text, 1, None),
        ]
    );
    assert_eq!(
        fault(Format::Parquet, b"not parquet").code,
        "data.table.malformed"
    );
    assert_eq!(fault(Format::Parquet, b"").code, "data.table.empty");
}

#[test]
fn kinds_are_found_in_text() {
    let table = profile(
        Format::Csv,
        "n,f,b,d,t,s,e\n1,1.5,true,2026-01-31,2026-01-31T10:00:00Z,x,\n-2,2,False,2026-02-01,2026-01-31 10:00:00,1,NA\n",
    )
    .unwrap();
    let kinds: Vec<_> = table.columns.iter().map(|column| column.kind).collect();
    assert_eq!(
        kinds,
        [
            ColumnKind::Integer,
            ColumnKind::Number,
            ColumnKind::Boolean,
            ColumnKind::Date,
            ColumnKind::Timestamp,
            ColumnKind::Text,
            ColumnKind::Empty
        ]
    );
    assert_eq!(table.columns[6].missing, 2);
}

#[test]
fn a_semicolon_and_a_byte_order_mark_are_understood() {
    let table = profile(Format::Csv, "\u{feff}a;b\n1;2\n").unwrap();
    assert_eq!(table.columns[0].name, "a");
    assert_eq!(table.columns.len(), 2);
}

#[test]
fn many_distinct_values_are_estimated() {
    let csv: String = std::iter::once("x\n".to_owned())
        .chain((0..100_000).map(|n| format!("{n}\n")))
        .collect();
    let column = profile(Format::Csv, csv).unwrap().columns.remove(0);
    assert!(!column.distinct_exact);
    assert!(
        (95_000..105_000).contains(&column.distinct),
        "{}",
        column.distinct
    );
    assert!(
        (column.quantiles[10] - 50_000.0).abs() < 5_000.0,
        "{:?}",
        column.quantiles
    );
    assert_eq!(column.quantiles.len(), 21);
    assert!(!column.top_exact);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn statistics_are_those_of_the_rows(values in proptest::collection::vec(-1000i32..1000, 1..300)) {
        let csv: String = std::iter::once("x\n".to_owned()).chain(values.iter().map(|v| format!("{v}\n"))).collect();
        let column = profile(Format::Csv, csv).unwrap().columns.remove(0);
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        prop_assert!((column.mean.unwrap() - mean).abs() < 1e-6);
        prop_assert!((column.std.unwrap() - variance.sqrt()).abs() < 1e-6);
        prop_assert_eq!(column.min.unwrap(), f64::from(*values.iter().min().unwrap()));
        prop_assert_eq!(column.max.unwrap(), f64::from(*values.iter().max().unwrap()));
        prop_assert_eq!(column.quantiles[0], column.min.unwrap());
        prop_assert_eq!(column.quantiles[20], column.max.unwrap());
        let distinct: std::collections::BTreeSet<_> = values.iter().collect();
        prop_assert_eq!((column.distinct, column.distinct_exact), (distinct.len() as u64, true));
        if column.top_exact {
            let top = &column.top[0];
            let count = values.iter().filter(|v| v.to_string() == top.value).count() as u64;
            prop_assert_eq!(top.count, count);
        }
    }

    #[test]
    fn hostile_tables_never_panic(content in proptest::collection::vec(any::<u8>(), 0..300)) {
        for format in [Format::Csv, Format::Tsv, Format::Jsonl, Format::Parquet] {
            let _ = profile(format, content.clone());
        }
    }
}
