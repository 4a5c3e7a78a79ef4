//! `logged-models/…`.

use http::Method;
use serde_json::{Value, json};

use super::args::Args;
use super::view::{self, Object};
use super::{Call, artifacts};
use crate::tracking::error::{TrackingError, TrackingResult};
use crate::tracking::model::ModelStatus;
use crate::tracking::plan::filter::{Entity, Subject};
use crate::tracking::plan::order::{self, Order};
use crate::tracking::service::{ModelSearch, NewModel};
use crate::tracking::store::{ModelOrder, OnDataset};

fn answer(model: &crate::tracking::model::LoggedModel) -> Value {
    json!({ "model": view::logged_model(model) })
}

fn on_dataset(args: &Args) -> TrackingResult<Option<OnDataset>> {
    let name = args.text("dataset_name")?.filter(|name| !name.is_empty());
    let digest = args
        .text("dataset_digest")?
        .filter(|digest| !digest.is_empty());
    Ok(name.map(|name| OnDataset { name, digest }))
}

fn order_of(args: &Args) -> TrackingResult<ModelOrder> {
    let field = args.required("field_name")?;
    let ascending =
        args.text("ascending").is_ok_and(|text| text.is_none()) || args.flag("ascending")?;
    let order = match field.strip_prefix("metrics.") {
        Some(key) => Order {
            entity: Entity::Metric,
            key: key.trim_matches(['`', '"']).to_owned(),
            ascending,
        },
        None => {
            let mut parsed = order::parse(Subject::LoggedModels, &[field])?;
            let mut order = parsed.remove(0);
            order.ascending = ascending;
            order
        }
    };
    Ok(ModelOrder {
        order,
        on: on_dataset(args)?,
    })
}

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
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    Ok(Some(match (method.as_str(), parts.as_slice()) {
        ("POST", []) => {
            let new = NewModel {
                experiment: args.required("experiment_id")?,
                name: args.text("name")?,
                model_type: args.text("model_type")?,
                source_run: args.text("source_run_id")?,
                params: args.pairs("params")?,
                tags: args.pairs("tags")?,
            };
            answer(&tracking.create_logged_model(ctx, new).await?)
        }
        ("POST", ["search"]) => {
            let datasets = args.objects("datasets")?;
            let datasets = datasets
                .iter()
                .map(|dataset| {
                    on_dataset(dataset)?.ok_or_else(|| {
                        TrackingError::invalid(
                            "`dataset_name` in the `datasets` clause must be specified.",
                        )
                    })
                })
                .collect::<TrackingResult<Vec<_>>>()?;
            let order = args.objects("order_by")?;
            let search = ModelSearch {
                experiments: args.texts("experiment_ids")?,
                filter: args.text("filter")?.unwrap_or_default(),
                datasets,
                order: order
                    .iter()
                    .map(order_of)
                    .collect::<TrackingResult<Vec<_>>>()?,
                limit: args.limit(100, 1_000)?,
                token: args.text("page_token")?,
            };
            let page = tracking.search_logged_models(ctx, search).await?;
            Object::default()
                .with("models", view::list(&page.items, view::logged_model))
                .with("next_page_token", page.next)
                .done()
        }
        ("GET", [id]) => answer(&tracking.logged_model(ctx, id).await?),
        ("PATCH", [id]) => {
            let text = args.required("status")?;
            let status = ModelStatus::read(&text).ok_or_else(|| {
                TrackingError::invalid(format!("Invalid model status: \"{text}\""))
            })?;
            answer(&tracking.finalize_logged_model(ctx, id, status).await?)
        }
        ("DELETE", [id]) => {
            tracking.delete_logged_model(ctx, id).await?;
            json!({})
        }
        ("PATCH", [id, "tags"]) => {
            let tags = args.pairs("tags")?;
            answer(&tracking.set_model_pairs(ctx, id, "tag", tags).await?)
        }
        ("DELETE", [id, "tags", key @ ..]) if !key.is_empty() => {
            let key = super::args::decoded_path(&key.join("/"));
            tracking.delete_model_tag(ctx, id, &key).await?;
            json!({})
        }
        ("POST", [id, "params"]) => {
            let params = args.pairs("params")?;
            tracking.set_model_pairs(ctx, id, "param", params).await?;
            json!({})
        }
        ("GET", [id, "artifacts", "directories"]) => {
            let (place, root) = tracking.place_of_model(ctx, id).await?;
            artifacts::files_below(tracking, ctx, place, &root, args).await?
        }
        _ => return Ok(None),
    }))
}
