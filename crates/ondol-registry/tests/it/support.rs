//! A registry behind its real door, and the smallest client of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use ondol_auth::{
    AuthError, Authenticator, Ctx, Denied, Grant, NewToken, Principal, PrincipalKind, Role, Tokens,
};
use ondol_registry::http::{Authenticate, Door, router};
use ondol_registry::image::BuildRequest;
use ondol_registry::{Config, MIGRATIONS, RegistryError, RegistryService, Retained};
use ondol_store::blobs::{Blobs, Hasher};
use ondol_store::testing::{TestStore, backends};
use ondol_types::{
    Algorithm, Clock, Digest, Problem, ProjectName, Secret, SystemClock, Timestamp, TokenId,
};

/// Nothing is needed, and a handful of projects exist.
pub(crate) struct Nothing;

#[async_trait::async_trait]
impl Retained for Nothing {
    async fn images(&self) -> Result<Vec<Digest>, Problem> {
        Ok(Vec::new())
    }
}

#[async_trait::async_trait]
impl ondol_registry::http::Projects for Nothing {
    async fn exists(&self, project: &ProjectName) -> Result<bool, Problem> {
        Ok(["web", "other", "conformance"].contains(&project.as_str()))
    }
}

struct ByToken(Authenticator);

#[async_trait::async_trait]
impl Authenticate for ByToken {
    async fn principal(
        &self,
        headers: &HeaderMap,
        peer: Option<std::net::IpAddr>,
    ) -> Result<Principal, RegistryError> {
        let outcome = self.0.authenticate(headers, peer).await;
        outcome.map_err(|error| match error {
            AuthError::TooManyFailures { seconds } => RegistryError::TooManyAttempts(seconds),
            _ => Denied::Unauthenticated.into(),
        })
    }

    fn mint(
        &self,
        principal: &Principal,
        grant: Grant,
        life: Duration,
    ) -> Result<(Secret<String>, Timestamp), RegistryError> {
        let minted = self.0.tokens().mint_scoped(principal, Some(grant), life);
        minted.map_err(|_| Denied::Unauthenticated.into())
    }
}

pub(crate) fn somebody(role: Role) -> Principal {
    Principal {
        kind: PrincipalKind::Token(TokenId::derived("t")),
        name: "somebody".to_owned(),
        grant: Grant {
            everywhere: None,
            projects: [("web".parse().unwrap(), role)].into(),
        },
        expires_at: None,
    }
}

pub(crate) fn ctx(role: Role) -> Ctx {
    Ctx::new(somebody(role), Arc::new(SystemClock))
}

pub(crate) fn service(backend: &TestStore) -> RegistryService {
    let blobs = Blobs::open(&backend.dir.path().join("blobs")).unwrap();
    RegistryService::new(backend.store.clone(), blobs, Config::default())
}

/// A registry that answers on a port of its own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) registry: RegistryService,
    pub(crate) blobs: Blobs,
    pub(crate) tokens: Tokens,
    pub(crate) backend: TestStore,
    config: Config,
    running: Running,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let all = [ondol_auth::MIGRATIONS, MIGRATIONS].concat();
        Self::over(backends(&all).await.swap_remove(0), config, 0).await
    }

    pub(crate) async fn over(backend: TestStore, config: Config, port: u16) -> Self {
        let clock: Arc<dyn Clock> = backend.store.clock().clone();
        let blobs = Blobs::open_with(
            &backend.dir.path().join("blobs"),
            clock.clone(),
            Arc::new(ondol_types::NoCrash),
        )
        .unwrap();
        let registry = RegistryService::new(backend.store.clone(), blobs.clone(), config.clone());
        let keys = backend.dir.path().join("keys");
        std::fs::create_dir_all(&keys).unwrap();
        let tokens = Tokens::open(backend.store.clone(), &keys).unwrap();
        let door = Door {
            registry: registry.clone(),
            authenticate: Arc::new(ByToken(Authenticator::new(tokens.clone()))),
            projects: Arc::new(Nothing),
            retained: Arc::new(Nothing),
            clock,
        };
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let service = router(door).into_make_service_with_connect_info::<SocketAddr>();
        let running = Running::new();
        running.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, service).await.unwrap();
        });
        Self {
            address,
            registry,
            blobs,
            tokens,
            backend,
            config,
            running,
        }
    }

    /// The same data under a new process: everything in memory is gone.
    pub(crate) async fn restart(self) -> Self {
        drop(self.running);
        Self::over(self.backend, self.config, 0).await
    }

    /// A token with these roles.
    pub(crate) async fn token(&self, roles: &[(&str, Role)]) -> String {
        let wanted = NewToken {
            name: "test".to_owned(),
            grant: Grant {
                everywhere: None,
                projects: roles
                    .iter()
                    .map(|(project, role)| (project.parse().unwrap(), *role))
                    .collect(),
            },
            expires_at: None,
        };
        let system = Ctx::system(self.backend.store.clock().clone());
        let (_, text) = self.tokens.create(&system, wanted).await.unwrap();
        text.expose().clone()
    }

    /// An `Authorization` header with these roles.
    pub(crate) async fn basic(&self, roles: &[(&str, Role)]) -> String {
        basic(&self.token(roles).await)
    }

    /// One request: status, headers, body.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        auth: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> (u16, HeaderMap, Bytes) {
        let url = if path.starts_with("http") {
            path.to_owned()
        } else {
            format!("http://{}{path}", self.address)
        };
        let mut request = client().request(method.parse().unwrap(), url).body(body);
        if !auth.is_empty() {
            request = request.header("authorization", auth);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        (
            response.status().as_u16(),
            response.headers().clone(),
            response.bytes().await.unwrap(),
        )
    }

    /// Pushes a blob the short way and returns its digest.
    pub(crate) async fn push(&self, repository: &str, auth: &str, bytes: &[u8]) -> Digest {
        let digest = Hasher::digest(Algorithm::Sha256, bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let (status, _, body) = self.call("POST", &path, auth, &[], bytes.to_vec()).await;
        assert_eq!(status, 201, "{}", text(&body));
        digest
    }

    /// Pushes a manifest of one configuration and returns its digest.
    pub(crate) async fn push_image(
        &self,
        repository: &str,
        auth: &str,
        tag: &str,
        content: &str,
    ) -> Digest {
        let config = self.push(repository, auth, content.as_bytes()).await;
        let manifest = manifest(&config, content.len(), "");
        let path = format!("/v2/{repository}/manifests/{tag}");
        let (status, headers, body) = self
            .call("PUT", &path, auth, &[("content-type", MANIFEST)], manifest)
            .await;
        assert_eq!(status, 201, "{}", text(&body));
        headers["docker-content-digest"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap()
    }
}

/// A runtime of its own, which takes its open connections along when it ends.
pub(crate) struct Running(Option<tokio::runtime::Runtime>);

impl Running {
    fn new() -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        Self(Some(
            builder.worker_threads(2).enable_all().build().unwrap(),
        ))
    }

    fn spawn(&self, serving: impl Future<Output = ()> + Send + 'static) {
        self.0.as_ref().unwrap().spawn(serving);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A manifest of one configuration; `more` goes in as it is.
pub(crate) fn manifest(config: &Digest, size: usize, more: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.example+json","digest":"{config}","size":{size}}},"layers":[]{more}}}"#
    )
}

pub(crate) fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

pub(crate) fn basic(token: &str) -> String {
    format!(
        "Basic {}",
        data_encoding::BASE64.encode(format!("any:{token}").as_bytes())
    )
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A body of unknown length, sent in these chunks.
pub(crate) fn chunked(chunks: &[&[u8]]) -> reqwest::Body {
    let chunks: Vec<Result<Bytes, std::io::Error>> = chunks
        .iter()
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    reqwest::Body::wrap_stream(futures_util::stream::iter(chunks))
}

/// Finds a program: on the path, or where `make setup` puts those that no package has.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let own = r#"PATH="${XDG_CACHE_HOME:-$HOME/.cache}/ondol/tools:$PATH""#;
    let found = Command::new("sh")
        .args(["-c", &format!("{own}; command -v {name}")])
        .output()
        .ok()?;
    let path = text(&found.stdout).trim().to_owned();
    found.status.success().then(|| path.into())
}

pub(crate) fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join(".venv/lib")).unwrap();
    std::fs::write(dir.path().join(".venv/lib/dep.py"), "x = 1").unwrap();
    std::fs::write(dir.path().join("app.py"), "print('hi')").unwrap();
    dir
}

pub(crate) fn request(root: &Path) -> BuildRequest {
    BuildRequest {
        repository: "web".parse().unwrap(),
        tags: vec!["main".to_owned()],
        root: root.to_owned(),
        keep: Arc::new(|_: &Path| true),
        command: Some("python3 app.py".to_owned()),
        env: BTreeMap::from([("MODE".to_owned(), "prod".to_owned())]),
        labels: BTreeMap::from([(
            "org.opencontainers.image.revision".to_owned(),
            "abc".to_owned(),
        )]),
        base: None,
        host: vec!["python3".to_owned()],
        chain: None,
    }
}
