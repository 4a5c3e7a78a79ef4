//! What runs a step and the tests: images, services beside them, matrices, artifacts.

use std::collections::{BTreeMap, BTreeSet};

use ondol_types::StepName;

use super::{Checked, Checker, limits, positive};
use crate::model::{
    BUILT_IN_STEPS, Combination, Engine, ImageRef, Matrix, Pattern, Period, ServiceName, Spec,
    StepService,
};

/// The most programs beside one step.
const MAX_SERVICES: usize = 16;
/// The longest value of a matrix, in bytes.
const MAX_VALUE: usize = 200;
/// The most names and the most values of one name in a matrix.
const MAX_NAMES: usize = 16;
/// The most patterns of one step.
const MAX_PATTERNS: usize = 100;
const LONGEST_DEADLINE: Period = Period::from_secs(300);

/// The keys that a step and the test stage share.
struct Part<'a> {
    at: Vec<&'a str>,
    run: &'a str,
    image: Option<&'a str>,
    engine: Engine,
    services: &'a BTreeMap<ServiceName, StepService>,
    matrix: Option<&'a Matrix>,
    env: &'a BTreeMap<String, String>,
    artifacts: &'a [Pattern],
}

/// Images, services and matrices are sound, whatever the values of a matrix make of them.
pub(in crate::check) fn contained(spec: &Spec, checker: &Checker<'_>) -> Checked {
    let mut taken: BTreeSet<StepName> = spec.steps.keys().cloned().collect();
    let test = spec.test.iter().map(|test| Part {
        at: vec!["test"],
        run: &test.run,
        image: test.image.as_deref(),
        engine: test.engine,
        services: &test.services,
        matrix: test.matrix.as_ref(),
        env: &test.env,
        artifacts: &test.artifacts,
    });
    let steps = spec.steps.iter().map(|(name, step)| Part {
        at: vec!["steps", name.as_str()],
        run: &step.run,
        image: step.image.as_deref(),
        engine: step.engine,
        services: &step.services,
        matrix: step.matrix.as_ref(),
        env: &step.env,
        artifacts: &step.artifacts,
    });
    for (name, step) in &spec.steps {
        let works = [
            ("run", !step.run.is_empty()),
            ("image", step.image.is_some()),
            ("services", !step.services.is_empty()),
            ("matrix", step.matrix.is_some()),
            ("artifacts", !step.artifacts.is_empty()),
        ];
        let work = works.iter().find(|(_, said)| *said).map(|(key, _)| *key);
        if let (Some(_), Some(key)) = (&step.approve, work) {
            checker.fail(
                &["steps", name.as_str(), key],
                "a step that waits for a person does nothing else",
                Some("make it two steps, of which one needs the other"),
            )?;
        }
    }
    for part in test.chain(steps) {
        part.engine(spec, checker)?;
        let combinations = part.matrix(&mut taken, checker)?;
        part.texts(&combinations, checker)?;
        part.services(checker)?;
        if part.artifacts.len() > MAX_PATTERNS {
            let message = format!("at most {MAX_PATTERNS} patterns are allowed");
            checker.fail(&part.with(&["artifacts"]), message, None)?;
        }
    }
    Ok(())
}

impl Part<'_> {
    fn with<'b>(&'b self, keys: &[&'b str]) -> Vec<&'b str> {
        [self.at.as_slice(), keys].concat()
    }

    fn engine(&self, spec: &Spec, checker: &Checker<'_>) -> Checked {
        let at = self.with(&["engine"]);
        match (self.engine, self.image) {
            (Engine::Kubernetes, _) => checker.fail(
                &at,
                "steps do not run there",
                Some("write `process` or `container`, or remove `engine`"),
            ),
            (Engine::Process, Some(_)) => checker.fail(
                &at,
                "a process runs on the host, not in an image",
                Some("remove `image`, or write `engine: container`"),
            ),
            (Engine::Container, None) if spec.build.base.is_none() => checker.fail(
                &at,
                "a container needs an image",
                Some("name one under `image`, such as `docker.io/library/python:3.13-slim`"),
            ),
            _ => Ok(()),
        }
    }

    /// The combinations, which are one without values where there is no matrix.
    fn matrix(
        &self,
        taken: &mut BTreeSet<StepName>,
        checker: &Checker<'_>,
    ) -> Result<Vec<Combination>, crate::error::SpecError> {
        let Some(matrix) = self.matrix else {
            return Ok(vec![Combination::default()]);
        };
        let at = self.with(&["matrix"]);
        if matrix.values.len() > MAX_NAMES {
            let message = format!("at most {MAX_NAMES} names are allowed");
            checker.fail(&self.with(&["matrix", "values"]), message, None)?;
        }
        let mut variables = BTreeSet::new();
        let lists = matrix.values.iter().map(|(name, values)| {
            let all: Vec<&String> = values.iter().collect();
            (self.with(&["matrix", "values", name]), name, all)
        });
        let indexes: Vec<String> = (0..matrix.include.len()).map(|at| at.to_string()).collect();
        let included = matrix
            .include
            .iter()
            .zip(&indexes)
            .flat_map(|(entry, index)| {
                entry.iter().map(move |(name, value)| {
                    (
                        self.with(&["matrix", "include", index, name]),
                        name,
                        vec![value],
                    )
                })
            });
        for (at, name, values) in lists.chain(included) {
            let letters = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            let sound = name.len() <= 50
                && name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.chars().all(letters);
            if !sound {
                checker.fail(
                    &at,
                    "a name has letters, digits, `_` and `-`, and begins with a letter",
                    None,
                )?;
            }
            variables.insert((crate::model::variable(name), name.clone()));
            if values.is_empty() {
                checker.fail(
                    &at,
                    "there is no value",
                    Some("write a list such as `[\"1\", \"2\"]`"),
                )?;
            }
            for value in values {
                if value.len() > MAX_VALUE || value.chars().any(char::is_control) {
                    let message =
                        format!("a value is text of one line, of at most {MAX_VALUE} bytes");
                    checker.fail(
                        &at,
                        message,
                        Some("keep longer ones in a file of the repository"),
                    )?;
                }
            }
        }
        let names: BTreeSet<&String> = variables.iter().map(|(variable, _)| variable).collect();
        if names.len() != variables.len() {
            let message = "two names make the same variable";
            checker.fail(
                &at,
                message,
                Some("`-` and `_`, and upper and lower case, are the same in it"),
            )?;
        }
        if let Some((index, name)) = matrix
            .exclude
            .iter()
            .enumerate()
            .find_map(|(index, entry)| {
                let unknown = entry.keys().find(|name| !matrix.values.contains_key(*name));
                unknown.map(|name| (index.to_string(), name))
            })
        {
            let at = self.with(&["matrix", "exclude", &index, name]);
            checker.fail(&at, "the matrix has no values of this name", None)?;
        }
        if matrix.max_parallel == Some(0) {
            checker.fail(
                &self.with(&["matrix", "max_parallel"]),
                "must be at least 1",
                None,
            )?;
        }
        let own = self.at[self.at.len() - 1];
        let instances = match matrix.instances(own) {
            Ok(instances) => instances,
            Err(message) => {
                return Err(checker.error(
                    &at,
                    message,
                    Some("take values out, or split the step"),
                ));
            }
        };
        for instance in &instances {
            let built_in = BUILT_IN_STEPS.contains(&instance.name.as_str());
            if built_in || !taken.insert(instance.name.clone()) {
                let message = format!(
                    "it makes a step `{}`, and there is one already",
                    instance.name
                );
                checker.fail(&at, message, Some("rename one of them"))?;
            }
        }
        Ok(instances.into_iter().map(|one| one.combination).collect())
    }

    /// What values of a matrix are put into.
    fn texts(&self, combinations: &[Combination], checker: &Checker<'_>) -> Checked {
        if self.run.contains("${{") {
            checker.fail(
                &self.with(&["run"]),
                "`${{ … }}` is not filled in here: a shell would read it as its own",
                Some("read a value of the matrix from its variable, such as `$MATRIX_PYTHON`"),
            )?;
        }
        let mut images: Vec<(Vec<&str>, &str)> = Vec::new();
        images.extend(self.image.map(|image| (self.with(&["image"]), image)));
        let mut variables: Vec<(Vec<&str>, &str)> = Vec::new();
        let env = self.env.iter();
        variables.extend(env.map(|(name, value)| (self.with(&["env", name]), value.as_str())));
        for (name, service) in self.services {
            images.push((
                self.with(&["services", name.as_str(), "image"]),
                &service.image,
            ));
            let env = service.env.iter().map(|(variable, value)| {
                let at = self.with(&["services", name.as_str(), "env", variable]);
                (at, value.as_str())
            });
            variables.extend(env);
        }
        for combination in combinations {
            for (at, image) in &images {
                let filled = match combination.fill_in(image) {
                    Ok(filled) => filled,
                    Err(message) => return checker.fail(at, message, None),
                };
                if let Err(error) = filled.parse::<ImageRef>() {
                    checker.fail(at, error.to_string(), None)?;
                }
            }
            // A value without a matrix may have any text, as it always could.
            let filled = variables.iter().filter(|_| self.matrix.is_some());
            for (at, value) in filled {
                if let Err(message) = combination.fill_in(value) {
                    checker.fail(at, message, None)?;
                }
            }
        }
        Ok(())
    }

    fn services(&self, checker: &Checker<'_>) -> Checked {
        if self.services.len() > MAX_SERVICES {
            let message = format!("at most {MAX_SERVICES} services are allowed");
            checker.fail(&self.with(&["services"]), message, None)?;
        }
        for (name, service) in self.services {
            let with = |key| self.with(&["services", name.as_str(), key]);
            if service.port == Some(0) {
                checker.fail(&with("port"), "no program listens on port 0", None)?;
            }
            if service
                .health
                .as_ref()
                .is_some_and(|text| text.trim().is_empty())
            {
                let hint = "write a shell command such as `pg_isready -h postgres`";
                checker.fail(&with("health"), "the command is empty", Some(hint))?;
            }
            positive(checker, &with("deadline"), service.deadline)?;
            if service.deadline > LONGEST_DEADLINE {
                checker.fail(&with("deadline"), "at most `5m` are allowed", None)?;
            }
            limits(checker, &with("limits"), &service.limits)?;
        }
        Ok(())
    }
}
