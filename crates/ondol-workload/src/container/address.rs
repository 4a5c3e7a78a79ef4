//! Where a container engine listens. Finding out is a pure function of what the binary has read
//! from its surroundings; what is tried later is every candidate in its order.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The address of an engine's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A port of this machine. Ports of others are refused: containers are reached at the loopback
    /// of the machine that they run on.
    Tcp(SocketAddr),
}

/// Why a text is no address of an engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not the address of a container engine on this machine: expected `unix:///path` or `tcp://127.0.0.1:port`"
)]
pub struct AddressError {
    text: String,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError {
            text: text.to_owned(),
        };
        if let Some(path) = text.strip_prefix("unix://").or_else(|| {
            // A bare path is what people write.
            text.starts_with('/').then_some(text)
        }) {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(error())
            };
        }
        let rest = text
            .strip_prefix("tcp://")
            .or_else(|| text.strip_prefix("http://"))
            .ok_or_else(error)?;
        let rest = rest.trim_end_matches('/');
        let local = rest.replacen("localhost:", "127.0.0.1:", 1);
        match local.parse::<SocketAddr>() {
            Ok(address) if is_loopback(address.ip()) => Ok(Self::Tcp(address)),
            _ => Err(error()),
        }
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// What the binary knows about where an engine may listen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings<'a> {
    /// What the configuration says.
    pub configured: Option<&'a str>,
    /// The variable `DOCKER_HOST`.
    pub docker_host: Option<&'a str>,
    /// The variable `CONTAINER_HOST`, which is Podman's.
    pub container_host: Option<&'a str>,
    /// The variable `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<&'a Path>,
    /// The user's home directory.
    pub home: Option<&'a Path>,
    /// Whether this process is root.
    pub root: bool,
}

/// The addresses to try, best first. What somebody named is the only one.
///
/// # Errors
/// What somebody named is not an address that can be used.
pub fn candidates(surroundings: &Surroundings<'_>) -> Result<Vec<Address>, AddressError> {
    let named = [
        surroundings.configured,
        surroundings.docker_host,
        surroundings.container_host,
    ];
    if let Some(text) = named.into_iter().flatten().find(|text| !text.is_empty()) {
        return Ok(vec![text.parse()?]);
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    if !surroundings.root {
        if let Some(dir) = surroundings.runtime_dir {
            paths.push(dir.join("podman/podman.sock"));
            paths.push(dir.join("docker.sock"));
        }
        if let Some(home) = surroundings.home {
            paths.push(home.join(".docker/run/docker.sock"));
        }
    }
    paths.push("/run/podman/podman.sock".into());
    paths.push("/var/run/docker.sock".into());
    Ok(paths.into_iter().map(Address::Unix).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(surroundings: &Surroundings<'_>) -> Vec<String> {
        let found = candidates(surroundings).unwrap();
        found.iter().map(Address::to_string).collect()
    }

    #[test]
    fn what_is_named_is_the_only_candidate() {
        let all = Surroundings {
            configured: Some("unix:///a.sock"),
            docker_host: Some("unix:///b.sock"),
            container_host: Some("unix:///c.sock"),
            ..Surroundings::default()
        };
        assert_eq!(paths(&all), ["unix:///a.sock"]);
        let without = Surroundings {
            configured: None,
            ..all
        };
        assert_eq!(paths(&without), ["unix:///b.sock"]);
        let podman = Surroundings {
            docker_host: Some(""),
            ..without
        };
        assert_eq!(paths(&podman), ["unix:///c.sock"]);
    }

    #[test]
    fn sockets_of_the_user_come_before_those_of_the_system() {
        let user = Surroundings {
            runtime_dir: Some(Path::new("/run/user/1000")),
            home: Some(Path::new("/home/u")),
            ..Surroundings::default()
        };
        assert_eq!(
            paths(&user),
            [
                "unix:///run/user/1000/podman/podman.sock",
                "unix:///run/user/1000/docker.sock",
                "unix:///home/u/.docker/run/docker.sock",
                "unix:///run/podman/podman.sock",
                "unix:///var/run/docker.sock",
            ]
        );
        let root = Surroundings { root: true, ..user };
        assert_eq!(paths(&root).len(), 2);
    }

    #[test]
    fn only_engines_of_this_machine_are_accepted() {
        for text in [
            "tcp://localhost:2375",
            "http://127.0.0.1:2375/",
            "tcp://[::1]:2375",
        ] {
            assert!(matches!(text.parse(), Ok(Address::Tcp(_))), "{text}");
        }
        for text in [
            "tcp://10.0.0.1:2375",
            "ssh://host",
            "unix://relative",
            "tcp://0.0.0.0:1",
            "",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        assert_eq!(
            "/run/x.sock".parse::<Address>().unwrap().to_string(),
            "unix:///run/x.sock"
        );
    }
}
