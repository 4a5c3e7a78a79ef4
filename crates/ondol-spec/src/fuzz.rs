//! Fuzz targets over what a repository says: `ondol.yaml` with the files that are detected, Compose
//! files, and expressions.

use crate::compose::{ComposeSources, Permission, changes, read_compose};
use crate::expr::{Expression, Values};
use crate::{MemoryTree, Sources, SpecError, resolve};

/// Divides an input into files: the first has the name that the target gives it, each further one
/// begins behind a line `%% <path>`.
const DIVIDER: &[u8] = b"\n%% ";

fn tree(first: &str, data: &[u8]) -> MemoryTree {
    let mut files = MemoryTree::new();
    let mut rest = data;
    let mut path = Some(first.to_owned());
    loop {
        let end = rest
            .windows(DIVIDER.len())
            .position(|window| window == DIVIDER);
        let content = &rest[..end.map_or(rest.len(), |end| end + 1)];
        if let Some(path) = path.and_then(|path| path.parse().ok()) {
            files.insert(path, content);
        }
        let Some(end) = end else { return files };
        rest = &rest[end + DIVIDER.len()..];
        let line = rest.iter().position(|&byte| byte == b'\n');
        let (name, content) = rest.split_at(line.unwrap_or(rest.len()));
        path = std::str::from_utf8(name).ok().map(str::to_owned);
        rest = content.strip_prefix(b"\n").unwrap_or(content);
    }
}

/// A repository resolves to the same result each time, and a fault stands at a place that exists.
pub fn repository(data: &[u8]) {
    let files = tree("ondol.yaml", data);
    let sources = Sources::of(&files);
    let shown = |result: &Result<crate::Effective, SpecError>| match result {
        Ok(effective) => format!("{:?} {:?}", effective.spec, effective.explain()),
        Err(error) => format!("{error} {:?}", error.fault().hint),
    };
    let first = resolve(&sources);
    assert_eq!(shown(&first), shown(&resolve(&sources)));
    if let Err(error) = first {
        stands_somewhere(&error, data);
    }
}

fn stands_somewhere(error: &SpecError, data: &[u8]) {
    if let Some((line, column)) = error.position() {
        let lines = data
            .iter()
            .filter(|&&byte| byte == b'\n' || byte == b'\r')
            .count() as u32
            + 2;
        assert!((1..=lines).contains(&line) && column >= 1, "{error}");
    }
}

/// Compose files give the same project each time, whatever is allowed; a project is written and read
/// again as it is, differs from itself in nothing, and starts everything in some order. Nobody is let
/// out of confinement who was not allowed.
pub fn compose(data: &[u8]) {
    let files = tree("compose.yaml", data);
    let secrets = "SECRET".parse().into_iter().collect();
    let everything = Permission::ALL.iter().copied().collect();
    let strict = ComposeSources {
        secrets: &secrets,
        ..ComposeSources::of(&files)
    };
    let open = ComposeSources {
        permissions: &everything,
        ..strict
    };
    for sources in [strict, open] {
        let first = read_compose(&sources);
        assert_eq!(first, read_compose(&sources));
        let project = match first {
            Ok(Some(project)) => project,
            Ok(None) => continue,
            Err(error) => {
                stands_somewhere(&error, data);
                continue;
            }
        };
        let text = serde_json::to_string(&project).unwrap_or_default();
        assert_eq!(serde_json::from_str(&text).ok().as_ref(), Some(&project));
        let same = changes(&project, &project);
        assert!(same.added.is_empty() && same.removed.is_empty());
        assert!(
            same.changed.values().all(|change| !change.replace),
            "{same:?}"
        );
        let placed: usize = project.layers().iter().map(Vec::len).sum();
        assert_eq!(placed, project.services.len());
        let confined = project
            .services
            .values()
            .all(|service| service.elevated.is_empty());
        assert!(confined || !sources.permissions.is_empty());
    }
}

/// The first line is the expression, the others are `name=number`. Reading what was read changes
/// nothing; a value that is no number, or is not there, never opens a gate that needs it.
pub fn expression(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.lines();
    let Some(first) = lines.next() else { return };
    let Ok(expression) = Expression::parse(first) else {
        return;
    };
    assert!(
        Expression::parse(expression.text()).is_ok_and(|again| again.names() == expression.names())
    );
    let mut values = Values::new();
    for (name, value) in lines.filter_map(|line| line.split_once('=')).take(100) {
        if let Ok(value) = value.parse() {
            values.set(name, value);
        }
    }
    let once = expression.evaluate(&values);
    let twice = expression.evaluate(&values);
    assert_eq!(format!("{once:?}"), format!("{twice:?}"));
    if let Ok(verdict) = &once {
        let _ = verdict.to_string();
        for comparison in &verdict.comparisons {
            assert!(!comparison.left.is_nan() && !comparison.right.is_nan());
        }
    }
    let names = expression.names();
    if expression.optional_names().is_empty() && !first.contains(['?', '|', '&']) {
        let mut nothing = Values::new();
        assert!(names.is_empty() || expression.evaluate(&nothing).is_err());
        for name in &names {
            nothing.set(name, f64::NAN);
        }
        assert!(names.is_empty() || expression.evaluate(&nothing).is_err());
    }
    let _ = (
        expression.check_canary_names(),
        expression.check_gate_names(),
    );
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpora_and_mutations() {
        ondol_fuzzing::exercise("spec_repository", super::repository);
        ondol_fuzzing::exercise("spec_expression", super::expression);
        ondol_fuzzing::exercise("spec_compose", super::compose);
    }
}
