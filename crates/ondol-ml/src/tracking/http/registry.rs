//! `registered-models/…` and `model-versions/…`.

use http::Method;
use serde_json::{Value, json};

use super::Call;
use super::view::{self, Object};
use crate::tracking::error::TrackingResult;
use crate::tracking::model::{RegisteredModel, RegisteredVersion};
use crate::tracking::service::NewRegisteredVersion;

fn model(model: &RegisteredModel) -> Value {
    json!({ "registered_model": view::registered(model) })
}

fn version(version: &RegisteredVersion) -> Value {
    json!({ "model_version": view::version(version) })
}

pub(super) async fn models(
    call: &Call<'_>,
    method: &Method,
    path: &str,
) -> TrackingResult<Option<Value>> {
    let Call {
        tracking,
        ctx,
        args,
    } = call;
    let name = || args.required("name");
    Ok(Some(match (method.as_str(), path) {
        ("POST", "create") => {
            // One who gives no description gives an empty one, as MLflow's own server has it.
            let about = Some(args.text("description")?.unwrap_or_default());
            let tags = args.pairs("tags")?;
            model(
                &tracking
                    .create_registered(ctx, &name()?, about.as_deref(), tags)
                    .await?,
            )
        }
        ("GET", "get") => model(&tracking.registered(ctx, &name()?).await?),
        ("POST", "rename") => {
            let new = args.required("new_name")?;
            model(&tracking.rename_registered(ctx, &name()?, &new).await?)
        }
        ("PATCH", "update") => {
            let about = args.text("description")?;
            model(
                &tracking
                    .describe_registered(ctx, &name()?, about.as_deref())
                    .await?,
            )
        }
        ("DELETE", "delete") => {
            tracking.delete_registered(ctx, &name()?).await?;
            json!({})
        }
        ("GET", "search") => {
            let page = tracking
                .search_registered(
                    ctx,
                    &args.text("filter")?.unwrap_or_default(),
                    &args.texts("order_by")?,
                    args.limit(100, 1_000)?,
                    args.text("page_token")?.as_deref(),
                )
                .await?;
            Object::default()
                .with(
                    "registered_models",
                    view::list(&page.items, view::registered),
                )
                .with("next_page_token", page.next)
                .done()
        }
        ("GET" | "POST", "get-latest-versions") => {
            let stages = args.texts("stages")?;
            let found = tracking.registered(ctx, &name()?).await?;
            let latest: Vec<RegisteredVersion> = found
                .latest
                .into_iter()
                .filter(|version| {
                    stages.is_empty()
                        || stages
                            .iter()
                            .any(|stage| stage.eq_ignore_ascii_case(&version.stage))
                })
                .collect();
            Object::default()
                .with("model_versions", view::list(&latest, view::version))
                .done()
        }
        ("POST", "set-tag") => {
            tracking
                .set_registered_tag(ctx, &name()?, None, args.pair()?)
                .await?;
            json!({})
        }
        ("DELETE", "delete-tag") => {
            tracking
                .delete_registered_tag(ctx, &name()?, None, &args.required("key")?)
                .await?;
            json!({})
        }
        ("POST", "alias") => {
            let number = args.required("version")?;
            tracking
                .set_alias(ctx, &name()?, &args.required("alias")?, Some(&number))
                .await?;
            json!({})
        }
        ("DELETE", "alias") => {
            tracking
                .set_alias(ctx, &name()?, &args.required("alias")?, None)
                .await?;
            json!({})
        }
        ("GET", "alias") => version(
            &tracking
                .version_by_alias(ctx, &name()?, &args.required("alias")?)
                .await?,
        ),
        _ => return Ok(None),
    }))
}

pub(super) async fn versions(
    call: &Call<'_>,
    method: &Method,
    path: &str,
) -> TrackingResult<Option<Value>> {
    let Call {
        tracking,
        ctx,
        args,
    } = call;
    let name = || args.required("name");
    let number = || args.required("version");
    Ok(Some(match (method.as_str(), path) {
        ("POST", "create") => {
            let new = NewRegisteredVersion {
                name: name()?,
                source: args.required("source")?,
                run_id: args.text("run_id")?,
                run_link: args.text("run_link")?,
                model_id: args.text("model_id")?,
                description: Some(args.text("description")?.unwrap_or_default()),
                tags: args.pairs("tags")?,
            };
            version(&tracking.create_version(ctx, new).await?)
        }
        ("GET", "get") => version(
            &tracking
                .registered_version(ctx, &name()?, &number()?)
                .await?,
        ),
        ("PATCH", "update") => {
            let about = args.text("description")?;
            version(
                &tracking
                    .describe_version(ctx, &name()?, &number()?, about)
                    .await?,
            )
        }
        ("POST", "transition-stage") => {
            let (to, archive) = (
                args.required("stage")?,
                args.flag("archive_existing_versions")?,
            );
            version(
                &tracking
                    .move_version(ctx, &name()?, &number()?, &to, archive)
                    .await?,
            )
        }
        ("DELETE", "delete") => {
            tracking.delete_version(ctx, &name()?, &number()?).await?;
            json!({})
        }
        ("GET", "search") => {
            let page = tracking
                .search_versions(
                    ctx,
                    &args.text("filter")?.unwrap_or_default(),
                    &args.texts("order_by")?,
                    args.limit(10_000, 200_000)?,
                    args.text("page_token")?.as_deref(),
                )
                .await?;
            Object::default()
                .with(
                    "model_versions",
                    view::list(&page.items, view::found_version),
                )
                .with("next_page_token", page.next)
                .done()
        }
        ("GET", "get-download-uri") => {
            let found = tracking
                .registered_version(ctx, &name()?, &number()?)
                .await?;
            json!({ "artifact_uri": found.storage })
        }
        ("POST", "set-tag") => {
            tracking
                .set_registered_tag(ctx, &name()?, Some(&number()?), args.pair()?)
                .await?;
            json!({})
        }
        ("DELETE", "delete-tag") => {
            tracking
                .delete_registered_tag(ctx, &name()?, Some(&number()?), &args.required("key")?)
                .await?;
            json!({})
        }
        _ => return Ok(None),
    }))
}
