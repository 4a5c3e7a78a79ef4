//! Tracking on every database engine, through its protocol.

mod files;
mod models;
mod runs;
mod scopes;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use ondol_auth::{Denied, Grant, Principal, PrincipalKind, Role};
use ondol_ml::tracking::http::{Authenticate, Door, router};
use ondol_ml::tracking::{MIGRATIONS, Projects, Tracking, TrackingConfig};
use ondol_store::blobs::Blobs;
use ondol_store::testing::{TestStore, backends_at};
use ondol_types::{
    Clock, ManualClock, NoCrash, Problem, ProjectName, Timestamp, TokenId, WorkloadId,
};
use serde_json::{Value, json};
use tower::ServiceExt;

/// Everybody who asks in these tests, by the word in their token.
struct People;

#[async_trait]
impl Authenticate for People {
    async fn principal(&self, headers: &HeaderMap, _: Option<IpAddr>) -> Result<Principal, Denied> {
        let Some(header) = headers.get(header::AUTHORIZATION) else {
            return Ok(Principal::anonymous());
        };
        let word = header.to_str().unwrap().trim_start_matches("Bearer ");
        let on = |project: &str, role| Grant::on(&project.parse().unwrap(), role);
        let (grant, workload) = match word {
            "admin" => (Grant::everywhere(Role::Admin), false),
            "iris" => (on("iris", Role::Developer), false),
            "reader" => (on("iris", Role::Viewer), false),
            "web" => (on("web", Role::Developer), false),
            "step" => (on("iris", Role::Viewer), true),
            "both" => {
                let mut grant = on("iris", Role::Developer);
                grant
                    .projects
                    .insert("web".parse().unwrap(), Role::Developer);
                (grant, false)
            }
            _ => return Err(Denied::Unauthenticated),
        };
        Ok(Principal {
            kind: if workload {
                PrincipalKind::Workload(WorkloadId::derived(word))
            } else {
                PrincipalKind::Token(TokenId::derived(word))
            },
            name: word.to_owned(),
            grant,
            expires_at: None,
        })
    }
}

#[async_trait]
impl Projects for People {
    async fn exists(&self, project: &ProjectName) -> Result<bool, Problem> {
        Ok(matches!(project.as_str(), "iris" | "web"))
    }
}

struct World {
    test: TestStore,
    clock: Arc<ManualClock>,
    blobs: Blobs,
    tracking: Tracking,
    router: Router,
}

async fn worlds_with(config: TrackingConfig) -> Vec<World> {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(
        1_700_000_000_000_000,
    )));
    let stores = backends_at(MIGRATIONS, clock.clone()).await;
    stores
        .into_iter()
        .map(|test| {
            let folder = test.dir.path().join("blobs");
            let blobs = Blobs::open_with(&folder, clock.clone(), Arc::new(NoCrash)).unwrap();
            let tracking =
                Tracking::new(test.store.clone(), blobs.clone(), Arc::new(People), config);
            let door = Door {
                tracking: tracking.clone(),
                authenticate: Arc::new(People),
                clock: clock.clone() as Arc<dyn Clock>,
            };
            World {
                test,
                clock: clock.clone(),
                blobs,
                tracking,
                router: router(door),
            }
        })
        .collect()
}

async fn worlds() -> Vec<World> {
    worlds_with(TrackingConfig::default()).await
}

impl World {
    async fn send(&self, who: &str, method: &str, path: &str, body: Body) -> (StatusCode, Vec<u8>) {
        let mut request = Request::builder().method(method).uri(path);
        if !who.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {who}"));
        }
        let response = self
            .router
            .clone()
            .oneshot(request.body(body).unwrap())
            .await
            .unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, bytes.to_vec())
    }

    /// Asks, and gives back status and JSON. GET has its arguments in the path.
    async fn ask(&self, who: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let path = format!("/api/2.0/mlflow/{path}");
        let body = match body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        };
        let (status, bytes) = self.send(who, method, &path, body).await;
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| panic!("{path}: {}", String::from_utf8_lossy(&bytes)));
        (status.as_u16(), value)
    }

    #[track_caller]
    fn fine(&self, what: &str, answer: (u16, Value)) -> Value {
        assert_eq!(
            answer.0, 200,
            "{} on {}: {}",
            what, self.test.name, answer.1
        );
        answer.1
    }

    async fn post(&self, who: &str, path: &str, body: Value) -> Value {
        let answer = self.ask(who, "POST", path, body).await;
        self.fine(path, answer)
    }

    async fn get(&self, who: &str, path: &str) -> Value {
        let answer = self.ask(who, "GET", path, Value::Null).await;
        self.fine(path, answer)
    }

    /// Asks for something that is refused; gives back status and code.
    async fn refused(&self, who: &str, method: &str, path: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.ask(who, method, path, body).await;
        assert!(status >= 400, "{path} on {}: {answer}", self.test.name);
        assert!(answer["message"].is_string(), "{answer}");
        (status, answer["error_code"].as_str().unwrap().to_owned())
    }

    async fn experiment(&self, who: &str, name: &str) -> String {
        let made = self
            .post(who, "experiments/create", json!({ "name": name }))
            .await;
        made["experiment_id"].as_str().unwrap().to_owned()
    }

    async fn run(&self, who: &str, experiment: &str, name: &str) -> String {
        let body = json!({ "experiment_id": experiment, "run_name": name, "start_time": self.clock.now().as_millis() });
        self.clock.advance(Duration::from_secs(1));
        let made = self.post(who, "runs/create", body).await;
        made["run"]["info"]["run_id"].as_str().unwrap().to_owned()
    }

    /// The names of the runs that a search finds, in its order.
    async fn found(&self, who: &str, body: Value) -> Vec<String> {
        let answer = self.post(who, "runs/search", body).await;
        answer["runs"]
            .as_array()
            .map(|runs| {
                runs.iter()
                    .map(|run| run["info"]["run_name"].as_str().unwrap().to_owned())
                    .collect()
            })
            .unwrap_or_default()
    }
}

fn invalid() -> (u16, String) {
    (400, "INVALID_PARAMETER_VALUE".to_owned())
}

fn missing() -> (u16, String) {
    (404, "RESOURCE_DOES_NOT_EXIST".to_owned())
}
