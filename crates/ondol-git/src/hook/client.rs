//! The hook's side: a short-lived process between git and the control plane. It uses nothing but
//! the standard library and always ends well, because the push is done when it begins.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use super::{DONE, ENV_PROJECT, ENV_PUSH, ENV_SOCKET, GREETING, MAX_UPDATES};

const NAME: &str = "post-receive";
const LINE_BYTES: u64 = 4_096;

/// Whether a program that was started under this name is git's hook.
pub fn is_hook(argv0: &OsStr) -> bool {
    Path::new(argv0).file_name() == Some(OsStr::new(NAME))
}

/// The hook. `vars` is the process's environment; standard input and output are git's.
pub fn hook_main(vars: impl IntoIterator<Item = (OsString, OsString)>) -> ExitCode {
    let vars: HashMap<OsString, OsString> = vars.into_iter().collect();
    let mut out = io::stdout().lock();
    let followed = follow(&vars, &mut io::stdin().lock(), &mut out);
    if !matches!(followed, Ok(true)) {
        let note = "the push is safe; follow what it started with `ondol run watch`\n";
        let _ = out.write_all(note.as_bytes());
    }
    let _ = out.flush();
    ExitCode::SUCCESS
}

/// Sends the updates and shows the answer; false when the answer breaks off.
fn follow(
    vars: &HashMap<OsString, OsString>,
    updates: &mut impl BufRead,
    out: &mut impl Write,
) -> io::Result<bool> {
    let var = |name: &str| vars.get(OsStr::new(name)).ok_or(io::ErrorKind::NotFound);
    let text =
        |name: &str| var(name).and_then(|value| value.to_str().ok_or(io::ErrorKind::InvalidData));
    let socket = Path::new(var(ENV_SOCKET)?);
    // The folder's path may be longer than a socket's address can be.
    if let Some(folder) = socket.parent() {
        std::env::set_current_dir(folder)?;
    }
    let name = socket.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut stream = UnixStream::connect(name)?;
    let mut head = format!(
        "{GREETING}\nproject {}\npush {}\n",
        text(ENV_PROJECT)?,
        text(ENV_PUSH)?
    );
    for _ in 0..MAX_UPDATES {
        let before = head.len();
        if updates.take(LINE_BYTES).read_line(&mut head)? == 0 {
            break;
        }
        if !head[before..].ends_with('\n') {
            head.push('\n');
        }
    }
    stream.write_all(head.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line == DONE {
            return Ok(true);
        }
        if let Some(shown) = line.strip_prefix('|') {
            writeln!(out, "{shown}")?;
            out.flush()?;
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hooks_own_name_is_the_hook() {
        assert!(is_hook(OsStr::new("/data/git/.hooks/post-receive")));
        assert!(is_hook(OsStr::new("post-receive")));
        assert!(!is_hook(OsStr::new("/usr/bin/ondol")));
        assert!(!is_hook(OsStr::new("")));
    }

    #[test]
    fn a_missing_control_plane_is_an_error_and_not_a_crash() {
        let mut out = Vec::new();
        let none = HashMap::new();
        assert!(follow(&none, &mut io::empty(), &mut out).is_err());
        let gone = HashMap::from([
            (ENV_SOCKET.into(), "/nowhere/git-hook.sock".into()),
            (ENV_PROJECT.into(), "web".into()),
            (ENV_PUSH.into(), "op".into()),
        ]);
        assert!(follow(&gone, &mut io::empty(), &mut out).is_err());
        assert!(out.is_empty());
    }
}
