//! The git client, and a client that speaks raw HTTP.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn well(self) -> Self {
        assert!(self.ok, "git failed: {}", self.err);
        self
    }

    #[track_caller]
    pub(crate) fn badly(self) -> Self {
        assert!(!self.ok, "git should have failed: {}", self.err);
        self
    }
}

/// A work tree of a user.
pub(crate) struct Work {
    pub(crate) dir: TempDir,
}

impl Work {
    pub(crate) async fn new() -> Self {
        let work = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        work.git(&["init", "-q", "-b", "main"]).await.well();
        work
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) async fn git(&self, args: &[&str]) -> Said {
        git(self.path(), args, &[]).await
    }

    pub(crate) fn write(&self, file: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Writes a file and commits everything; returns the commit.
    pub(crate) async fn commit(&self, file: &str, content: impl AsRef<[u8]>) -> String {
        self.write(file, content);
        self.commit_all(file).await
    }

    pub(crate) async fn commit_all(&self, message: &str) -> String {
        self.git(&["add", "-A"]).await.well();
        self.git(&["commit", "-q", "--allow-empty", "-m", message])
            .await
            .well();
        self.head().await
    }

    pub(crate) async fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
            .await
            .well()
            .out
            .trim()
            .to_owned()
    }
}

pub(crate) async fn git(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Said {
    let output = Command::new("git")
        .args(["-c", "protocol.file.allow=always"])
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_AUTHOR_NAME", "Kim")
        .env("GIT_AUTHOR_EMAIL", "kim@example.org")
        .env("GIT_COMMITTER_NAME", "Kim")
        .env("GIT_COMMITTER_EMAIL", "kim@example.org")
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    Said {
        ok: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// One HTTP/1.1 request; returns the status and the whole answer.
pub(crate) async fn http(
    address: SocketAddr,
    method: &str,
    target: &str,
    token: Option<&str>,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut head = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    if let Some(token) = token {
        head.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer[9..12].parse().unwrap();
    (status, answer)
}

pub(crate) const RECEIVE: (&str, &str) = ("Content-Type", "application/x-git-receive-pack-request");

pub(crate) fn packet(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}
