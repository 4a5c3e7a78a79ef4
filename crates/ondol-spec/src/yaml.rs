//! From the text of `ondol.yaml` to a tree in which every value has its line and column. Compose
//! files are read by the same reader, with two tags of their own.
//!
//! YAML 1.2 with the core schema: `on` is a word and `no` is text. Nothing in a hostile file may
//! cost more than its size: bytes, depth and the number of values (aliases counted each time
//! they are used) have ceilings, keys come once, and there is one document.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use crate::error::{Fault, SpecError};
use crate::node::{Directive, Entry, Kind, Node, Origin};

/// The largest file that is read, in bytes.
pub const MAX_BYTES: usize = 256 * 1024;
/// The deepest that values may be nested.
pub const MAX_DEPTH: usize = 32;
/// The most values that a file may have, after aliases are replaced by what they stand for.
pub const MAX_VALUES: usize = 50_000;

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `ondol.yaml`: no tags beyond the core schema; `x-` keys of the root are dropped.
    Ondol,
    /// A Compose file: `!reset` and `!override`; `x-` keys stay.
    Compose,
}

/// Reads a file of Ondol's own.
pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<Node, SpecError> {
    parse_as(Dialect::Ondol, file, bytes)
}

/// Reads a file.
pub(crate) fn parse_as(dialect: Dialect, file: &str, bytes: &[u8]) -> Result<Node, SpecError> {
    let file: Arc<str> = file.into();
    let start = Origin::File {
        file: file.clone(),
        line: 1,
        column: 1,
    };
    if bytes.len() > MAX_BYTES {
        let message = format!(
            "the file has {} bytes; at most {MAX_BYTES} are read",
            bytes.len()
        );
        return Err(SpecError::TooLarge(fault(start, message, None)));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            let origin = Origin::File {
                file,
                line: small(line),
                column: 1,
            };
            let hint = Some("save the file as UTF-8".to_owned());
            return Err(SpecError::Syntax(fault(
                origin,
                "the file is not UTF-8".to_owned(),
                hint,
            )));
        }
    };
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH + 1,
        block_nesting_limit: MAX_DEPTH + 1,
    };
    let parser = Parser::new_from_str_with_options(text, options);
    let mut reader = Reader {
        parser,
        dialect,
        file,
        anchors: HashMap::new(),
        values: 0,
    };
    let mut root = reader
        .document()?
        .unwrap_or_else(|| Node::map(start.clone()));
    match root.kind {
        Kind::Null => root = Node::map(start),
        Kind::Map(ref mut entries) => {
            if dialect == Dialect::Ondol {
                entries.retain(|entry| !entry.key.starts_with("x-"));
            }
        }
        _ => {
            let example = match dialect {
                Dialect::Ondol => "`test: pytest -q`",
                Dialect::Compose => "`services: { web: { build: . } }`",
            };
            let hint = Some(format!("write keys and values, such as {example}"));
            return Err(SpecError::Value(fault(
                root.origin,
                "the file must be a mapping of keys to values".to_owned(),
                hint,
            )));
        }
    }
    Ok(root)
}

fn fault(origin: Origin, message: String, hint: Option<String>) -> Fault {
    Fault {
        message,
        origin,
        path: String::new(),
        hint,
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    dialect: Dialect,
    file: Arc<str>,
    /// What each anchor stands for, and how many values that is.
    anchors: HashMap<usize, (Node, usize)>,
    values: usize,
}

impl<'a> Reader<'a> {
    fn origin(&self, span: &Span) -> Origin {
        Origin::File {
            file: self.file.clone(),
            line: small(span.start.line()),
            column: small(span.start.col() + 1),
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), SpecError> {
        match self.parser.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let mark = error.marker();
                let origin = Origin::File {
                    file: self.file.clone(),
                    line: small(mark.line().max(1)),
                    column: small(mark.col() + 1),
                };
                Err(SpecError::Syntax(fault(
                    origin,
                    format!("not valid YAML: {}", error.info()),
                    None,
                )))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Result<Option<Node>, SpecError> {
        loop {
            match self.next()? {
                (Event::StreamStart, _) => {}
                (Event::DocumentStart(..), _) => break,
                _ => return Ok(None),
            }
        }
        let first = self.next()?;
        let root = self.value(first, 0)?;
        loop {
            match self.next()? {
                (Event::DocumentEnd, _) => {}
                (Event::DocumentStart(..), span) => {
                    let message = "a second document begins here; the file has one".to_owned();
                    return Err(SpecError::Syntax(fault(
                        self.origin(&span),
                        message,
                        Some("remove the `---`".to_owned()),
                    )));
                }
                _ => return Ok(Some(root)),
            }
        }
    }

    fn count(&mut self, values: usize, origin: &Origin) -> Result<(), SpecError> {
        self.values = self.values.saturating_add(values);
        if self.values > MAX_VALUES {
            let message = format!("the file has more than {MAX_VALUES} values, aliases included");
            return Err(SpecError::TooLarge(fault(origin.clone(), message, None)));
        }
        Ok(())
    }

    fn value(&mut self, (event, span): (Event<'a>, Span), depth: usize) -> Result<Node, SpecError> {
        let origin = self.origin(&span);
        let before = self.values;
        self.count(1, &origin)?;
        if depth > MAX_DEPTH {
            let message = format!("values are nested deeper than {MAX_DEPTH} levels");
            return Err(SpecError::TooLarge(fault(origin, message, None)));
        }
        let mut directive = None;
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                directive = self.directive(tag.as_deref());
                let tag = tag.filter(|_| directive.is_none());
                let forced = tag
                    .as_ref()
                    .map(|tag| tag.is_yaml_core_schema_tag("str") || tag.to_string() == "!");
                if let Some(tag) = tag.as_ref().filter(|_| forced == Some(false)) {
                    self.core_tag(tag, &origin)?;
                }
                let plain = style == ScalarStyle::Plain && forced != Some(true);
                let kind = if plain {
                    plain_scalar(&text)
                } else {
                    Kind::Text(text.into_owned())
                };
                (anchor, Node { kind, origin })
            }
            Event::SequenceStart(_, anchor, tag) => {
                directive = self.directive(tag.as_deref());
                if let Some(tag) = tag.filter(|_| directive.is_none()) {
                    self.core_tag(&tag, &origin)?;
                }
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        item => items.push(self.value(item, depth + 1)?),
                    }
                }
                (
                    anchor,
                    Node {
                        kind: Kind::List(items),
                        origin,
                    },
                )
            }
            Event::MappingStart(_, anchor, tag) => {
                directive = self.directive(tag.as_deref());
                if let Some(tag) = tag.filter(|_| directive.is_none()) {
                    self.core_tag(&tag, &origin)?;
                }
                (anchor, self.mapping(origin, depth)?)
            }
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id).cloned() else {
                    let message = "an alias refers to the value that it stands in".to_owned();
                    return Err(SpecError::Syntax(fault(origin, message, None)));
                };
                self.count(size, &origin)?;
                (0, node)
            }
            other => {
                let message = format!("not valid YAML: a value was expected, not {other:?}")
                    .chars()
                    .take(120)
                    .collect();
                return Err(SpecError::Syntax(fault(origin, message, None)));
            }
        };
        let node = match directive {
            Some(directive) => Node {
                origin: node.origin.clone(),
                kind: Kind::Marked(directive, Box::new(node)),
            },
            None => node,
        };
        if anchor != 0 {
            let size = self.values - before;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    fn directive(&self, tag: Option<&granit_parser::Tag>) -> Option<Directive> {
        match tag.map(granit_parser::Tag::parts) {
            Some(("!", "reset")) if self.dialect == Dialect::Compose => Some(Directive::Reset),
            Some(("!", "override")) if self.dialect == Dialect::Compose => {
                Some(Directive::Override)
            }
            _ => None,
        }
    }

    fn core_tag(&self, tag: &granit_parser::Tag, origin: &Origin) -> Result<(), SpecError> {
        let known = ["null", "bool", "int", "float", "str", "seq", "map"];
        if known
            .iter()
            .any(|suffix| tag.is_yaml_core_schema_tag(suffix))
        {
            return Ok(());
        }
        Err(SpecError::Syntax(fault(
            origin.clone(),
            format!("the tag `{tag}` is not known"),
            Some("remove it".to_owned()),
        )))
    }

    fn mapping(&mut self, origin: Origin, depth: usize) -> Result<Node, SpecError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut places: HashMap<String, u32> = HashMap::new();
        let mut merged: Vec<Node> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let at = self.origin(&span);
            let (key, plain) = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, style, ..) => (text.into_owned(), style == ScalarStyle::Plain),
                _ => {
                    return Err(SpecError::Syntax(fault(
                        at,
                        "a key must be a word".to_owned(),
                        None,
                    )));
                }
            };
            let first = self.next()?;
            let value = self.value(first, depth + 1)?;
            if plain && key == "<<" {
                merged.push(value);
                continue;
            }
            let line = span.start.line();
            if let Some(before) = places.insert(key.clone(), small(line)) {
                let message =
                    format!("the key `{key}` is here twice; the first is in line {before}");
                return Err(SpecError::DuplicateKey(fault(
                    at,
                    message,
                    Some("keep one of them".to_owned()),
                )));
            }
            entries.push(Entry {
                key,
                origin: at,
                value,
            });
        }
        let mut node = Node {
            kind: Kind::Map(entries),
            origin,
        };
        for source in merged {
            join(&mut node, source)?;
        }
        Ok(node)
    }
}

/// `<<: *anchor`: keys of the anchor that the mapping does not have itself.
fn join(node: &mut Node, source: Node) -> Result<(), SpecError> {
    match source.kind {
        Kind::Map(others) => {
            if let Kind::Map(entries) = &mut node.kind {
                let own: HashSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
                entries.extend(others.into_iter().filter(|other| !own.contains(&other.key)));
            }
            Ok(())
        }
        Kind::List(items) => items.into_iter().try_for_each(|item| join(node, item)),
        _ => {
            let message = "`<<` takes an alias of a mapping".to_owned();
            Err(SpecError::Value(fault(source.origin, message, None)))
        }
    }
}

/// The core schema of YAML 1.2.
fn plain_scalar(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let whole = if let Some(digits) = text.strip_prefix("0x") {
        i64::from_str_radix(digits, 16)
            .ok()
            .filter(|_| !digits.starts_with(['+', '-']))
    } else if let Some(digits) = text.strip_prefix("0o") {
        i64::from_str_radix(digits, 8)
            .ok()
            .filter(|_| !digits.starts_with(['+', '-']))
    } else if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    };
    if let Some(whole) = whole {
        return Kind::Int(whole, text.into());
    }
    let special = match unsigned {
        ".inf" | ".Inf" | ".INF" => Some(if text.starts_with('-') {
            f64::NEG_INFINITY
        } else {
            f64::INFINITY
        }),
        _ if matches!(text, ".nan" | ".NaN" | ".NAN") => Some(f64::NAN),
        _ => None,
    };
    let numeric = unsigned
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte))
        && unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.bytes().any(|byte| byte.is_ascii_digit());
    match special.or_else(|| if numeric { text.parse().ok() } else { None }) {
        Some(number) => Kind::Float(number, text.into()),
        None => Kind::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Node, SpecError> {
        parse("ondol.yaml", text.as_bytes())
    }

    #[test]
    fn values_know_their_lines() {
        let root = read("test: pytest\nservice:\n  port: 8000\n  run: >\n    python\n    app.py\n")
            .unwrap();
        assert_eq!(
            root.origin_of(&["service", "port"]).to_string(),
            "ondol.yaml:3:9"
        );
        assert_eq!(root.text_at(&["service", "run"]), Some("python app.py\n"));
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        for (text, kind) in [
            ("no", Kind::Text("no".into())),
            ("true", Kind::Bool(true)),
            ("0x1F", Kind::Int(31, "0x1F".into())),
            ("1.10", Kind::Float(1.1, "1.10".into())),
            ("1e3", Kind::Float(1e3, "1e3".into())),
            ("3.13.1", Kind::Text("3.13.1".into())),
            ("99.9%", Kind::Text("99.9%".into())),
            ("-", Kind::Text("-".into())),
            ("+", Kind::Text("+".into())),
            ("~", Kind::Null),
            ("-.inf", Kind::Float(f64::NEG_INFINITY, "-.inf".into())),
        ] {
            assert_eq!(plain_scalar(text), kind, "{text}");
        }
    }

    #[test]
    fn aliases_join_and_bombs_do_not_go_off() {
        let root = read("x-base: &base { a: 1, b: 2 }\nenv:\n  <<: *base\n  b: 3\n").unwrap();
        assert_eq!(
            root.get(&["env", "a"]).unwrap().kind,
            Kind::Int(1, "1".into())
        );
        assert_eq!(
            root.get(&["env", "b"]).unwrap().kind,
            Kind::Int(3, "3".into())
        );
        assert!(root.child("x-base").is_none());
        let mut bomb = String::from("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n");
        for level in 1..12 {
            let alias = format!("*a{}", level - 1);
            bomb.push_str(&format!(
                "a{level}: &a{level} [{}]\n",
                vec![alias; 10].join(",")
            ));
        }
        assert!(matches!(read(&bomb), Err(SpecError::TooLarge(_))));
        assert!(read(&format!("a: {}{}", "[".repeat(60), "]".repeat(60))).is_err());
        assert!(read("a: &a [*a]").is_err());
    }

    #[test]
    fn too_much_is_refused() {
        let large = format!("# {}\n", "x".repeat(MAX_BYTES));
        assert!(matches!(read(&large), Err(SpecError::TooLarge(_))));
        assert!(matches!(
            read("a: 1\n---\nb: 2\n"),
            Err(SpecError::Syntax(_))
        ));
        assert!(
            matches!(parse("ondol.yaml", b"a: 1\nb: \xff\n"), Err(SpecError::Syntax(fault)) if fault.to_string() == "ondol.yaml:2:1: the file is not UTF-8")
        );
        assert!(read("test: !!python/object x").is_err());
    }

    #[test]
    fn an_empty_file_is_an_empty_mapping() {
        for text in ["", "# nothing\n", "---\n", "~"] {
            assert!(read(text).unwrap().entries().is_empty(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse("ondol.yaml", &bytes);
        }

        #[test]
        fn near_yaml_is_read_or_refused(text in "[a-c:\\-\\[\\]{}&*!|>'\"#%@,?~0-9. \n]{0,120}") {
            let _ = read(&text);
        }
    }
}
