//! An installation on port 0.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::ConnectInfo;
use axum::extract::connect_info::MockConnectInfo;
use futures_util::stream::{self, BoxStream};
use ondol_auth::{Authenticator, Ctx, Grant, NewToken, Role, Tokens};
use ondol_git::{
    Config, DeletionReconciler, Deps, Git, HookServer, Limits, PushProgress, Pushed,
    RefsReconciler, router,
};
use ondol_store::events::{Event, EventFilter};
use ondol_store::testing::{TestStore, backends};
use ondol_store::{ForgetProject, Migration, Store, StoreError};
use ondol_types::{CrashPoints, NoCrash, ProjectName, SystemClock, event};
use tokio::task::JoinHandle;

/// Shows the updates and their chains, and a line that must be tamed.
pub(crate) struct Echo;

#[async_trait]
impl PushProgress for Echo {
    async fn follow(&self, push: &Pushed) -> BoxStream<'static, String> {
        let mut lines: Vec<String> = push
            .updates
            .iter()
            .map(|update| {
                let chained = update
                    .chain
                    .as_ref()
                    .is_some_and(|chain| chain.starts_with("ev_"));
                format!("{} by {} chained {chained}", update.name, push.pusher)
            })
            .collect();
        lines.push("tame\x1b[31m this\nsecond line".to_owned());
        lines.push("verdict: live".to_owned());
        Box::pin(stream::iter(lines))
    }
}

pub(crate) struct Installation {
    pub(crate) dir: PathBuf,
    pub(crate) store: Store,
    pub(crate) tokens: Tokens,
    pub(crate) git: Git,
    pub(crate) address: SocketAddr,
    pub(crate) clock: Arc<SystemClock>,
    server: JoinHandle<()>,
    _hooks: HookServer,
}

impl Drop for Installation {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn migrations() -> Vec<Migration> {
    [ondol_auth::MIGRATIONS, ondol_git::MIGRATIONS].concat()
}

pub(crate) async fn stores() -> Vec<TestStore> {
    backends(&migrations()).await
}

/// A store on SQLite alone, for tests of what does not depend on the database.
pub(crate) async fn one_store() -> TestStore {
    let all = [ondol_store::MIGRATIONS, &migrations()].concat();
    ondol_store::testing::sqlite(&all, Arc::new(SystemClock)).await
}

pub(crate) fn small() -> Limits {
    Limits {
        idle: Duration::from_secs(20),
        ..Limits::default()
    }
}

pub(crate) async fn start(backend: &TestStore) -> Installation {
    start_with(backend, small(), Arc::new(NoCrash)).await
}

pub(crate) async fn start_with(
    backend: &TestStore,
    limits: Limits,
    crash: Arc<dyn CrashPoints>,
) -> Installation {
    // A long folder, because data directories are where people put them.
    let dir = backend.dir.path().join("a-long-folder-name-".repeat(6));
    std::fs::create_dir_all(&dir).unwrap();
    let tokens = Tokens::open(backend.store.clone(), &dir.join("keys")).unwrap();
    let hook = PathBuf::from(env!("CARGO_BIN_EXE_ondol-git-hook-test"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut config = Config::new(&dir, hook, &format!("http://{address}"));
    config.limits = limits;
    let deps = Deps {
        store: backend.store.clone(),
        auth: Authenticator::new(tokens.clone()),
        progress: Arc::new(Echo),
        crash,
    };
    let git = Git::open(config, deps).await.unwrap();
    let hooks = HookServer::start(&git).unwrap();
    let peer = MockConnectInfo(SocketAddr::from(([127, 0, 0, 1], 9)));
    let app = router(git.clone()).layer(peer);
    let server = tokio::spawn(async move {
        axum::serve(listener, app).await.unwrap();
    });
    let _: Option<ConnectInfo<SocketAddr>> = None;
    Installation {
        dir,
        store: backend.store.clone(),
        tokens,
        git,
        address,
        clock: Arc::new(SystemClock),
        server,
        _hooks: hooks,
    }
}

pub(crate) fn name(text: &str) -> ProjectName {
    text.parse().unwrap()
}

impl Installation {
    pub(crate) fn system(&self) -> Ctx {
        Ctx::system(self.clock.clone())
    }

    pub(crate) async fn token(&self, label: &str, grant: Grant) -> String {
        let wanted = NewToken {
            name: label.to_owned(),
            grant,
            expires_at: None,
        };
        let (_, text) = self.tokens.create(&self.system(), wanted).await.unwrap();
        text.expose().clone()
    }

    pub(crate) async fn developer(&self) -> String {
        self.token("kim", Grant::everywhere(Role::Developer)).await
    }

    pub(crate) fn url(&self, token: &str, project: &str) -> String {
        format!("http://any:{token}@{}/git/{project}.git", self.address)
    }

    pub(crate) fn repository(&self, project: &str) -> PathBuf {
        self.dir.join("git").join(format!("{project}.git"))
    }

    pub(crate) fn reconciler(&self) -> RefsReconciler {
        RefsReconciler::new(self.git.clone())
    }

    pub(crate) fn deletions(&self, rooms: Vec<Arc<dyn ForgetProject>>) -> DeletionReconciler {
        DeletionReconciler::new(self.git.clone(), rooms)
    }

    pub(crate) async fn events(&self, prefix: &str) -> Vec<Event> {
        let filter = &EventFilter {
            type_prefix: Some(prefix.to_owned()),
            ..EventFilter::default()
        };
        self.store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move { tx.events_after(0, filter, 1_000).await })
            })
            .await
            .unwrap()
    }

    pub(crate) async fn pushes(&self) -> Vec<event::PushReceived> {
        self.events(event::PUSH_RECEIVED)
            .await
            .iter()
            .map(|event| event.content().unwrap())
            .collect()
    }

    pub(crate) async fn open_pushes(&self) -> i64 {
        self.store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.fetch_one("SELECT COUNT(*) AS n FROM git_push", vec![])
                        .await?
                        .get("n")
                })
            })
            .await
            .unwrap()
    }
}

/// Waits until something is so; a test that never comes to it fails by the harness's patience.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    for _ in 0..600 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

/// Every file below a folder.
pub(crate) fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
