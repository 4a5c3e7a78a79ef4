//! Stores for tests: the same test body on SQLite and on PostgreSQL.
//!
//! PostgreSQL is started once per test process in a temporary directory when its programs are
//! installed; each store gets a schema of its own. Where they are not, [`backends`] says so on
//! stderr and the test runs on SQLite alone, unless `ONDOL_REQUIRE_POSTGRES` is set.

#![expect(clippy::disallowed_methods, reason = "tests read the environment")]
#![expect(
    clippy::zombie_processes,
    reason = "the watcher ends the server after this process is gone"
)]
#![expect(clippy::print_stderr, reason = "a skipped backend must be seen")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ondol_types::{Clock, SystemClock};
use tempfile::TempDir;

use crate::db::{Migration, Store};

/// A store with what keeps it alive.
pub struct TestStore {
    /// The engine's name, for messages.
    pub name: &'static str,
    /// The store, migrated.
    pub store: Store,
    /// A folder for whatever else the test needs.
    pub dir: TempDir,
}

/// A migrated store on each engine of this machine, dated by the wall clock.
pub async fn backends(migrations: &[Migration]) -> Vec<TestStore> {
    backends_at(migrations, Arc::new(SystemClock)).await
}

/// A migrated store on each engine of this machine, dated by `clock`.
pub async fn backends_at(migrations: &[Migration], clock: Arc<dyn Clock>) -> Vec<TestStore> {
    let mut all = crate::MIGRATIONS.to_vec();
    all.extend(
        migrations
            .iter()
            .filter(|migration| migration.number >= 100),
    );
    let mut stores = vec![sqlite(&all, clock.clone()).await];
    if let Some(url) = postgres_url() {
        let store = Store::open_postgres(&url, "/ondol", clock)
            .await
            .expect("PostgreSQL opens");
        store.migrate(&all).await.expect("PostgreSQL migrates");
        stores.push(TestStore {
            name: "PostgreSQL",
            store,
            dir: tempfile::tempdir().expect("a folder"),
        });
    }
    stores
}

/// A migrated SQLite store in a temporary directory.
pub async fn sqlite(migrations: &[Migration], clock: Arc<dyn Clock>) -> TestStore {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::open_sqlite(&dir.path().join("test.db"), "/ondol", clock)
        .await
        .expect("SQLite opens");
    store.migrate(migrations).await.expect("SQLite migrates");
    TestStore {
        name: "SQLite",
        store,
        dir,
    }
}

struct Server {
    port: u16,
    _dir: TempDir,
}

static SERVER: OnceLock<Option<Server>> = OnceLock::new();
static SCHEMA: AtomicU32 = AtomicU32::new(0);

fn postgres_url() -> Option<String> {
    let server = SERVER.get_or_init(start).as_ref()?;
    let schema = format!(
        "t{}_{}",
        std::process::id(),
        SCHEMA.fetch_add(1, Ordering::Relaxed)
    );
    let base = format!("postgres://ondol@127.0.0.1:{}/postgres", server.port);
    let status = Command::new(programs()?.join("psql"))
        .args([&base, "-qc", &format!("CREATE SCHEMA {schema}")])
        .env("PGOPTIONS", "")
        .status()
        .expect("psql runs");
    assert!(status.success(), "psql makes a schema");
    Some(format!("{base}?options=-csearch_path%3D{schema}"))
}

fn programs() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    versions.sort();
    versions.pop()
}

fn start() -> Option<Server> {
    let Some(bin) = programs() else {
        assert!(
            std::env::var_os("ONDOL_REQUIRE_POSTGRES").is_none(),
            "PostgreSQL is required and not installed"
        );
        eprintln!(
            "PostgreSQL is not installed: these tests run on SQLite alone (`make setup` installs it)"
        );
        return None;
    };
    let dir = tempfile::Builder::new()
        .prefix("ondol-pg")
        .tempdir_in("/tmp")
        .expect("a folder");
    let data = dir.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    let root = rustix::process::geteuid().is_root();
    if root {
        let owned = Command::new("chown")
            .args(["-R", "nobody"])
            .arg(dir.path())
            .status()
            .expect("chown runs");
        assert!(owned.success(), "the folder belongs to nobody");
    }
    let as_user = |program: &str| {
        let path = bin.join(program);
        if root {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid=nobody", "--clear-groups", "--"])
                .arg(path);
            command
        } else {
            Command::new(path)
        }
    };
    let made = as_user("initdb")
        .args([
            "-U",
            "ondol",
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
            "--locale=C",
            "-D",
        ])
        .arg(&data)
        .stdout(Stdio::null())
        .status()
        .expect("initdb runs");
    assert!(made.success(), "initdb makes a cluster");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a port")
        .port();
    let mut server = as_user("postgres");
    server
        .args([
            "-p",
            &port.to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "fsync=off",
            "-c",
            "max_connections=400",
        ])
        .args(["-c", "shared_buffers=32MB", "-k"])
        .arg(dir.path())
        .arg("-D")
        .arg(&data)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = server.spawn().expect("postgres starts");
    end_with_this_process(&child, dir.path());
    for _ in 0..400 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            let ready = Command::new(bin.join("psql"))
                .args([
                    &format!("postgres://ondol@127.0.0.1:{port}/postgres"),
                    "-qc",
                    "SELECT 1",
                ])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if ready.is_ok_and(|status| status.success()) {
                CHILDREN.lock().expect("not poisoned").push(child);
                return Some(Server { port, _dir: dir });
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("PostgreSQL did not start within 20 s");
}

static CHILDREN: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Statics are not dropped at exit, so a small shell outlives the test process just long enough
/// to end the server and remove its folder.
fn end_with_this_process(child: &Child, dir: &Path) {
    let script = format!(
        "while kill -0 {me} 2>/dev/null; do sleep 1; done; kill -INT {server}; sleep 2; kill -KILL {server} 2>/dev/null; rm -rf '{dir}'",
        me = std::process::id(),
        server = child.id(),
        dir = dir.display(),
    );
    Command::new("setsid")
        .args(["sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the watcher starts");
}
