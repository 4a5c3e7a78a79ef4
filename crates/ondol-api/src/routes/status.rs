//! What serves, how well, and what is under way.

use axum::Json;
use axum::extract::State;
use ondol_deploy::EnvironmentStatus;
use ondol_git::Project;
use ondol_pipeline::RunFilter;
use ondol_types::ProjectName;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::runs::RunSummary;
use crate::extract::{Caller, Query};
use crate::problem::Answer;
use crate::rooms::Rooms;

pub(super) fn routes() -> OpenApiRouter<Rooms> {
    OpenApiRouter::new().routes(routes!(status))
}

/// Of which project.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct StatusQuery {
    /// Only this one; the first 50 that one may see when absent.
    project: Option<ProjectName>,
}

/// The installation now.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Status {
    /// The version of this build.
    version: &'static str,
    /// Where applications answer.
    gateway: String,
    /// What the host could not give, and what that means.
    notices: Vec<String>,
    /// The projects.
    projects: Vec<ProjectStatus>,
}

/// One project now.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ProjectStatus {
    /// Its name.
    name: ProjectName,
    /// Where its service answers.
    url: String,
    /// Its newest run.
    last_run: Option<RunSummary>,
    /// Its environments.
    environments: Vec<EnvironmentStatus>,
}

/// What serves, how well, and what is under way.
#[utoipa::path(get, path = "/status", tag = "status", params(StatusQuery), responses((status = 200, body = Status)))]
async fn status(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Query(query): Query<StatusQuery>,
) -> Answer<Json<Status>> {
    let found: Vec<Project> = match &query.project {
        Some(name) => vec![rooms.git.show(&ctx, name).await?],
        None => rooms.git.list(&ctx, None, 50).await?,
    };
    let mut projects = Vec::with_capacity(found.len());
    for project in found {
        let filter = RunFilter {
            project: Some(project.name.clone()),
            ..RunFilter::default()
        };
        let newest = rooms
            .pipeline
            .list_runs(&ctx, &filter, None, 1)
            .await?
            .runs
            .into_iter()
            .next();
        projects.push(ProjectStatus {
            url: rooms.places.application(&project.name),
            last_run: newest.map(RunSummary::from),
            environments: rooms.deploy.status(&ctx, &project.name).await?,
            name: project.name,
        });
    }
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        gateway: rooms.places.gateway.clone(),
        notices: of_interest(rooms.engine.capabilities().await.notices, &projects),
        projects,
    }))
}

/// What the host lacks, without what concerns fixed ports when nobody here has one.
fn of_interest(mut notices: Vec<String>, projects: &[ProjectStatus]) -> Vec<String> {
    let fixed = projects
        .iter()
        .flat_map(|project| &project.environments)
        .filter_map(|environment| environment.current.as_ref())
        .any(|release| release.config.service.port.is_some());
    notices.retain(|notice| fixed || !notice.contains("service.port"));
    notices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_of_fixed_ports_are_for_those_who_have_one() {
        let all = ["no limits on memory", "a fixed service.port is refused"];
        let told = of_interest(all.map(str::to_owned).to_vec(), &[]);
        assert_eq!(told, [all[0]]);
    }
}
