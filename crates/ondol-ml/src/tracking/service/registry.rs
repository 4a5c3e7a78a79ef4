//! Registered models: names for what runs made, in the sense of the protocol. They belong to a
//! project like experiments do. Which version an application serves is not decided here but by
//! the gate over the project's own models: see design note 0010.

use ondol_auth::{Action, Ctx, Denied};
use ondol_store::Tx;

use super::scope::{self, require};
use super::{last_of_each, over, store};
use crate::tracking::Tracking;
use crate::tracking::error::{Code, TrackingError, TrackingResult};
use crate::tracking::model::{Page, Pair, RegisteredModel, RegisteredVersion, Scope};
use crate::tracking::plan::filter::{self, Subject};
use crate::tracking::plan::{check, order, page};

/// Models of one name that are looked through.
const NAMESAKES: i64 = 200;
/// The stages of a version.
const STAGES: [&str; 4] = ["None", "Staging", "Production", "Archived"];
/// Longest description, in characters.
const MAX_DESCRIPTION: usize = 5_000;

/// A version about to be registered.
pub(in crate::tracking) struct NewRegisteredVersion {
    /// The registered model.
    pub(in crate::tracking) name: String,
    /// Where its files are, as the client knows them.
    pub(in crate::tracking) source: String,
    /// The run that made it.
    pub(in crate::tracking) run_id: Option<String>,
    /// A link to that run.
    pub(in crate::tracking) run_link: Option<String>,
    /// The logged model that it is.
    pub(in crate::tracking) model_id: Option<String>,
    /// For people.
    pub(in crate::tracking) description: Option<String>,
    /// Tags.
    pub(in crate::tracking) tags: Vec<Pair>,
}

/// The number of a version as clients write it.
fn version_number(text: &str) -> TrackingResult<i64> {
    text.parse().map_err(|_| {
        TrackingError::invalid(format!(
            "Parameter 'version' must be an integer, got '{text}'."
        ))
    })
}

fn stage(text: &str) -> TrackingResult<&'static str> {
    STAGES
        .iter()
        .find(|stage| stage.eq_ignore_ascii_case(text))
        .copied()
        .ok_or_else(|| {
            TrackingError::invalid(format!(
                "Invalid Model Version stage: {text}. Value must be one of None, Staging, Production, Archived."
            ))
        })
}

fn model_tag(pair: &Pair) -> TrackingResult<()> {
    check::key("key", &pair.key)?;
    check::length("value", &pair.value, check::MAX_MODEL_TAG)
}

fn description(text: Option<&str>) -> TrackingResult<()> {
    check::length("description", text.unwrap_or(""), MAX_DESCRIPTION)
}

/// The registered model of a name: in the first scope, or else the only one that somebody sees.
async fn registered(
    tx: &mut Tx<'_>,
    ctx: &Ctx,
    action: Action,
    first: Option<&Scope>,
    name: &str,
) -> TrackingResult<RegisteredModel> {
    let missing = || format!("Registered Model with name={name} not found");
    let mut found = store::registered_named(tx, name, NAMESAKES).await?;
    found.retain(|model| require(ctx, Action::Read, &model.scope, String::new).is_ok());
    if let Some(at) = found.iter().position(|model| Some(&model.scope) == first) {
        found.swap(0, at);
        found.truncate(1);
    }
    if found.len() > 1 {
        return Err(TrackingError::invalid(format!(
            "several projects have a registered model '{name}': use a token of one project"
        )));
    }
    let model = found
        .pop()
        .ok_or_else(|| TrackingError::missing(missing()))?;
    require(ctx, action, &model.scope, missing)?;
    Ok(model)
}

async fn version_of(
    tx: &mut Tx<'_>,
    model: &RegisteredModel,
    version: i64,
) -> TrackingResult<RegisteredVersion> {
    store::registered_version(tx, &model.scope, &model.name, version)
        .await?
        .ok_or_else(|| {
            TrackingError::missing(format!(
                "Model Version (name={}, version={version}) not found",
                model.name
            ))
        })
}

async fn complete(
    tx: &mut Tx<'_>,
    version: RegisteredVersion,
) -> TrackingResult<RegisteredVersion> {
    let mut found = [version];
    store::version_data(tx, &mut found).await?;
    let [found] = found;
    Ok(found)
}

/// A registered model that something is done with: its name, whose it probably is, and how.
macro_rules! with_model {
    ($self:ident, $ctx:ident, write $action:expr, $name:ident, |$tx:ident, $model:ident| $body:expr) => {{
        let first = $self.scope_of_name($ctx, $name).await.ok();
        let first = first.as_ref();
        signed_in($ctx)?;
        $self
            .inner()
            .store
            .write(|$tx| {
                Box::pin(async move {
                    #[allow(unused_mut, reason = "some operations change what they read")]
                    let mut $model = registered($tx, $ctx, $action, first, $name).await?;
                    $body
                })
            })
            .await
    }};
    ($self:ident, $ctx:ident, read, $name:ident, |$tx:ident, $model:ident| $body:expr) => {{
        let first = $self.scope_of_name($ctx, $name).await.ok();
        let first = first.as_ref();
        signed_in($ctx)?;
        $self
            .inner()
            .store
            .read(|$tx| {
                Box::pin(async move {
                    #[allow(unused_mut, reason = "some operations change what they read")]
                    let mut $model = registered($tx, $ctx, Action::Read, first, $name).await?;
                    $body
                })
            })
            .await
    }};
}

fn signed_in(ctx: &Ctx) -> TrackingResult<()> {
    if ctx.principal.is_authenticated() {
        return Ok(());
    }
    Err(Denied::Unauthenticated.into())
}

impl Tracking {
    /// Makes a registered model.
    pub(in crate::tracking) async fn create_registered(
        &self,
        ctx: &Ctx,
        name: &str,
        about: Option<&str>,
        tags: Vec<Pair>,
    ) -> TrackingResult<RegisteredModel> {
        check::model_name(name)?;
        description(about)?;
        let tags = last_of_each(tags);
        tags.iter().try_for_each(model_tag)?;
        let config = self.config();
        let scope = self.scope_of_name(ctx, name).await?;
        require(ctx, Action::Track, &scope, || {
            format!("{name} is not visible to you")
        })?;
        let (scope, tags) = (&scope, &tags);
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    let taken = store::registered_named(tx, name, NAMESAKES)
                        .await?
                        .into_iter()
                        .any(|model| model.scope == *scope);
                    if taken {
                        return Err(TrackingError::refused(
                            Code::ResourceAlreadyExists,
                            format!("Registered Model (name={name}) already exists."),
                        ));
                    }
                    if store::count_registered(tx, scope).await? >= config.max_models {
                        return Err(over("registered models", config.max_models));
                    }
                    store::insert_registered(tx, scope, name, about, tags).await?;
                    let mut made = registered(tx, ctx, Action::Read, Some(scope), name).await?;
                    store::registered_data(tx, &mut made).await?;
                    Ok(made)
                })
            })
            .await
    }

    /// One registered model.
    pub(in crate::tracking) async fn registered(
        &self,
        ctx: &Ctx,
        name: &str,
    ) -> TrackingResult<RegisteredModel> {
        with_model!(self, ctx, read, name, |tx, model| {
            store::registered_data(tx, &mut model).await?;
            Ok(model)
        })
    }

    /// Gives a registered model another name.
    pub(in crate::tracking) async fn rename_registered(
        &self,
        ctx: &Ctx,
        name: &str,
        new: &str,
    ) -> TrackingResult<RegisteredModel> {
        check::model_name(new)?;
        with_model!(self, ctx, write Action::Track, name, |tx, model| {
            let scope = model.scope.clone();
            let taken = store::registered_named(tx, new, NAMESAKES)
                .await?
                .into_iter()
                .any(|other| other.scope == scope);
            if taken && new != name {
                return Err(TrackingError::refused(
                    Code::ResourceAlreadyExists,
                    format!("Registered Model (name={new}) already exists."),
                ));
            }
            store::rename_registered(tx, &scope, name, new).await?;
            store::describe_registered(tx, &scope, new, None).await?;
            model = registered(tx, ctx, Action::Read, Some(&scope), new).await?;
            store::registered_data(tx, &mut model).await?;
            Ok(model)
        })
    }

    /// Describes a registered model.
    pub(in crate::tracking) async fn describe_registered(
        &self,
        ctx: &Ctx,
        name: &str,
        about: Option<&str>,
    ) -> TrackingResult<RegisteredModel> {
        description(about)?;
        with_model!(self, ctx, write Action::Track, name, |tx, model| {
            let scope = model.scope.clone();
            store::describe_registered(tx, &scope, name, about).await?;
            model = registered(tx, ctx, Action::Read, Some(&scope), name).await?;
            store::registered_data(tx, &mut model).await?;
            Ok(model)
        })
    }

    /// Removes a registered model with its versions. The runs and files stay.
    pub(in crate::tracking) async fn delete_registered(
        &self,
        ctx: &Ctx,
        name: &str,
    ) -> TrackingResult<()> {
        with_model!(self, ctx, write Action::Track, name, |tx, model| {
            Ok(store::delete_registered(tx, &model.scope, name).await?)
        })
    }

    /// Sets a tag of a registered model, or of one of its versions.
    pub(in crate::tracking) async fn set_registered_tag(
        &self,
        ctx: &Ctx,
        name: &str,
        version: Option<&str>,
        pair: Pair,
    ) -> TrackingResult<()> {
        model_tag(&pair)?;
        let version = version.map(version_number).transpose()?;
        let (pair, most) = (&pair, self.config().max_pairs);
        with_model!(self, ctx, write Action::Track, name, |tx, model| {
            if let Some(version) = version {
                version_of(tx, &model, version).await?;
            }
            let (scope, number) = (&model.scope, version.unwrap_or(0));
            store::set_registered_tags(tx, scope, name, number, std::slice::from_ref(pair)).await?;
            if store::count_registered_tags(tx, scope, name, number).await? > most {
                return Err(over("tags of a model", most));
            }
            Ok(())
        })
    }

    /// Removes a tag of a registered model, or of one of its versions.
    pub(in crate::tracking) async fn delete_registered_tag(
        &self,
        ctx: &Ctx,
        name: &str,
        version: Option<&str>,
        key: &str,
    ) -> TrackingResult<()> {
        let version = version.map(version_number).transpose()?;
        with_model!(self, ctx, write Action::Track, name, |tx, model| {
            if let Some(version) = version {
                version_of(tx, &model, version).await?;
            }
            let number = version.unwrap_or(0);
            Ok(store::delete_registered_tag(tx, &model.scope, name, number, key).await?)
        })
    }

    /// Points an alias to a version, or takes it away.
    pub(in crate::tracking) async fn set_alias(
        &self,
        ctx: &Ctx,
        name: &str,
        alias: &str,
        version: Option<&str>,
    ) -> TrackingResult<()> {
        check::alias(alias)?;
        let version = version.map(version_number).transpose()?;
        with_model!(self, ctx, write Action::Track, name, |tx, model| {
            match version {
                Some(version) => {
                    version_of(tx, &model, version).await?;
                    store::set_alias(tx, &model.scope, name, alias, version).await?;
                }
                None => store::delete_alias(tx, &model.scope, name, alias).await?,
            }
            Ok(())
        })
    }

    /// The version that an alias points to.
    pub(in crate::tracking) async fn version_by_alias(
        &self,
        ctx: &Ctx,
        name: &str,
        alias: &str,
    ) -> TrackingResult<RegisteredVersion> {
        with_model!(self, ctx, read, name, |tx, model| {
            let number = store::alias(tx, &model.scope, name, alias)
                .await?
                .ok_or_else(|| {
                    TrackingError::invalid(format!("Registered model alias {alias} not found."))
                })?;
            let version = version_of(tx, &model, number).await?;
            complete(tx, version).await
        })
    }

    /// Registers a version of what a run or a logged model has.
    pub(in crate::tracking) async fn create_version(
        &self,
        ctx: &Ctx,
        new: NewRegisteredVersion,
    ) -> TrackingResult<RegisteredVersion> {
        let name = new.name.as_str();
        check::model_name(name)?;
        description(new.description.as_deref())?;
        for text in [
            Some(&new.source),
            new.run_link.as_ref(),
            new.run_id.as_ref(),
        ] {
            check::length("source", text.map_or("", String::as_str), 2_048)?;
        }
        let tags = last_of_each(new.tags);
        tags.iter().try_for_each(model_tag)?;
        // A source that names a logged model stands for that model's files.
        let named = new
            .source
            .strip_prefix("models:/")
            .filter(|id| id.starts_with("m-"));
        let model_id = new
            .model_id
            .clone()
            .filter(|id| !id.is_empty())
            .or_else(|| named.map(str::to_owned));
        let storage = match (&model_id, named) {
            (_, Some(id)) => self.place_of_model(ctx, id).await?.1,
            _ => match new
                .source
                .strip_prefix("runs:/")
                .and_then(|rest| rest.split_once('/'))
            {
                Some((run, path)) => {
                    let (_, root) = self.place_of_run(ctx, run).await?;
                    format!("{root}/{path}")
                }
                None => new.source.clone(),
            },
        };
        if let Some(run) = new.run_id.as_deref().filter(|run| !run.is_empty()) {
            self.place_of_run(ctx, run).await?;
        }
        let (source, tags, storage, model_id) = (&new.source, &tags, &storage, &model_id);
        let (run_id, run_link, about) = (&new.run_id, &new.run_link, &new.description);
        let user = ctx.principal.name.as_str();
        let most = self.config().max_models;
        with_model!(self, ctx, write Action::Track, name, |tx, model| {
            let mut version = RegisteredVersion {
                scope: model.scope.clone(),
                name: model.name.clone(),
                version: 0,
                description: about.clone(),
                user: Some(user.to_owned()),
                stage: STAGES[0].to_owned(),
                source: source.clone(),
                storage: storage.clone(),
                run_id: run_id.clone(),
                run_link: run_link.clone(),
                model_id: model_id.clone(),
                created: 0,
                updated: 0,
                tags: tags.clone(),
                aliases: Vec::new(),
            };
            store::insert_version(tx, &mut version).await?;
            if version.version > most {
                return Err(over("versions of a registered model", most));
            }
            Ok(version)
        })
    }

    /// One version.
    pub(in crate::tracking) async fn registered_version(
        &self,
        ctx: &Ctx,
        name: &str,
        version: &str,
    ) -> TrackingResult<RegisteredVersion> {
        let version = version_number(version)?;
        with_model!(self, ctx, read, name, |tx, model| {
            let version = version_of(tx, &model, version).await?;
            complete(tx, version).await
        })
    }

    /// Describes a version.
    pub(in crate::tracking) async fn describe_version(
        &self,
        ctx: &Ctx,
        name: &str,
        version: &str,
        about: Option<String>,
    ) -> TrackingResult<RegisteredVersion> {
        description(about.as_deref())?;
        let (version, about) = (version_number(version)?, &about);
        with_model!(self, ctx, write Action::Track, name, |tx, model| {
            let mut version = version_of(tx, &model, version).await?;
            version.description = about.clone().or(version.description);
            store::update_version(tx, &version).await?;
            let version = version_of(tx, &model, version.version).await?;
            complete(tx, version).await
        })
    }

    /// Moves a version to a stage.
    pub(in crate::tracking) async fn move_version(
        &self,
        ctx: &Ctx,
        name: &str,
        version: &str,
        to: &str,
        archive: bool,
    ) -> TrackingResult<RegisteredVersion> {
        let (version, to) = (version_number(version)?, stage(to)?);
        if archive && !matches!(to, "Staging" | "Production") {
            return Err(TrackingError::invalid(format!(
                "Model version transition cannot archive existing model versions because '{to}' is not an Active stage."
            )));
        }
        with_model!(self, ctx, write Action::Track, name, |tx, model| {
            let mut version = version_of(tx, &model, version).await?;
            version.stage = to.to_owned();
            store::update_version(tx, &version).await?;
            if archive {
                store::archive_others(tx, &version).await?;
            }
            let version = version_of(tx, &model, version.version).await?;
            complete(tx, version).await
        })
    }

    /// Removes a version. The files stay with the run or logged model.
    pub(in crate::tracking) async fn delete_version(
        &self,
        ctx: &Ctx,
        name: &str,
        version: &str,
    ) -> TrackingResult<()> {
        let version = version_number(version)?;
        with_model!(self, ctx, write Action::Track, name, |tx, model| {
            version_of(tx, &model, version).await?;
            Ok(store::delete_version(tx, &model.scope, name, version).await?)
        })
    }

    /// Registered models by a filter.
    pub(in crate::tracking) async fn search_registered(
        &self,
        ctx: &Ctx,
        filter: &str,
        order_by: &[String],
        limit: i64,
        token: Option<&str>,
    ) -> TrackingResult<Page<RegisteredModel>> {
        signed_in(ctx)?;
        let filter = filter::parse(Subject::RegisteredModels, filter)?;
        let order = order::parse(Subject::RegisteredModels, order_by)?;
        let offset = page::offset(token)?;
        let projects = scope::visible(ctx);
        let (filter, order, projects) = (&filter, &order, projects.as_deref());
        let (items, next) = self
            .inner()
            .store
            .read::<_, TrackingError, _>(|tx| {
                Box::pin(async move {
                    let search = store::RegistrySearch {
                        projects,
                        filter,
                        order,
                        offset,
                        limit: limit + 1,
                    };
                    let found = store::search_registered(tx, &search).await?;
                    let (mut items, next) = page::cut(found, offset, limit);
                    for model in &mut items {
                        store::registered_data(tx, model).await?;
                    }
                    Ok((items, next))
                })
            })
            .await?;
        Ok(Page { items, next })
    }

    /// Versions by a filter.
    pub(in crate::tracking) async fn search_versions(
        &self,
        ctx: &Ctx,
        filter: &str,
        order_by: &[String],
        limit: i64,
        token: Option<&str>,
    ) -> TrackingResult<Page<RegisteredVersion>> {
        signed_in(ctx)?;
        let filter = filter::parse(Subject::ModelVersions, filter)?;
        let order = order::parse(Subject::ModelVersions, order_by)?;
        let offset = page::offset(token)?;
        let projects = scope::visible(ctx);
        let (filter, order, projects) = (&filter, &order, projects.as_deref());
        let found = self
            .inner()
            .store
            .read::<_, TrackingError, _>(|tx| {
                Box::pin(async move {
                    let search = store::RegistrySearch {
                        projects,
                        filter,
                        order,
                        offset,
                        limit: limit + 1,
                    };
                    let mut found = store::search_versions(tx, &search).await?;
                    store::version_data(tx, &mut found).await?;
                    Ok(found)
                })
            })
            .await?;
        let (items, next) = page::cut(found, offset, limit);
        Ok(Page { items, next })
    }
}
