//! Which binary is tested, and the environment that programs under test get.
#![expect(
    clippy::disallowed_methods,
    reason = "tests are told by their environment what to do"
)]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A variable of this process's environment.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The binary under test: `$ONDOL_BIN`, else the newest of this workspace's builds.
///
/// # Panics
/// When there is none.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = environment("ONDOL_BIN") {
            let path = PathBuf::from(path);
            return path
                .canonicalize()
                .unwrap_or_else(|error| panic!("ONDOL_BIN {}: {error}", path.display()));
        }
        let target = environment("CARGO_TARGET_DIR")
            .map_or_else(|| workspace().join("target"), PathBuf::from);
        let built = |profile: &str| target.join(profile).join("ondol");
        ["release", "debug"]
            .into_iter()
            .map(built)
            .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
            .max()
            .and_then(|(_, path)| path.canonicalize().ok())
            .expect("no binary to test: run `cargo build --release -p ondol`, or set ONDOL_BIN")
    })
}

/// The root of this workspace.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// Whether a program of this name can be run here.
pub fn has_program(name: &str) -> bool {
    program_path()
        .split(':')
        .any(|folder| Path::new(folder).join(name).is_file())
}

/// Whether the tests run as root, which may mount file systems.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The search path that programs under test get: the usual folders, and this process's own when
/// a program they need is only there.
pub(crate) fn program_path() -> String {
    let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let there = |name: &str| {
        usual
            .split(':')
            .any(|folder| Path::new(folder).join(name).is_file())
    };
    if there("python3") && there("git") {
        return usual.to_owned();
    }
    match environment("PATH") {
        Some(path) => format!("{path}:{usual}"),
        None => usual.to_owned(),
    }
}
