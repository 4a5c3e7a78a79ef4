//! A root filesystem of programs of this host, so that no test pulls anything.

use std::process::Command;

/// A userland as a tar archive: `busybox` under all its names, and `bash` and `getent` with the libraries that
/// they and the resolver need.
pub fn userland() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, mode: u32, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(0);
        header
    };
    let directory = tar::EntryType::Directory;
    for (dir, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("lib", 0o755),
        ("lib64", 0o755),
        ("mnt", 0o755),
        ("proc", 0o755),
        ("root", 0o700),
        ("run", 0o755),
        ("sys", 0o755),
        ("tmp", 0o1777),
        ("var", 0o755),
    ] {
        let mut header = header(directory, mode, 0);
        archive
            .append_data(&mut header, dir, std::io::empty())
            .unwrap();
    }
    let mut put = |path: &str, bytes: &[u8], mode: u32| {
        let mut header = header(tar::EntryType::Regular, mode, bytes.len() as u64);
        archive.append_data(&mut header, path, bytes).unwrap();
    };
    put(
        "bin/busybox",
        &std::fs::read("/usr/bin/busybox").unwrap(),
        0o755,
    );
    put(
        "etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/tmp:/bin/sh\n",
        0o644,
    );
    put("etc/group", b"root:x:0:\napp:x:1001:\n", 0o644);
    put("etc/nsswitch.conf", b"hosts: files dns\n", 0o644);
    let mut libraries = std::collections::BTreeSet::new();
    for program in ["/bin/bash", "/usr/bin/getent"] {
        put(
            &format!("bin/{}", program.rsplit('/').next().unwrap()),
            &std::fs::read(program).unwrap(),
            0o755,
        );
        let needs = Command::new("ldd").arg(program).output().unwrap();
        let needs = String::from_utf8(needs.stdout).unwrap();
        libraries.extend(
            needs
                .split_whitespace()
                .filter(|word| word.starts_with('/'))
                .map(str::to_owned),
        );
    }
    for library in libraries {
        put(
            library.trim_start_matches('/'),
            &std::fs::read(&library).unwrap(),
            0o755,
        );
    }
    let applets = Command::new("/usr/bin/busybox")
        .arg("--list")
        .output()
        .unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines() {
        if ["busybox", "bash", "getent"].contains(&applet) {
            continue;
        }
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        archive
            .append_link(&mut header, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    archive.into_inner().unwrap()
}
