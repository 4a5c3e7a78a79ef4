//! Variables in the values of a Compose file: `$A`, `${A}`, with defaults, alternatives and
//! demands, nested, and `$$` for a dollar sign.
//!
//! Values come from the layers that the caller names, strongest first, and never from the
//! environment of this process. What comes out is bounded however often a long variable is used.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use ondol_types::SecretName;

use super::template;
use crate::node::Origin;

/// How deeply defaults may be nested.
const MAX_NESTING: usize = 16;
/// The most bytes that variables may add to one project.
const MAX_ADDED: usize = 4 << 20;

/// What is wrong with a text that has variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Wrong {
    fn new(message: impl Into<String>, hint: &str) -> Self {
        Self {
            message: message.into(),
            hint: Some(hint.to_owned()),
        }
    }
}

/// Where variables come from, and which of them were missing.
pub(super) struct Variables<'a> {
    /// Strongest first.
    layers: Vec<BTreeMap<String, String>>,
    secrets: &'a BTreeSet<SecretName>,
    missing: RefCell<BTreeMap<String, Origin>>,
    added: Cell<usize>,
}

impl<'a> Variables<'a> {
    pub(super) fn new(secrets: &'a BTreeSet<SecretName>) -> Self {
        Self {
            layers: Vec::new(),
            secrets,
            missing: RefCell::default(),
            added: Cell::new(0),
        }
    }

    /// Adds a layer that is weaker than those before.
    pub(super) fn weaker(&mut self, layer: BTreeMap<String, String>) {
        self.layers.push(layer);
    }

    /// How many layers there are.
    pub(super) fn depth(&self) -> usize {
        self.layers.len()
    }

    /// Removes layers that were added since there were so many.
    pub(super) fn cut(&mut self, layers: usize) {
        self.layers.truncate(layers);
    }

    /// The value of a variable; a secret is a mark. A secret of the project is stronger than what
    /// `.env` says, so that a committed example never takes its place.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        if let Ok(secret) = name.parse::<SecretName>()
            && self.secrets.contains(&secret)
        {
            return Some(template::mark(&secret));
        }
        self.layers
            .iter()
            .find_map(|layer| layer.get(name))
            .cloned()
    }

    /// The variables that were used, had no default and were not set, with the first place each.
    pub(super) fn missing(&self) -> BTreeMap<String, Origin> {
        self.missing.borrow().clone()
    }

    /// Replaces the variables of a text that stands at `origin`.
    pub(super) fn replace(&self, text: &str, origin: &Origin) -> Result<String, Wrong> {
        self.replace_with(text, origin, &|name| self.get(name))
    }

    /// The same, with another way to look variables up.
    pub(super) fn replace_with(
        &self,
        text: &str,
        origin: &Origin,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<String, Wrong> {
        if template::is_forged(text) {
            return Err(Wrong::new(
                "the text has a character that Ondol keeps for itself (U+F0000 or U+F0001)",
                "remove it",
            ));
        }
        if !text.contains('$') {
            return Ok(text.to_owned());
        }
        let missing = |name: &str| {
            let mut missing = self.missing.borrow_mut();
            missing
                .entry(name.to_owned())
                .or_insert_with(|| origin.clone());
        };
        let replaced = replace(text, lookup, &missing, 0)?;
        self.added
            .set(self.added.get().saturating_add(replaced.len()));
        if self.added.get() > MAX_ADDED {
            return Err(Wrong::new(
                format!("variables make more than {MAX_ADDED} bytes of text"),
                "use shorter values, or use them less often",
            ));
        }
        Ok(replaced)
    }
}

fn name_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(first) if first.is_ascii_alphabetic() || *first == b'_' => bytes
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_')
            .count(),
        _ => 0,
    }
}

/// The text up to the brace that closes, and what is behind it.
fn braced(text: &str) -> Option<(&str, &str)> {
    let bytes = text.as_bytes();
    let (mut at, mut open) = (0, 1usize);
    while at < bytes.len() {
        match bytes[at] {
            b'$' if bytes.get(at + 1) == Some(&b'$') => at += 1,
            b'$' if bytes.get(at + 1) == Some(&b'{') => {
                open += 1;
                at += 1;
            }
            b'}' => {
                open -= 1;
                if open == 0 {
                    return Some((&text[..at], &text[at + 1..]));
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

fn replace(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    missing: &dyn Fn(&str),
    depth: usize,
) -> Result<String, Wrong> {
    if depth > MAX_NESTING {
        return Err(Wrong::new(
            format!("defaults of variables are nested deeper than {MAX_NESTING} levels"),
            "set the variables instead",
        ));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(behind) = after.strip_prefix('$') {
            out.push('$');
            rest = behind;
            continue;
        }
        if let Some(inner) = after.strip_prefix('{') {
            let Some((inside, behind)) = braced(inner) else {
                let shown: String = after.chars().take(40).collect();
                return Err(Wrong::new(
                    format!("`${shown}` has no `}}`"),
                    "close the brace, or write `$$` for a dollar sign",
                ));
            };
            out.push_str(&expand(inside, lookup, missing, depth)?);
            rest = behind;
            continue;
        }
        let length = name_length(after);
        if length == 0 {
            let shown: String = after.chars().take(10).collect();
            return Err(Wrong::new(
                format!("`${shown}` is not a variable"),
                "write `$$` for a dollar sign",
            ));
        }
        let (name, behind) = after.split_at(length);
        match lookup(name) {
            Some(value) => out.push_str(&value),
            None => missing(name),
        }
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

/// What stands between the braces.
fn expand(
    inside: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    missing: &dyn Fn(&str),
    depth: usize,
) -> Result<String, Wrong> {
    let length = name_length(inside);
    let (name, rest) = inside.split_at(length);
    let not_known = || {
        let shown: String = inside.chars().take(60).collect();
        Err(Wrong::new(
            format!("`${{{shown}}}` is not a form that Compose knows"),
            "the forms are `${A}`, `${A:-default}`, `${A-default}`, `${A:?error}`, `${A?error}`, `${A:+other}` and `${A+other}`; write `$$` for a dollar sign",
        ))
    };
    if length == 0 {
        return not_known();
    }
    let value = lookup(name);
    if rest.is_empty() {
        if value.is_none() {
            missing(name);
        }
        return Ok(value.unwrap_or_default());
    }
    let (empty_counts, rest) = match rest.strip_prefix(':') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let set = value.filter(|value| !(empty_counts && value.is_empty()));
    let mut characters = rest.chars();
    let operator = characters.next();
    let word = characters.as_str();
    let replaced = || replace(word, lookup, missing, depth + 1);
    match (operator, set) {
        (Some('-' | '?'), Some(value)) => Ok(value),
        (Some('-'), None) => replaced(),
        (Some('?'), None) => {
            let said = replaced()?;
            let state = if empty_counts {
                "set and not empty"
            } else {
                "set"
            };
            let message = match said.trim() {
                "" => format!("the variable `{name}` must be {state}"),
                said => format!("the variable `{name}` must be {state}: {said}"),
            };
            Err(Wrong::new(
                message,
                &format!("set it in `.env`, or with `ondol secret set {name}`"),
            ))
        }
        (Some('+'), Some(_)) => replaced(),
        (Some('+'), None) => Ok(String::new()),
        _ => not_known(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(values: &[(&str, &str)], text: &str) -> Result<String, String> {
        let secrets = BTreeSet::new();
        let mut variables = Variables::new(&secrets);
        variables.weaker(
            values
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        );
        variables
            .replace(text, &Origin::Builtin)
            .map_err(|wrong| wrong.message)
    }

    #[test]
    fn every_form() {
        let values = [("A", "a"), ("E", ""), ("B", "b")];
        for (text, expected) in [
            ("$A-${A}", "a-a"),
            ("$AB", ""),
            ("${A}B", "aB"),
            ("$$A $${A}", "$A ${A}"),
            ("${A:-x}${E:-x}${U:-x}", "axx"),
            ("${A-x}${E-x}${U-x}", "ax"),
            ("${A:+x}${E:+x}${U:+x}", "x"),
            ("${A+x}${E+x}${U+x}", "xx"),
            ("${A:?no}${A?no}${E?no}", "aa"),
            ("${U:-${B}}", "b"),
            ("${U:-${V:-${W:-deep}}}", "deep"),
            ("${U:-$B/$A}", "b/a"),
            ("${U:-a$$b}", "a$b"),
            ("${U:-http://x:80/}", "http://x:80/"),
            ("${A:+$B}", "b"),
            // A demand in a default that is not used is not made.
            ("${A:-${U:?never}}", "a"),
            ("ü${A}ö", "üaö"),
        ] {
            assert_eq!(with(&values, text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_form_is_said() {
        for (text, message) in [
            ("$", "`$` is not a variable"),
            ("a$1", "`$1` is not a variable"),
            ("$(date)", "`$(date)` is not a variable"),
            ("${A", "`${A` has no `}`"),
            ("${}", "`${}` is not a form that Compose knows"),
            ("${A/x/y}", "`${A/x/y}` is not a form that Compose knows"),
            ("${A:x}", "`${A:x}` is not a form that Compose knows"),
            (
                "${U:?say why}",
                "the variable `U` must be set and not empty: say why",
            ),
            ("${E:?}", "the variable `E` must be set and not empty"),
            ("${U?$A}", "the variable `U` must be set: a"),
        ] {
            assert_eq!(
                with(&[("A", "a"), ("E", "")], text).unwrap_err(),
                message,
                "{text}"
            );
        }
        let deep = format!("{}x{}", "${U:-".repeat(40), "}".repeat(40));
        assert!(with(&[], &deep).unwrap_err().contains("nested deeper"));
    }

    #[test]
    fn long_values_do_not_multiply() {
        let long = "x".repeat(1 << 16);
        let text = "$A".repeat(100);
        assert!(
            with(&[("A", &long)], &text)
                .unwrap_err()
                .contains("more than")
        );
    }

    #[test]
    fn a_secret_is_a_name_and_counts_as_set() {
        let secrets = ["PW".parse().unwrap()].into();
        let mut variables = Variables::new(&secrets);
        variables.weaker([("PW".to_owned(), "from .env".to_owned())].into());
        let shown = |text: &str| {
            let marked = variables.replace(text, &Origin::Builtin).unwrap();
            super::super::template::Template::from_marked(&marked).to_string()
        };
        assert_eq!(shown("a:${PW:?must}@b"), "a:${PW}@b");
        assert_eq!(shown("${PW:-x}"), "${PW}");
        assert_eq!(shown("${PW:+yes}"), "yes");
        assert!(
            variables
                .replace("\u{F0000}PW\u{F0001}", &Origin::Builtin)
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn text_without_a_dollar_stays(text in "[^$\u{F0000}\u{F0001}]{0,60}") {
            prop_assert_eq!(with(&[], &text), Ok(text));
        }

        #[test]
        fn doubled_dollars_are_text(text in "[^\u{F0000}\u{F0001}]{0,60}") {
            let escaped = text.replace('$', "$$");
            prop_assert_eq!(with(&[("A", "a")], &escaped), Ok(text));
        }

        #[test]
        fn a_default_is_used_exactly_when_it_must(value in proptest::option::of("[a-z]{0,3}"), word in "[a-z]{0,5}") {
            let values: Vec<(&str, &str)> = value.iter().map(|value| ("A", value.as_str())).collect();
            let shown = value.clone();
            let filled = shown.clone().filter(|value| !value.is_empty());
            let get = |form: &str| with(&values, &form.replace('W', &word)).unwrap();
            prop_assert_eq!(get("${A-W}"), shown.clone().unwrap_or(word.clone()));
            prop_assert_eq!(get("${A:-W}"), filled.clone().unwrap_or(word.clone()));
            prop_assert_eq!(get("${A+W}"), shown.map(|_| word.clone()).unwrap_or_default());
            prop_assert_eq!(get("${A:+W}"), filled.map(|_| word.clone()).unwrap_or_default());
        }

        #[test]
        fn anything_is_replaced_or_refused(text in "[$A-C{}:?+\\- \u{e4}]{0,60}") {
            let _ = with(&[("A", "$B"), ("B", "")], &text);
        }

        #[test]
        fn values_are_not_read_again(value in "[${}A]{0,12}") {
            prop_assert_eq!(with(&[("A", &value)], "<${A}>"), Ok(format!("<{value}>")));
        }
    }
}
