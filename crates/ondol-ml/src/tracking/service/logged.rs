//! Logged models: what a run made, with a life and measurements of its own.

use ondol_auth::{Action, Ctx};
use ondol_store::Tx;

use super::experiments::require_active as require_active_experiment;
use super::scope::{self, require};
use super::{last_of_each, over, random_id, store};
use crate::tracking::Tracking;
use crate::tracking::error::{TrackingError, TrackingResult};
use crate::tracking::model::{LoggedModel, ModelStatus, Page, Pair, Stage};
use crate::tracking::plan::filter::{self, Subject};
use crate::tracking::plan::{check, names, page};
use crate::tracking::store::{ModelOrder, OnDataset};

/// A logged model about to be made.
pub(in crate::tracking) struct NewModel {
    /// The experiment's number as text.
    pub(in crate::tracking) experiment: String,
    /// Its name, when it has one.
    pub(in crate::tracking) name: Option<String>,
    /// What kind of model.
    pub(in crate::tracking) model_type: Option<String>,
    /// The run that makes it.
    pub(in crate::tracking) source_run: Option<String>,
    /// Parameters.
    pub(in crate::tracking) params: Vec<Pair>,
    /// Tags.
    pub(in crate::tracking) tags: Vec<Pair>,
}

/// Which logged models are looked for.
pub(in crate::tracking) struct ModelSearch {
    /// Numbers of experiments as text.
    pub(in crate::tracking) experiments: Vec<String>,
    /// What must hold.
    pub(in crate::tracking) filter: String,
    /// Which measurements count.
    pub(in crate::tracking) datasets: Vec<OnDataset>,
    /// What is first.
    pub(in crate::tracking) order: Vec<ModelOrder>,
    /// Most models of the page.
    pub(in crate::tracking) limit: i64,
    /// Where the page begins.
    pub(in crate::tracking) token: Option<String>,
}

async fn model(
    tx: &mut Tx<'_>,
    ctx: &Ctx,
    action: Action,
    id: &str,
    deleted: bool,
) -> TrackingResult<LoggedModel> {
    let missing = || format!("Logged model with ID '{id}' not found.");
    let found = store::logged_model(tx, id)
        .await?
        .filter(|model| deleted || model.stage == Stage::Active)
        .ok_or_else(|| TrackingError::missing(missing()))?;
    require(ctx, action, &found.scope, missing)?;
    Ok(found)
}

impl Tracking {
    /// Makes a logged model, whose files follow.
    pub(in crate::tracking) async fn create_logged_model(
        &self,
        ctx: &Ctx,
        new: NewModel,
    ) -> TrackingResult<LoggedModel> {
        let random = uuid::Uuid::new_v4().into_bytes();
        let name = new
            .name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| names::invent(random));
        if name.contains(['/', ':', '.', '%', '"', '\'']) {
            return Err(TrackingError::invalid(format!(
                "Invalid model name ({name}) provided. Model name must be a non-empty string and cannot contain the following characters: ('/', ':', '.', '%', '\"', \"'\")"
            )));
        }
        check::length("name", &name, 500)?;
        let (params, tags) = (last_of_each(new.params), last_of_each(new.tags));
        let config = self.config();
        if (params.len() + tags.len()) as i64 > config.max_pairs {
            return Err(over("parameters and tags of a model", config.max_pairs));
        }
        let experiment = self.experiment_number(ctx, &new.experiment).await?;
        let id = format!("m-{}", random_id());
        let (name, params, tags, id) = (&name, &params, &tags, &id);
        let (model_type, source_run) = (&new.model_type, &new.source_run);
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let experiment = scope::experiment(tx, ctx, Action::Track, experiment).await?;
                    require_active_experiment(&experiment)?;
                    if store::count_models(tx, experiment.id).await? >= config.max_models {
                        return Err(over("logged models in an experiment", config.max_models));
                    }
                    let now = tx.now().as_millis();
                    let model = LoggedModel {
                        id: id.clone(),
                        scope: experiment.scope,
                        experiment: experiment.id,
                        name: name.clone(),
                        artifact_uri: format!(
                            "{}/models/{id}/artifacts",
                            experiment.location.trim_end_matches('/')
                        ),
                        model_type: model_type.clone(),
                        source_run: source_run.clone(),
                        status: ModelStatus::Pending,
                        stage: Stage::Active,
                        created: now,
                        updated: now,
                        params: params.clone(),
                        tags: tags.clone(),
                        metrics: Vec::new(),
                    };
                    store::insert_model(tx, &model).await?;
                    Ok(model)
                })
            })
            .await
    }

    /// One logged model.
    pub(in crate::tracking) async fn logged_model(
        &self,
        ctx: &Ctx,
        id: &str,
    ) -> TrackingResult<LoggedModel> {
        self.inner()
            .store
            .read(|tx| {
                Box::pin(async move {
                    let mut found = [model(tx, ctx, Action::Read, id, false).await?];
                    store::model_data(tx, &mut found).await?;
                    let [found] = found;
                    Ok(found)
                })
            })
            .await
    }

    /// Says that the files of a logged model are complete, or that writing them failed.
    pub(in crate::tracking) async fn finalize_logged_model(
        &self,
        ctx: &Ctx,
        id: &str,
        status: ModelStatus,
    ) -> TrackingResult<LoggedModel> {
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let found = model(tx, ctx, Action::Track, id, true).await?;
                    store::update_model(tx, id, status, found.stage).await?;
                    let mut found = [model(tx, ctx, Action::Track, id, true).await?];
                    store::model_data(tx, &mut found).await?;
                    let [found] = found;
                    Ok(found)
                })
            })
            .await
    }

    /// Puts a logged model into the bin.
    pub(in crate::tracking) async fn delete_logged_model(
        &self,
        ctx: &Ctx,
        id: &str,
    ) -> TrackingResult<()> {
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let found = model(tx, ctx, Action::Track, id, true).await?;
                    Ok(store::update_model(tx, id, found.status, Stage::Deleted).await?)
                })
            })
            .await
    }

    /// Sets parameters (`param`) or tags (`tag`) of a logged model.
    pub(in crate::tracking) async fn set_model_pairs(
        &self,
        ctx: &Ctx,
        id: &str,
        kind: &'static str,
        pairs: Vec<Pair>,
    ) -> TrackingResult<LoggedModel> {
        let (pairs, most) = (&last_of_each(pairs), self.config().max_pairs);
        for pair in pairs {
            check::length("key", &pair.key, check::MAX_KEY)?;
            check::length("value", &pair.value, check::MAX_TAG)?;
        }
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let mut found = [model(tx, ctx, Action::Track, id, true).await?];
                    store::set_model_pairs(tx, id, kind, pairs).await?;
                    if store::count_model_pairs(tx, id).await? > most {
                        return Err(over("parameters and tags of a model", most));
                    }
                    store::model_data(tx, &mut found).await?;
                    let [found] = found;
                    Ok(found)
                })
            })
            .await
    }

    /// Removes a tag of a logged model.
    pub(in crate::tracking) async fn delete_model_tag(
        &self,
        ctx: &Ctx,
        id: &str,
        key: &str,
    ) -> TrackingResult<()> {
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    model(tx, ctx, Action::Track, id, true).await?;
                    if store::delete_model_tag(tx, id, key).await? {
                        return Ok(());
                    }
                    Err(TrackingError::missing(format!(
                        "No tag with key '{key}' found for model with ID '{id}'."
                    )))
                })
            })
            .await
    }

    /// Logged models by a filter.
    pub(in crate::tracking) async fn search_logged_models(
        &self,
        ctx: &Ctx,
        search: ModelSearch,
    ) -> TrackingResult<Page<LoggedModel>> {
        let filter = filter::parse(Subject::LoggedModels, &search.filter)?;
        let offset = page::offset(search.token.as_deref())?;
        if search.datasets.len() > 100 || search.order.len() > 20 {
            return Err(TrackingError::invalid(
                "a search of logged models takes at most 100 datasets and 20 orders",
            ));
        }
        let ids = self.visible_numbers(ctx, &search.experiments).await?;
        let (filter, ids, limit) = (&filter, &ids, search.limit);
        let (datasets, order) = (&search.datasets, &search.order);
        let found = self
            .inner()
            .store
            .read::<_, TrackingError, _>(|tx| {
                Box::pin(async move {
                    let search = store::Search {
                        filter,
                        order: &[],
                        offset,
                        limit: limit + 1,
                    };
                    let mut found = store::search_models(tx, ids, datasets, order, &search).await?;
                    store::model_data(tx, &mut found).await?;
                    Ok(found)
                })
            })
            .await?;
        let (items, next) = page::cut(found, offset, limit);
        Ok(Page { items, next })
    }
}
