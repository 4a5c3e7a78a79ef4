use ondol_types::Classified;
use proptest::prelude::*;

use super::*;

fn values(items: &[(&str, f64)]) -> Values {
    items.iter().copied().collect()
}

#[test]
fn gates_compare_doubles_and_explain_every_comparison() {
    let gate =
        Expression::parse("accuracy >= 0.93 && accuracy >= champion.accuracy - 0.01").unwrap();
    let verdict = gate
        .evaluate(&values(&[("accuracy", 0.91), ("champion.accuracy", 0.9)]))
        .unwrap();
    assert!(!verdict.passed);
    assert_eq!(
        verdict.to_string(),
        "accuracy >= 0.93 fails (0.91 >= 0.93); accuracy >= champion.accuracy - 0.01 holds (0.91 >= 0.89)"
    );
    assert!(
        gate.evaluate(&values(&[("accuracy", 0.97), ("champion.accuracy", 0.97)]))
            .unwrap()
            .passed
    );
}

#[test]
fn whole_numbers_are_doubles() {
    let gate = Expression::parse("accuracy >= 1 && requests / 2 > 1").unwrap();
    assert!(
        gate.evaluate(&values(&[("accuracy", 1.0), ("requests", 3.0)]))
            .unwrap()
            .passed
    );
}

#[test]
fn a_missing_name_or_nan_refuses_even_where_logic_would_not_look() {
    let gate = Expression::parse("accuracy > 0.5 || f1 > 0.5").unwrap();
    let refusal = gate
        .evaluate(&values(&[("accuracy", 0.9), ("f2", 1.0)]))
        .unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "`f1` has no value; there are accuracy, f2"
    );
    assert_eq!(refusal.hint().as_deref(), Some("did you mean `f2`?"));
    let refusal = gate
        .evaluate(&values(&[("accuracy", 0.9), ("f1", f64::NAN)]))
        .unwrap_err();
    assert_eq!(refusal, Refusal::NotANumber { name: "f1".into() });
    let negated = Expression::parse("!(loss > 1.0)").unwrap();
    assert!(negated.evaluate(&values(&[("loss", f64::NAN)])).is_err());
    let produced = Expression::parse("a - b < 1.0").unwrap();
    assert!(
        produced
            .evaluate(&values(&[("a", f64::INFINITY), ("b", f64::INFINITY)]))
            .is_err()
    );
}

#[test]
fn has_makes_a_name_optional() {
    let gate =
        Expression::parse("!has(champion.accuracy) || accuracy >= champion.accuracy").unwrap();
    assert!(gate.evaluate(&values(&[("accuracy", 0.1)])).unwrap().passed);
    assert!(
        !gate
            .evaluate(&values(&[("accuracy", 0.1), ("champion.accuracy", 0.2)]))
            .unwrap()
            .passed
    );
}

#[test]
fn division_by_zero_refuses_only_when_it_is_needed() {
    let guarded = Expression::parse("requests == 0 || errors / requests < 0.01").unwrap();
    assert!(
        guarded
            .evaluate(&values(&[("requests", 0.0), ("errors", 0.0)]))
            .unwrap()
            .passed
    );
    let bare = Expression::parse("errors / requests < 0.01").unwrap();
    assert!(matches!(
        bare.evaluate(&values(&[("requests", 0.0), ("errors", 0.0)])),
        Err(Refusal::DivisionByZero { .. })
    ));
}

#[test]
fn metric_names_that_cel_cannot_spell_have_an_underscore() {
    let gate = Expression::parse(r#"f1_score > 0.5 && champion["f1-score"] > 0.5"#).unwrap();
    assert!(
        gate.evaluate(&values(&[("f1-score", 0.6), ("champion.f1-score", 0.6)]))
            .unwrap()
            .passed
    );
}

#[test]
fn what_a_gate_may_not_use_is_named() {
    let message = |text: &str| Expression::parse(text).unwrap_err().to_string();
    assert_eq!(
        message("accuracy"),
        "`accuracy` is a number, where true or false is needed"
    );
    assert_eq!(
        message("(a > 1) + 2 > 3"),
        "`a > 1` is true or false, where a number is needed"
    );
    assert!(message("[1, 2].all(x, x > 0)").contains("cannot be used here"));
    assert!(message("name == 'iris'").starts_with("text cannot be used here"));
    assert!(message("size(a) > 1").starts_with("the function `size()` cannot"));
    assert!(
        message("accuracy >").starts_with("the expression is not valid CEL at character 11"),
        "{}",
        message("accuracy >")
    );
    assert!(message("").contains("it is empty"));
    assert!(message(&format!("a > {}", "1".repeat(1_000))).contains("at most 1000"));
    assert!(
        message(&format!("{}a > 1{}", "(".repeat(40), ")".repeat(40))).contains("nested deeper")
    );
    assert!(message(&format!("{}true", "!".repeat(400))).contains("nested deeper"));
}

#[test]
fn names_are_checked_against_what_there_will_be() {
    let check = |text: &str| Expression::parse(text).unwrap().check_canary_names();
    assert!(check("error_rate < 0.01 && p95 < current.p95 * 1.2").is_ok());
    let error = check("error_rat < 0.01").unwrap_err();
    assert!(
        matches!(&error, ExprError::Unknown { nearest: Some(nearest), .. } if nearest == "error_rate"),
        "{error}"
    );
    let gate = |text: &str| Expression::parse(text).unwrap().check_gate_names();
    assert!(gate("anything > 0.5 && champion.anything > 0.1").is_ok());
    assert!(gate("champio.accuracy > 0.5").is_err());
    assert!(gate("champion > 0.5").is_err());
}

/// Text of a numeric expression, fully parenthesised.
fn arithmetic() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("a".to_owned()),
        Just("b.c".to_owned()),
        (0u32..100).prop_map(|n| format!("{n}.25"))
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        (
            inner.clone(),
            prop_oneof![Just('+'), Just('-'), Just('*')],
            inner,
        )
            .prop_map(|(l, op, r)| format!("({l} {op} {r})"))
    })
}

fn logic() -> impl Strategy<Value = String> {
    let operators = prop_oneof![
        Just("<"),
        Just("<="),
        Just(">"),
        Just(">="),
        Just("=="),
        Just("!=")
    ];
    let leaf =
        (arithmetic(), operators, arithmetic()).prop_map(|(l, op, r)| format!("{l} {op} {r}"));
    leaf.prop_recursive(2, 8, 2, |inner| {
        prop_oneof![
            (
                inner.clone(),
                prop_oneof![Just("&&"), Just("||")],
                inner.clone()
            )
                .prop_map(|(l, op, r)| format!("({l} {op} {r})")),
            inner.clone().prop_map(|inner| format!("!({inner})")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(c, y, n)| format!("(({c}) ? ({y}) : ({n}))")),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,60}") {
        let _ = Expression::parse(&text);
    }

    #[test]
    fn near_cel_is_read_or_refused_without_a_panic(text in "[a-c0-9.!?:()\\[\\]{}'\" &|<>=+*/%,-]{0,80}") {
        if let Ok(expression) = Expression::parse(&text) {
            let again = Expression::parse(&expression.root.to_string()).unwrap();
            prop_assert_eq!(again.names(), expression.names());
        }
    }

    #[test]
    fn verdicts_are_those_of_the_cel_interpreter(text in logic(), a in -50.0f64..50.0, c in -50.0f64..50.0) {
        prop_assume!(text.len() <= MAX_CHARS);
        let Ok(ours) = Expression::parse(&text) else { return Ok(()) };
        let verdict = ours.evaluate(&values(&[("a", a), ("b.c", c)])).unwrap();
        let program = cel::Program::compile(&text).unwrap();
        let mut context = cel::Context::default();
        context.add_variable_from_value("a", a);
        context.add_variable_from_value("b", std::collections::HashMap::from([("c", c)]));
        prop_assert_eq!(program.execute(&context).unwrap(), cel::Value::Bool(verdict.passed), "{}", text);
    }
}

/// Not a measurement: a parser that backtracks without bound would not come back at all.
#[test]
fn the_longest_expressions_are_read() {
    for text in [
        format!("a > 0{}", "&&a>0".repeat(160)),
        format!("a > {}a", "a+".repeat(490)),
        format!("{}a > 0{}", "(".repeat(16), ")".repeat(16)),
        format!("a > 0{}", " ? true : a > 1".repeat(16)),
        format!("a{} > 0", ".b".repeat(490)),
    ] {
        assert!(
            Expression::parse(&text).is_ok(),
            "{text}: {:?}",
            Expression::parse(&text)
        );
    }
    for text in [
        "a[".repeat(400),
        "a?".repeat(400),
        "(a".repeat(400),
        "{a:".repeat(300),
        "-(".repeat(400),
        "a<".repeat(499),
    ] {
        assert!(Expression::parse(&text).is_err(), "{text}");
    }
}
