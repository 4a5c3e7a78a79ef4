//! Operations and retention.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use ondol_auth::{Ctx, Grant, Principal, PrincipalKind, Role};
use ondol_pipeline::RunFilter;
use ondol_pipeline::model::{RunOutcome, RunState, Trigger};
use ondol_types::{Classified, ErrorKind, RunId, SystemClock, TokenId};
use ondol_workload::{LogPosition, LogQuery};

use crate::world::{commit, name, service, worlds};

fn somebody(project: &str, role: Role) -> Ctx {
    let principal = Principal {
        kind: PrincipalKind::Token(TokenId::derived("x")),
        name: "eve".into(),
        grant: Grant {
            everywhere: None,
            projects: BTreeMap::from([(name(project), role)]),
        },
        expires_at: None,
    };
    Ctx::new(principal, Arc::new(SystemClock))
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_filtered_and_show_only_what_may_be_seen() {
    for world in worlds().await {
        for (project, branch) in [
            ("web", "main"),
            ("web", "topic"),
            ("shop", "main"),
            ("web", "topic"),
            ("web", "other"),
        ] {
            world.push_to(project, branch, Some('a')).await;
        }
        world.pipeline.reconcilers()[0].0.tick().await.unwrap();
        let list = async |ctx: &Ctx, filter: RunFilter, before, limit| {
            let page = world
                .pipeline
                .list_runs(ctx, &filter, before, limit)
                .await
                .unwrap();
            (
                page.runs.iter().map(|run| run.seq).collect::<Vec<_>>(),
                page.next,
            )
        };
        let all = RunFilter::default();
        assert_eq!(
            list(&world.ctx, all.clone(), None, 2).await,
            (vec![5, 4], Some(4))
        );
        assert_eq!(
            list(&world.ctx, all.clone(), Some(4), 2).await,
            (vec![3, 2], Some(2))
        );
        assert_eq!(
            list(&world.ctx, all.clone(), Some(2), 2).await,
            (vec![1], None)
        );
        let web = RunFilter {
            project: Some(name("web")),
            ..all.clone()
        };
        assert_eq!(
            list(&world.ctx, web.clone(), None, 10).await.0,
            [5, 4, 2, 1]
        );
        let topic = RunFilter {
            branch: Some("topic".into()),
            ..web.clone()
        };
        assert_eq!(list(&world.ctx, topic.clone(), None, 10).await.0, [4, 2]);
        let queued = RunFilter {
            state: Some(RunState::Queued),
            ..topic
        };
        assert_eq!(list(&world.ctx, queued, None, 10).await.0, [4]);
        let finished = RunFilter {
            state: Some(RunState::Finished),
            ..all.clone()
        };
        assert_eq!(list(&world.ctx, finished, None, 10).await.0, [2]);
        let shop = somebody("shop", Role::Viewer);
        assert_eq!(list(&shop, all.clone(), None, 10).await.0, [3]);
        let refused = world
            .pipeline
            .list_runs(&shop, &web, None, 10)
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotFound);
        let branch = RunFilter {
            branch: Some("main".into()),
            ..all.clone()
        };
        assert_eq!(
            world
                .pipeline
                .list_runs(&world.ctx, &branch, None, 1)
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::InvalidInput
        );
        let nobody = Ctx::new(Principal::anonymous(), Arc::new(SystemClock));
        assert_eq!(
            world
                .pipeline
                .list_runs(&nobody, &all, None, 1)
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::Unauthenticated
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_somebody_else_reads_like_one_that_does_not_exist() {
    for world in worlds().await {
        world.push('a').await;
        world.pipeline.reconcilers()[0].0.tick().await.unwrap();
        let id = world.runs().await[0].id;
        let stranger = somebody("shop", Role::Admin);
        let hidden = world.pipeline.show_run(&stranger, &id).await.unwrap_err();
        let missing = world
            .pipeline
            .show_run(&stranger, &RunId::derived("no"))
            .await
            .unwrap_err();
        assert_eq!(
            (hidden.kind(), hidden.code()),
            (missing.kind(), missing.code())
        );
        assert!(!hidden.to_string().contains("web"));
        assert!(world.pipeline.cancel(&stranger, &id).await.is_err());
        assert!(world.pipeline.watch(&stranger, &id).await.is_err());
        let viewer = somebody("web", Role::Viewer);
        assert_eq!(
            world.pipeline.show_run(&viewer, &id).await.unwrap().run.id,
            id
        );
        assert_eq!(
            world
                .pipeline
                .find_run(&viewer, &name("web"), 1)
                .await
                .unwrap()
                .id,
            id
        );
        for refused in [
            world.pipeline.cancel(&viewer, &id).await.unwrap_err(),
            world.pipeline.retry(&viewer, &id).await.unwrap_err(),
            world
                .pipeline
                .start(&viewer, &name("web"))
                .await
                .unwrap_err(),
        ] {
            assert_eq!(refused.kind(), ErrorKind::Forbidden);
        }
        let cancelled = world
            .pipeline
            .cancel(&somebody("web", Role::Developer), &id)
            .await
            .unwrap();
        assert_eq!(
            (cancelled.outcome, cancelled.state),
            (Some(RunOutcome::Cancelled), RunState::Finished)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_repeats_the_commit_and_a_manual_run_takes_the_newest() {
    for world in worlds().await {
        let nothing = world
            .pipeline
            .start(&world.ctx, &name("web"))
            .await
            .unwrap_err();
        assert_eq!(nothing.code(), "pipeline.project.empty");
        world.spec('a', service("exit 1"));
        world.push('a').await;
        world.pipeline.reconcilers()[0].0.tick().await.unwrap();
        let first = world.runs().await[0].clone();
        let refused = world
            .pipeline
            .retry(&world.ctx, &first.id)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), "pipeline.run.unfinished");
        world.settle().await;
        world.spec('b', service("true"));
        let again = world.pipeline.retry(&world.ctx, &first.id).await.unwrap();
        assert_eq!(
            (again.retry_of, again.commit.clone(), again.chain.clone()),
            (Some(first.id), Some(commit('a')), first.chain)
        );
        world.settle().await;
        assert_eq!(world.newest().await.run.outcome, Some(RunOutcome::Failure));
        world
            .pipeline
            .start(&world.ctx, &name("web"))
            .await
            .unwrap();
        world.settle().await;
        let manual = world.newest().await.run;
        assert_eq!(
            (manual.outcome, manual.commit.clone()),
            (Some(RunOutcome::Success), Some(commit('b')))
        );
        assert!(matches!(manual.trigger, Trigger::Manual { .. }));
        assert_eq!(manual.number, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_from_before_the_step_begins_to_its_end() {
    for world in worlds().await {
        world.spec(
            'a',
            service("echo one; while [ ! -e ../../../../../go ]; do sleep 0.01; done; echo two"),
        );
        world.push('a').await;
        let known = async || {
            world
                .runs()
                .await
                .first()
                .is_some_and(|run| run.started_at.is_some())
        };
        world.until("it runs", known).await;
        let id = world.runs().await[0].id;
        let seen = async || world.newest().await.steps.len() > 1;
        world.until("the graph is known", seen).await;
        let mut lines = Vec::new();
        for step in ["test", "deploy"] {
            let query = LogQuery {
                from: LogPosition::Start,
                follow: true,
                limit: None,
            };
            let stream = world
                .pipeline
                .logs(&world.ctx, &id, &name(step), query)
                .await
                .unwrap();
            lines.push(tokio::spawn(
                stream.map(|line| line.unwrap().text).collect::<Vec<_>>(),
            ));
        }
        let mut watch = world.pipeline.watch(&world.ctx, &id).await.unwrap();
        std::fs::write(world.root.join("go"), "").unwrap();
        world.settle().await;
        assert!(watch.wait(Duration::from_secs(10)).await);
        let mut all = Vec::new();
        for task in lines {
            all.push(
                tokio::time::timeout(Duration::from_secs(20), task)
                    .await
                    .unwrap()
                    .unwrap(),
            );
        }
        assert_eq!(all, [vec!["one", "two"], vec!["deploy of web"]]);
        let query = LogQuery {
            from: LogPosition::After(1),
            follow: false,
            limit: Some(1),
        };
        let rest: Vec<_> = world
            .pipeline
            .logs(&world.ctx, &id, &name("test"), query)
            .await
            .unwrap()
            .collect()
            .await;
        assert_eq!(rest[0].as_ref().unwrap().text, "two");
        let missing = world
            .pipeline
            .logs(&world.ctx, &id, &name("nothing"), query)
            .await
            .err()
            .unwrap();
        assert_eq!(missing.code(), "pipeline.step.missing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_runs_go_with_their_logs_and_a_deleted_project_leaves_nothing() {
    for mut world in worlds().await {
        world.reconfigure(|config| config.keep_runs = 2).await;
        world.spec('a', service("echo hello"));
        for _ in 0..4 {
            world.push('a').await;
            world.settle().await;
        }
        let oldest = world.runs().await[0].id;
        assert!(world.root.join(format!("logs/{oldest}")).exists());
        std::fs::create_dir_all(
            world
                .root
                .join(format!("workloads/run-{}", RunId::derived("orphan"))),
        )
        .unwrap();
        assert_eq!(world.prune().await, 2);
        let numbers: Vec<i64> = world.runs().await.iter().map(|run| run.number).collect();
        assert_eq!(numbers, [3, 4]);
        assert!(!world.root.join(format!("logs/{oldest}")).exists());
        assert_eq!(world.engine.known(), 2);
        assert_eq!(
            std::fs::read_dir(world.root.join("workloads"))
                .unwrap()
                .count(),
            0
        );
        assert!(world.pipeline.show_run(&world.ctx, &oldest).await.is_err());
        assert_eq!(world.pipeline.metrics().runs_pruned, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_are_too_old_go_however_few_there_are() {
    for mut world in worlds().await {
        world.spec('a', service("true"));
        world.push('a').await;
        world.settle().await;
        assert_eq!(world.prune().await, 0);
        world
            .reconfigure(|config| config.keep_age = Duration::ZERO)
            .await;
        assert_eq!(world.prune().await, 1);
    }
}
