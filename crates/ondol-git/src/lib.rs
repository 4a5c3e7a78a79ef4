#![doc = include_str!("../README.md")]

mod checkout;
mod deletion;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod hook;
mod http;
mod maintenance;
mod model;
mod plan;
mod reconcile;
mod repository;
mod service;
mod store;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use checkout::{CheckedOut, CheckoutLimits};
pub use deletion::DeletionReconciler;
pub use error::GitError;
pub use hook::{HookServer, NoProgress, PushProgress, hook_main, is_hook};
pub use http::router;
pub use maintenance::MaintenanceReconciler;
pub use model::{Commit, Entry, EntryKind, Project, Pushed, PushedRef, Ref, Settings};
pub use reconcile::RefsReconciler;
pub use service::{Deletion, Deps, Git};
pub use store::MIGRATIONS;

/// Where repositories are and how much they may hold.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of the repositories.
    pub root: PathBuf,
    /// The folder of the hook's socket. Its path may be long.
    pub run: PathBuf,
    /// The program that git runs as its hook, by the hook's name: it must call [`hook_main`]
    /// when [`is_hook`] says so of its first argument.
    pub hook_program: PathBuf,
    /// The git program.
    pub git_program: PathBuf,
    /// Where git's programs look for programs.
    pub path: OsString,
    /// The address of this installation, such as `http://127.0.0.1:7070`.
    pub base_url: String,
    /// The ceilings.
    pub limits: Limits,
}

/// Ceilings of this room.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The most bytes a repository may hold on disk.
    pub repository_bytes: u64,
    /// The most bytes one push may send.
    pub push_bytes: u64,
    /// The most bytes a fetch may ask with.
    pub fetch_request_bytes: u64,
    /// The most git processes that serve fetches at once.
    pub fetches: usize,
    /// The most git processes that receive pushes at once.
    pub pushes: usize,
    /// How long a client may send nothing before its push is given up.
    pub idle: Duration,
    /// How long a push shows the progress of what it started.
    pub follow: Duration,
    /// The most refs that a push may leave in a repository.
    pub refs: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            repository_bytes: 8 << 30,
            push_bytes: 2 << 30,
            fetch_request_bytes: 64 << 20,
            fetches: 16,
            pushes: 16,
            idle: Duration::from_secs(120),
            follow: Duration::from_secs(1_800),
            refs: 50_000,
        }
    }
}

impl Config {
    /// The usual configuration below a data directory.
    pub fn new(data: &std::path::Path, hook_program: PathBuf, base_url: &str) -> Self {
        Self {
            root: data.join("git"),
            run: data.join("run"),
            hook_program,
            git_program: PathBuf::from("git"),
            path: OsString::from("/usr/local/bin:/usr/bin:/bin"),
            base_url: base_url.trim_end_matches('/').to_owned(),
            limits: Limits::default(),
        }
    }
}

/// The places at which a test may kill the process.
pub const CRASH_POINTS: &[&str] = &[
    "git.project.before-repository",
    "git.project.after-repository",
    "git.project.before-trash",
    "git.project.after-trash",
    "git.project.between-rooms",
    "git.project.before-release",
    "git.project.after-release",
    "git.receive.before-pack",
    "git.receive.after-pack",
    "git.refs.before-commit",
    "git.refs.after-commit",
];
