//! Which steps a run has.
//!
//! The spine is `checkout → install → build → test → validate → train → evaluate → image →
//! deploy`, of which a run has the parts that apply to it; `test` is always there. Steps of the
//! user join it by `needs`, `before` and `after` (see [`edges`](super::edges)).

use std::collections::BTreeMap;
use std::time::Duration;

use ondol_spec::model::{Code, Command, Engine, Limits, Spec, Train};
use ondol_types::{DatasetName, RelPath, StepName};

use super::edges;
use super::instances::{Wishes, expand};
use crate::error::PipelineError;
use crate::model::{CommandWork, DataRef, Definition, Need, Place, Program, Trigger};

/// The action that stands in for the tests of a project without tests.
pub const NO_TESTS_ACTION: &str = "no-tests";

/// The action that stands for all steps of a matrix: it has passed when they have.
pub(crate) const GATHER_ACTION: &str = "gather";

/// Names of the steps that Ondol brings.
pub mod built_in {
    /// Fetches the code and reads the specification.
    pub const CHECKOUT: &str = "checkout";
    /// Installs dependencies.
    pub const INSTALL: &str = "install";
    /// Builds.
    pub const BUILD: &str = "build";
    /// Tests.
    pub const TEST: &str = "test";
    /// Checks data and lays it out.
    pub const VALIDATE: &str = "validate";
    /// Trains.
    pub const TRAIN: &str = "train";
    /// Judges the model.
    pub const EVALUATE: &str = "evaluate";
    /// Makes the image.
    pub const IMAGE: &str = "image";
    /// Releases it.
    pub const DEPLOY: &str = "deploy";
    /// The word that `ondol.yaml` also uses for [`DEPLOY`].
    pub const RELEASE: &str = "release";

    /// All of them in the order of the spine.
    pub const SPINE: [&str; 9] = [
        CHECKOUT, INSTALL, BUILD, TEST, VALIDATE, TRAIN, EVALUATE, IMAGE, DEPLOY,
    ];
}

const CHECKOUT_TIMEOUT: Duration = Duration::from_secs(10 * 60);
const VALIDATE_TIMEOUT: Duration = Duration::from_secs(30 * 60);
const EVALUATE_TIMEOUT: Duration = Duration::from_secs(15 * 60);
const IMAGE_TIMEOUT: Duration = Duration::from_secs(30 * 60);
const DEPLOY_TIMEOUT: Duration = Duration::from_secs(2 * 60 * 60);

/// The most steps that a run may have.
pub(crate) const MAX_STEPS: usize = 400;

/// The action that waits for a person.
pub(crate) const APPROVE_ACTION: &str = "approve";

/// What is known about data and models when the graph is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainingState {
    /// The newest version of the dataset that training is about.
    pub newest: Option<DataRef>,
    /// Whether the model has a champion.
    pub champion: bool,
}

/// What the graph is made from.
#[derive(Clone, Copy, Debug)]
pub struct GraphInput<'a> {
    /// The effective specification of the commit.
    pub spec: &'a Spec,
    /// What started the run.
    pub trigger: &'a Trigger,
    /// The branch that the commit is on.
    pub branch: &'a str,
    /// What is known about data and models; only asked for when the specification has `train`.
    pub training: &'a TrainingState,
}

/// One step of the graph, before it is a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: StepName,
    /// What it does.
    pub definition: Definition,
    /// What comes first.
    pub needs: Vec<Need>,
    /// Why it will not run, when that is known from the start.
    pub skip: Option<String>,
}

/// The steps of a run in an order in which they could run one by one. `checkout`, the first, is
/// not among them: it is what made the graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// The steps.
    pub nodes: Vec<Node>,
    /// What people should know about the run.
    pub notes: Vec<String>,
    /// The data that it trains on.
    pub data: Option<DataRef>,
}

/// A step of the spine that this run has.
pub(super) struct Built {
    pub(super) name: &'static str,
    pub(super) definition: Definition,
    pub(super) skip: Option<String>,
}

/// Whether a run trains.
enum Lesson {
    /// Its graph has no training.
    Absent,
    /// It would train if there were data.
    Waiting(String),
    /// It trains on this version.
    On(DataRef),
}

/// Makes the graph of a run.
///
/// # Errors
/// [`PipelineError::Graph`] when steps of the user name something that does not exist, take a
/// name of the spine, or need each other in a circle.
pub fn graph(input: GraphInput<'_>) -> Result<Graph, PipelineError> {
    let mut graph = Graph::default();
    if let Some(only) = validation_only(&input, &mut graph) {
        let built = vec![only];
        graph.nodes = edges::join(&Wishes::default(), &[], built, input.branch)?;
        return Ok(graph);
    }
    let lesson = lesson(&input);
    let mut wishes = user_steps(input.spec)?;
    let mut built = code_steps(input.spec, &mut graph, &mut wishes)?;
    let mut after = Vec::new();
    if let Some(train) = &input.spec.train {
        training_steps(
            input.spec, train, &lesson, &mut graph, &mut built, &mut after,
        );
    }
    serving_steps(&input, &lesson, &mut graph, &mut built);
    let extra: Vec<String> = (1..input.spec.build.commands.len())
        .map(|number| format!("{}-{number}", built_in::BUILD))
        .collect();
    let mut nodes = edges::join(&wishes, &extra, built, input.branch)?;
    // Steps that will not run stand where people look for them, in front of what they belong to.
    let place = nodes
        .iter()
        .position(|node| matches!(node.name.as_str(), built_in::IMAGE | built_in::DEPLOY))
        .unwrap_or(nodes.len());
    nodes.splice(place..place, after);
    if nodes.len() > MAX_STEPS {
        return Err(PipelineError::Graph(format!(
            "there are {} steps, and a run may have {MAX_STEPS}",
            nodes.len()
        )));
    }
    graph.nodes = nodes;
    Ok(graph)
}

/// What the first step of every run does.
pub(crate) fn checkout_definition() -> Definition {
    Definition::action(built_in::CHECKOUT, CHECKOUT_TIMEOUT)
}

fn built(name: &'static str, definition: Definition) -> Built {
    Built {
        name,
        definition,
        skip: None,
    }
}

/// Data that nothing trains on is checked, and that is all.
fn validation_only(input: &GraphInput<'_>, graph: &mut Graph) -> Option<Built> {
    let Trigger::Data {
        dataset,
        version,
        number,
    } = input.trigger
    else {
        return None;
    };
    if input.spec.trains_on(dataset) {
        return None;
    }
    graph.notes.push(match &input.spec.train {
        Some(_) => {
            format!("dataset `{dataset}` is not what `train.on.data` names: it was only checked")
        }
        None => format!("nothing trains on dataset `{dataset}`: it was only checked"),
    });
    graph.data = Some(DataRef {
        dataset: dataset.clone(),
        version: version.clone(),
        number: *number,
    });
    Some(built(
        built_in::VALIDATE,
        Definition::action(built_in::VALIDATE, VALIDATE_TIMEOUT),
    ))
}

fn lesson(input: &GraphInput<'_>) -> Lesson {
    let Some(train) = &input.spec.train else {
        return Lesson::Absent;
    };
    match input.trigger {
        Trigger::Data {
            dataset,
            version,
            number,
        } => Lesson::On(DataRef {
            dataset: dataset.clone(),
            version: version.clone(),
            number: *number,
        }),
        Trigger::Push { default_branch, .. } | Trigger::Manual { default_branch, .. } => {
            let wanted = *default_branch
                && match train.on.code {
                    Code::Always => true,
                    Code::First => !input.training.champion,
                    Code::Never => false,
                };
            match &input.training.newest {
                Some(data) if wanted => Lesson::On(data.clone()),
                None if *default_branch && !input.training.champion => {
                    Lesson::Waiting(waiting_for_data(train.on.data.as_ref()))
                }
                _ => Lesson::Absent,
            }
        }
    }
}

fn waiting_for_data(dataset: Option<&DatasetName>) -> String {
    match dataset {
        Some(dataset) => {
            format!("waiting for data: `ondol data push {dataset} FILE` starts training")
        }
        None => "waiting for data".to_owned(),
    }
}

fn shell(spec: &Spec, run: &str, place: Place, env: &BTreeMap<String, String>) -> CommandWork {
    let mut all = spec.env.clone();
    all.extend(
        env.iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    CommandWork {
        program: Program::Shell(run.to_owned()),
        place,
        env: all,
        path: spec.build.path.clone(),
        links: match place {
            Place::Source => Vec::new(),
            Place::Copy => spec.build.cache.clone(),
        },
        junit: Vec::new(),
        quarantine: Vec::new(),
        limits: Limits::default(),
        secrets: Vec::new(),
        data: None,
        model: None,
        tracked: spec.train.is_some(),
        artifacts: Vec::new(),
        takes: Vec::new(),
        image: None,
        services: BTreeMap::new(),
    }
}

/// The image of a command, where it asks for one or for the engine that needs one.
fn image(spec: &Spec, image: Option<&String>, engine: Engine) -> Option<String> {
    let base = || spec.build.base.as_ref().map(ToString::to_string);
    match image {
        Some(image) => Some(image.clone()),
        None if engine == Engine::Container => base(),
        None => None,
    }
}

fn code_steps(
    spec: &Spec,
    graph: &mut Graph,
    wishes: &mut Wishes,
) -> Result<Vec<Built>, PipelineError> {
    let mut steps = vec![built(built_in::CHECKOUT, checkout_definition())];
    let command = |command: &Command| {
        let mut env = spec.build.env.clone();
        env.extend(
            command
                .env
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        Definition::command(
            shell(spec, &command.run, Place::Source, &env),
            command.timeout.duration(),
        )
    };
    if let Some(install) = &spec.build.install {
        steps.push(built(built_in::INSTALL, command(install)));
    }
    for build in &spec.build.commands {
        steps.push(built(built_in::BUILD, command(build)));
    }
    steps.push(match &spec.test {
        Some(test) => {
            let mut work = shell(spec, &test.run, Place::Copy, &test.env);
            work.junit = test.junit.clone();
            work.quarantine = test.quarantine.clone();
            work.artifacts = test.artifacts.clone();
            work.image = image(spec, test.image.as_ref(), test.engine);
            work.services = test.services.clone();
            let definition = Definition::command(work, test.timeout.duration());
            let definition = match &test.matrix {
                Some(matrix) => {
                    let wish = Wish {
                        definition,
                        // Whatever the spine has in front of the tests.
                        needs: name(built_in::BUILD).into_iter().collect(),
                        before: Vec::new(),
                        after: Vec::new(),
                        branches: Vec::new(),
                        member_of: None,
                    };
                    expand(built_in::TEST, matrix, wish, wishes)?
                }
                None => definition,
            };
            built(built_in::TEST, definition)
        }
        None => {
            graph.notes.push(
                "this project has no tests: add some, or name the command under `test` in ondol.yaml".to_owned(),
            );
            built(built_in::TEST, Definition::action(NO_TESTS_ACTION, Duration::from_secs(60)))
        }
    });
    Ok(steps)
}

fn name(text: &str) -> Option<StepName> {
    text.parse().ok()
}

fn training_steps(
    spec: &Spec,
    train: &Train,
    lesson: &Lesson,
    graph: &mut Graph,
    steps: &mut Vec<Built>,
    skipped: &mut Vec<Node>,
) {
    let why = match lesson {
        Lesson::Absent => return,
        Lesson::Waiting(why) => Some(why.clone()),
        Lesson::On(data) => {
            graph.data = Some(data.clone());
            None
        }
    };
    let dataset = graph
        .data
        .as_ref()
        .map(|data| &data.dataset)
        .or(train.on.data.as_ref());
    let definitions = [
        (
            built_in::VALIDATE,
            Definition::action(built_in::VALIDATE, VALIDATE_TIMEOUT),
        ),
        (
            built_in::TRAIN,
            Definition::command(
                training_work(spec, train, dataset),
                train.timeout.duration(),
            ),
        ),
        (
            built_in::EVALUATE,
            Definition::action(built_in::EVALUATE, EVALUATE_TIMEOUT),
        ),
    ];
    match why {
        None => steps.extend(definitions.map(|(name, definition)| built(name, definition))),
        Some(why) => {
            graph.notes.push(why.clone());
            skipped.extend(definitions.into_iter().filter_map(|(name, definition)| {
                Some(Node {
                    name: name.parse().ok()?,
                    definition,
                    needs: Vec::new(),
                    skip: Some(why.clone()),
                })
            }));
        }
    }
}

fn training_work(spec: &Spec, train: &Train, dataset: Option<&DatasetName>) -> CommandWork {
    let mut work = shell(
        spec,
        train.run.as_deref().unwrap_or_default(),
        Place::Copy,
        &train.env,
    );
    if let (None, Some(auto)) = (&train.run, &train.auto) {
        work.program = Program::TrainAuto(auto.clone());
    }
    work.limits = train.limits.clone();
    work.secrets = spec.secrets.clone();
    work.model = Some(train.model.to_string());
    work.data = dataset.and_then(|dataset| data_path(spec, dataset));
    work
}

fn data_path(spec: &Spec, dataset: &DatasetName) -> Option<RelPath> {
    let written = spec.data.get(dataset).and_then(|data| data.path.clone());
    written.or_else(|| format!("data/{dataset}").parse().ok())
}

fn serving_steps(
    input: &GraphInput<'_>,
    lesson: &Lesson,
    graph: &mut Graph,
    steps: &mut Vec<Built>,
) {
    let spec = input.spec;
    if spec.service.is_none() {
        if spec.train.is_none() {
            graph.notes.push(
                "nothing is served: no service was detected, and ondol.yaml names none under `service`".to_owned(),
            );
        }
        return;
    }
    steps.push(built(
        built_in::IMAGE,
        Definition::action(built_in::IMAGE, IMAGE_TIMEOUT),
    ));
    if !input.trigger.is_production() && !spec.previews.wants(input.branch) {
        return;
    }
    let needs_model =
        spec.train.is_some() && !input.training.champion && !matches!(lesson, Lesson::On(_));
    let mut definition = Definition::action(built_in::DEPLOY, DEPLOY_TIMEOUT);
    definition.waits = true;
    steps.push(Built {
        name: built_in::DEPLOY,
        definition,
        skip: needs_model.then(|| {
            "waiting for a model: the service needs one, and none has been trained".to_owned()
        }),
    });
    if needs_model {
        graph
            .notes
            .push("the service is not deployed yet: it waits for a model".to_owned());
    }
}

/// A step of the user, as far as the graph is concerned.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) definition: Definition,
    pub(super) needs: Vec<StepName>,
    pub(super) before: Vec<StepName>,
    pub(super) after: Vec<StepName>,
    pub(super) branches: Vec<ondol_spec::model::Pattern>,
    /// The step that stands for all of its matrix, which comes directly behind it.
    pub(super) member_of: Option<StepName>,
}

fn user_steps(spec: &Spec) -> Result<Wishes, PipelineError> {
    let mut wishes = Wishes::default();
    for (name, step) in &spec.steps {
        let mut work = shell(spec, &step.run, Place::Copy, &step.env);
        work.junit = step.junit.clone();
        work.limits = step.limits.clone();
        work.artifacts = step.artifacts.clone();
        work.image = image(spec, step.image.as_ref(), step.engine);
        work.services = step.services.clone();
        let definition = match &step.approve {
            Some(approve) => Definition {
                allow_failure: step.allow_failure,
                waits: true,
                approval: Some(approve.clone()),
                ..Definition::action(APPROVE_ACTION, approve.timeout.duration())
            },
            None => Definition {
                retries: u32::from(step.retries.min(10)),
                repeatable: step.repeatable,
                allow_failure: step.allow_failure,
                ..Definition::command(work, step.timeout.duration())
            },
        };
        let wish = Wish {
            definition,
            needs: step.needs.clone(),
            before: step.before.clone(),
            after: step.after.clone(),
            branches: step.branches.clone(),
            member_of: None,
        };
        match &step.matrix {
            None => {
                wishes.add(name.clone(), wish)?;
            }
            Some(matrix) => {
                let group = Wish {
                    needs: Vec::new(),
                    after: Vec::new(),
                    ..wish.clone()
                };
                let members = Wish {
                    before: Vec::new(),
                    ..wish
                };
                let definition = expand(name.as_str(), matrix, members, &mut wishes)?;
                wishes.add(
                    name.clone(),
                    Wish {
                        definition,
                        ..group
                    },
                )?;
            }
        }
    }
    Ok(wishes)
}
