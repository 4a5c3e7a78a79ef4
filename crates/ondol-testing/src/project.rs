//! A repository that a test changes and pushes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::platform::Platform;

/// A repository beside a platform.
#[derive(Clone, Debug)]
pub struct Project {
    name: String,
    dir: PathBuf,
}

impl Project {
    pub(crate) fn at(platform: &Platform, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            dir: platform.folder().join(name),
        }
    }

    /// The project's name, also that of its folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The work directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads a file.
    ///
    /// # Panics
    /// When it cannot be read.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        let path = self.dir.join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Writes a file.
    ///
    /// # Panics
    /// When it cannot be written.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        let path = self.dir.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&self.dir)).expect("a folder");
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Replaces text in a file.
    ///
    /// # Panics
    /// When the file lacks it.
    #[track_caller]
    pub fn edit(&self, path: &str, from: &str, to: &str) {
        let text = self.read(path);
        assert!(text.contains(from), "{path} has no `{from}`:\n{text}");
        self.write(path, &text.replace(from, to));
    }

    /// Commits everything and says which commit it is.
    #[track_caller]
    pub fn commit(&self, platform: &Platform, message: &str) -> String {
        platform.git(&["add", "--all"], &self.dir).ok();
        platform
            .git(
                &["commit", "--quiet", "--allow-empty", "-m", message],
                &self.dir,
            )
            .ok();
        self.head(platform)
    }

    /// The commit that is checked out.
    #[track_caller]
    pub fn head(&self, platform: &Platform) -> String {
        platform
            .git(&["rev-parse", "HEAD"], &self.dir)
            .ok()
            .stdout
            .trim()
            .to_owned()
    }

    /// Gives the web template's service another version and commits it.
    #[track_caller]
    pub fn set_version(&self, platform: &Platform, version: &str) -> String {
        let text = self.read("app.py");
        let changed: Vec<String> = text
            .lines()
            .map(|line| {
                if line.starts_with("VERSION = ") {
                    format!("VERSION = \"{version}\"")
                } else {
                    line.to_owned()
                }
            })
            .collect();
        self.write("app.py", &format!("{}\n", changed.join("\n")));
        self.commit(platform, &format!("Version {version}"))
    }
}
