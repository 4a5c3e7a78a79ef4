//! The filter language of searches: comparisons joined by `AND`.
//!
//! `metrics.accuracy > 0.9 and params.depth = '4' and tags."mlflow.user" LIKE 'k%'`. Which names,
//! comparators and values go together depends on what is searched; everything else is refused
//! with the word that is wrong, so that a filter never silently finds too much.

use super::lex::{Token, lex};
use crate::tracking::error::{TrackingError, TrackingResult};

/// What is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Runs.
    Runs,
    /// Experiments.
    Experiments,
    /// Logged models.
    LoggedModels,
    /// Registered models.
    RegisteredModels,
    /// Versions of registered models.
    ModelVersions,
}

/// What a comparison looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entity {
    /// The latest value of a metric.
    Metric,
    /// A parameter.
    Param,
    /// A tag.
    Tag,
    /// A property of the thing itself.
    Attribute,
    /// A dataset that a run reads.
    Dataset,
}

/// How values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// One of the six comparators of numbers.
    Compare(&'static str),
    /// With `%` and `_`, by case.
    Like,
    /// With `%` and `_`, whatever the case.
    ILike,
    /// One of a list.
    In,
    /// None of a list.
    NotIn,
    /// Not there.
    IsNull,
    /// There.
    IsNotNull,
}

/// What it is compared with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// A number.
    Number(f64),
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
    /// Texts.
    List(Vec<String>),
    /// Nothing, for `IS NULL`.
    Nothing,
}

/// One comparison of a filter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Comparison {
    /// What is looked at.
    pub(crate) entity: Entity,
    /// Its name; of an attribute, the column's.
    pub(crate) key: String,
    /// How.
    pub(crate) op: Op,
    /// With what.
    pub(crate) value: Operand,
}

/// A property that can be searched by.
pub(crate) struct Attribute {
    /// The column.
    pub(crate) column: &'static str,
    /// Whether it is a number.
    pub(crate) numeric: bool,
}

const fn text(column: &'static str) -> Attribute {
    Attribute {
        column,
        numeric: false,
    }
}

const fn numeric(column: &'static str) -> Attribute {
    Attribute {
        column,
        numeric: true,
    }
}

impl Subject {
    /// The property of a name.
    pub(crate) fn attribute(self, key: &str) -> TrackingResult<Attribute> {
        let found = match self {
            Self::Runs => match key {
                "run_id" => Some(text("id")),
                "run_name" | "run name" | "Run name" | "Run Name" => Some(text("name")),
                "status" => Some(text("status")),
                "user_id" => Some(text("user_id")),
                "artifact_uri" => Some(text("artifact_uri")),
                "start_time" | "created" | "Created" => Some(numeric("start_time")),
                "end_time" => Some(numeric("end_time")),
                _ => None,
            },
            Self::Experiments => match key {
                "name" => Some(text("name")),
                "experiment_id" => Some(text("id")),
                "creation_time" => Some(numeric("created_at")),
                "last_update_time" => Some(numeric("updated_at")),
                _ => None,
            },
            Self::LoggedModels => match key {
                "name" => Some(text("name")),
                "model_id" => Some(text("id")),
                "model_type" => Some(text("model_type")),
                "status" => Some(text("status")),
                "source_run_id" => Some(text("source_run")),
                "creation_timestamp" | "creation_time" => Some(numeric("created_at")),
                "last_updated_timestamp" | "last_updated_time" => Some(numeric("updated_at")),
                _ => None,
            },
            Self::RegisteredModels => match key {
                "name" => Some(text("name")),
                "creation_timestamp" => Some(numeric("created_at")),
                "last_updated_timestamp" | "timestamp" => Some(numeric("updated_at")),
                _ => None,
            },
            Self::ModelVersions => match key {
                "name" => Some(text("model")),
                "version_number" | "version" => Some(numeric("version")),
                "run_id" => Some(text("run_id")),
                "source_path" | "source" => Some(text("source")),
                "creation_timestamp" => Some(numeric("created_at")),
                "last_updated_timestamp" => Some(numeric("updated_at")),
                _ => None,
            },
        };
        found.ok_or_else(|| {
            TrackingError::invalid(format!("Invalid attribute key '{key}' specified"))
        })
    }

    /// The entity of a word in front of a dot.
    pub(crate) fn entity(self, word: &str) -> TrackingResult<Entity> {
        let found = match word {
            "metric" | "metrics" => Some(Entity::Metric),
            "parameter" | "parameters" | "param" | "params" => Some(Entity::Param),
            "tag" | "tags" => Some(Entity::Tag),
            "attribute" | "attributes" | "attr" | "run" => Some(Entity::Attribute),
            "dataset" | "datasets" => Some(Entity::Dataset),
            _ => None,
        };
        let allowed = |entity: &Entity| match self {
            Self::Runs => true,
            Self::LoggedModels => *entity != Entity::Dataset,
            _ => matches!(entity, Entity::Tag | Entity::Attribute),
        };
        found.filter(allowed).ok_or_else(|| {
            let valid: &[&str] = match self {
                Self::Runs => &["metric", "parameter", "tag", "attribute", "dataset"],
                Self::LoggedModels => &["metric", "parameter", "tag", "attribute"],
                _ => &["tag", "attribute"],
            };
            TrackingError::invalid(format!(
                "Invalid entity type '{word}'. Valid values are {valid:?}"
            ))
        })
    }

    /// Whether texts of an attribute can be compared with a list.
    fn takes_list(self, key: &str) -> bool {
        match self {
            Self::Runs => key == "run_id",
            Self::Experiments => key == "experiment_id",
            Self::LoggedModels => true,
            Self::RegisteredModels => key == "name",
            Self::ModelVersions => matches!(key, "name" | "run_id" | "source_path"),
        }
    }
}

/// Reads a filter. An empty one has no comparisons.
pub(crate) fn parse(subject: Subject, filter: &str) -> TrackingResult<Vec<Comparison>> {
    let tokens = lex(filter)?;
    let mut parser = Parser {
        subject,
        filter,
        tokens: tokens.into_iter().peekable(),
    };
    let mut found = Vec::new();
    while parser.tokens.peek().is_some() {
        found.push(parser.comparison()?);
        // The reference server takes comparisons that stand side by side as joined by AND.
        if parser.tokens.peek() == Some(&Token::Keyword("AND")) {
            parser.tokens.next();
            if parser.tokens.peek().is_none() {
                return Err(parser.unexpected(None));
            }
        }
    }
    Ok(found)
}

struct Parser<'f> {
    subject: Subject,
    filter: &'f str,
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

/// A word as people wrote it, more or less.
fn shown(token: Option<&Token>) -> String {
    match token {
        None => "the end".to_owned(),
        Some(Token::Name(Some(entity), key)) => format!("'{entity}.{key}'"),
        Some(Token::Name(None, key)) => format!("'{key}'"),
        Some(Token::Text(text)) => format!("'{text}'"),
        Some(Token::Number(text)) => format!("'{text}'"),
        Some(Token::Compare(word) | Token::Keyword(word)) => format!("'{word}'"),
        Some(Token::Open) => "'('".to_owned(),
        Some(Token::Close) => "')'".to_owned(),
        Some(Token::Comma) => "','".to_owned(),
    }
}

impl Parser<'_> {
    fn unexpected(&self, token: Option<&Token>) -> TrackingError {
        TrackingError::invalid(format!(
            "Invalid clause(s) in filter string: {} in \"{}\"; comparisons are joined by AND",
            shown(token),
            self.filter.chars().take(200).collect::<String>()
        ))
    }

    fn comparison(&mut self) -> TrackingResult<Comparison> {
        let token = self.tokens.next();
        let Some(Token::Name(entity, key)) = token else {
            return Err(self.unexpected(token.as_ref()));
        };
        let entity = match entity {
            Some(word) => self.subject.entity(&word)?,
            None => Entity::Attribute,
        };
        let op = self.op()?;
        let (column, numeric) = match entity {
            Entity::Attribute => {
                let attribute = self.subject.attribute(&key)?;
                (attribute.column.to_owned(), attribute.numeric)
            }
            Entity::Dataset => match key.as_str() {
                "name" | "digest" | "context" => (key.clone(), false),
                _ => {
                    return Err(TrackingError::invalid(format!(
                        "Invalid dataset key '{key}' specified. Valid keys are name, digest, context"
                    )));
                }
            },
            Entity::Metric => (key.clone(), true),
            Entity::Param | Entity::Tag => (key.clone(), false),
        };
        self.check(entity, &key, numeric, op)?;
        let value = match op {
            Op::IsNull | Op::IsNotNull => Operand::Nothing,
            Op::In | Op::NotIn => Operand::List(self.list()?),
            _ if numeric => self.number(entity, &key)?,
            _ => self.text(&key)?,
        };
        Ok(Comparison {
            entity,
            key: column,
            op,
            value,
        })
    }

    fn op(&mut self) -> TrackingResult<Op> {
        let token = self.tokens.next();
        Ok(match token {
            Some(Token::Compare(word)) => Op::Compare(word),
            Some(Token::Keyword("LIKE")) => Op::Like,
            Some(Token::Keyword("ILIKE")) => Op::ILike,
            Some(Token::Keyword("IN")) => Op::In,
            Some(Token::Keyword("NOT")) => match self.tokens.next() {
                Some(Token::Keyword("IN")) => Op::NotIn,
                other => return Err(self.unexpected(other.as_ref())),
            },
            Some(Token::Keyword("IS")) => {
                let mut next = self.tokens.next();
                let not = next == Some(Token::Keyword("NOT"));
                if not {
                    next = self.tokens.next();
                }
                match next {
                    Some(Token::Keyword("NULL")) if not => Op::IsNotNull,
                    Some(Token::Keyword("NULL")) => Op::IsNull,
                    other => return Err(self.unexpected(other.as_ref())),
                }
            }
            other => return Err(self.unexpected(other.as_ref())),
        })
    }

    /// Which comparators go with what.
    fn check(&self, entity: Entity, key: &str, numeric: bool, op: Op) -> TrackingResult<()> {
        let fits = match op {
            Op::Compare("=" | "!=") => true,
            Op::Compare(_) => numeric,
            Op::Like | Op::ILike => {
                let number_in_text = self.subject == Subject::Experiments && key == "experiment_id";
                !(numeric || number_in_text)
            }
            Op::In | Op::NotIn => match entity {
                Entity::Attribute => !numeric && self.subject.takes_list(key),
                Entity::Dataset => true,
                _ => false,
            },
            Op::IsNull | Op::IsNotNull => match self.subject {
                Subject::Runs => matches!(entity, Entity::Param | Entity::Tag),
                Subject::Experiments => entity == Entity::Tag,
                _ => false,
            },
        };
        if fits {
            return Ok(());
        }
        let word = match op {
            Op::Compare(word) => word,
            Op::Like => "LIKE",
            Op::ILike => "ILIKE",
            Op::In => "IN",
            Op::NotIn => "NOT IN",
            Op::IsNull => "IS NULL",
            Op::IsNotNull => "IS NOT NULL",
        };
        Err(TrackingError::invalid(format!(
            "Invalid comparator '{word}' for '{key}'"
        )))
    }

    fn number(&mut self, entity: Entity, key: &str) -> TrackingResult<Operand> {
        let token = self.tokens.next();
        let Some(Token::Number(written)) = &token else {
            let what = if entity == Entity::Metric {
                "metric".to_owned()
            } else {
                format!("numeric attribute: {key}")
            };
            return Err(TrackingError::invalid(format!(
                "Expected numeric value type for {what}. Found {}",
                shown(token.as_ref())
            )));
        };
        if entity == Entity::Attribute
            && let Ok(number) = written.parse()
        {
            return Ok(Operand::Integer(number));
        }
        written
            .parse()
            .map(Operand::Number)
            .map_err(|_| self.unexpected(token.as_ref()))
    }

    fn text(&mut self, key: &str) -> TrackingResult<Operand> {
        match self.tokens.next() {
            Some(Token::Text(text)) => Ok(Operand::Text(text)),
            other => Err(TrackingError::invalid(format!(
                "Expected a quoted string value for '{key}' (e.g. 'my-value'). Got value {}",
                shown(other.as_ref())
            ))),
        }
    }

    fn list(&mut self) -> TrackingResult<Vec<String>> {
        let open = self.tokens.next();
        if open != Some(Token::Open) {
            return Err(self.unexpected(open.as_ref()));
        }
        let mut texts = Vec::new();
        loop {
            match self.tokens.next() {
                Some(Token::Text(text)) => texts.push(text),
                Some(Token::Close) if !texts.is_empty() => return Ok(texts),
                other => {
                    return Err(TrackingError::invalid(format!(
                        "While parsing a list in the query, expected a non-empty list of string values, but got {}",
                        shown(other.as_ref())
                    )));
                }
            }
            match self.tokens.next() {
                Some(Token::Comma) => {}
                Some(Token::Close) => return Ok(texts),
                other => return Err(self.unexpected(other.as_ref())),
            }
        }
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
