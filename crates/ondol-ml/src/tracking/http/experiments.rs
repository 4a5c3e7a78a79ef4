//! `experiments/…`.

use http::Method;
use serde_json::{Value, json};

use super::Call;
use super::view::{self, Object};
use crate::tracking::error::TrackingResult;
use crate::tracking::model::Stage;
use crate::tracking::service::NewExperiment;

pub(super) async fn route(
    call: &Call<'_>,
    method: &Method,
    path: &str,
) -> TrackingResult<Option<Value>> {
    let Call {
        tracking,
        ctx,
        args,
    } = call;
    let (get, post) = (*method == Method::GET, *method == Method::POST);
    let id = || args.required("experiment_id");
    Ok(Some(match path {
        "create" if post => {
            let new = NewExperiment {
                name: args.required("name")?,
                location: args
                    .text("artifact_location")?
                    .filter(|location| !location.is_empty()),
                tags: args.pairs("tags")?,
            };
            let made = tracking.create_experiment(ctx, new).await?;
            json!({ "experiment_id": made.id.to_string() })
        }
        "get" if get => {
            let found = tracking.experiment(ctx, &id()?).await?;
            json!({ "experiment": view::experiment(&found) })
        }
        "get-by-name" if get => {
            let name = args.required("experiment_name")?;
            let found = tracking.experiment_by_name(ctx, &name).await?;
            json!({ "experiment": view::experiment(&found) })
        }
        "search" if get || post => {
            let page = tracking
                .search_experiments(
                    ctx,
                    &args.text("filter")?.unwrap_or_default(),
                    &args.texts("order_by")?,
                    args.view("view_type")?,
                    args.limit(1_000, 50_000)?,
                    args.text("page_token")?.as_deref(),
                )
                .await?;
            Object::default()
                .with("experiments", view::list(&page.items, view::experiment))
                .with("next_page_token", page.next)
                .done()
        }
        "update" if post => {
            if let Some(name) = args.text("new_name")? {
                tracking.rename_experiment(ctx, &id()?, &name).await?;
            }
            json!({})
        }
        "delete" if post => {
            tracking
                .stage_experiment(ctx, &id()?, Stage::Deleted)
                .await?;
            json!({})
        }
        "restore" if post => {
            tracking
                .stage_experiment(ctx, &id()?, Stage::Active)
                .await?;
            json!({})
        }
        "set-experiment-tag" if post => {
            tracking
                .set_experiment_tag(ctx, &id()?, args.pair()?)
                .await?;
            json!({})
        }
        "delete-experiment-tag" if post => {
            tracking
                .delete_experiment_tag(ctx, &id()?, &args.required("key")?)
                .await?;
            json!({})
        }
        _ => return Ok(None),
    }))
}
