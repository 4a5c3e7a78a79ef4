//! One step for every combination of some values.
//!
//! A value stands in the environment of its step as `MATRIX_<NAME>`, and where an environment is
//! of no use, in the names of images and the values of variables, it is put in for
//! `${{ matrix.<name> }}`, as workflow files write it. The command is left alone: a shell reads
//! the variable, and text of a matrix never becomes text of a script.

use std::collections::{BTreeMap, BTreeSet};

use ondol_types::StepName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most combinations of one matrix.
pub const MAX_COMBINATIONS: usize = 256;

/// One step per combination of values. `NAME` in the list of a run is the step that has passed when
/// all of them have; what `needs` names the step waits for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    /// Values by name, such as `python: ["3.12", "3.13"]`. A step reads them as `$MATRIX_PYTHON`; in
    /// `image`, in the images of `services` and in the values of `env`, `${{ matrix.python }}` stands for them.
    pub values: BTreeMap<String, Vec<String>>,
    /// Further combinations, each with a value for every name that it needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<BTreeMap<String, String>>,
    /// Combinations that are left out: those that have all of the values of one entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<BTreeMap<String, String>>,
    /// Whether the failure of one stops the others.
    #[serde(default = "Matrix::default_fail_fast")]
    pub fail_fast: bool,
    /// The most that run at the same time. Default: as many as there are places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
}

/// The values of one step of a matrix, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Combination(pub BTreeMap<String, String>);

/// One step of a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its name in the run, such as `test-3.12-linux`.
    pub name: StepName,
    /// What people read, such as `test (os=linux, python=3.12)`.
    pub label: String,
    /// Its values.
    pub combination: Combination,
}

impl Matrix {
    fn default_fail_fast() -> bool {
        true
    }

    /// How many combinations there would be before `exclude`; saturates.
    pub fn size(&self) -> usize {
        let product = self
            .values
            .values()
            .fold(1usize, |all, values| all.saturating_mul(values.len()));
        product.saturating_add(self.include.len())
    }

    /// Every combination once, in the order of the names and of their values.
    ///
    /// # Errors
    /// There are more than [`MAX_COMBINATIONS`], or none.
    pub fn combinations(&self) -> Result<Vec<Combination>, String> {
        if self.size() > MAX_COMBINATIONS {
            let size = self.size();
            return Err(format!(
                "there are {size} combinations, and at most {MAX_COMBINATIONS} are allowed"
            ));
        }
        let mut all = vec![BTreeMap::new()];
        for (name, values) in &self.values {
            all = all
                .into_iter()
                .flat_map(|begun| {
                    values.iter().map(move |value| {
                        let mut more = begun.clone();
                        more.insert(name.clone(), value.clone());
                        more
                    })
                })
                .collect();
        }
        all.retain(|one| {
            let has = |entry: &BTreeMap<String, String>| {
                entry
                    .iter()
                    .all(|(name, value)| one.get(name) == Some(value))
            };
            !one.is_empty() && !self.exclude.iter().any(has)
        });
        all.extend(self.include.iter().cloned());
        let mut seen = BTreeSet::new();
        let distinct: Vec<Combination> = all
            .into_iter()
            .map(Combination)
            .filter(|one| seen.insert(one.clone()))
            .collect();
        if distinct.is_empty() {
            return Err("there is no combination in it".to_owned());
        }
        Ok(distinct)
    }

    /// The steps that a step of this name becomes.
    ///
    /// # Errors
    /// As [`Matrix::combinations`], and when the name is too long for the steps to have names.
    pub fn instances(&self, group: &str) -> Result<Vec<Instance>, String> {
        let mut seen = BTreeSet::new();
        self.combinations()?
            .into_iter()
            .enumerate()
            .map(|(index, combination)| {
                let slug = combination.slug();
                let by_values = (!slug.is_empty()).then(|| format!("{group}-{slug}"));
                // A number may be what another one's value is called.
                let numbers = (index + 1..=index + 1 + MAX_COMBINATIONS)
                    .map(|number| format!("{group}-{number}"));
                let name = by_values
                    .into_iter()
                    .chain(numbers)
                    .filter_map(|text| text.parse::<StepName>().ok())
                    .find(|name| !seen.contains(name))
                    .ok_or_else(|| {
                        format!("the steps of `{group}` cannot be told apart by their names")
                    })?;
                seen.insert(name.clone());
                Ok(Instance {
                    name,
                    label: format!("{group} ({})", combination.label()),
                    combination,
                })
            })
            .collect()
    }
}

impl Combination {
    /// `os=linux, python=3.12`
    pub fn label(&self) -> String {
        let pairs: Vec<String> = self
            .0
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        pairs.join(", ")
    }

    /// Its values as a part of a name.
    fn slug(&self) -> String {
        let clean = |value: &String| {
            let text: String = value
                .chars()
                .map(|c| {
                    if c.is_ascii_alphanumeric() || "._-".contains(c) {
                        c
                    } else {
                        '-'
                    }
                })
                .collect();
            text.trim_matches(['.', '-', '_']).to_owned()
        };
        let parts: Vec<String> = self.0.values().map(clean).collect();
        parts.join("-")
    }

    /// Its values as variables.
    pub fn variables(&self) -> impl Iterator<Item = (String, String)> {
        self.0
            .iter()
            .map(|(name, value)| (variable(name), value.clone()))
    }

    /// Puts values in for `${{ matrix.<name> }}`.
    ///
    /// # Errors
    /// A name that the combination does not have, or an expression of another kind, in words.
    pub fn fill_in(&self, text: &str) -> Result<String, String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${{") {
            out.push_str(&rest[..at]);
            let Some(end) = rest[at..].find("}}") else {
                return Err("`${{` is not closed by `}}`".to_owned());
            };
            let inner = rest[at + 3..at + end].trim();
            let Some(name) = inner.strip_prefix("matrix.") else {
                return Err(format!(
                    "`${{{{ {inner} }}}}` is not known: only values of the matrix can stand here, such as `${{{{ matrix.python }}}}`"
                ));
            };
            match self.0.get(name) {
                Some(value) => out.push_str(value),
                None if self.0.is_empty() => {
                    return Err(format!("there is no matrix, and so no `matrix.{name}`"));
                }
                None => {
                    return Err(format!("the matrix has no `{name}` where {}", self.label()));
                }
            }
            rest = &rest[at + end + 2..];
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// The variable that carries a value.
pub fn variable(name: &str) -> String {
    let upper: String = name
        .chars()
        .map(|c| {
            if c == '-' {
                '_'
            } else {
                c.to_ascii_uppercase()
            }
        })
        .collect();
    format!("MATRIX_{upper}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matrix(value: serde_json::Value) -> Matrix {
        serde_json::from_value(value).unwrap()
    }

    fn labels(matrix: &Matrix) -> Vec<String> {
        let all = matrix.instances("test").unwrap();
        all.into_iter()
            .map(|one| format!("{}: {}", one.name, one.label))
            .collect()
    }

    #[test]
    fn combinations_are_made_left_out_and_added() {
        let matrix = matrix(serde_json::json!({
            "values": { "python": ["3.12", "3.13"], "os": ["linux", "mac os"] },
            "exclude": [{ "python": "3.12", "os": "mac os" }],
            "include": [{ "python": "3.14", "os": "linux" }, { "python": "3.13", "os": "linux" }],
        }));
        assert_eq!(
            labels(&matrix),
            [
                "test-linux-3.12: test (os=linux, python=3.12)",
                "test-linux-3.13: test (os=linux, python=3.13)",
                "test-mac-os-3.13: test (os=mac os, python=3.13)",
                "test-linux-3.14: test (os=linux, python=3.14)",
            ]
        );
    }

    #[test]
    fn values_that_make_the_same_name_are_numbered() {
        let matrix = matrix(serde_json::json!({ "values": { "flags": ["-O2", "O2", "+"] } }));
        assert_eq!(
            labels(&matrix),
            [
                "test-O2: test (flags=-O2)",
                "test-2: test (flags=O2)",
                "test-3: test (flags=+)"
            ]
        );
    }

    #[test]
    fn too_many_and_none_are_refused() {
        let many: Vec<String> = (0..17).map(|n| n.to_string()).collect();
        let large = matrix(serde_json::json!({ "values": { "a": many, "b": many } }));
        assert!(
            large
                .combinations()
                .unwrap_err()
                .contains("289 combinations")
        );
        let none =
            matrix(serde_json::json!({ "values": { "a": ["1"] }, "exclude": [{ "a": "1" }] }));
        assert!(none.combinations().unwrap_err().contains("no combination"));
    }

    #[test]
    fn values_are_put_in_and_nothing_else_is() {
        let one = Combination([("python".to_owned(), "3.12".to_owned())].into());
        let filled = one.fill_in("python:${{ matrix.python }}-slim${{matrix.python}}");
        assert_eq!(filled.unwrap(), "python:3.12-slim3.12");
        for bad in [
            "${{ matrix.os }}",
            "${{ secrets.X }}",
            "x ${{ matrix.python",
        ] {
            assert!(one.fill_in(bad).is_err(), "{bad}");
        }
        let none = Combination::default()
            .fill_in("${{ matrix.a }}")
            .unwrap_err();
        assert!(none.contains("there is no matrix"), "{none}");
    }

    proptest! {
        #[test]
        fn names_are_distinct_and_combinations_whole(
            values in proptest::collection::btree_map("[a-z]{1,3}", proptest::collection::vec(".{0,6}", 1..4), 1..4),
        ) {
            let matrix = Matrix { values: values.clone(), include: Vec::new(), exclude: Vec::new(), fail_fast: true, max_parallel: None };
            let made = matrix.instances("step").unwrap();
            let names: BTreeSet<_> = made.iter().map(|one| &one.name).collect();
            prop_assert_eq!(names.len(), made.len());
            let distinct: usize = values.values().map(|all| all.iter().collect::<BTreeSet<_>>().len()).product();
            prop_assert_eq!(made.len(), distinct);
            for one in &made {
                prop_assert!(one.combination.0.keys().eq(values.keys()));
            }
        }

        #[test]
        fn any_text_is_filled_in_or_refused(text in ".{0,40}") {
            let one = Combination([("a".to_owned(), "v".to_owned())].into());
            if let Ok(filled) = one.fill_in(&text) {
                prop_assert!(text.contains("${{") || filled == text);
            }
        }
    }
}
