use proptest::prelude::*;

use super::*;

fn runs(filter: &str) -> TrackingResult<Vec<Comparison>> {
    parse(Subject::Runs, filter)
}

fn one(filter: &str) -> Comparison {
    let mut found = runs(filter).unwrap();
    assert_eq!(found.len(), 1, "{filter}");
    found.remove(0)
}

fn comparison(entity: Entity, key: &str, op: Op, value: Operand) -> Comparison {
    Comparison {
        entity,
        key: key.to_owned(),
        op,
        value,
    }
}

#[test]
fn every_kind_of_comparison_is_read() {
    let text = |text: &str| Operand::Text(text.to_owned());
    let equal = Op::Compare("=");
    for (filter, expected) in [
        (
            "metrics.acc >= 0.9",
            comparison(
                Entity::Metric,
                "acc",
                Op::Compare(">="),
                Operand::Number(0.9),
            ),
        ),
        (
            "metric.acc<-1e-3",
            comparison(
                Entity::Metric,
                "acc",
                Op::Compare("<"),
                Operand::Number(-0.001),
            ),
        ),
        (
            "metrics.`a b`!=1",
            comparison(
                Entity::Metric,
                "a b",
                Op::Compare("!="),
                Operand::Number(1.0),
            ),
        ),
        (
            "metrics.val/loss = 2.",
            comparison(Entity::Metric, "val/loss", equal, Operand::Number(2.0)),
        ),
        (
            "params.\"a.b c\" = '1'",
            comparison(Entity::Param, "a.b c", equal, text("1")),
        ),
        (
            "param.lr = \"0.1\"",
            comparison(Entity::Param, "lr", equal, text("0.1")),
        ),
        (
            "parameters.x IS NULL",
            comparison(Entity::Param, "x", Op::IsNull, Operand::Nothing),
        ),
        (
            "tags.mlflow.source.name like '%.py'",
            comparison(Entity::Tag, "mlflow.source.name", Op::Like, text("%.py")),
        ),
        (
            "tag.k is not null",
            comparison(Entity::Tag, "k", Op::IsNotNull, Operand::Nothing),
        ),
        (
            "tags.k ILIKE 'it''s'",
            comparison(Entity::Tag, "k", Op::ILike, text("it's")),
        ),
        (
            "`tags`.`k` = 'v'",
            comparison(Entity::Tag, "k", equal, text("v")),
        ),
        (
            "status = 'FINISHED'",
            comparison(Entity::Attribute, "status", equal, text("FINISHED")),
        ),
        (
            "attributes.run_name = 'x'",
            comparison(Entity::Attribute, "name", equal, text("x")),
        ),
        (
            "`run name` = 'x'",
            comparison(Entity::Attribute, "name", equal, text("x")),
        ),
        (
            "attr.created > 5",
            comparison(
                Entity::Attribute,
                "start_time",
                Op::Compare(">"),
                Operand::Integer(5),
            ),
        ),
        (
            "datasets.name = 'iris'",
            comparison(Entity::Dataset, "name", equal, text("iris")),
        ),
    ] {
        assert_eq!(one(filter), expected, "{filter}");
    }
    let list = |texts: &[&str]| Operand::List(texts.iter().map(|&text| text.to_owned()).collect());
    assert_eq!(
        one("run_id IN ('a','b')"),
        comparison(Entity::Attribute, "id", Op::In, list(&["a", "b"]))
    );
    assert_eq!(
        one("dataset.digest not in ( \"a\" , )"),
        comparison(Entity::Dataset, "digest", Op::NotIn, list(&["a"]))
    );
}

#[test]
fn comparisons_are_joined_by_and_alone() {
    assert_eq!(runs("").unwrap().len(), 0);
    assert_eq!(runs("  ").unwrap().len(), 0);
    assert_eq!(runs("metrics.a > 1 metrics.b > 1").unwrap().len(), 2);
    let three = "metrics.a > 1 AND params.b = 'AND' and tags.c != 'OR'";
    assert_eq!(runs(three).unwrap().len(), 3);
    for bad in [
        "metrics.a > 1 OR metrics.b > 1",
        "metrics.a > 1 AND",
        "AND metrics.a > 1",
        "(metrics.a > 1)",
        "metrics.a",
        "metrics.a >",
        "metrics.a > 'x'",
        "metrics.a LIKE 'x'",
        "metrics.a IS NULL",
        "metrics.a == 1",
        "params.a > '1'",
        "params.a = 1",
        "params.a IN ('1')",
        "status > 'a'",
        "status IN ('a')",
        "status IS NULL",
        "run_id IN ()",
        "run_id IN (1)",
        "run_id IN 'a'",
        "run_id NOT 'a'",
        "start_time = 'x'",
        "start_time LIKE 'x'",
        "nothing = 'x'",
        "foo.bar = 'x'",
        "datasets.source = 'x'",
        "tags.a = 'open",
        "tags.`open = 'x'",
        "tags.a = 'x'; DROP TABLE run",
        "1 = 1",
        "'a' = 'a'",
        "tags.a IS",
        "tags.a IS NOT 'x'",
    ] {
        assert!(runs(bad).is_err(), "{bad}");
    }
    assert!(runs(&"tags.a = 'x' AND ".repeat(9_000)).is_err());
}

#[test]
fn each_subject_has_its_own_names() {
    assert!(parse(Subject::Experiments, "name = 'x' AND tags.a IS NULL").is_ok());
    assert!(parse(Subject::Experiments, "creation_time > 5").is_ok());
    assert!(parse(Subject::Experiments, "experiment_id IN ('1')").is_ok());
    assert!(parse(Subject::Experiments, "experiment_id LIKE '1'").is_err());
    assert!(parse(Subject::Experiments, "metrics.a > 1").is_err());
    assert!(
        parse(
            Subject::RegisteredModels,
            "tags.`mlflow.prompt.is_prompt` != 'true'"
        )
        .is_ok()
    );
    assert!(parse(Subject::ModelVersions, "name IN ('a') AND run_id = 'b'").is_ok());
    assert!(parse(Subject::LoggedModels, "name = 'model' AND metrics.a > 1").is_ok());
    assert!(parse(Subject::LoggedModels, "datasets.name = 'x'").is_err());
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(filter in ".{0,200}") {
        for subject in [Subject::Runs, Subject::Experiments, Subject::LoggedModels, Subject::RegisteredModels, Subject::ModelVersions] {
            let _ = parse(subject, &filter);
        }
    }

    #[test]
    fn no_mixture_of_its_words_makes_the_reader_panic(
        words in proptest::collection::vec(prop_oneof![
            Just("metrics.a"), Just("tags."), Just("`"), Just("\""), Just("'"), Just("x"), Just("IN"), Just("NOT"),
            Just("("), Just(")"), Just(","), Just("="), Just("!"), Just("<"), Just("1"), Just("-"), Just("1e"), Just("."),
            Just("IS"), Just("NULL"), Just("AND"), Just("LIKE"), Just("'v'"), Just("한"),
        ], 0..30),
        space in prop_oneof![Just(""), Just(" ")],
    ) {
        let _ = runs(&words.join(space));
    }

    #[test]
    fn keys_and_values_survive_quoting(key in "[^`]{1,30}", value in "[^']{0,30}") {
        let filter = format!("tags.`{key}` = '{value}'");
        let expected = comparison(Entity::Tag, &key, Op::Compare("="), Operand::Text(value));
        prop_assert_eq!(runs(&filter).unwrap(), vec![expected]);
    }

    #[test]
    fn numbers_survive(value in proptest::num::f64::NORMAL) {
        let filter = format!("metrics.a > {value:e}");
        let expected = comparison(Entity::Metric, "a", Op::Compare(">"), Operand::Number(value));
        prop_assert_eq!(runs(&filter).unwrap(), vec![expected]);
    }
}
