//! What a search is ordered by: `metrics.accuracy DESC`, `start_time`, ``tags.`a b` ASC``.

use super::filter::{Entity, Subject};
use crate::tracking::error::{TrackingError, TrackingResult};

/// Most clauses of one order.
const MAX_CLAUSES: usize = 20;

/// One clause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// What is looked at.
    pub(crate) entity: Entity,
    /// Its name; of an attribute, the column's.
    pub(crate) key: String,
    /// Smallest first.
    pub(crate) ascending: bool,
}

fn unquoted(text: &str) -> &str {
    for quote in ['`', '"', '\''] {
        if let Some(inner) = text
            .strip_prefix(quote)
            .and_then(|text| text.strip_suffix(quote))
        {
            return inner;
        }
    }
    text
}

/// Splits a clause into its name and its direction, if it says one. The name may be quoted.
fn split(clause: &str) -> TrackingResult<(&str, bool)> {
    let clause = clause.trim();
    let lower = clause.to_ascii_lowercase();
    let spaced = |word: &str| {
        lower
            .strip_suffix(word)
            .is_some_and(|rest| rest.ends_with(char::is_whitespace) || rest.ends_with(['`', '"']))
    };
    let (name, ascending) = if spaced("desc") {
        (&clause[..clause.len() - 4], false)
    } else if spaced("asc") {
        (&clause[..clause.len() - 3], true)
    } else {
        (clause, true)
    };
    let name = name.trim();
    let quoted = name.ends_with(['`', '"', '\'']);
    if name.is_empty() || (!quoted && name.contains(char::is_whitespace)) {
        return Err(TrackingError::invalid(format!(
            "Invalid order_by clause '{}'. Could not be parsed.",
            clause.chars().take(100).collect::<String>()
        )));
    }
    Ok((name, ascending))
}

/// Reads the clauses of an order.
pub(crate) fn parse(subject: Subject, clauses: &[String]) -> TrackingResult<Vec<Order>> {
    if clauses.len() > MAX_CLAUSES {
        return Err(TrackingError::invalid(format!(
            "`order_by` has more than {MAX_CLAUSES} fields"
        )));
    }
    let mut found: Vec<Order> = Vec::with_capacity(clauses.len());
    for clause in clauses {
        let (name, ascending) = split(clause)?;
        let (entity, key) = match name.split_once('.') {
            Some((word, key)) if !name.starts_with(['`', '"', '\'']) || name.contains("`.") => {
                (subject.entity(unquoted(word))?, unquoted(key))
            }
            _ => (Entity::Attribute, unquoted(name)),
        };
        let allowed = match subject {
            Subject::Runs => entity != Entity::Dataset,
            _ => entity == Entity::Attribute,
        };
        if !allowed {
            return Err(TrackingError::invalid(format!(
                "Invalid order_by entity: {name}"
            )));
        }
        let key = match entity {
            Entity::Attribute => subject.attribute(key)?.column.to_owned(),
            _ => key.to_owned(),
        };
        if found
            .iter()
            .any(|order| order.entity == entity && order.key == key)
        {
            return Err(TrackingError::invalid(format!(
                "`order_by` contains duplicate fields: {clauses:?}"
            )));
        }
        found.push(Order {
            entity,
            key,
            ascending,
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(clause: &str) -> Order {
        parse(Subject::Runs, &[clause.to_owned()])
            .unwrap()
            .remove(0)
    }

    fn order(entity: Entity, key: &str, ascending: bool) -> Order {
        Order {
            entity,
            key: key.to_owned(),
            ascending,
        }
    }

    #[test]
    fn clauses_are_read() {
        assert_eq!(one("metrics.acc DESC"), order(Entity::Metric, "acc", false));
        assert_eq!(one("metric.acc"), order(Entity::Metric, "acc", true));
        assert_eq!(
            one("metrics.`a b` desc"),
            order(Entity::Metric, "a b", false)
        );
        assert_eq!(one("params.\"a b\" ASC"), order(Entity::Param, "a b", true));
        assert_eq!(
            one("tags.mlflow.user asc"),
            order(Entity::Tag, "mlflow.user", true)
        );
        assert_eq!(
            one(" start_time desc "),
            order(Entity::Attribute, "start_time", false)
        );
        assert_eq!(
            one("attributes.Created"),
            order(Entity::Attribute, "start_time", true)
        );
        assert_eq!(one("tags.desc"), order(Entity::Tag, "desc", true));
    }

    #[test]
    fn what_is_no_clause_is_refused() {
        for bad in [
            "",
            "metrics.a up",
            "metrics.a b c",
            "nothing",
            "datasets.name",
            "foo.a",
            "한 desc",
        ] {
            assert!(parse(Subject::Runs, &[bad.to_owned()]).is_err(), "{bad}");
        }
        let twice = ["start_time".to_owned(), "Created DESC".to_owned()];
        assert!(parse(Subject::Runs, &twice).is_err());
        assert!(parse(Subject::Experiments, &["tags.a".to_owned()]).is_err());
    }
}
