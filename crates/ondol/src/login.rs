//! Which server the CLI talks to, and with which token: `ONDOL_URL` and `ONDOL_TOKEN` first,
//! then what `ondol login` or the first `ondol serve` saved.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ondol_types::Secret;
use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::error::{Exit, Failure, Outcome};

/// The address that `ondol serve` has when nobody chose another.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:7070";

/// A server and the token for it.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) url: String,
    pub(crate) token: Option<Secret>,
}

#[derive(Default, Serialize, Deserialize)]
struct Saved {
    version: u32,
    current: Option<String>,
    servers: std::collections::BTreeMap<String, SavedServer>,
}

#[derive(Serialize, Deserialize)]
struct SavedServer {
    token: String,
}

fn path(environment: &Environment) -> Option<PathBuf> {
    environment
        .config_dir()
        .map(|dir| dir.join("ondol").join("login.json"))
}

fn load(path: &Path) -> Saved {
    fs::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// The login that this invocation uses.
pub(crate) fn resolve(environment: &Environment) -> Login {
    let saved = path(environment)
        .map(|path| load(&path))
        .unwrap_or_default();
    let url = environment
        .url
        .clone()
        .or(saved.current.clone())
        .unwrap_or_else(|| DEFAULT_URL.to_owned())
        .trim_end_matches('/')
        .to_owned();
    let token = environment.token.clone().or_else(|| {
        saved
            .servers
            .get(&url)
            .map(|server| Secret::new(server.token.clone()))
    });
    Login { url, token }
}

/// Remembers a server and makes it the current one. The file is readable by its owner alone.
pub(crate) fn save(environment: &Environment, url: &str, token: &Secret) -> Outcome {
    let Some(path) = path(environment) else {
        return Err(Failure::new(
            Exit::Usage,
            "there is no place to save the login: HOME is not set",
        )
        .hint("set ONDOL_URL and ONDOL_TOKEN instead"));
    };
    let url = url.trim_end_matches('/').to_owned();
    let mut saved = load(&path);
    saved.version = 1;
    saved.servers.insert(
        url.clone(),
        SavedServer {
            token: token.expose().clone(),
        },
    );
    saved.current = Some(url);
    // Servers come and go on ports of their own; the oldest names make room.
    while saved.servers.len() > 32 {
        saved.servers.pop_first();
    }
    let folder = path.parent().unwrap_or(&path).to_owned();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(Failure::io(format!("create {}", folder.display())))?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(&saved)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(Failure::io(format!("save the login in {}", path.display())))
}

/// Whether a token for this server is saved.
pub(crate) fn knows(environment: &Environment, url: &str) -> bool {
    path(environment)
        .is_some_and(|path| load(&path).servers.contains_key(url.trim_end_matches('/')))
}
