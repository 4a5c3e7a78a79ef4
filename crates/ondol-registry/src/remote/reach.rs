//! Which addresses this server connects to on behalf of others.
//!
//! A name in a project's file, a redirect or a token realm is chosen by a stranger, and must not
//! make this server talk to itself or its neighbours. Only public addresses are allowed, whatever
//! way they are written, unless an administrator named the host. Names are resolved here and the
//! connection goes to the very addresses that were judged, so that an answer that changes between
//! two questions changes nothing.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Hosts that are allowed by name, as `host:port`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    trusted: Arc<HashSet<String>>,
}

/// A host is not public.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not a public address")]
struct NotPublic(String);

/// Whether a request failed because its host is not public.
pub(super) fn is_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<NotPublic>())
}

/// `host:port` of an address, as administrators write it.
pub(crate) fn host_port(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(format!("{host}:{}", url.port_or_known_default()?))
}

impl Reach {
    /// Public addresses and these.
    pub(crate) fn new(trusted: impl IntoIterator<Item = String>) -> Self {
        Self {
            trusted: Arc::new(trusted.into_iter().collect()),
        }
    }

    /// Whether an administrator named this host and port.
    pub(crate) fn is_trusted(&self, url: &Url) -> bool {
        host_port(url).is_some_and(|place| self.trusted.contains(&place))
    }

    /// Whether an address may be asked, as far as it can be known without resolving it.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub(crate) fn allows(&self, url: &Url) -> Result<(), String> {
        if self.is_trusted(url) {
            return match url.scheme() {
                "http" | "https" => Ok(()),
                other => Err(format!("`{other}` is not a protocol of registries")),
            };
        }
        if url.scheme() != "https" {
            return Err(format!(
                "{} is not https",
                url.host_str().unwrap_or_default()
            ));
        }
        let host = url.host_str().unwrap_or_default();
        // The parser has already turned octal, hexadecimal and short forms into dotted decimals.
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        match literal.parse::<IpAddr>() {
            Ok(address) if !is_public(address) => Err(NotPublic(host.to_owned()).to_string()),
            Ok(_) => Ok(()),
            Err(_) if host == "localhost" || host.ends_with(".localhost") => {
                Err(NotPublic(host.to_owned()).to_string())
            }
            Err(_) => Ok(()),
        }
    }
}

/// Resolves names to public addresses, for every host that no administrator named.
pub(crate) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0))
                .await?
                .filter(|address| is_public(address.ip()))
                .collect();
            if found.is_empty() {
                return Err(NotPublic(host).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether an address belongs to the public internet.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => public_v4(address),
        IpAddr::V6(address) => public_v6(address),
    }
}

fn public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        // Shared by carriers, protocol assignments, 6to4 relays, benchmarks.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19)))
}

fn public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    // Only 2000::/3 is given out; in it, prefixes that carry or stand for something else.
    if parts[0] & 0xe000 != 0x2000 {
        // NAT64 carries an IPv4 address.
        return parts[..6] == [0x64, 0xff9b, 0, 0, 0, 0] && public_v4(carried(parts[6], parts[7]));
    }
    match (parts[0], parts[1]) {
        // 6to4 carries one as well.
        (0x2002, _) => public_v4(carried(parts[1], parts[2])),
        // Teredo, ORCHID, documentation.
        (0x2001, second) => second >= 0x0200 && second != 0x0db8,
        (0x3fff, second) => second >= 0x1000,
        _ => true,
    }
}

fn carried(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_neighbours_are_not_public() {
        for private in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in [
            "1.1.1.1",
            "93.184.216.34",
            "100.128.0.1",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "64:ff9b::101:101",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn every_spelling_of_a_private_address_is_refused() {
        let reach = Reach::new(["127.0.0.1:5000".to_owned()]);
        for refused in [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://0177.0.0.1/",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://localhost/",
            "https://a.localhost/",
            "https://169.254.169.254/latest/meta-data",
            "http://example.com/",
            "http://127.0.0.1:5001/",
            "ftp://127.0.0.1:5000/",
            "file:///etc/passwd",
        ] {
            assert!(
                reach.allows(&refused.parse().unwrap()).is_err(),
                "{refused}"
            );
        }
        for allowed in ["https://example.com/", "http://127.0.0.1:5000/v2/"] {
            assert_eq!(reach.allows(&allowed.parse().unwrap()), Ok(()), "{allowed}");
        }
    }

    #[tokio::test]
    async fn a_name_that_means_a_neighbour_resolves_to_nothing() {
        use std::str::FromStr;
        let name = Name::from_str("localhost").unwrap();
        assert!(PublicOnly.resolve(name).await.is_err());
    }
}
