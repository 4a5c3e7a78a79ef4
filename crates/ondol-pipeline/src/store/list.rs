//! Lists of runs, newest first. Every filter has an index of its own that ends in `seq`, so
//! that a page costs the same however many runs there are.

use ondol_store::{Params, StoreError, Tx, params};
use ondol_types::ProjectName;

use super::run::select;
use crate::model::{Run, RunState};

/// Which runs.
pub(crate) struct ListQuery<'a> {
    /// Only of these projects; `None` means all. A list has few.
    pub(crate) projects: Option<&'a [ProjectName]>,
    pub(crate) state: Option<RunState>,
    /// Only with `projects`.
    pub(crate) branch: Option<&'a str>,
    /// Only older ones than this place.
    pub(crate) before: i64,
    pub(crate) limit: u32,
}

/// The newest runs that match.
pub(crate) async fn list_runs(
    tx: &mut Tx<'_>,
    query: ListQuery<'_>,
) -> Result<Vec<Run>, StoreError> {
    let Some(projects) = query.projects else {
        return page(tx, None, &query).await;
    };
    let mut found = Vec::new();
    for project in projects {
        found.extend(page(tx, Some(project), &query).await?);
    }
    found.sort_by_key(|run| std::cmp::Reverse(run.seq));
    found.truncate(query.limit as usize);
    Ok(found)
}

async fn page(
    tx: &mut Tx<'_>,
    project: Option<&ProjectName>,
    query: &ListQuery<'_>,
) -> Result<Vec<Run>, StoreError> {
    let mut conditions = vec!["seq < $1".to_owned()];
    let mut values: Params = params![query.before, query.limit];
    let mut equal = |column: &str, value: &str| {
        values.extend(params![value]);
        conditions.push(format!("{column} = ${}", values.len()));
    };
    if let Some(project) = project {
        equal("project", project.as_str());
    }
    if let Some(branch) = query.branch {
        equal("branch", branch);
    }
    if let Some(state) = query.state {
        equal("state", state.as_str());
    }
    let rest = format!(
        "WHERE {} ORDER BY seq DESC LIMIT $2",
        conditions.join(" AND ")
    );
    select(tx, &rest, values).await
}
