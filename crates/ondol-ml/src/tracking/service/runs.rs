//! Runs: made, changed, tagged, searched.

use std::sync::atomic::Ordering;

use ondol_auth::{Action, Ctx, Denied};

use super::experiments::{number, require_active as require_active_experiment};
use super::{last_of_each, over, random_id, require_active, scope, store};
use crate::tracking::Tracking;
use crate::tracking::error::{TrackingError, TrackingResult};
use crate::tracking::model::{
    DatasetInput, Metric, Page, Pair, Run, RunInfo, RunStatus, Stage, ViewType,
};
use crate::tracking::plan::filter::{self, Subject};
use crate::tracking::plan::{check, names, order, page};

/// The tag that holds the name of a run.
const NAME: &str = "mlflow.runName";
/// Most experiments of one search.
const MAX_EXPERIMENTS: usize = 10_000;

/// A run about to be made.
pub(in crate::tracking) struct NewRun {
    /// The experiment's number as text.
    pub(in crate::tracking) experiment: String,
    /// Who makes it, as the client says.
    pub(in crate::tracking) user: String,
    /// Its name, when it has one.
    pub(in crate::tracking) name: Option<String>,
    /// When it began.
    pub(in crate::tracking) start: Option<i64>,
    /// Its tags.
    pub(in crate::tracking) tags: Vec<Pair>,
}

/// What changes about a run.
#[derive(Default)]
pub(in crate::tracking) struct RunChange {
    /// Its state.
    pub(in crate::tracking) status: Option<RunStatus>,
    /// When it ended.
    pub(in crate::tracking) end: Option<i64>,
    /// Its name.
    pub(in crate::tracking) name: Option<String>,
}

/// Which runs are looked for.
pub(in crate::tracking) struct RunSearch {
    /// Numbers of experiments as text.
    pub(in crate::tracking) experiments: Vec<String>,
    /// What must hold.
    pub(in crate::tracking) filter: String,
    /// What is first.
    pub(in crate::tracking) order_by: Vec<String>,
    /// Whether the bin is shown.
    pub(in crate::tracking) view: ViewType,
    /// Most runs of the page.
    pub(in crate::tracking) limit: i64,
    /// Where the page begins.
    pub(in crate::tracking) token: Option<String>,
}

fn name_of(name: Option<&str>, tags: &[Pair]) -> TrackingResult<Option<String>> {
    let tagged = tags
        .iter()
        .find(|tag| tag.key == NAME)
        .map(|tag| tag.value.as_str());
    let name = name.filter(|name| !name.is_empty());
    match (name, tagged) {
        (Some(name), Some(tagged)) if name != tagged => Err(TrackingError::invalid(format!(
            "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values (run_name='{name}', mlflow.runName='{tagged}')."
        ))),
        (name, tagged) => Ok(name
            .or(tagged.filter(|name| !name.is_empty()))
            .map(str::to_owned)),
    }
}

impl Tracking {
    /// Makes a run.
    pub(in crate::tracking) async fn create_run(
        &self,
        ctx: &Ctx,
        new: NewRun,
    ) -> TrackingResult<Run> {
        let config = self.config();
        if self.inner().runs.load(Ordering::Relaxed) >= config.max_runs {
            return Err(over(
                "runs in the installation; remove old ones",
                config.max_runs,
            ));
        }
        let experiment = self.experiment_number(ctx, &new.experiment).await?;
        check::length("user_id", &new.user, 256)?;
        let mut tags = Vec::with_capacity(new.tags.len() + 1);
        for tag in last_of_each(new.tags) {
            tags.push(check::tag(tag)?);
        }
        let random = uuid::Uuid::new_v4().into_bytes();
        let name = name_of(new.name.as_deref(), &tags)?.unwrap_or_else(|| names::invent(random));
        let name = check::cut(name, check::MAX_TAG);
        tags.retain(|tag| tag.key != NAME);
        tags.push(Pair {
            key: NAME.to_owned(),
            value: name.clone(),
        });
        if tags.len() as i64 > config.max_pairs {
            return Err(over("tags of a run", config.max_pairs));
        }
        let id = random_id();
        // In the order of time, so that the newest runs stand together.
        let salt = i64::from(random[4]) | i64::from(random[5] & 3) << 8;
        let (start, user) = (new.start, new.user);
        let (id, name, user, tags) = (&id, &name, &user, &tags);
        let made = self
            .inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let experiment = scope::experiment(tx, ctx, Action::Track, experiment).await?;
                    require_active_experiment(&experiment)?;
                    let info = RunInfo {
                        no: (tx.now().as_micros() << 10) | salt,
                        id: id.clone(),
                        scope: experiment.scope,
                        experiment: experiment.id,
                        name: name.clone(),
                        user: user.clone(),
                        status: RunStatus::Running,
                        start: Some(start.unwrap_or(0)),
                        end: None,
                        stage: Stage::Active,
                        artifact_uri: format!(
                            "{}/{id}/artifacts",
                            experiment.location.trim_end_matches('/')
                        ),
                        series: 0,
                        points: 0,
                    };
                    store::insert_run(tx, &info, tags).await?;
                    Ok::<_, TrackingError>(info)
                })
            })
            .await?;
        self.inner().runs.fetch_add(1, Ordering::Relaxed);
        let mut tags = tags.clone();
        tags.sort();
        Ok(Run {
            info: made,
            metrics: Vec::new(),
            params: Vec::new(),
            tags,
            datasets: Vec::new(),
            model_inputs: Vec::new(),
            model_outputs: Vec::new(),
        })
    }

    /// One run with everything that was logged to it, also when it is in the bin.
    ///
    /// # Errors
    /// `RESOURCE_DOES_NOT_EXIST`.
    pub async fn run(&self, ctx: &Ctx, id: &str) -> TrackingResult<Run> {
        self.inner()
            .store
            .read(|tx| {
                Box::pin(async move {
                    let info = scope::run(tx, ctx, Action::Read, id).await?;
                    let mut runs = store::with_data(tx, vec![info]).await?;
                    runs.pop().ok_or_else(|| {
                        TrackingError::missing(format!("Run with id={id} not found"))
                    })
                })
            })
            .await
    }

    /// Changes state, end and name of a run.
    pub(in crate::tracking) async fn update_run(
        &self,
        ctx: &Ctx,
        id: &str,
        change: RunChange,
    ) -> TrackingResult<RunInfo> {
        let change = &change;
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let mut run = scope::run(tx, ctx, Action::Track, id).await?;
                    require_active(&run)?;
                    run.status = change.status.unwrap_or(run.status);
                    run.end = change.end.or(run.end);
                    if let Some(name) = change.name.as_ref().filter(|name| !name.is_empty()) {
                        run.name = check::cut(name.clone(), check::MAX_TAG);
                        let tag = Pair {
                            key: NAME.to_owned(),
                            value: run.name.clone(),
                        };
                        store::set_tags(tx, run.no, &[tag]).await?;
                    }
                    store::update_run(tx, &run).await?;
                    Ok(run)
                })
            })
            .await
    }

    /// Puts a run into the bin, or takes it out.
    pub(in crate::tracking) async fn stage_run(
        &self,
        ctx: &Ctx,
        id: &str,
        stage: Stage,
    ) -> TrackingResult<()> {
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let run = scope::run(tx, ctx, Action::Track, id).await?;
                    Ok(store::stage_run(tx, run.no, stage).await?)
                })
            })
            .await
    }

    /// Logs metrics, parameters and tags in one transaction.
    pub(in crate::tracking) async fn log_batch(
        &self,
        ctx: &Ctx,
        id: &str,
        metrics: Vec<Metric>,
        params: Vec<Pair>,
        tags: Vec<Pair>,
    ) -> TrackingResult<()> {
        check::batch(metrics.len(), params.len(), tags.len())?;
        let metrics = metrics
            .into_iter()
            .map(check::metric)
            .collect::<TrackingResult<Vec<_>>>()?;
        let params = params
            .into_iter()
            .map(check::param)
            .collect::<TrackingResult<Vec<_>>>()?;
        let tags = tags
            .into_iter()
            .map(check::tag)
            .collect::<TrackingResult<Vec<_>>>()?;
        let unique = last_of_each(params.clone());
        if unique.len() != params.len() {
            let mut seen = std::collections::HashSet::new();
            let twice: Vec<&str> = params
                .iter()
                .filter(|pair| !seen.insert(&pair.key))
                .map(|pair| pair.key.as_str())
                .collect();
            return Err(TrackingError::invalid(format!(
                "Duplicate parameter keys have been submitted: {twice:?}. Please ensure the request contains only one param value per param key."
            )));
        }
        let (metrics, params, tags) = (&metrics, &unique, &last_of_each(tags));
        let config = self.config();
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let mut run = scope::run(tx, ctx, Action::Track, id).await?;
                    require_active(&run)?;
                    if !params.is_empty()
                        && let Some(old) = store::add_params(tx, run.no, params).await?.first()
                    {
                        let new = params
                            .iter()
                            .find(|pair| pair.key == old.key)
                            .map_or("", |pair| &pair.value);
                        return Err(TrackingError::invalid(format!(
                            "Changing param values is not allowed. Param with key='{}' was already logged with value='{}' for run ID='{}'. Attempted logging new value '{new}'.",
                            old.key, old.value, run.id
                        )));
                    }
                    if !metrics.is_empty() {
                        (run.series, run.points) = store::add_points(tx, &run, metrics).await?;
                        if run.points > config.max_points {
                            return Err(over("points of metrics in a run", config.max_points));
                        }
                        if run.series > config.max_series {
                            return Err(over("different metrics in a run", config.max_series));
                        }
                        store::add_model_metrics(tx, &run, metrics).await?;
                    }
                    if let Some(name) = tags.iter().find(|tag| tag.key == NAME) {
                        run.name.clone_from(&name.value);
                        store::update_run(tx, &run).await?;
                    }
                    store::set_tags(tx, run.no, tags).await?;
                    if (!params.is_empty() || !tags.is_empty())
                        && store::count_pairs(tx, run.no).await? > config.max_pairs
                    {
                        return Err(over("parameters and tags in a run", config.max_pairs));
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Removes a tag of a run.
    pub(in crate::tracking) async fn delete_tag(
        &self,
        ctx: &Ctx,
        id: &str,
        key: &str,
    ) -> TrackingResult<()> {
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let run = scope::run(tx, ctx, Action::Track, id).await?;
                    require_active(&run)?;
                    if store::delete_tag(tx, run.no, key).await? {
                        return Ok(());
                    }
                    Err(TrackingError::missing(format!(
                        "No tag with name: {key} in run with id {id}"
                    )))
                })
            })
            .await
    }

    /// Says what a run reads.
    pub(in crate::tracking) async fn log_inputs(
        &self,
        ctx: &Ctx,
        id: &str,
        datasets: Vec<DatasetInput>,
        models: Vec<String>,
    ) -> TrackingResult<()> {
        if datasets.len() > check::MAX_DATASETS || models.len() > check::MAX_DATASETS {
            return Err(over("datasets in one request", check::MAX_DATASETS as i64));
        }
        for DatasetInput { dataset, tags } in &datasets {
            if dataset.name.is_empty() || dataset.digest.is_empty() {
                return Err(TrackingError::invalid(
                    "a dataset needs a name and a digest",
                ));
            }
            check::length("name", &dataset.name, 500)?;
            check::length("digest", &dataset.digest, 36)?;
            check::length("source", &dataset.source, 65_535)?;
            check::length("schema", dataset.schema.as_deref().unwrap_or(""), 1_048_575)?;
            check::length(
                "profile",
                dataset.profile.as_deref().unwrap_or(""),
                16_777_215,
            )?;
            for tag in tags {
                check::length("key", &tag.key, 255)?;
                check::length("value", &tag.value, 500)?;
            }
        }
        let models: Vec<(String, i64)> = models.into_iter().map(|model| (model, 0)).collect();
        let (datasets, models) = (&datasets, &models);
        let most = self.config().max_inputs;
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let run = scope::run(tx, ctx, Action::Track, id).await?;
                    require_active(&run)?;
                    store::add_inputs(tx, &run, datasets).await?;
                    store::add_run_models(tx, run.no, "in", models).await?;
                    if store::count_inputs(tx, run.no).await? > most {
                        return Err(over("inputs and outputs of a run", most));
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Says which logged models a run makes.
    pub(in crate::tracking) async fn log_outputs(
        &self,
        ctx: &Ctx,
        id: &str,
        models: Vec<(String, i64)>,
    ) -> TrackingResult<()> {
        let (models, most) = (&models, self.config().max_inputs);
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let run = scope::run(tx, ctx, Action::Track, id).await?;
                    require_active(&run)?;
                    store::add_run_models(tx, run.no, "out", models).await?;
                    if store::count_inputs(tx, run.no).await? > most {
                        return Err(over("inputs and outputs of a run", most));
                    }
                    Ok(())
                })
            })
            .await
    }

    /// The numbers of experiments that somebody named and may see.
    pub(super) async fn visible_numbers(
        &self,
        ctx: &Ctx,
        experiments: &[String],
    ) -> TrackingResult<Vec<i64>> {
        if !ctx.principal.is_authenticated() {
            return Err(Denied::Unauthenticated.into());
        }
        if experiments.len() > MAX_EXPERIMENTS {
            return Err(over("experiments in one search", MAX_EXPERIMENTS as i64));
        }
        let mut ids = Vec::with_capacity(experiments.len());
        for text in experiments {
            match self.experiment_number(ctx, text).await {
                Ok(id) => ids.push(id),
                Err(error) if error.is_missing() => {}
                Err(error) => {
                    number(text)?;
                    return Err(error);
                }
            }
        }
        ids.sort_unstable();
        ids.dedup();
        let projects = scope::visible(ctx);
        let (ids, projects) = (&ids, projects.as_deref());
        self.inner()
            .store
            .read(|tx| {
                Box::pin(async move { Ok(store::visible_experiments(tx, ids, projects).await?) })
            })
            .await
    }

    /// Runs by a filter.
    pub(in crate::tracking) async fn search_runs(
        &self,
        ctx: &Ctx,
        search: RunSearch,
    ) -> TrackingResult<Page<Run>> {
        let filter = filter::parse(Subject::Runs, &search.filter)?;
        let order = order::parse(Subject::Runs, &search.order_by)?;
        let offset = page::offset(search.token.as_deref())?;
        let ids = self.visible_numbers(ctx, &search.experiments).await?;
        let (filter, order, ids, limit, view) = (&filter, &order, &ids, search.limit, search.view);
        let (found, next) = self
            .inner()
            .store
            .read::<_, TrackingError, _>(|tx| {
                Box::pin(async move {
                    let search = store::Search {
                        filter,
                        order,
                        offset,
                        limit: limit + 1,
                    };
                    let infos = store::search_runs(tx, ids, view, &search).await?;
                    let (infos, next) = page::cut(infos, offset, limit);
                    Ok((store::with_data(tx, infos).await?, next))
                })
            })
            .await?;
        Ok(Page { items: found, next })
    }
}
