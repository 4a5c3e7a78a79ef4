//! How git tells us that refs have moved, and how progress gets back to the pusher.
//!
//! `git receive-pack` runs the hook `post-receive` when the refs have moved: our own program,
//! linked under that name. It connects to a socket of the control plane, sends which push it is
//! and the updates, and prints what comes back; git shows that to the client as `remote:` lines.
//! When the control plane is away or dies, the hook says that the push is safe and ends well.
//!
//! The protocol is lines of UTF-8. Hook: `ondol-hook 1`, `project <name>`, `push <id>`, one line
//! `<old> <new> <ref>` per update, then it closes its side. Control plane: `|<text>` per line to
//! show, then `done`. Without `done` the control plane broke off.

mod client;
mod server;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};

pub use client::{hook_main, is_hook};
pub use server::HookServer;

use crate::model::Pushed;

pub(crate) const ENV_SOCKET: &str = "ONDOL_HOOK_SOCKET";
pub(crate) const ENV_PROJECT: &str = "ONDOL_PROJECT";
pub(crate) const ENV_PUSH: &str = "ONDOL_PUSH";
const GREETING: &str = "ondol-hook 1";
const DONE: &str = "done";
const SOCKET: &str = "git-hook.sock";
/// The most updates that are read from git: what a push may have.
const MAX_UPDATES: usize = 10_000;

/// Where the hook's socket is in the folder of sockets.
pub(crate) fn socket_path(run: &Path) -> PathBuf {
    run.join(SOCKET)
}

/// Shows what a push started. The root implements it over the pipeline.
#[async_trait]
pub trait PushProgress: Send + Sync + 'static {
    /// Lines to show to the pusher, until the verdict. The refs are recorded and their events
    /// appended when this is called. Dropping the stream ends nothing but the view.
    async fn follow(&self, push: &Pushed) -> BoxStream<'static, String>;
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

#[async_trait]
impl PushProgress for NoProgress {
    async fn follow(&self, _push: &Pushed) -> BoxStream<'static, String> {
        Box::pin(stream::empty())
    }
}

/// What a hook sends is read, or refused as a whole.
#[cfg(any(test, fuzzing))]
pub fn fuzz_hook(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        server::fuzz(text);
    }
}
