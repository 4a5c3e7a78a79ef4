//! The parser: what it reads it writes so that it reads the same again, and nothing makes it
//! panic, recurse without an end or read without an end.

use ondol_telemetry::promql::ast::Expr;
use ondol_telemetry::promql::{ParseLimits, parse, pretty};
use proptest::prelude::*;

fn read(query: &str) -> Expr {
    parse(query, ParseLimits::default()).unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// The tree without the places it was read from, in words.
fn shape(expr: &Expr) -> String {
    let text = format!("{expr:?}");
    regex::Regex::new(r"Range \{ start: \d+, end: \d+ \}")
        .unwrap()
        .replace_all(&text, "_")
        .into_owned()
}

fn refused(query: &str, wanted: &str) {
    let error = parse(query, ParseLimits::default()).expect_err(query);
    assert!(
        error.to_string().contains(wanted),
        "{query}: {error}, not {wanted}"
    );
}

#[test]
fn every_construct_is_written_as_it_reads() {
    for query in [
        "1",
        "1h30m",
        "-1.5e-7",
        "Inf",
        "\"a\\\"b\\n\"",
        "up",
        "up{job=\"node\", instance=~\"a.*\", x!=\"\", y!~\"z\"}",
        "{\"metric.name\", \"l.a.b\"=\"x\"}",
        "{__name__=~\".+\"}",
        "foo[5m]",
        "foo[5m] @ 10.000 offset -1h",
        "foo @ start()",
        "foo @ end() offset 5m",
        "foo[5m] anchored",
        "foo smoothed @ 100.000",
        "foo[2m * (step() + 1s)]",
        "foo offset -min_of(step(), 1s)",
        "rate(foo[5m])[1h:1m] @ 5.000 offset 1m",
        "max_over_time(foo[1h:])",
        "sum by (job, \"a.b\") (foo)",
        "sum without () (foo)",
        "count_values(\"v\", foo)",
        "topk by (x) (3, foo)",
        "-foo",
        "-(1 ^ 2)",
        "a + b * c ^ d ^ e",
        "(a + b) * c",
        "a == bool b",
        "a and ignoring (x) b",
        "a / on (x) group_left (y) b",
        "a * ignoring () group_right () b",
        "a + fill (0) b",
        "a + on (x) fill_left (-1) fill_right (2) b",
        "h </ 5 >/ -Inf",
        "a atan2 b",
        "info(foo, {data=~\".+\"})",
        "sum + on",
        "fill + fill (0) fill",
    ] {
        let expr = read(query);
        let written = expr.to_string();
        assert_eq!(shape(&read(&written)), shape(&expr), "{query} → {written}");
        let lines = pretty(&expr);
        assert_eq!(shape(&read(&lines)), shape(&expr), "{query} → {lines}");
    }
}

#[test]
fn long_queries_are_broken_and_read_the_same() {
    let query = "histogram_quantile(0.99, sum by (le, job) (rate(http_request_duration_seconds_bucket{job=~\"api.*\"}[5m]))) > on (job) group_left () (max by (job) (some_objective_seconds{environment=\"production\"}) or vector(0.3))";
    let lines = pretty(&read(query));
    assert!(lines.lines().count() > 3 && lines.lines().all(|line| line.len() <= 100));
    assert_eq!(shape(&read(&lines)), shape(&read(query)));
}

#[test]
fn operators_bind_as_they_should() {
    for (query, same) in [
        ("-1 ^ 2", "-(1 ^ 2)"),
        ("-a * b", "(-a) * b"),
        ("a or b and c", "a or (b and c)"),
        ("a - b - c", "(a - b) - c"),
        ("a ^ b ^ c", "a ^ (b ^ c)"),
        ("a > b + c", "a > (b + c)"),
        ("foo offset 1m + 2", "(foo offset 1m) + 2"),
    ] {
        let strip = |text: String| text.replace(['(', ')'], "");
        fn grouped(expr: &Expr) -> String {
            match expr.unparenthesized() {
                Expr::Binary { op, lhs, rhs, .. } => {
                    format!("[{} {} {}]", grouped(lhs), op.as_str(), grouped(rhs))
                }
                Expr::Unary { expr, .. } => format!("[- {}]", grouped(expr)),
                other => other.to_string(),
            }
        }
        assert_eq!(grouped(&read(query)), grouped(&read(same)));
        assert_eq!(strip(query.to_owned()), strip(same.to_owned()));
    }
}

#[test]
fn mistakes_are_named_with_their_place() {
    refused("", "no expression");
    refused("foo{", "1:5");
    refused("foo{job=}", "expected a string");
    refused("{}", "at least one non-empty matcher");
    refused("{x=\"\"}", "at least one non-empty matcher");
    refused("foo{x=~\"(\"}", "invalid regular expression");
    refused("sum(foo", "expected \")\"");
    refused("foo[5m", "expected \"]\"");
    refused("rate(foo)", "expected type range vector");
    refused("foo[5m] + 1", "only scalar and instant vector");
    refused("1 == 2", "must use BOOL");
    refused("1 and 2", "not allowed in binary scalar");
    refused("foo + bool bar", "bool modifier");
    refused("foo + on (x) 1", "only allowed between instant vectors");
    refused("a and on (x) group_left () b", "no grouping allowed");
    refused("nope(foo)", "unknown function");
    refused("clamp(foo)", "expected 3 argument(s)");
    refused("foo offset 1m offset 2m", "multiple times");
    refused("foo offset 1m [5m]", "before range");
    refused("(foo)[5m]", "ranges only allowed");
    refused("5m30", "bad number or duration");
    refused("'abc", "unterminated");
    refused("foo bar", "expected an operator");
    refused("\n  )", "2:3");
    refused("foo ; bar", "expected");
    refused("topk(foo)", "expected 2");
}

#[test]
fn size_and_depth_are_bounded() {
    let limits = ParseLimits::default();
    for query in [
        "(".repeat(50_000),
        "-".repeat(50_000) + "1",
        "a+".repeat(20_000) + "a",
        "a^".repeat(20_000) + "a",
        "abs(".repeat(10_000),
        format!("foo[{}1{}]", "(".repeat(20_000), ")".repeat(20_000)),
        format!("foo[{}1m]", "1+".repeat(20_000)),
        "sum(".repeat(9_000) + "x" + &")".repeat(9_000),
        format!("foo[{}]", "-".repeat(40_000)),
    ] {
        let error = parse(&query, limits).expect_err("too deep");
        assert!(error.message.contains("at most"), "{error}");
    }
    let long = format!("up{{job=\"{}\"}}", "x".repeat(limits.length));
    assert!(
        parse(&long, limits)
            .expect_err("too long")
            .message
            .contains("bytes")
    );
    let deep = "(".repeat(limits.depth - 2) + "x" + &")".repeat(limits.depth - 2);
    assert!(parse(&deep, limits).is_ok());
}

fn selector() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,4}",
        "[a-z]{1,3}\\{[a-z]{1,3}(=|!=|=~|!~)\"[a-z0-9]{1,3}\"\\}",
        "\\{\"[a-z.]{1,5}\", x!=\"\"\\}",
    ]
    .prop_filter("words of the language", |text| {
        ![
            "inf", "nan", "and", "or", "by", "on", "fill", "bool", "sum", "min", "max", "avg",
        ]
        .iter()
        .any(|word| text.starts_with(word))
    })
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        selector(),
        selector().prop_map(|s| format!("rate({s}[5m] offset 1h)")),
        selector().prop_map(|s| format!("increase({s}[1h:5m] @ end())")),
        selector().prop_map(|s| format!("{s} @ 12.5 offset -30s")),
        "[1-9][0-9]{0,3}(\\.5)?".prop_map(|n| format!("vector({n})")),
    ];
    leaf.prop_recursive(5, 40, 3, |inner| {
        prop_oneof![
            (
                inner.clone(),
                prop::sample::select(vec![
                    "+",
                    "-",
                    "*",
                    "/",
                    "%",
                    "^",
                    "==",
                    "!= bool",
                    "<",
                    ">= on (x)",
                    "and",
                    "or",
                    "unless ignoring (y)",
                    "atan2",
                    "* on (x) group_left (y)",
                    "</",
                    "+ fill (0)",
                ]),
                inner.clone()
            )
                .prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            inner.clone().prop_map(|a| format!("({a})")),
            inner.clone().prop_map(|a| format!("-{a}")),
            inner.clone().prop_map(|a| format!("sum by (x) ({a})")),
            inner.clone().prop_map(|a| format!("topk(2, {a})")),
            inner
                .clone()
                .prop_map(|a| format!("label_replace({a}, \"a\", \"$1\", \"b\", \"(.*)\")")),
            inner.prop_map(|a| format!("max_over_time(({a})[1h:])")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_the_same(query in expression()) {
        if let Ok(expr) = parse(&query, ParseLimits::default()) {
            let written = expr.to_string();
            let again = parse(&written, ParseLimits::default())
                .map_err(|error| TestCaseError::fail(format!("{query} → {written}: {error}")))?;
            prop_assert_eq!(shape(&again), shape(&expr));
            let lines = pretty(&expr);
            let again = parse(&lines, ParseLimits::default())
                .map_err(|error| TestCaseError::fail(format!("{query} → {lines}: {error}")))?;
            prop_assert_eq!(shape(&again), shape(&expr));
        }
    }

    #[test]
    fn no_text_makes_it_panic(query in "\\PC{0,60}") {
        let _ = parse(&query, ParseLimits::default());
    }

    #[test]
    fn no_pieces_make_it_panic(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "(", ")", "{", "}", "[", "]", ",", ":", "@", "offset", "-", "+", "*", "^", "sum",
                "by", "rate", "foo", "\"x\"", "5m", "1", ".", "bool", "on", "group_left", "fill",
                "=~", "!=", "</", "start", "end", "step", "anchored", "smoothed", "'", "`", "\\",
                "#", "\n", "é", "0x", "1e", "info",
            ]),
            0..30,
        ),
        spaces in any::<bool>(),
    ) {
        let query = pieces.join(if spaces { " " } else { "" });
        let _ = parse(&query, ParseLimits::default());
    }
}
