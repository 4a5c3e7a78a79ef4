//! What no Dockerfile may ask an engine for. An engine that runs as root does things for a
//! Dockerfile outside of what it is told about a build: it gives a command the network of the host
//! when its own flag asks for it, fetches addresses that `ADD` names, reads images out of folders
//! of the host, and keeps caches for whoever names them. Podman before 5.4 also follows links on
//! the host for the mounts of a command (CVE-2024-1753, CVE-2024-9675, CVE-2024-11218).
//!
//! The file is looked at before it is sent, and every step again when the engine begins it: steps
//! come from base images too. It is read as broadly as any engine reads it; what hides behind a
//! variable is refused like what it may hide.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

/// Podman whose mounts of commands stay inside: this version and later ones.
pub(super) const SOUND_PODMAN: (u32, u32) = (5, 4);

/// What images can be read from besides registries.
const TRANSPORTS: [&str; 10] = [
    "containers-storage",
    "dir",
    "docker-archive",
    "docker-daemon",
    "oci",
    "oci-archive",
    "ostree",
    "sif",
    "tarball",
    "atomic",
];

const NETWORK: &str = "a command of a build may not be in the network of the host";
const SECURITY: &str = "a command of a build may not run without its confinement";
const FETCH: &str =
    "`ADD` of an address or a variable lets the engine read from the host's network";
const TRANSPORT: &str = "an image may only come from a registry or an earlier stage";
const HIDDEN: &str = "a mount of a command may not hide what it is behind a variable";
const CACHE: &str = "a cache of a command is one of this project, without `from` and `source`";
const WRITABLE: &str = "this engine does not keep a writable mount of a command inside the build";
const SOURCE: &str = "this engine does not keep the source of that mount inside the build: leave `source` out, or use `COPY`";
const KIND: &str = "this kind of mount is not known";

/// What is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The line, from one.
    pub(super) line: usize,
    pub(super) problem: &'static str,
}

/// What holds for one build.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// What the names of its caches begin with.
    caches: String,
    /// Whether the engine's mounts are not to be trusted.
    careful: bool,
    /// Links of the context.
    links: BTreeSet<String>,
}

impl Policy {
    pub(super) fn new(project: &str, careful: bool, links: BTreeSet<String>) -> Self {
        Self {
            caches: format!("ondol-{project}-"),
            careful,
            links,
        }
    }

    /// The Dockerfile with the caches of its project, when it asks for nothing that is not allowed.
    pub(super) fn prepare(&self, dockerfile: &str) -> Result<String, Refusal> {
        let own = self.with_own_caches(dockerfile);
        self.check(&own)?;
        Ok(own)
    }

    /// Caches of commands are kept by name for all builds of an engine: two projects that both say
    /// `/root/.cache` must not read each other's.
    fn with_own_caches(&self, dockerfile: &str) -> String {
        let mut own = String::with_capacity(dockerfile.len());
        for piece in dockerfile.split_inclusive(char::is_whitespace) {
            let word = piece.trim_end();
            let plain = !word.contains(['"', '\'', '\\', '`', '$']);
            match word.strip_prefix("--mount=") {
                Some(mount) if plain && mount.split(',').any(|part| part == "type=cache") => {
                    let id = mount.split(',').find_map(|part| part.strip_prefix("id="));
                    let name = id.or_else(|| target(mount)).unwrap_or_default();
                    let hash = Sha256::digest(name.trim_end_matches('/').as_bytes());
                    let hash = data_encoding::HEXLOWER.encode(&hash[..8]);
                    own.push_str("--mount=");
                    for part in mount.split(',').filter(|part| !part.starts_with("id=")) {
                        own.push_str(part);
                        own.push(',');
                    }
                    own.push_str(&format!("id={}{hash}", self.caches));
                    own.push_str(&piece[word.len()..]);
                }
                _ => own.push_str(piece),
            }
        }
        own
    }

    fn check(&self, dockerfile: &str) -> Result<(), Refusal> {
        let mut whole = String::new();
        let mut begun = 0;
        for (index, line) in dockerfile.lines().enumerate() {
            let at = |line| move |problem| Refusal { line, problem };
            // By itself too: what is part of another instruction differs between engines.
            self.step(line).map_err(at(index + 1))?;
            let text = line.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            if whole.is_empty() {
                begun = index + 1;
            }
            match text.strip_suffix(['\\', '`']) {
                Some(part) => {
                    whole.push_str(part);
                    whole.push(' ');
                }
                None => {
                    whole.push_str(text);
                    self.step(&whole).map_err(at(begun))?;
                    whole.clear();
                }
            }
        }
        let line = begun;
        self.step(&whole)
            .map_err(|problem| Refusal { line, problem })
    }

    /// Checks one instruction.
    pub(super) fn step(&self, instruction: &str) -> Result<(), &'static str> {
        // Engines take quotes out of flags.
        let mut words = instruction
            .split_whitespace()
            .map(|word| word.replace(['"', '\'', '\\', '`'], ""))
            .skip_while(|word| word.eq_ignore_ascii_case("onbuild"));
        let name = words.next().unwrap_or_default().to_ascii_lowercase();
        match name.as_str() {
            "run" => {
                for flag in words.take_while(|word| word.starts_with("--")) {
                    self.run_flag(&flag)?;
                }
                Ok(())
            }
            "from" => {
                let mut image = words.skip_while(|word| word.starts_with("--"));
                registry_only(&image.next().unwrap_or_default())
            }
            "copy" => {
                for flag in words.take_while(|word| word.starts_with("--")) {
                    if let Some(from) = flag.strip_prefix("--from") {
                        registry_only(from.trim_start_matches('='))?;
                    }
                }
                Ok(())
            }
            "add" => {
                let fetches = |word: String| {
                    word.contains("://") || word.contains('$') || word.contains("git@")
                };
                if words.any(fetches) {
                    Err(FETCH)
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        }
    }

    fn run_flag(&self, flag: &str) -> Result<(), &'static str> {
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        match name {
            "--network" if ["none", "default"].contains(&value) => Ok(()),
            "--network" => Err(NETWORK),
            "--security" if value == "sandbox" => Ok(()),
            "--mount" => self.mount(value),
            "--" => Ok(()),
            _ => Err(SECURITY),
        }
    }

    fn mount(&self, mount: &str) -> Result<(), &'static str> {
        if mount.contains('$') {
            return Err(HIDDEN);
        }
        let parts: Vec<(&str, &str)> = mount
            .split(',')
            .map(|part| part.split_once('=').unwrap_or((part, "")))
            .collect();
        let value = |names: &[&str]| {
            let mut named = parts.iter().filter(|(name, _)| names.contains(name));
            named.next_back().map(|(_, value)| *value)
        };
        let from = value(&["from"]);
        let source = value(&["source", "src"]);
        registry_only(from.unwrap_or_default())?;
        match value(&["type"]).unwrap_or("bind") {
            "cache" => {
                let own = value(&["id"]).and_then(|id| id.strip_prefix(self.caches.as_str()));
                let is_own = own.is_some_and(|rest| {
                    rest.len() == 16 && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
                });
                if is_own && from.is_none() && source.is_none() {
                    Ok(())
                } else {
                    Err(CACHE)
                }
            }
            "bind" if !self.careful => Ok(()),
            "bind" => {
                let writable = parts.iter().any(|(name, value)| match *name {
                    "rw" | "readwrite" | "bind-propagation" => true,
                    "ro" | "readonly" => !["", "true"].contains(value),
                    _ => false,
                });
                if writable {
                    return Err(WRITABLE);
                }
                let source = source.unwrap_or("/").trim_start_matches("./");
                let inside = match from {
                    Some(_) => ["/", "", "."].contains(&source),
                    None => self.is_plain(source),
                };
                if inside { Ok(()) } else { Err(SOURCE) }
            }
            "secret" if source.is_some() => Err(SOURCE),
            "secret" | "tmpfs" | "ssh" => Ok(()),
            _ => Err(KIND),
        }
    }

    /// Whether a path of the context has no link in it.
    fn is_plain(&self, path: &str) -> bool {
        let mut whole = String::new();
        for part in path
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
        {
            if part == ".." {
                return false;
            }
            if !whole.is_empty() {
                whole.push('/');
            }
            whole.push_str(part);
            if self.links.contains(&whole) {
                return false;
            }
        }
        true
    }
}

fn target(mount: &str) -> Option<&str> {
    let mut parts = mount.split(',');
    parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        ["target", "dst", "destination"]
            .contains(&name)
            .then_some(value)
    })
}

fn registry_only(image: &str) -> Result<(), &'static str> {
    let scheme = image.split(':').next().unwrap_or_default();
    let elsewhere = image.contains(':') && TRANSPORTS.contains(&scheme);
    if elsewhere { Err(TRANSPORT) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(careful: bool) -> Policy {
        Policy::new(
            "web",
            careful,
            ["link".to_owned(), "a/link".to_owned()].into(),
        )
    }

    fn line(text: &str, careful: bool) -> usize {
        let refused = policy(careful).prepare(text).err();
        refused.map_or(0, |refusal| refusal.line)
    }

    #[test]
    fn what_reaches_out_of_a_build_is_refused_however_it_is_written() {
        for (text, expected) in [
            ("FROM a\nRUN --network=host x", 2),
            (
                "FROM a\nrun --mount=type=tmpfs,target=/x \\\n  --network=host x",
                2,
            ),
            ("FROM a\nRUN \\\n# comment\n\n--net\"work\"=host x", 2),
            ("ARG N=host\nRUN --network=$N x", 2),
            ("# escape=`\nRUN `\n--network=host x", 2),
            ("ONBUILD RUN --network=host x", 1),
            ("RUN --security=insecure x", 1),
            ("RUN --device=/dev/kvm x", 1),
            ("ADD http://127.0.0.1:7070/x /x", 1),
            ("ADD --chown=1:1 [\"https://x/y\", \"/z\"]", 1),
            ("ADD $WHERE /x", 1),
            ("ADD git@host:a/b /x", 1),
            ("RUN <<E\nx \\\nE\nRUN --network=host y", 4),
            ("FROM --platform=x docker-archive:/x.tar AS a", 1),
            ("FROM \"dir\":/x", 1),
            ("COPY --from=oci:/x /a /b", 1),
            ("RUN --mount=from=dir:/x,target=/y ls", 1),
            ("RUN --mount=type=$T,target=/y ls", 1),
            ("RUN --mount=type=cache,\"id=../../etc\",target=/y ls", 1),
            ("RUN --mount=type=cache,target=/y,from=a,source=b ls", 1),
            ("RUN --mount=type=secret,id=a,src=/etc/shadow ls", 1),
            ("RUN --mount=type=host,target=/y ls", 1),
        ] {
            assert_eq!(line(text, false), expected, "{text}");
        }
        // Only where the engine follows links on the host.
        for text in [
            "RUN --mount=type=bind,from=a,source=/s,target=/x ls",
            "RUN --mount=target=/x,rw ls",
            "RUN --mount=target=/x,ro=false ls",
            "RUN --mount=source=link,target=/x ls",
            "RUN --mount=source=./a/link/b,target=/x ls",
            "RUN --mount=source=a/../..,target=/x ls",
        ] {
            assert_eq!((line(text, true), line(text, false)), (1, 0), "{text}");
        }
    }

    #[test]
    fn what_is_usual_is_not() {
        let usual = "FROM --platform=linux/amd64 a:1 AS b\nRUN --network=none make && curl http://x/ --network=host\n\
                     RUN echo --network=host\nRUN --mount=type=secret,id=A cat $B\nADD a.tar.gz ./dir /x/\nCOPY --from=b $X /y\n\
                     FROM registry:5000/dir:1\nRUN --mount=type=bind,target=/src --mount=source=a/b,target=/c ls\n\
                     RUN --mount=from=b,target=/b ls";
        assert_eq!(policy(true).prepare(usual).unwrap(), usual);
    }

    #[test]
    fn caches_are_those_of_the_project() {
        let text = "RUN --mount=type=cache,target=/root/.cache \\\n  --mount=id=../x,type=cache,dst=/y\tpip install\n";
        let own = policy(true).prepare(text).unwrap();
        let name = |text: &str| text.split("id=").nth(1).unwrap()[..26].to_owned();
        assert!(name(&own).starts_with("ondol-web-"), "{own}");
        assert!(
            own.contains(" \\\n  --mount=type=cache,dst=/y,id=ondol-web-"),
            "{own}"
        );
        assert!(
            own.ends_with("\tpip install\n") && !own.contains(".."),
            "{own}"
        );
        let same = "RUN --mount=type=cache,target=/root/.cache/ x";
        assert_eq!(name(&own), name(&policy(true).prepare(same).unwrap()));
        let other = Policy::new("api", true, BTreeSet::new())
            .prepare(text)
            .unwrap();
        assert_ne!(name(&own), name(&other));
    }
}
