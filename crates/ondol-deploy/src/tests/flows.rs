//! What users see, on every database engine.

use std::time::Duration;

use ondol_spec::model::{SecretRef, Strategy};
use ondol_store::events::NewEvent;
use ondol_types::event::{self, ModelVersionEvent};
use ondol_types::{Classified, ErrorKind};

use super::fakes::{Behaviour, image};
use super::sim::{Sim, canary, plain, production, sim, sims, spec, web, with_command};
use crate::model::{Failure, Hold, ModelRef, Reason, ReplicaState, RolloutState};
use crate::routes::{Histogram, ReleaseTraffic};
use crate::store;
use crate::{DeployError, Kind, Standing};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_push_goes_live_and_the_next_one_takes_over_without_a_gap() {
    for mut sim in sims().await {
        let first = sim.live("one", 1, plain()).await;
        assert_eq!(first.message, "release 1 is live");
        assert_eq!(sim.outside.serving("web"), [(1, 100)]);
        let old = sim.outside.endpoints();
        sim.outside.lock().in_flight.insert(old[0], 2);
        sim.live("two", 2, plain()).await;
        assert_eq!(sim.outside.serving("web"), [(2, 100)]);
        // A slow request holds the old replica until it is through.
        sim.pass(20 * SECOND).await;
        assert_eq!(sim.outside.running(&image(1)).len(), 1);
        sim.outside.lock().in_flight.clear();
        sim.pass(SECOND).await;
        assert!(sim.outside.running(&image(1)).is_empty());
        sim.calm().await;
        let current = sim.current().await.unwrap();
        assert_eq!((current.number, current.image), (2, image(2)));
    }
}

#[tokio::test]
async fn a_request_in_progress_for_ever_is_cut_at_the_drain_deadline() {
    for mut sim in sims().await {
        sim.live("one", 1, plain()).await;
        let old = sim.outside.endpoints();
        sim.outside.lock().in_flight.insert(old[0], 1);
        sim.live("two", 2, plain()).await;
        sim.pass(28 * SECOND).await;
        assert_eq!(sim.outside.running(&image(1)).len(), 1);
        sim.outside.lock().counters_down = true;
        sim.pass(3 * SECOND).await;
        assert!(sim.outside.running(&image(1)).is_empty());
    }
}

#[tokio::test]
async fn what_a_program_is_given() {
    for mut sim in sims().await {
        sim.outside.lock().secrets.extend(
            [("TOKEN", 3), ("CERT", 7)].map(|(name, version)| (name.parse().unwrap(), version)),
        );
        let spec = spec(|spec| {
            spec.secrets = vec![
                SecretRef::env("TOKEN".parse().unwrap()),
                SecretRef::file("CERT".parse().unwrap()),
            ];
            with_command(spec);
            spec.env.insert("SHARED".into(), "project".into());
            spec.volumes
                .insert("state".parse().unwrap(), "data/state".parse().unwrap());
            spec.service
                .as_mut()
                .unwrap()
                .env
                .insert("MINE".into(), "1".into());
        });
        sim.live("one", 1, spec).await;
        let workload = sim.outside.running(&image(1))[0];
        let given = sim.outside.spec(&workload);
        let shown = |name: &str| given.env.get(name).map(String::as_str);
        assert_eq!(shown("FROM_IMAGE"), Some("1"));
        assert_eq!(
            (shown("SHARED"), shown("MINE")),
            (Some("project"), Some("1"))
        );
        assert_eq!(
            (
                shown("ONDOL_PROJECT"),
                shown("ONDOL_RELEASE"),
                shown("HOST")
            ),
            (Some("web"), Some("1"), Some("127.0.0.1"))
        );
        assert!(shown("TOKEN").is_none(), "secrets are apart");
        assert_eq!(given.secret_env["TOKEN"].expose(), "value 3");
        let file: ondol_types::RelPath = "CERT".parse().unwrap();
        assert_eq!(given.secret_files[&file].expose(), "value 7");
        assert_eq!((given.secret_env.len(), given.secret_files.len()), (1, 1));
        let command = sim.outside.command_spec();
        assert_eq!(command.secret_env["TOKEN"].expose(), "value 3");
        assert_eq!(command.secret_files[&file].expose(), "value 7");
        let (place, inside) = &given.volumes[0];
        assert!(place.ends_with("volumes/web/state") && place.is_dir());
        assert_eq!(inside.as_str(), "data/state");
        let ondol_workload::WorkDir::CopyOf(dir) = &given.work_dir else {
            panic!("a copy")
        };
        assert!(dir.ends_with("app"), "{}", dir.display());
        let release = sim.current().await.unwrap();
        let version =
            |name: &str| release.secrets[&name.parse::<ondol_types::SecretName>().unwrap()];
        assert_eq!((version("TOKEN"), version("CERT")), (3, 7));
        let volumes = sim
            .events()
            .await
            .into_iter()
            .filter(|event| event.event_type == event::VOLUME_CREATED)
            .count();
        assert_eq!(volumes, 1);
    }
}

#[tokio::test]
async fn an_image_with_a_root_of_its_own_is_given_a_container() {
    use ondol_workload::container::{Entrypoint, ImageRef};
    use ondol_workload::{PortRequest, WorkDir};
    for mut sim in sims().await {
        sim.outside.lock().rooted_images.push(image(1));
        let wanted = spec(|spec| {
            with_command(spec);
            spec.build.dockerfile = Some("Dockerfile".parse().unwrap());
            let service = spec.service.as_mut().unwrap();
            service.run = String::new();
            service.capabilities = vec!["CHOWN".parse().unwrap()];
            spec.volumes
                .insert("inner".parse().unwrap(), "data".parse().unwrap());
            spec.volumes
                .insert("outer".parse().unwrap(), "/var/lib/data".parse().unwrap());
        });
        let request = sim.request_of("none", 1, wanted.clone());
        let refused = sim.process.service.request(&sim.ctx(), request).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        assert!(refused.to_string().contains("podman"), "{refused}");

        sim.offer(crate::Offer {
            container: true,
            ..crate::Offer::default()
        });
        sim.live("one", 1, wanted).await;
        let given = sim.outside.spec(&sim.outside.running(&image(1))[0]);
        let container = given.container.as_deref().unwrap();
        assert_eq!(container.image, ImageRef::Stored(image(1)));
        assert_eq!(container.entrypoint, Entrypoint::OfImage);
        assert_eq!(container.network.as_deref(), Some("production"));
        assert_eq!(container.names, ["web"]);
        assert!(container.capabilities.contains("CHOWN"));
        let volumes: Vec<_> = container
            .volumes
            .iter()
            .map(|volume| (volume.name.as_str(), volume.target.as_str()))
            .collect();
        let expected = [
            ("production.inner", "/app/data"),
            ("production.outer", "/var/lib/data"),
        ];
        assert_eq!(volumes, expected);
        assert_eq!(given.port, PortRequest::Fixed(9000), "the image exposes it");
        assert_eq!(given.env.get("HOST").map(String::as_str), Some("0.0.0.0"));
        assert!(!given.env.contains_key("FROM_IMAGE"), "the engine has it");
        assert_eq!(given.work_dir, WorkDir::Fresh);
        let command = sim.outside.command_spec().container.unwrap();
        assert_eq!(command.entrypoint, Entrypoint::Replaced);
        assert!(command.names.is_empty(), "nobody looks for it");
    }
}

#[tokio::test]
async fn what_was_written_on_the_host_is_shared_with_the_container() {
    let mut sim = sim().await;
    sim.outside.lock().rooted_images.push(image(2));
    sim.offer(crate::Offer {
        container: true,
        ..crate::Offer::default()
    });
    let with_volume = |rooted: bool| {
        spec(move |spec| {
            spec.volumes
                .insert("state".parse().unwrap(), "data".parse().unwrap());
            if rooted {
                spec.build.dockerfile = Some("Dockerfile".parse().unwrap());
            }
        })
    };
    sim.live("one", 1, with_volume(false)).await;
    let on_host = sim.config().volumes.join("web/state");
    std::fs::write(on_host.join("row"), "1").unwrap();
    sim.live("two", 2, with_volume(true)).await;
    let given = sim.outside.spec(&sim.outside.running(&image(2))[0]);
    let container = given.container.unwrap();
    assert!(container.volumes.is_empty());
    assert_eq!(container.shared[0].source, on_host);
    assert_eq!(container.shared[0].target, "/app/data");
    assert!(!container.shared[0].read_only);
}

#[tokio::test]
async fn one_that_never_becomes_healthy_leaves_the_old_one_serving_and_says_why() {
    for mut sim in sims().await {
        sim.live("one", 1, plain()).await;
        sim.outside.behave(
            &image(2),
            Behaviour {
                status: None,
                ..Behaviour::GOOD
            },
        );
        let id = sim.push("two", 2, plain()).await;
        let failed = sim.finish(id).await;
        assert_eq!(failed.state, RolloutState::Failed);
        let Failure {
            message,
            hint,
            probe,
            listening,
            log,
        } = failed.failure.unwrap();
        assert!(
            message.contains("did not become ready within 30 s"),
            "{message}"
        );
        assert!(
            message.contains("found listening on 127.0.0.1:5000, but PORT is 200"),
            "{message}"
        );
        assert!(message.contains("GET / → connection refused"), "{message}");
        assert!(hint.unwrap().contains("$PORT"));
        assert_eq!((log.len(), listening.len()), (20, 1));
        assert!(!probe.unwrap().ok);
        assert_eq!(sim.outside.serving("web"), [(1, 100)]);
        sim.calm().await;
        assert!(sim.outside.running(&image(2)).is_empty());
        assert_eq!(sim.current().await.unwrap().number, 1);
        // The number is used up: releases are never renumbered.
        sim.live("three", 3, plain()).await;
        assert_eq!(sim.current().await.unwrap().number, 3);
    }
}

#[tokio::test]
async fn one_that_exits_at_once_fails_after_a_few_tries() {
    for mut sim in sims().await {
        sim.outside.behave(
            &image(1),
            Behaviour {
                exits: true,
                ..Behaviour::GOOD
            },
        );
        let id = sim.push("one", 1, plain()).await;
        let failed = sim.finish(id).await;
        assert_eq!(failed.state, RolloutState::Failed);
        let message = failed.failure.unwrap().message;
        assert!(
            message.contains("5 times in a row: exited with 3"),
            "{message}"
        );
        assert!(
            sim.clock_seconds() < 10.0,
            "it does not wait for the deadline"
        );
        assert!(sim.environment().await.unwrap().current.is_none());
    }
}

#[tokio::test]
async fn a_damaged_image_fails_at_once() {
    for mut sim in sims().await {
        sim.outside.lock().broken_images.push(image(1));
        let id = sim.push("one", 1, plain()).await;
        let failed = sim.finish(id).await;
        let message = failed.failure.unwrap().message;
        assert!(message.contains("a layer is damaged"), "{message}");
        assert!(sim.clock_seconds() < 1.0);
    }
}

#[tokio::test]
async fn a_release_command_runs_once_before_traffic_and_its_failure_changes_nothing() {
    for mut sim in sims().await {
        sim.live("one", 1, spec(with_command)).await;
        assert_eq!(sim.outside.command_starts(), 1);
        sim.outside.behave(
            &image(2),
            Behaviour {
                command: None,
                ..Behaviour::GOOD
            },
        );
        let id = sim.push("two", 2, spec(with_command)).await;
        sim.pass(SECOND).await;
        assert_eq!(sim.rollout(id).await.state, RolloutState::ReleaseCommand);
        assert!(
            sim.outside.running(&image(2)).is_empty(),
            "no replica before its end"
        );
        // A newer push waits for the migration instead of cutting it off.
        let newer = sim.push("three", 3, spec(with_command)).await;
        sim.pass(SECOND).await;
        assert_eq!(sim.rollout(id).await.state, RolloutState::ReleaseCommand);
        sim.outside.die(&crate::Rollout::command_workload(id), 0);
        let done = sim.finish(newer).await;
        assert_eq!(done.state, RolloutState::Done);
        assert_eq!(sim.rollout(id).await.superseded_by, Some(newer));
        assert_eq!(sim.outside.command_starts(), 3);
        sim.outside.behave(
            &image(4),
            Behaviour {
                command: Some(1),
                ..Behaviour::GOOD
            },
        );
        let id = sim.push("four", 4, spec(with_command)).await;
        let failed = sim.finish(id).await;
        let failure = failed.failure.unwrap();
        assert!(
            failure.message.contains("`migrate` exited with 1"),
            "{}",
            failure.message
        );
        assert_eq!(failure.log.len(), 20);
        assert_eq!(sim.outside.serving("web"), [(3, 100)]);
        assert!(sim.outside.running(&image(4)).is_empty());
    }
}

#[tokio::test]
async fn a_newer_push_supersedes_one_that_has_not_swapped() {
    for mut sim in sims().await {
        sim.live("one", 1, plain()).await;
        sim.outside.behave(
            &image(2),
            Behaviour {
                status: None,
                ..Behaviour::GOOD
            },
        );
        let slow = sim.push("two", 2, plain()).await;
        sim.pass(SECOND).await;
        assert_eq!(sim.rollout(slow).await.state, RolloutState::Probing);
        let newer = sim.push("three", 3, plain()).await;
        assert_eq!(sim.finish(newer).await.state, RolloutState::Done);
        let superseded = sim.rollout(slow).await;
        assert_eq!(
            (superseded.state, superseded.superseded_by),
            (RolloutState::Aborted, Some(newer))
        );
        let wanted = sim.wanted(2);
        let followed = sim
            .process
            .service
            .follow(&sim.ctx(), slow, &wanted, SECOND)
            .await
            .unwrap();
        assert_eq!(
            followed.rollout.id, newer,
            "whoever waits is led to what took its place"
        );
        assert!(
            matches!(followed.standing, Standing::Overtaken { .. }),
            "and is not told that the older code serves: {:?}",
            followed.standing
        );
        sim.calm().await;
    }
}

#[tokio::test]
async fn the_same_key_is_the_same_request() {
    for mut sim in sims().await {
        let first = sim.live("one", 1, plain()).await;
        let again = sim
            .process
            .service
            .request(&sim.ctx(), sim.request_of("one", 1, plain()))
            .await
            .unwrap();
        assert_eq!((again.rollout, again.newly), (first.id, false));
        let mut other = sim.request_of("one", 1, plain());
        other.project = "other".parse().unwrap();
        let error = sim
            .process
            .service
            .request(&sim.ctx(), other)
            .await
            .unwrap_err();
        assert!(matches!(error, DeployError::KeyReused(_)), "{error}");
        let same = sim.live("two", 1, plain()).await;
        assert!(same.message.contains("nothing changed"), "{}", same.message);
        assert_eq!(sim.current().await.unwrap().number, 1);
    }
}

#[tokio::test]
async fn a_slow_run_cannot_bring_old_code_back() {
    for mut sim in sims().await {
        let chain = |sim: &Sim| ondol_types::EventId::generate(&*sim.clock).to_string();
        let older = chain(&sim);
        sim.clock.advance(SECOND);
        let newer = chain(&sim);
        let mut request = sim.request_of("newer", 2, plain());
        request.chain = Some(newer);
        let id = sim.request(request).await;
        sim.finish(id).await;
        let mut late = sim.request_of("older", 1, plain());
        late.chain = Some(older);
        let late = sim.request(late).await;
        let over = sim.finish(late).await;
        assert_eq!(over.state, RolloutState::Aborted);
        assert!(over.message.contains("newer push"), "{}", over.message);
        assert_eq!(sim.current().await.unwrap().image, image(2));
    }
}

#[tokio::test]
async fn rollback_restores_everything_and_holds_automation() {
    for mut sim in sims().await {
        let secret = || "TOKEN".parse::<ondol_types::SecretName>().unwrap();
        let with_secret = || spec(|spec| spec.secrets = vec![SecretRef::env(secret())]);
        sim.outside.lock().secrets.insert(secret(), 1);
        sim.live("one", 1, with_secret()).await;
        sim.outside.lock().secrets.insert(secret(), 2);
        sim.live("two", 2, with_secret()).await;
        assert_eq!(sim.current().await.unwrap().secrets[&secret()], 2);
        let (service, ctx) = (sim.process.service.clone(), sim.ctx());
        let back = service
            .rollback(&ctx, "back", &web(), &production(), None, false)
            .await
            .unwrap();
        assert_eq!(sim.finish(back.rollout).await.state, RolloutState::Done);
        let current = sim.current().await.unwrap();
        assert_eq!(
            (current.number, current.origin, &current.image),
            (3, Some(1), &image(1))
        );
        assert_eq!(
            (current.secrets[&secret()], current.reason),
            (1, Reason::Rollback)
        );
        let Hold { reason, .. } = sim.environment().await.unwrap().hold.unwrap();
        assert!(reason.contains("rolled back to release 1"), "{reason}");
        // Automation waits.
        sim.append(
            NewEvent::new(event::SECRET_SET, "TOKEN")
                .project(&web())
                .content(serde_json::json!({ "name": "TOKEN", "version": 3 })),
        )
        .await;
        sim.outside.lock().secrets.insert(secret(), 3);
        sim.pass(10 * SECOND).await;
        let held = sim.open().await;
        assert_eq!(
            (held.len(), held[0].state, held[0].reason),
            (1, RolloutState::Held, Reason::Secret)
        );
        assert_eq!(sim.current().await.unwrap().number, 3);
        // A person's push lifts it, and takes the newest of everything.
        sim.live("four", 4, with_secret()).await;
        let current = sim.current().await.unwrap();
        assert_eq!((current.image, current.secrets[&secret()]), (image(4), 3));
        assert!(sim.environment().await.unwrap().hold.is_none());
        assert!(sim.open().await.is_empty());
        let types: Vec<String> = sim
            .events()
            .await
            .into_iter()
            .map(|event| event.event_type)
            .collect();
        let count = |wanted: &str| types.iter().filter(|its| *its == wanted).count();
        assert_eq!(
            (
                count(event::SERVICE_DEPLOYED),
                count(event::SERVICE_UPGRADED),
                count(event::SERVICE_ROLLED_BACK)
            ),
            (1, 2, 1)
        );
    }
}

#[tokio::test]
async fn rollbacks_go_further_back_and_refuse_what_makes_no_sense() {
    for mut sim in sims().await {
        for number in 1..=3u8 {
            sim.live(&format!("push {number}").replace(' ', "-"), number, plain())
                .await;
        }
        let (service, ctx) = (sim.process.service.clone(), sim.ctx());
        for (key, expected) in [("a", 2), ("b", 1)] {
            let back = service
                .rollback(&ctx, key, &web(), &production(), None, false)
                .await
                .unwrap();
            sim.finish(back.rollout).await;
            assert_eq!(sim.current().await.unwrap().origin, Some(expected));
        }
        let refused = |to| {
            let (service, ctx) = (service.clone(), ctx.clone());
            async move {
                service
                    .rollback(&ctx, "c", &web(), &production(), to, false)
                    .await
                    .unwrap_err()
            }
        };
        assert!(matches!(
            refused(None).await,
            DeployError::NothingEarlier { .. }
        ));
        assert!(matches!(
            refused(Some(1)).await,
            DeployError::AlreadyCurrent(1)
        ));
        assert!(matches!(
            refused(Some(99)).await,
            DeployError::NoRelease { number: 99, .. }
        ));
        sim.outside.behave(
            &image(9),
            Behaviour {
                status: Some(500),
                ..Behaviour::GOOD
            },
        );
        let id = sim.push("nine", 9, plain()).await;
        sim.finish(id).await;
        assert!(matches!(
            refused(Some(6)).await,
            DeployError::NeverServed(6)
        ));
    }
}

#[tokio::test]
async fn a_migration_that_cannot_be_undone_is_not_crossed() {
    for mut sim in sims().await {
        sim.live("one", 1, plain()).await;
        let irreversible = spec(|spec| {
            with_command(spec);
            spec.release.reversible = false;
        });
        sim.live("two", 2, irreversible).await;
        let (service, ctx) = (sim.process.service.clone(), sim.ctx());
        let error = service
            .rollback(&ctx, "back", &web(), &production(), None, false)
            .await
            .unwrap_err();
        assert!(
            matches!(error, DeployError::Irreversible { to: 1, crossed: 2 }),
            "{error}"
        );
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(
            sim.environment().await.unwrap().hold.is_none(),
            "a refusal holds nothing"
        );
        let forced = service
            .rollback(&ctx, "force", &web(), &production(), None, true)
            .await
            .unwrap();
        assert_eq!(sim.finish(forced.rollout).await.state, RolloutState::Done);
        assert_eq!(
            sim.outside.command_starts(),
            1,
            "going back runs no command"
        );
    }
}

#[tokio::test]
async fn blue_green_goes_back_by_one_swap() {
    for mut sim in sims().await {
        let blue_green = || spec(|spec| spec.release.strategy = Strategy::BlueGreen);
        sim.live("one", 1, blue_green()).await;
        sim.live("two", 2, blue_green()).await;
        sim.pass(60 * SECOND).await;
        let standing = sim.outside.running(&image(1));
        assert_eq!(standing.len(), 1, "the old one stands");
        assert_eq!(sim.outside.serving("web"), [(2, 100)]);
        let back = sim
            .process
            .service
            .rollback(&sim.ctx(), "back", &web(), &production(), None, false)
            .await
            .unwrap();
        sim.settle().await;
        assert_eq!(
            sim.rollout(back.rollout).await.state,
            RolloutState::Done,
            "without waiting for anything to start"
        );
        assert_eq!(sim.outside.running(&image(1)), standing, "the same process");
        assert_eq!(sim.outside.serving("web"), [(3, 100)]);
        sim.calm().await;
        assert!(sim.outside.running(&image(2)).is_empty());
    }
}

fn traffic(requests: u64, errors: u64) -> ReleaseTraffic {
    ReleaseTraffic {
        requests,
        errors,
        in_flight: 0,
        durations: Histogram {
            buckets: vec![(200, requests)],
            sum_micros: 0,
        },
    }
}

fn checked() -> std::sync::Arc<ondol_spec::Spec> {
    spec(|spec| {
        canary(spec);
        spec.release.check = Some("error_rate < 0.05".parse().unwrap());
        spec.release.min_requests = 50;
        spec.release.patience = ondol_spec::model::Period::from_secs(20);
    })
}

#[tokio::test]
async fn a_canary_moves_by_steps_while_its_check_holds() {
    for mut sim in sims().await {
        sim.live("one", 1, checked()).await;
        let id = sim.push("two", 2, checked()).await;
        sim.settle().await;
        let canary = sim.rollout(id).await;
        assert_eq!(canary.state, RolloutState::Shifting);
        assert_eq!(sim.outside.serving("web"), [(1, 90), (2, 10)]);
        let release = canary.to.unwrap();
        sim.pass(10 * SECOND).await;
        assert_eq!(
            sim.outside.serving("web"),
            [(1, 90), (2, 10)],
            "no requests, no verdict"
        );
        sim.outside.lock().traffic.insert(release, traffic(60, 0));
        sim.pass(SECOND).await;
        assert_eq!(sim.outside.serving("web"), [(1, 50), (2, 50)]);
        sim.pass(5 * SECOND).await;
        assert_eq!(
            sim.outside.serving("web"),
            [(1, 50), (2, 50)],
            "each step counts its own requests"
        );
        sim.outside.lock().traffic.insert(release, traffic(120, 1));
        sim.pass(SECOND).await;
        assert_eq!(sim.rollout(id).await.state, RolloutState::Done);
        assert_eq!(sim.outside.serving("web"), [(2, 100)]);
        sim.calm().await;
    }
}

#[tokio::test]
async fn a_broken_canary_is_taken_back() {
    for mut sim in sims().await {
        sim.live("one", 1, checked()).await;
        let id = sim.push("two", 2, checked()).await;
        sim.settle().await;
        let release = sim.rollout(id).await.to.unwrap();
        sim.outside.lock().traffic.insert(release, traffic(50, 10));
        sim.pass(SECOND).await;
        let failed = sim.rollout(id).await;
        assert_eq!(failed.state, RolloutState::Failed);
        let message = failed.failure.unwrap().message;
        assert!(
            message.contains("the check failed at 10 %") && message.contains("0.2"),
            "{message}"
        );
        assert_eq!(sim.outside.serving("web"), [(1, 100)]);
        sim.calm().await;
        assert!(sim.outside.running(&image(2)).is_empty());
    }
}

#[tokio::test]
async fn a_canary_without_data_pauses_for_a_person() {
    for mut sim in sims().await {
        sim.live("one", 1, checked()).await;
        let id = sim.push("two", 2, checked()).await;
        let paused = sim.finish(id).await;
        assert_eq!(paused.state, RolloutState::Paused);
        assert!(
            paused.message.contains("0 of 50 requests"),
            "{}",
            paused.message
        );
        assert_eq!(sim.outside.serving("web"), [(1, 90), (2, 10)]);
        sim.process.service.resume(&sim.ctx(), id).await.unwrap();
        sim.settle().await;
        assert_eq!(sim.rollout(id).await.state, RolloutState::Shifting);
        sim.process.service.promote(&sim.ctx(), id).await.unwrap();
        sim.settle().await;
        assert_eq!(sim.rollout(id).await.state, RolloutState::Done);
        let error = sim.process.service.abort(&sim.ctx(), id).await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("is done, so it cannot be aborted"),
            "{error}"
        );
        // Unreadable counters are missing data too.
        let id = sim.push("three", 3, checked()).await;
        sim.outside.lock().counters_down = true;
        assert_eq!(sim.finish(id).await.state, RolloutState::Paused);
        sim.process.service.abort(&sim.ctx(), id).await.unwrap();
        sim.settle().await;
        assert_eq!(sim.outside.serving("web"), [(2, 100)]);
    }
}

#[tokio::test]
async fn a_dead_replica_is_started_again_and_the_others_keep_the_traffic() {
    for mut sim in sims().await {
        let two = spec(|spec| spec.service.as_mut().unwrap().replicas.min = 2);
        sim.live("one", 1, two).await;
        let before = sim.outside.endpoints();
        assert_eq!(before.len(), 2);
        let victim = sim.outside.running(&image(1))[0];
        sim.outside.die(&victim, 9);
        sim.settle().await;
        assert_eq!(
            sim.outside.endpoints().len(),
            1,
            "out of the routes at once"
        );
        sim.pass(SECOND).await;
        let after = sim.outside.endpoints();
        assert_eq!(after.len(), 2);
        assert_ne!(before, after, "another execution is another endpoint");
        let restarted: Vec<u32> = sim
            .replicas()
            .await
            .iter()
            .map(|replica| replica.restarts)
            .collect();
        assert_eq!(restarted.iter().sum::<u32>(), 1);
    }
}

#[tokio::test]
async fn a_crash_loop_backs_off_and_says_so() {
    for mut sim in sims().await {
        sim.live("one", 1, plain()).await;
        for _ in 0..6 {
            for id in sim.outside.running(&image(1)) {
                sim.outside.die(&id, 1);
            }
            sim.settle().await;
            sim.pass(4 * SECOND).await;
        }
        for id in sim.outside.running(&image(1)) {
            sim.outside.die(&id, 1);
        }
        sim.settle().await;
        let status = sim
            .process
            .service
            .status(&sim.ctx(), &web())
            .await
            .unwrap()
            .remove(0);
        let replica = &status.replicas[0];
        assert!(replica.crash_looping, "{replica:#?}");
        assert!(
            replica
                .replica
                .next_start_at
                .unwrap()
                .since(ondol_types::Clock::now(&*sim.clock))
                > SECOND
        );
        assert_eq!(replica.replica.detail.as_deref(), Some("exited with 1"));
        assert_eq!(
            status.current.unwrap().number,
            1,
            "it is still the current release"
        );
        sim.pass(60 * SECOND).await;
        assert_eq!(sim.outside.endpoints().len(), 1);
    }
}

#[tokio::test]
async fn one_that_stops_answering_leaves_the_routes_unless_it_is_the_last() {
    for mut sim in sims().await {
        sim.live("one", 1, plain()).await;
        sim.outside.answer(&image(1), Some(503));
        sim.until("unhealthy", SECOND, 60, async |sim: &Sim| {
            sim.replicas().await[0].state == ReplicaState::Unhealthy
        })
        .await;
        assert_eq!(sim.outside.endpoints().len(), 1, "the last one stays");
        sim.outside.answer(&image(1), Some(200));
        sim.until("ready", SECOND, 10, async |sim: &Sim| {
            sim.replicas().await[0].state == ReplicaState::Ready
        })
        .await;
        sim.outside.answer(&image(1), None);
        sim.until("another execution", 5 * SECOND, 100, async |sim: &Sim| {
            sim.replicas().await[0].incarnation == 2
        })
        .await;
        sim.calm().await;
    }
}

#[tokio::test]
async fn scaling_and_restarting_keep_the_service_up() {
    for mut sim in sims().await {
        sim.live("one", 1, plain()).await;
        let (service, ctx) = (sim.process.service.clone(), sim.ctx());
        service
            .scale(&ctx, &web(), &production(), Some(3))
            .await
            .unwrap();
        sim.pass(SECOND).await;
        assert_eq!(sim.outside.endpoints().len(), 3);
        let before = sim.outside.running(&image(1));
        let restarted = service
            .restart(&ctx, "again", &web(), &production())
            .await
            .unwrap();
        let done = sim.finish(restarted.rollout).await;
        assert_eq!((done.state, done.kind), (RolloutState::Done, Kind::Restart));
        sim.calm().await;
        let after = sim.outside.running(&image(1));
        assert!(after.len() == 3 && after.iter().all(|id| !before.contains(id)));
        assert_eq!(sim.current().await.unwrap().number, 1);
        service
            .scale(&ctx, &web(), &production(), Some(1))
            .await
            .unwrap();
        sim.calm().await;
        assert_eq!(sim.outside.endpoints().len(), 1);
        let error = service
            .scale(&ctx, &web(), &production(), Some(101))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

fn promoted(version: i64, run: bool) -> NewEvent {
    let content = ModelVersionEvent {
        project: web(),
        model: "iris".parse().unwrap(),
        version,
        run: run.then(|| ondol_types::RunId::derived("run")),
        digest: image(7),
        reason: None,
    };
    NewEvent::new(event::MODEL_VERSION_PROMOTED, "iris")
        .project(&web())
        .content(content)
}

#[tokio::test]
async fn a_promoted_model_goes_live_and_so_does_its_way_back() {
    for mut sim in sims().await {
        let train: ondol_spec::model::Train =
            serde_json::from_value(serde_json::json!({ "run": "train", "model": "iris" })).unwrap();
        let modelled = || {
            let train = train.clone();
            spec(|spec| spec.train = Some(train))
        };
        let waiting = sim.push("early", 1, modelled()).await;
        let failed = sim.finish(waiting).await;
        assert!(
            failed.failure.unwrap().message.contains("model `iris`"),
            "a service waits for its model"
        );
        let mut request = sim.request_of("one", 1, modelled());
        request.model = Some(ModelRef {
            name: "iris".parse().unwrap(),
            version: 1,
            digest: None,
        });
        let id = sim.request(request.clone()).await;
        assert_eq!(sim.finish(id).await.state, RolloutState::Done);
        let workload = sim.outside.running(&image(1))[0];
        assert!(sim.outside.spec(&workload).env["ONDOL_MODEL_DIR"].ends_with("models/web/iris/1"));
        // The run that trained version 2 asks for its rollout itself: one rollout, not two.
        sim.append(promoted(2, true)).await;
        sim.settle().await;
        assert_eq!(sim.open().await[0].state, RolloutState::Pending);
        request.key = "two".into();
        request.reason = Reason::Data;
        request.model.as_mut().unwrap().version = 2;
        let id = sim.request(request.clone()).await;
        assert_eq!(sim.finish(id).await.state, RolloutState::Done);
        assert_eq!(sim.current().await.unwrap().number, 2);
        // The alias moved back by hand.
        sim.append(promoted(1, false)).await;
        sim.settle().await;
        sim.calm().await;
        let current = sim.current().await.unwrap();
        assert_eq!(
            (current.model.unwrap().version, current.reason),
            (1, Reason::Model)
        );
        // Without a run that asks, a promoted version goes live after a moment.
        sim.append(promoted(3, true)).await;
        sim.pass(11 * SECOND).await;
        sim.calm().await;
        assert_eq!(sim.current().await.unwrap().model.unwrap().version, 3);
    }
}

#[tokio::test]
async fn a_missing_secret_is_named() {
    for mut sim in sims().await {
        let id = sim
            .push(
                "one",
                1,
                spec(|spec| spec.secrets = vec![SecretRef::env("API_KEY".parse().unwrap())]),
            )
            .await;
        let failure = sim.finish(id).await.failure.unwrap();
        assert!(failure.message.contains("API_KEY"), "{}", failure.message);
        assert!(
            failure
                .hint
                .unwrap()
                .contains("ondol secret set API_KEY --project web")
        );
    }
}

#[tokio::test]
async fn hosts_belong_to_one_project() {
    for mut sim in sims().await {
        let with_host = |host: &str| {
            let host = host.parse().unwrap();
            spec(|spec| spec.service.as_mut().unwrap().hosts = vec![host])
        };
        sim.live("one", 1, with_host("shop.example.org")).await;
        let refused = |key: &str, project: &str, host: &str| {
            let mut request = sim.request_of(key, 1, with_host(host));
            request.project = project.parse().unwrap();
            let (service, ctx) = (sim.process.service.clone(), sim.ctx());
            async move {
                service
                    .request(&ctx, request)
                    .await
                    .unwrap_err()
                    .to_string()
            }
        };
        assert!(
            refused("a", "other", "shop.example.org")
                .await
                .contains("belongs to `production` of project `web`")
        );
        assert!(
            refused("b", "other", "web.localhost")
                .await
                .contains("another project")
        );
        assert!(
            refused("c", "other", "127.0.0.1")
                .await
                .contains("is an address")
        );
        sim.live("two", 2, plain()).await;
        let mut freed = sim.request_of("d", 1, with_host("shop.example.org"));
        freed.project = "other".parse().unwrap();
        sim.process
            .service
            .request(&sim.ctx(), freed)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn what_this_installation_cannot_run_is_refused_by_name() {
    for sim in sims().await {
        let refused = |spec| {
            let request = sim.request_of("one", 1, spec);
            let (service, ctx) = (sim.process.service.clone(), sim.ctx());
            async move { service.request(&ctx, request).await.unwrap_err() }
        };
        let error = refused(spec(|spec| {
            spec.build.dockerfile = Some("Dockerfile".parse().unwrap())
        }))
        .await;
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("Podman"), "{error}");
        let error = refused(spec(|spec| spec.service = None)).await;
        assert!(matches!(error, DeployError::NoService));
        let error = refused(spec(|spec| spec.release.steps = vec![50, 10])).await;
        assert!(error.to_string().starts_with("release.steps"), "{error}");
        assert!(
            sim.environment().await.is_none(),
            "a refusal leaves nothing"
        );
    }
}

#[tokio::test]
async fn only_those_who_may_deploy_do() {
    for sim in sims().await {
        let mut nobody = sim.ctx();
        nobody.principal = ondol_auth::Principal::anonymous();
        let (service, web, production) = (&sim.process.service, web(), production());
        let denied = [
            service
                .request(&nobody, sim.request_of("one", 1, plain()))
                .await
                .unwrap_err(),
            service
                .rollback(&nobody, "k", &web, &production, None, false)
                .await
                .unwrap_err(),
            service
                .restart(&nobody, "k", &web, &production)
                .await
                .unwrap_err(),
            service
                .scale(&nobody, &web, &production, None)
                .await
                .unwrap_err(),
            service
                .hold(&nobody, &web, &production, "no")
                .await
                .unwrap_err(),
            service
                .unhold(&nobody, &web, &production)
                .await
                .unwrap_err(),
            service
                .deploy(&nobody, "k", &web, &production)
                .await
                .unwrap_err(),
            service.status(&nobody, &web).await.unwrap_err(),
            service
                .releases(&nobody, &web, &production, None, 10)
                .await
                .unwrap_err(),
        ];
        for error in denied {
            assert!(matches!(error, DeployError::Denied(_)), "{error}");
        }
    }
}

#[tokio::test]
async fn old_releases_go_and_kept_ones_keep_their_images() {
    for mut sim in sims().await {
        let mut config = sim.config().clone();
        (config.keep_releases, config.keep_rollouts, config.keep_logs) = (3, 4, SECOND);
        sim.set_config(config);
        for number in 1..=9u8 {
            sim.live(
                &format!("push-{number}"),
                number,
                spec(|spec| spec.release.keep = 2),
            )
            .await;
        }
        sim.calm().await;
        sim.pass(5 * SECOND).await;
        sim.retain().await;
        let service = &sim.process.service;
        let releases = service
            .releases(&sim.ctx(), &web(), &production(), None, 100)
            .await
            .unwrap();
        let numbers: Vec<i64> = releases
            .items
            .iter()
            .map(|release| release.number)
            .collect();
        assert_eq!(numbers, [9, 8, 7]);
        let images: Vec<_> = service
            .referenced_images()
            .await
            .unwrap()
            .into_iter()
            .map(|(_, image)| image)
            .collect();
        assert_eq!(images, [image(7), image(8), image(9)]);
        let rollouts = service
            .rollouts(&sim.ctx(), &web(), &production(), None, 100)
            .await
            .unwrap();
        assert_eq!(rollouts.items.len(), 4);
        let stopped = sim
            .store()
            .read::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    Ok(store::recent_replicas(tx, &web(), &production(), 100).await?)
                })
            })
            .await
            .unwrap();
        assert_eq!(stopped.len(), 1, "logs of what stopped long ago are gone");
        let unpacked = std::fs::read_dir(sim.config().cache.join("images"))
            .unwrap()
            .count();
        assert_eq!(unpacked, 2, "the current one, and the one to go back to");
    }
}

#[tokio::test]
async fn a_workload_that_no_row_knows_is_ended() {
    for mut sim in sims().await {
        sim.live("one", 1, plain()).await;
        let mut stray = sim.outside.spec(&sim.outside.running(&image(1))[0]);
        stray.id = ondol_types::WorkloadId::derived("stray");
        ondol_workload::Engine::start(&*sim.outside, stray.clone())
            .await
            .unwrap();
        let mut foreign = stray;
        foreign.id = ondol_types::WorkloadId::derived("a step of a run");
        foreign
            .labels
            .insert(crate::execute::ROLE.into(), "step".into());
        ondol_workload::Engine::start(&*sim.outside, foreign)
            .await
            .unwrap();
        assert_eq!(sim.outside.running(&image(1)).len(), 3);
        sim.retain().await;
        assert_eq!(
            sim.outside.running(&image(1)).len(),
            2,
            "what is not ours is left alone"
        );
    }
}

#[tokio::test]
async fn a_restored_database_goes_on_above_the_gateways_numbers() {
    for mut sim in sims().await {
        sim.live("one", 1, plain()).await;
        sim.outside.lock().newest_elsewhere = 500;
        sim.restart();
        sim.live("two", 2, plain()).await;
        assert!(sim.outside.generation() > 500);
        assert_eq!(sim.outside.serving("web"), [(2, 100)]);
    }
}

#[tokio::test]
async fn without_a_gateway_nothing_is_current_and_nothing_old_stops() {
    for mut sim in sims().await {
        sim.live("one", 1, plain()).await;
        sim.outside.lock().gateway_down = true;
        let id = sim.push("two", 2, plain()).await;
        sim.pass(30 * SECOND).await;
        assert_eq!(sim.rollout(id).await.state, RolloutState::Swapping);
        assert_eq!(sim.current().await.unwrap().number, 1);
        sim.outside.lock().gateway_down = false;
        assert_eq!(sim.finish(id).await.state, RolloutState::Done);
        sim.outside.lock().gateway_down = true;
        let id = sim.push("three", 3, plain()).await;
        sim.settle().await;
        sim.pass(125 * SECOND).await;
        assert_eq!(sim.finish(id).await.state, RolloutState::Failed);
        sim.pass(60 * SECOND).await;
        assert_eq!(sim.outside.running(&image(2)).len(), 1);
        sim.outside.lock().gateway_down = false;
        sim.calm().await;
        assert_eq!(sim.outside.serving("web"), [(2, 100)]);
    }
}

#[tokio::test]
async fn events_tell_the_story_in_the_standard_words() {
    for mut sim in sims().await {
        let mut request = sim.request_of("one", 1, plain());
        request.chain = Some("ev_chain".into());
        let id = sim.request(request).await;
        sim.finish(id).await;
        let events = sim.events().await;
        let types: Vec<&str> = events
            .iter()
            .map(|event| event.event_type.as_str())
            .filter(|its| *its != event::REPLICA_CHANGED)
            .collect();
        assert_eq!(
            types,
            [
                event::ENVIRONMENT_CREATED,
                event::RELEASE_CREATED,
                event::ROLLOUT_STARTED,
                event::ROLLOUT_FINISHED,
                event::SERVICE_DEPLOYED
            ]
        );
        let deployed = events
            .iter()
            .find(|event| event.event_type == event::SERVICE_DEPLOYED)
            .unwrap();
        let content = &deployed.document["subject"]["content"];
        let keys: Vec<&String> = content.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            ["environment", "artifactId"],
            "nothing that the schema does not know"
        );
        assert_eq!(
            content["environment"],
            serde_json::json!({ "id": "production" })
        );
        assert_eq!(
            content["artifactId"],
            format!("pkg:oci/web@sha256%3A{}", "01".repeat(32))
        );
        assert_eq!(
            (
                deployed.chain.as_str(),
                &deployed.document["customData"]["number"]
            ),
            ("ev_chain", &serde_json::json!(1))
        );
    }
}

#[tokio::test]
async fn status_shows_rates_over_the_last_minute() {
    use ondol_background::Reconciler;
    for mut sim in sims().await {
        sim.live("one", 1, plain()).await;
        let release = sim.current().await.unwrap().id;
        let sample = crate::sample::SampleLoop {
            room: sim.process.room.clone(),
        };
        sim.outside.lock().traffic.insert(release, traffic(100, 0));
        sample.tick().await.unwrap();
        sim.pass(10 * SECOND).await;
        sim.outside.lock().traffic.insert(release, traffic(300, 2));
        sample.tick().await.unwrap();
        let status = sim
            .process
            .service
            .status(&sim.ctx(), &web())
            .await
            .unwrap()
            .remove(0);
        let seen = &status.traffic[&release];
        assert_eq!(
            (seen.requests, seen.rps, seen.error_rate),
            (200, 20.0, Some(0.01))
        );
        assert!(seen.p50.unwrap() <= seen.p99.unwrap());
        // The simulated program uses a tenth of a core and one mebibyte.
        assert!((seen.cpu_cores.unwrap() - 0.1).abs() < 1e-3);
        assert_eq!(seen.memory_bytes, Some(1 << 20));
        let replica = &status.replicas[0];
        assert!(!replica.crash_looping && replica.probes.iter().all(|probe| probe.ok));
        assert_eq!(status.last.unwrap().state, RolloutState::Done);
    }
}

#[tokio::test]
async fn the_loops_wake_each_other() {
    for sim in sims().await {
        let background = ondol_background::Background::new(sim.clock.clone());
        let deploy = crate::Deploy::assemble(sim.process.room.clone());
        deploy.spawn(&background);
        let (service, ctx) = (deploy.service(), sim.ctx());
        for (key, number) in [("one", 1), ("two", 2)] {
            let asked = service
                .request(&ctx, sim.request_of(key, number, plain()))
                .await
                .unwrap();
            let done = service
                .follow(&ctx, asked.rollout, &sim.wanted(number), 60 * SECOND)
                .await
                .unwrap();
            assert!(matches!(done.standing, Standing::Live { .. }), "{done:#?}");
        }
        let deadline = std::time::Instant::now() + 60 * SECOND;
        while !sim.outside.running(&image(1)).is_empty() {
            assert!(
                std::time::Instant::now() < deadline,
                "the old replica is never stopped"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(sim.outside.serving("web"), [(2, 100)]);
        background.stop(10 * SECOND).await;
        assert_eq!(sim.outside.violations(), Vec::<String>::new());
    }
}
