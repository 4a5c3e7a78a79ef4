//! Programs of a Python virtual environment name their interpreter by absolute path in their
//! first line. In an image they must find it beside themselves, wherever the image is unpacked.

use std::path::Path;

/// The first line and body of a script of `.venv/bin`, rewritten so that it starts the `python`
/// beside it. `None` when it is not such a script.
pub(super) fn script(bytes: &[u8], root: &Path) -> Option<Vec<u8>> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let first = std::str::from_utf8(&bytes[..end]).ok()?;
    let interpreter = first.strip_prefix("#!")?.trim();
    let inside = Path::new(interpreter).strip_prefix(root).ok()?;
    let name = inside.file_name()?.to_str()?;
    if !inside.starts_with(".venv/bin") || !name.starts_with("python") {
        return None;
    }
    // The line is shell to the shell and a string to Python, which then reads on.
    let header = format!(
        "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")/{name}\" \"$0\" \"$@\"\n' '''\n"
    );
    let mut out = header.into_bytes();
    out.extend_from_slice(&bytes[end + 1..]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scripts_of_the_environment_are_rewritten() {
        let root = Path::new("/build/run/src");
        let moved = script(b"#!/build/run/src/.venv/bin/python3\nimport x\n", root).unwrap();
        let text = String::from_utf8(moved).unwrap();
        assert!(
            text.starts_with("#!/bin/sh\n")
                && text.contains("/python3\"")
                && text.ends_with("import x\n"),
            "{text}"
        );
        for other in [
            "#!/usr/bin/python3\nx\n",
            "#!/build/run/src/.venv/bin/ruby\nx\n",
            "ELF",
            "#!/build/run/srcx/.venv/bin/python\nx\n",
        ] {
            assert!(script(other.as_bytes(), root).is_none(), "{other}");
        }
    }
}
