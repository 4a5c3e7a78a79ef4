//! Which addresses a base image may come from.
//!
//! A reference in a repository is written by whoever may push, and what it names can answer with
//! anything: a redirect, a name that resolves to this machine, another address on the next look.
//! So every address is judged where it is connected to. What the reference itself names may be
//! near (this machine, a private network); what it leads to may be near only when it is. Addresses
//! that belong to the machine's own surroundings, such as those of cloud metadata, are never asked.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::{Attempt, Policy};

const MAX_REDIRECTS: usize = 5;

/// How far away an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distance {
    /// Never asked.
    Forbidden,
    /// This machine.
    Here,
    /// A private network.
    Near,
    /// The internet.
    Far,
}

fn distance(address: IpAddr) -> Distance {
    match address {
        IpAddr::V4(address) => distance4(address),
        IpAddr::V6(address) => distance6(address),
    }
}

fn distance4(address: Ipv4Addr) -> Distance {
    let [first, second, ..] = address.octets();
    if address.is_loopback() {
        Distance::Here
    } else if first == 0
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
    {
        Distance::Forbidden
    } else if address.is_private() || (first == 100 && second & 0xc0 == 64) {
        Distance::Near
    } else {
        Distance::Far
    }
}

fn distance6(address: Ipv6Addr) -> Distance {
    let parts = address.segments();
    let last = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        distance4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        [0, 0, 0, 0, 0, 0, 0, 1] => Distance::Here,
        [0, 0, 0, 0, 0, 0, 0, 0] => Distance::Forbidden,
        // Addresses that hold one of version 4: mapped, compatible, NAT64, 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0, 0, high, low] => last(high, low),
        [0x64, 0xff9b, .., high, low] => last(high, low),
        [0x2002, high, low, ..] => last(high, low),
        // Where Amazon keeps its metadata.
        [0xfd00, 0x0ec2, ..] => Distance::Forbidden,
        [first, ..] if first & 0xffc0 == 0xfe80 || first & 0xff00 == 0xff00 => Distance::Forbidden,
        [first, ..] if first & 0xfe00 == 0xfc00 => Distance::Near,
        _ => Distance::Far,
    }
}

/// What one reference may reach.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    home: Arc<str>,
    home_is_near: Arc<AtomicBool>,
}

impl Reach {
    /// For a reference to this host, which may have a port.
    pub(super) fn of(host: &str) -> Self {
        Self {
            home: name_of(host).into(),
            home_is_near: Arc::default(),
        }
    }

    /// Whether the reference names this machine in so many words.
    pub(super) fn is_here(&self) -> bool {
        match literal(&self.home) {
            Some(address) => distance(address) == Distance::Here,
            None => &*self.home == "localhost",
        }
    }

    /// Judges an address before it is connected to.
    pub(super) fn allow(&self, host: &str, address: IpAddr) -> Result<(), String> {
        let home = host.eq_ignore_ascii_case(&self.home);
        let good = match distance(address) {
            Distance::Forbidden => false,
            Distance::Here => self.is_here(),
            Distance::Near if home => {
                self.home_is_near.store(true, Ordering::Relaxed);
                true
            }
            Distance::Near => self.is_here() || self.home_is_near.load(Ordering::Relaxed),
            Distance::Far => true,
        };
        if good {
            Ok(())
        } else {
            Err(format!(
                "{host} leads to {address}, which is not asked for images"
            ))
        }
    }

    /// Judges the host of the reference when it is an address itself.
    pub(super) fn allow_home(&self) -> Result<(), String> {
        literal(&self.home).map_or(Ok(()), |address| self.allow(&self.home, address))
    }

    fn follow(&self, attempt: Attempt<'_>) -> reqwest::redirect::Action {
        let url = attempt.url();
        let host = url.host_str().unwrap_or_default().to_owned();
        let problem = if attempt.previous().len() > MAX_REDIRECTS {
            Err("it redirects again and again".to_owned())
        } else if url.scheme() != "https" && !self.is_here() {
            Err(format!("it redirects to {host} without encryption"))
        } else if let Some(address) = literal(&host) {
            self.allow(&host, address)
        } else {
            Ok(())
        };
        match problem {
            Ok(()) => attempt.follow(),
            Err(problem) => attempt.error(problem),
        }
    }

    /// Has a client judge every address, whatever leads to it.
    pub(super) fn guard(&self, client: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
        let reach = self.clone();
        client
            .dns_resolver(Arc::new(self.clone()))
            .redirect(Policy::custom(move |attempt| reach.follow(attempt)))
    }
}

impl Resolve for Reach {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            for address in &found {
                reach.allow(&host, address.ip())?;
            }
            Ok::<Addrs, Box<dyn Error + Send + Sync>>(Box::new(found.into_iter()))
        })
    }
}

/// The host without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn literal(host: &str) -> Option<IpAddr> {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(host).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(home: &str, host: &str, address: &str) -> bool {
        let reach = Reach::of(home);
        if let Some(own) = literal(&reach.home) {
            let _ = reach.allow(&reach.home.clone(), own);
        }
        reach.allow(host, address.parse().unwrap()).is_ok()
    }

    #[test]
    fn a_name_on_the_internet_leads_to_the_internet_alone() {
        for far in ["203.0.113.7", "2606:4700::1", "64:ff9b::808:808"] {
            assert!(allowed("ghcr.io", "ghcr.io", far), "{far}");
        }
        for near in [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "224.0.0.1",
        ] {
            assert!(!allowed("ghcr.io", "ghcr.io", near), "{near}");
            assert!(!allowed("ghcr.io", "cdn.example.org", near), "{near}");
        }
        for private in [
            "10.0.0.7",
            "192.168.1.1",
            "172.16.0.1",
            "100.64.0.1",
            "fc00::1",
        ] {
            assert!(!allowed("ghcr.io", "cdn.example.org", private), "{private}");
        }
    }

    #[test]
    fn a_registry_of_the_own_network_may_lead_to_its_network() {
        assert!(allowed("harbor.corp:8443", "harbor.corp", "10.0.0.7"));
        assert!(allowed("10.0.0.7:5000", "minio.corp", "10.0.0.8"));
        assert!(!allowed("10.0.0.7:5000", "minio.corp", "127.0.0.1"));
        assert!(!allowed("10.0.0.7:5000", "10.0.0.7", "169.254.169.254"));
        assert!(allowed("127.0.0.1:5000", "127.0.0.1", "127.0.0.1"));
        assert!(allowed("localhost:5000", "localhost", "::1"));
        assert!(!allowed(
            "127.evil.example:5000",
            "127.evil.example",
            "127.0.0.1"
        ));
        assert!(Reach::of("169.254.169.254:80").allow_home().is_err());
        assert!(Reach::of("127.0.0.1:5000").allow_home().is_ok());
        assert!(!Reach::of("127.evil.example").is_here());
    }
}
