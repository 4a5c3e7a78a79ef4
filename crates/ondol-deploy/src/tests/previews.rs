//! Environments of branches: of their own, never production's, and gone with the branch.

use std::time::Duration;

use ondol_store::events::NewEvent;
use ondol_types::{Classified, EnvironmentName, ErrorKind, EventId, event};

use super::fakes::image;
use super::sim::{Sim, plain, production, sims, spec, web};
use crate::model::{ModelRef, Preview, ReplicaState, RolloutState};
use crate::service::{DeployRequest, EnvironmentStatus};
use crate::{DeployError, Hosts};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn chain(sim: &Sim) -> Option<String> {
    Some(EventId::generate(&*sim.clock).to_string())
}

fn asked(sim: &Sim, key: &str, number: u8, branch: &str) -> DeployRequest {
    let spec = spec(|spec| {
        let service = spec.service.as_mut().unwrap();
        service.hosts = vec!["shop.example.org".parse().unwrap()];
        spec.volumes
            .insert("state".parse().unwrap(), "data".parse().unwrap());
    });
    DeployRequest {
        environment: Preview::environment_of(branch),
        preview: Some(Preview {
            branch: branch.to_owned(),
            expire: 7 * DAY,
        }),
        chain: chain(sim),
        ..sim.request_of(key, number, spec)
    }
}

async fn deleted(sim: &mut Sim, branch: &str) {
    let event = NewEvent::new(event::BRANCH_DELETED, branch)
        .project(&web())
        .content(serde_json::json!({ "repository": { "id": "web" } }));
    sim.append(event).await;
    sim.settle().await;
}

async fn status(sim: &Sim) -> Vec<EnvironmentStatus> {
    sim.process
        .service
        .status(&sim.ctx(), &web())
        .await
        .unwrap()
}

fn of<'s>(all: &'s [EnvironmentStatus], name: &EnvironmentName) -> Option<&'s EnvironmentStatus> {
    all.iter().find(|status| status.environment.name == *name)
}

/// The release numbers and hosts behind the own host of an environment.
fn behind(sim: &Sim, name: &EnvironmentName) -> Vec<(String, Vec<i64>)> {
    let table = sim.outside.table();
    let routes = table
        .routes
        .iter()
        .filter(|route| route.environment == *name);
    routes
        .map(|route| {
            let place = match &route.hosts {
                Hosts::Own => route.path.clone(),
                Hosts::Named(hosts) => hosts.join(" "),
            };
            let numbers = route.backends.iter().map(|backend| backend.number);
            (place, numbers.collect())
        })
        .collect()
}

async fn gone(sim: &mut Sim, name: &EnvironmentName) {
    let name = name.clone();
    sim.until("the end of the preview", SECOND, 100, async |sim: &Sim| {
        of(&status(sim).await, &name).is_none()
    })
    .await;
}

#[tokio::test]
async fn a_branch_has_an_environment_of_its_own_until_it_is_deleted() {
    for mut sim in sims().await {
        let hosts = spec(|spec| {
            let service = spec.service.as_mut().unwrap();
            service.hosts = vec!["shop.example.org".parse().unwrap()];
        });
        sim.live("one", 1, hosts).await;
        let before = (sim.current().await, behind(&sim, &production()));
        let topic: EnvironmentName = "preview-topic".parse().unwrap();
        let request = asked(&sim, "topic", 2, "topic");
        let id = sim.request(request).await;
        assert_eq!(sim.finish(id).await.state, RolloutState::Done);
        assert_eq!(
            behind(&sim, &topic),
            [
                ("preview-topic.web.localhost".to_owned(), vec![1]),
                ("/apps/preview-topic.web/".to_owned(), vec![1]),
            ],
            "the hosts of the specification stay with production"
        );
        let all = status(&sim).await;
        let shown = of(&all, &topic).unwrap();
        assert_eq!(shown.path, "/apps/preview-topic.web/");
        assert_eq!(shown.current.as_ref().unwrap().image, image(2));
        let workload = sim.outside.running(&image(2))[0];
        let given = sim.outside.spec(&workload);
        assert_eq!(given.env["ONDOL_ENVIRONMENT"], "preview-topic");
        let volume = given.volumes[0].0.clone();
        assert!(
            volume.ends_with("web.preview-topic/state") && volume.is_dir(),
            "{}",
            volume.display()
        );
        let same = async |sim: &Sim| {
            assert_eq!((sim.current().await, behind(sim, &production())), before);
        };
        same(&sim).await;

        deleted(&mut sim, "topic").await;
        assert!(behind(&sim, &topic).is_empty(), "no request gets there");
        gone(&mut sim, &topic).await;
        assert!(sim.outside.running(&image(2)).is_empty());
        sim.retain().await;
        assert!(!volume.exists(), "nothing could reach it any more");
        same(&sim).await;
        assert_eq!(sim.outside.running(&image(1)).len(), 1);
        // Another branch that never had one.
        deleted(&mut sim, "other").await;
        same(&sim).await;
    }
}

#[tokio::test]
async fn a_late_run_does_not_bring_a_deleted_branch_back_and_a_new_push_does() {
    for mut sim in sims().await {
        sim.live("one", 1, plain()).await;
        let late = asked(&sim, "late", 2, "topic");
        sim.pass(SECOND).await;
        deleted(&mut sim, "topic").await;
        sim.pass(SECOND).await;
        let service = sim.process.service.clone();
        let refused = service.request(&sim.ctx(), late.clone()).await.unwrap_err();
        assert!(
            matches!(&refused, DeployError::BranchGone { branch, .. } if branch == "topic"),
            "{refused:?}"
        );
        sim.retain().await;
        assert!(service.request(&sim.ctx(), late).await.is_err());
        let again = asked(&sim, "again", 3, "topic");
        let id = sim.request(again).await;
        assert_eq!(sim.finish(id).await.state, RolloutState::Done);
        sim.retain().await;
        assert_eq!(sim.outside.running(&image(3)).len(), 1);
        // While it is being removed it cannot be had again yet.
        deleted(&mut sim, "topic").await;
        sim.pass(Duration::from_millis(1)).await;
        let name = Preview::environment_of("topic");
        if of(&status(&sim).await, &name).is_some() {
            let early = asked(&sim, "early", 4, "topic");
            let error = service.request(&sim.ctx(), early).await.unwrap_err();
            assert!(matches!(error, DeployError::Removing { .. }), "{error:?}");
        }
        gone(&mut sim, &name).await;
        sim.pass(SECOND).await;
        let once_more = asked(&sim, "once-more", 5, "topic");
        let id = sim.request(once_more).await;
        assert_eq!(sim.finish(id).await.state, RolloutState::Done);
    }
}

#[tokio::test]
async fn a_branch_that_nobody_pushes_loses_its_preview() {
    for mut sim in sims().await {
        sim.live("one", 1, plain()).await;
        let first = asked(&sim, "first", 2, "topic");
        let id = sim.request(first).await;
        sim.finish(id).await;
        sim.clock.advance(6 * DAY);
        let second = asked(&sim, "second", 3, "topic");
        let id = sim.request(second).await;
        sim.finish(id).await;
        sim.clock.advance(6 * DAY);
        sim.retain().await;
        sim.settle().await;
        let name = Preview::environment_of("topic");
        assert!(of(&status(&sim).await, &name).is_some(), "it was pushed");
        sim.clock.advance(2 * DAY);
        sim.retain().await;
        gone(&mut sim, &name).await;
        sim.retain().await;
        assert_eq!(sim.outside.serving("web"), [(1, 100)]);
        let again = asked(&sim, "again", 4, "topic");
        let id = sim.request(again).await;
        assert_eq!(sim.finish(id).await.state, RolloutState::Done);
    }
}

#[tokio::test]
async fn what_a_preview_may_not() {
    for mut sim in sims().await {
        sim.live("one", 1, plain()).await;
        let service = sim.process.service.clone();
        let mut bold = asked(&sim, "bold", 2, "topic");
        bold.environment = production();
        let error = service.request(&sim.ctx(), bold).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let mut other = asked(&sim, "other", 2, "topic");
        sim.request(asked(&sim, "topic", 2, "topic")).await;
        other.preview.as_mut().unwrap().branch = "tropic".to_owned();
        let error = service.request(&sim.ctx(), other).await.unwrap_err();
        assert!(matches!(error, DeployError::BranchTaken { .. }), "{error}");
        for number in 1..sim.config().max_previews {
            let branch = format!("branch-{number}");
            sim.request(asked(&sim, &branch, 2, &branch)).await;
        }
        let more = asked(&sim, "more", 2, "one-more");
        let error = service.request(&sim.ctx(), more).await.unwrap_err();
        assert!(
            matches!(error, DeployError::TooManyPreviews { most: 20, .. }),
            "{error}"
        );
        // One that is there may be pushed again.
        sim.request(asked(&sim, "again", 3, "topic")).await;
        assert_eq!(sim.current().await.unwrap().image, image(1));
    }
}

#[tokio::test]
async fn a_preview_has_the_model_of_production() {
    for mut sim in sims().await {
        let with_model = spec(|spec| {
            let train = serde_json::json!({ "run": "train", "model": "iris" });
            spec.train = Some(serde_json::from_value(train).unwrap());
        });
        let mut request = sim.request_of("one", 1, with_model.clone());
        request.model = Some(ModelRef {
            name: "iris".parse().unwrap(),
            version: 3,
            digest: None,
        });
        let id = sim.request(request).await;
        assert_eq!(sim.finish(id).await.state, RolloutState::Done);
        let request = DeployRequest {
            spec: with_model,
            ..asked(&sim, "topic", 2, "topic")
        };
        let id = sim.request(request).await;
        assert_eq!(sim.finish(id).await.state, RolloutState::Done);
        let all = status(&sim).await;
        let shown = of(&all, &Preview::environment_of("topic")).unwrap();
        let model = shown.current.as_ref().unwrap().model.clone().unwrap();
        assert_eq!(model.version, 3);
        let ready = shown
            .replicas
            .iter()
            .filter(|status| status.replica.state == ReplicaState::Ready);
        assert_eq!(ready.count(), 1);
    }
}
