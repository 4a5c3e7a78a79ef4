//! The API and the applications, asked over HTTP.

use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use super::{Answer, PATIENCE, Platform};
use crate::wait::{block_on, eventually_some};

impl Platform {
    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub fn send(&self, request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let answer = block_on(async move {
            let request = request.build()?;
            let line = format!("{} {}", request.method(), request.url());
            let response = self.http.execute(request).await?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = response.bytes().await?.to_vec();
            Ok::<_, reqwest::Error>(Answer {
                line,
                status,
                headers,
                body,
            })
        })?;
        self.transcript
            .lock()
            .expect("the transcript")
            .extend_from_slice(&answer.body);
        Ok(answer)
    }

    /// A request to any address, without a token.
    pub fn request(&self, method: &str, url: &str) -> RequestBuilder {
        self.http.request(
            Method::from_bytes(method.as_bytes()).expect("a method"),
            url,
        )
    }

    /// A request to the control plane with the first token.
    pub fn authorized(&self, method: &str, path: &str) -> RequestBuilder {
        self.request(method, &format!("{}{path}", self.control))
            .bearer_auth(self.token())
    }

    /// Asks the API below `/api/v1`.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut request = self.authorized(method, &format!("/api/v1{path}"));
        if let Some(body) = body {
            request = request.json(body);
        }
        self.send(request)
            .unwrap_or_else(|error| panic!("{method} {path}: {error:?}"))
    }

    /// Reads from the API what must be there.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.api("GET", path, None).is(200).json()
    }

    /// All items of a list of the API, page after page.
    #[track_caller]
    pub fn list(&self, path: &str) -> Vec<Value> {
        let joiner = if path.contains('?') { '&' } else { '?' };
        let mut items = Vec::new();
        let mut cursor = String::new();
        for _ in 0..1_000 {
            let page = self.get(&format!("{path}{joiner}limit=200{cursor}"));
            items.extend(
                page["items"]
                    .as_array()
                    .unwrap_or_else(|| panic!("{path} is no list: {page}"))
                    .iter()
                    .cloned(),
            );
            match page["next"].as_str() {
                Some(next) => {
                    let encoded: String = next.bytes().map(|byte| format!("%{byte:02X}")).collect();
                    cursor = format!("&cursor={encoded}");
                }
                None => return items,
            }
        }
        panic!("{path} does not end");
    }

    /// Asks an application by path.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub fn app(&self, project: &str, path: &str) -> Result<Answer, reqwest::Error> {
        self.send(self.request("GET", &format!("{}/apps/{project}{path}", self.gateway)))
    }

    /// Asks an application by its host name.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub fn app_by_host(&self, project: &str, path: &str) -> Result<Answer, reqwest::Error> {
        let port = self.gateway.rsplit(':').next().unwrap_or_default();
        let request = self.request("GET", &format!("{}{path}", self.gateway));
        self.send(request.header("host", format!("{project}.localhost:{port}")))
    }

    /// Which version of the web template answers now.
    #[track_caller]
    pub fn version(&self, project: &str) -> String {
        let answer = self
            .app(project, "/version")
            .unwrap_or_else(|error| panic!("{project} does not answer: {error:?}"));
        answer.is(200).json()["version"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Runs of a project, newest first.
    #[track_caller]
    pub fn runs(&self, project: &str) -> Vec<Value> {
        self.list(&format!("/projects/{project}/runs"))
    }

    /// The newest run of a project, when it has ended.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn last_run(&self, project: &str) -> Value {
        let newest = self
            .runs(project)
            .first()
            .cloned()
            .unwrap_or_else(|| panic!("{project} has no run"));
        self.wait_for_run(&newest)
    }

    /// Waits for the end of a run and reads it with its steps.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn wait_for_run(&self, run: &Value) -> Value {
        let id = run["id"]
            .as_str()
            .unwrap_or_else(|| panic!("a run without id: {run}"))
            .to_owned();
        let began = Instant::now();
        let mut last = Value::Null;
        while began.elapsed() < PATIENCE * 3 {
            last = self.get(&format!("/runs/{id}"));
            if last["state"] == "finished" {
                return last;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("run {id} did not end: {last:#}");
    }

    /// The run of a commit, when there is one.
    pub fn runs_of(&self, project: &str, commit: &str) -> Vec<Value> {
        self.runs(project)
            .into_iter()
            .filter(|run| run["commit"] == commit)
            .collect()
    }

    /// Releases of a project's production, newest first.
    #[track_caller]
    pub fn releases(&self, project: &str) -> Vec<Value> {
        self.list(&format!(
            "/projects/{project}/releases?environment=production"
        ))
    }

    /// The release that is current.
    ///
    /// # Panics
    /// Unless exactly one is.
    #[track_caller]
    pub fn current_release(&self, project: &str) -> Value {
        let releases = self.releases(project);
        let current: Vec<&Value> = releases
            .iter()
            .filter(|release| release["current"] == true)
            .collect();
        assert_eq!(
            current.len(),
            1,
            "exactly one release is current: {releases:#?}"
        );
        current[0].clone()
    }

    /// The whole event log, oldest first.
    ///
    /// # Panics
    /// When it has a gap.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        let mut events = self.list("/events?order=newest");
        events.reverse();
        for (index, event) in events.iter().enumerate() {
            assert_eq!(
                event["seq"].as_i64(),
                Some(index as i64 + 1),
                "the log has a gap at {event}"
            );
        }
        events
    }

    /// Versions of a project's models as the command line prints them.
    #[track_caller]
    pub fn models(&self, project: &str) -> Vec<Value> {
        let output = self
            .cli(&["models", "--project", project, "--json"], self.folder())
            .ok();
        output
            .json()
            .as_array()
            .cloned()
            .unwrap_or_else(|| panic!("models are no list: {}", output.stdout))
    }

    /// The version that is champion, 0 when none is.
    ///
    /// # Panics
    /// When several are.
    #[track_caller]
    pub fn champion(&self, project: &str) -> i64 {
        let models = self.models(project);
        let champions: Vec<i64> = models
            .iter()
            .filter(|model| model["state"] == "champion")
            .filter_map(|model| model["version"].as_i64())
            .collect();
        assert!(champions.len() <= 1, "several champions: {models:#?}");
        champions.first().copied().unwrap_or(0)
    }

    /// Asks for predictions in the given form.
    ///
    /// # Panics
    /// When the model does not answer.
    #[track_caller]
    pub fn invoke(&self, project: &str, content_type: &str, body: &str) -> Answer {
        let url = format!("{}/apps/{project}/invocations", self.gateway);
        let request = self
            .request("POST", &url)
            .header("content-type", content_type)
            .body(body.to_owned());
        self.send(request)
            .unwrap_or_else(|error| panic!("{project} does not answer: {error:?}"))
    }

    /// Waits until an application answers as expected.
    #[track_caller]
    pub fn wait_for_app(
        &self,
        project: &str,
        path: &str,
        accepted: impl Fn(&Answer) -> bool,
    ) -> Answer {
        eventually_some(&format!("{project}{path} answers"), PATIENCE, || {
            self.app(project, path)
                .ok()
                .filter(|answer| accepted(answer))
        })
    }
}
