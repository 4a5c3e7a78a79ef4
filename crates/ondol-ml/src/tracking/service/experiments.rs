//! Experiments.

use ondol_auth::{Action, Ctx};

use super::scope::{self, require};
use super::{last_of_each, over, store};
use crate::tracking::Tracking;
use crate::tracking::error::{Code, TrackingError, TrackingResult};
use crate::tracking::model::{Experiment, Page, Pair, Scope, Stage, ViewType};
use crate::tracking::plan::filter::{self, Subject};
use crate::tracking::plan::{check, order, page};

/// The name of the experiment that runs without one go to.
const DEFAULT: &str = "Default";
/// Its number in the installation's scope, which clients send when they know no other.
const DEFAULT_ID: i64 = 0;
/// Experiments of one name that are looked through.
const NAMESAKES: i64 = 200;

/// An experiment about to be made.
pub(in crate::tracking) struct NewExperiment {
    /// Its name.
    pub(in crate::tracking) name: String,
    /// Where its artifacts shall be, when not here.
    pub(in crate::tracking) location: Option<String>,
    /// Its tags.
    pub(in crate::tracking) tags: Vec<Pair>,
}

fn tag(pair: &Pair) -> TrackingResult<()> {
    check::key("key", &pair.key)?;
    check::length("value", &pair.value, check::MAX_EXPERIMENT_TAG)
}

/// A number as clients write it.
pub(super) fn number(text: &str) -> TrackingResult<i64> {
    text.parse()
        .map_err(|_| TrackingError::invalid(format!("Invalid experiment ID: '{text}'")))
}

impl Tracking {
    /// The number that somebody means: their default experiment is `0` to every client.
    pub(super) async fn experiment_number(&self, ctx: &Ctx, text: &str) -> TrackingResult<i64> {
        let id = number(text)?;
        if id != DEFAULT_ID {
            return Ok(id);
        }
        let missing = || TrackingError::missing("No Experiment with id=0 exists");
        let scope = scope::home(ctx).ok_or_else(missing)?;
        require(ctx, Action::Read, &scope, || {
            "No Experiment with id=0 exists".to_owned()
        })?;
        let found = self.named_in(&scope, DEFAULT).await?;
        if let Some(found) = found {
            return Ok(found.id);
        }
        // Made when it is first needed, also by somebody who only looks: every client expects it.
        let given = (scope == Scope::Installation).then_some(DEFAULT_ID);
        let scope = &scope;
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    if let Some(found) = store::experiment_in(tx, scope, DEFAULT).await? {
                        return Ok(found.id);
                    }
                    let made =
                        store::insert_experiment(tx, scope, DEFAULT, None, given, &[]).await?;
                    Ok::<_, TrackingError>(made.id)
                })
            })
            .await
    }

    async fn named_in(&self, scope: &Scope, name: &str) -> TrackingResult<Option<Experiment>> {
        self.inner()
            .store
            .read(|tx| Box::pin(async move { Ok(store::experiment_in(tx, scope, name).await?) }))
            .await
    }

    /// Makes an experiment.
    pub(in crate::tracking) async fn create_experiment(
        &self,
        ctx: &Ctx,
        new: NewExperiment,
    ) -> TrackingResult<Experiment> {
        check::experiment_name(&new.name)?;
        let tags = last_of_each(new.tags);
        for pair in &tags {
            tag(pair)?;
        }
        if tags.len() as i64 > self.config().max_pairs {
            return Err(over("tags of an experiment", self.config().max_pairs));
        }
        if let Some(location) = &new.location {
            check::length("artifact_location", location, 2_048)?;
            if location.starts_with("mlflow-artifacts:") || location.contains(['#', '?']) {
                return Err(TrackingError::invalid(format!(
                    "Invalid artifact location: '{location}'. Leave it out, so that artifacts are kept here under the experiment's number"
                )));
            }
        }
        let name = new.name.as_str();
        let scope = self.scope_of_name(ctx, name).await?;
        require(ctx, Action::Track, &scope, || {
            format!("{name} is not visible to you")
        })?;
        let (scope, location, tags) = (&scope, new.location.as_deref(), &tags);
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    if store::experiment_in(tx, scope, name).await?.is_some() {
                        return Err(TrackingError::refused(
                            Code::ResourceAlreadyExists,
                            format!("Experiment(name={name}) already exists."),
                        ));
                    }
                    Ok(store::insert_experiment(tx, scope, name, location, None, tags).await?)
                })
            })
            .await
    }

    /// One experiment by its number.
    pub(in crate::tracking) async fn experiment(
        &self,
        ctx: &Ctx,
        id: &str,
    ) -> TrackingResult<Experiment> {
        let id = self.experiment_number(ctx, id).await?;
        self.inner()
            .store
            .read(|tx| {
                Box::pin(async move {
                    let mut found = [scope::experiment(tx, ctx, Action::Read, id).await?];
                    store::experiment_tags(tx, &mut found).await?;
                    let [found] = found;
                    Ok(found)
                })
            })
            .await
    }

    /// One experiment by its name: where a new one of this name would be, or else the only one
    /// that somebody sees.
    pub(in crate::tracking) async fn experiment_by_name(
        &self,
        ctx: &Ctx,
        name: &str,
    ) -> TrackingResult<Experiment> {
        let first = self.scope_of_name(ctx, name).await.ok();
        if name == DEFAULT && first == scope::home(ctx) && first.is_some() {
            return self.experiment(ctx, "0").await;
        }
        let first = first.as_ref();
        self.inner()
            .store
            .read(|tx| {
                Box::pin(async move {
                    let missing = || format!("Could not find experiment with name '{name}'");
                    let mut found = store::experiments_named(tx, name, NAMESAKES).await?;
                    found.retain(|experiment| {
                        require(ctx, Action::Read, &experiment.scope, String::new).is_ok()
                    });
                    if let Some(at) = found
                        .iter()
                        .position(|experiment| Some(&experiment.scope) == first)
                    {
                        found.swap(0, at);
                        found.truncate(1);
                    }
                    if found.len() > 1 {
                        return Err(TrackingError::invalid(format!(
                            "there are several experiments with the name '{name}': ask for one by its number"
                        )));
                    }
                    store::experiment_tags(tx, &mut found).await?;
                    found
                        .pop()
                        .ok_or_else(|| match ctx.principal.is_authenticated() {
                            true => TrackingError::missing(missing()),
                            false => ondol_auth::Denied::Unauthenticated.into(),
                        })
                })
            })
            .await
    }

    /// Experiments by a filter.
    pub(in crate::tracking) async fn search_experiments(
        &self,
        ctx: &Ctx,
        filter: &str,
        order_by: &[String],
        view: ViewType,
        limit: i64,
        token: Option<&str>,
    ) -> TrackingResult<Page<Experiment>> {
        if !ctx.principal.is_authenticated() {
            return Err(ondol_auth::Denied::Unauthenticated.into());
        }
        let filter = filter::parse(Subject::Experiments, filter)?;
        let order = order::parse(Subject::Experiments, order_by)?;
        let offset = page::offset(token)?;
        let projects = scope::visible(ctx);
        if offset == 0
            && let Some(home) = scope::home(ctx)
            && require(ctx, Action::Read, &home, String::new).is_ok()
        {
            self.experiment_number(ctx, "0").await?;
        }
        let (filter, order, projects) = (&filter, &order, projects.as_deref());
        let found = self
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
                    let mut found = store::search_experiments(tx, projects, view, &search).await?;
                    store::experiment_tags(tx, &mut found).await?;
                    Ok(found)
                })
            })
            .await?;
        let (items, next) = page::cut(found, offset, limit);
        Ok(Page { items, next })
    }

    /// Gives an experiment another name. It stays whose it is.
    pub(in crate::tracking) async fn rename_experiment(
        &self,
        ctx: &Ctx,
        id: &str,
        name: &str,
    ) -> TrackingResult<()> {
        check::experiment_name(name)?;
        let id = self.experiment_number(ctx, id).await?;
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let found = scope::experiment(tx, ctx, Action::Track, id).await?;
                    if found.stage != Stage::Active {
                        return Err(TrackingError::invalid(
                            "Cannot rename a non-active experiment.",
                        ));
                    }
                    if let Some(other) = store::experiment_in(tx, &found.scope, name).await?
                        && other.id != id
                    {
                        return Err(TrackingError::refused(
                            Code::ResourceAlreadyExists,
                            format!("Experiment(name={name}) already exists."),
                        ));
                    }
                    Ok(store::rename_experiment(tx, id, name).await?)
                })
            })
            .await
    }

    /// Puts an experiment with its runs into the bin, or takes it out.
    pub(in crate::tracking) async fn stage_experiment(
        &self,
        ctx: &Ctx,
        id: &str,
        stage: Stage,
    ) -> TrackingResult<()> {
        let id = self.experiment_number(ctx, id).await?;
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let found = scope::experiment(tx, ctx, Action::Track, id).await?;
                    if found.stage == stage {
                        let state = match stage {
                            Stage::Active => "deleted",
                            Stage::Deleted => "active",
                        };
                        return Err(TrackingError::missing(format!(
                            "No Experiment with id={id} exists in the '{state}' state"
                        )));
                    }
                    Ok(store::stage_experiment(tx, id, stage).await?)
                })
            })
            .await
    }

    /// Sets a tag of an experiment.
    pub(in crate::tracking) async fn set_experiment_tag(
        &self,
        ctx: &Ctx,
        id: &str,
        pair: Pair,
    ) -> TrackingResult<()> {
        tag(&pair)?;
        let id = self.experiment_number(ctx, id).await?;
        let (pair, most) = (&pair, self.config().max_pairs);
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let found = scope::experiment(tx, ctx, Action::Track, id).await?;
                    require_active(&found)?;
                    store::set_experiment_tag(tx, id, pair).await?;
                    if store::count_experiment_tags(tx, id).await? > most {
                        return Err(over("tags of an experiment", most));
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Removes a tag of an experiment.
    pub(in crate::tracking) async fn delete_experiment_tag(
        &self,
        ctx: &Ctx,
        id: &str,
        key: &str,
    ) -> TrackingResult<()> {
        let id = self.experiment_number(ctx, id).await?;
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let found = scope::experiment(tx, ctx, Action::Track, id).await?;
                    require_active(&found)?;
                    if store::delete_experiment_tag(tx, id, key).await? {
                        return Ok(());
                    }
                    Err(TrackingError::missing(format!(
                        "No tag with name: {key} in experiment with id {id}"
                    )))
                })
            })
            .await
    }
}

/// Only experiments that are in use change.
pub(super) fn require_active(experiment: &Experiment) -> TrackingResult<()> {
    if experiment.stage == Stage::Active {
        return Ok(());
    }
    Err(TrackingError::invalid(format!(
        "The experiment {} must be in the 'active' state. Current state is {}.",
        experiment.id,
        experiment.stage.text()
    )))
}
