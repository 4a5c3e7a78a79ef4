//! `info`: labels of info series, such as `target_info`, added to the series of a vector.
//!
//! Series belong together when they have the same `instance` and `job`. An info series counts
//! with its last sample at the time the samples of the vector were looked up, so that `offset`
//! and `@` of the vector hold for it too; of several with the same identity the latest counts.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::ast::{At, Duration, Expr, Extension, Range, VectorSelector};
use super::super::error::QueryError;
use super::select::Take;
use super::{Cell, Column, Evaluator, Grid, Result, merge};
use crate::series::{Labels, LabelsBuilder, METRIC_NAME, Matcher, Operation};

const IDENTITY: [&str; 2] = ["instance", "job"];
const DEFAULT: &str = "target_info";
const ANY: &str = ".+_info";

impl Evaluator<'_> {
    pub(super) fn info(&mut self, args: &[Expr], grid: Grid) -> Result<Vec<Column>> {
        let Some(vector) = args.first() else {
            return Ok(Vec::new());
        };
        let asked: &[Matcher] = match args.get(1).map(Expr::unparenthesized) {
            Some(Expr::Selector(selector)) => &selector.matchers,
            _ => &[],
        };
        let mut names: Vec<Matcher> = asked
            .iter()
            .filter(|matcher| matcher.name.as_ref() == METRIC_NAME)
            .cloned()
            .collect();
        if names.is_empty() {
            names.push(Matcher::equal(METRIC_NAME, DEFAULT));
        }
        let positive =
            |matcher: &Matcher| matches!(matcher.operation, Operation::Equal | Operation::Regex);
        if !names.iter().any(positive) {
            // What is only said not to be meant leaves all other info metrics.
            let any = Matcher::new(METRIC_NAME, Operation::Regex, ANY);
            names.extend(any.ok());
        }
        let data: Vec<&Matcher> = asked
            .iter()
            .filter(|matcher| matcher.name.as_ref() != METRIC_NAME)
            .collect();
        let base = self.vector(vector, grid)?;
        let is_info = |column: &Column| {
            let name = column.labels.metric_name();
            names.iter().all(|matcher| matcher.matches(name))
        };
        let infos = self.info_series(vector, &base, &is_info, &names, &data, grid)?;
        let required = data.iter().any(|matcher| !matcher.matches(""));
        let mut results: Vec<Column> = Vec::with_capacity(base.len());
        for column in base {
            self.tick()?;
            if is_info(&column) {
                results.push(column);
                continue;
            }
            let identity = identity_of(&column.labels);
            let mut enriched: HashMap<Labels, Column> = HashMap::new();
            for (at, cell) in column.cells.iter().enumerate() {
                if cell.is_empty() {
                    continue;
                }
                let matched = infos.latest(&identity, at)?;
                if matched.is_empty() && required {
                    continue;
                }
                let labels = enrich(&column.labels, &matched, &data)?;
                enriched
                    .entry(labels.clone())
                    .or_insert_with(|| Column {
                        labels,
                        drop_name: column.drop_name,
                        cells: vec![Cell::Empty; grid.len],
                    })
                    .cells[at] = cell.clone();
            }
            results.extend(enriched.into_values());
        }
        results.sort_by(|a, b| a.labels.cmp(&b.labels));
        merge(results)
    }

    /// Info series that belong to series of the vector, with the times of their samples.
    fn info_series(
        &mut self,
        vector: &Expr,
        base: &[Column],
        is_info: &dyn Fn(&Column) -> bool,
        names: &[Matcher],
        data: &[&Matcher],
        grid: Grid,
    ) -> Result<Infos> {
        let mut infos = Infos::default();
        let identities: HashSet<Identity> = base
            .iter()
            .filter(|column| !is_info(column))
            .map(|column| identity_of(&column.labels))
            .filter(|identity| !identity.is_empty())
            .collect();
        if identities.is_empty() {
            return Ok(infos);
        }
        let mut matchers: Vec<Matcher> = names.to_vec();
        matchers.extend(data.iter().map(|matcher| (*matcher).clone()));
        // A label that every identity has in few forms narrows what the store has to look at.
        for label in IDENTITY {
            let values: HashSet<&str> = identities
                .iter()
                .filter_map(|identity| identity.iter().find(|pair| pair.0 == label))
                .map(|pair| pair.1.as_str())
                .collect();
            let everywhere = identities
                .iter()
                .all(|identity| identity.iter().any(|pair| pair.0 == label));
            if everywhere && values.len() <= 100 {
                let mut values: Vec<String> = values.into_iter().map(regex::escape).collect();
                values.sort();
                let pattern = values.join("|");
                if let Ok(matcher) = Matcher::new(label, Operation::Regex, &pattern) {
                    matchers.push(matcher);
                }
            }
        }
        let selector = VectorSelector {
            name: None,
            matchers,
            offset: None,
            at: None,
            extension: Extension::None,
            range: Range::default(),
        };
        let path = modifiers(vector);
        let mut times = Vec::with_capacity(grid.len);
        for time in grid.times() {
            let mut reference = time;
            for (at, offset) in &path {
                reference = self.reference(*at, reference) - self.offset(*offset)?;
            }
            times.push(reference);
        }
        self.select_at(
            &selector,
            &times,
            Take::Milliseconds,
            &mut |evaluator, column| {
                let identity = identity_of(&column.labels);
                if !identities.contains(&identity) {
                    return Ok(());
                }
                if column
                    .cells
                    .iter()
                    .any(|cell| matches!(cell, Cell::Histogram(_)))
                {
                    return Err(QueryError::Execution(
                        "info sample should be float".to_owned(),
                    ));
                }
                evaluator.charge(column.weight(), &|| "info series".to_owned())?;
                infos.add(identity, column);
                Ok(())
            },
        )?;
        Ok(infos)
    }
}

/// `@` and `offset` from the outside in, on the way to the first selector.
fn modifiers(expr: &Expr) -> Vec<(Option<At>, Option<&Duration>)> {
    let mut path = Vec::new();
    collect_modifiers(expr, &mut path);
    path
}

fn collect_modifiers<'e>(
    expr: &'e Expr,
    path: &mut Vec<(Option<At>, Option<&'e Duration>)>,
) -> bool {
    match expr {
        Expr::Selector(selector) | Expr::Matrix { selector, .. } => {
            path.push((selector.at, selector.offset.as_ref()));
            return true;
        }
        Expr::Subquery { at, offset, .. } => path.push((*at, offset.as_ref())),
        _ => {}
    }
    for child in expr.children() {
        let before = path.len();
        if collect_modifiers(child, path) {
            return true;
        }
        path.truncate(before);
    }
    false
}

fn identity_of(labels: &Labels) -> Identity {
    IDENTITY
        .iter()
        .filter(|label| labels.has(label))
        .map(|label| ((*label).to_owned(), labels.get(label).to_owned()))
        .collect()
}

/// The identifying labels that a series has.
type Identity = Vec<(String, String)>;

/// Info series by identity and by the name of the info metric.
#[derive(Default)]
struct Infos {
    series: HashMap<Identity, BTreeMap<String, Vec<Column>>>,
}

impl Infos {
    fn add(&mut self, identity: Identity, column: Column) {
        self.series
            .entry(identity)
            .or_default()
            .entry(column.labels.metric_name().to_owned())
            .or_default()
            .push(column);
    }

    /// For each info metric, the series with the latest sample at one place of the grid.
    ///
    /// # Errors
    /// Two of one metric have a sample of the same time.
    fn latest(&self, identity: &[(String, String)], at: usize) -> Result<Vec<&Labels>> {
        let mut found = Vec::new();
        for columns in self
            .series
            .get(identity)
            .into_iter()
            .flat_map(BTreeMap::values)
        {
            let mut best: Option<(f64, &Labels)> = None;
            for column in columns {
                let Cell::Float(time) = column.cells[at] else {
                    continue;
                };
                match best {
                    Some((known, labels)) if known == time => {
                        return Err(QueryError::Execution(format!(
                            "found duplicate series for info metric: existing {labels} @ {time}, new {} @ {time}",
                            column.labels
                        )));
                    }
                    Some((known, _)) if known > time => {}
                    _ => best = Some((time, &column.labels)),
                }
            }
            found.extend(best.map(|(_, labels)| labels));
        }
        Ok(found)
    }
}

/// The labels with those of the info series that were asked for.
///
/// # Errors
/// Two info series say different things about a label.
fn enrich(labels: &Labels, infos: &[&Labels], data: &[&Matcher]) -> Result<Labels> {
    let mut added = LabelsBuilder::default();
    for info in infos {
        for label in *info {
            let name = label.name.as_ref();
            if name == METRIC_NAME
                || (!data.is_empty() && !data.iter().any(|matcher| matcher.name.as_ref() == name))
            {
                continue;
            }
            let known = added.get(name);
            if !known.is_empty() && known != label.value.as_ref() {
                return Err(QueryError::Execution(format!("conflicting label: {name}")));
            }
            if !labels.has(name) {
                added.set_shared(label.name.clone(), label.value.clone());
            }
        }
    }
    let mut builder = LabelsBuilder::from_labels(labels);
    for label in &added.build() {
        builder.set_shared(label.name.clone(), label.value.clone());
    }
    Ok(builder.build())
}
