//! Where processes listen, read from `/proc`, so that a program which ignores `PORT` can be told
//! where it was found.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

/// The TCP addresses on which any of these processes listens, as it sees them itself: one in a
/// network namespace of its own is asked there.
pub fn listening(pids: &BTreeSet<i32>) -> Vec<SocketAddr> {
    let mut found = BTreeSet::new();
    for pid in pids {
        let inodes = socket_inodes(*pid);
        if inodes.is_empty() {
            continue;
        }
        for table in ["tcp", "tcp6"] {
            let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
            found.extend(
                text.lines()
                    .filter_map(parse)
                    .filter(|(inode, _)| inodes.contains(inode))
                    .map(|entry| entry.1),
            );
        }
    }
    found.into_iter().collect()
}

fn socket_inodes(pid: i32) -> HashSet<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return HashSet::new();
    };
    entries
        .filter_map(|entry| {
            let target = fs::read_link(entry.ok()?.path()).ok()?;
            let inode = target
                .as_os_str()
                .as_bytes()
                .strip_prefix(b"socket:[")?
                .strip_suffix(b"]")?;
            std::str::from_utf8(inode).ok()?.parse().ok()
        })
        .collect()
}

/// One line of `/proc/net/tcp` or `tcp6` when its socket listens.
fn parse(line: &str) -> Option<(u64, SocketAddr)> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Each group of eight digits is a 32-bit word in the byte order of the machine.
    let mut bytes = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        bytes.extend(
            u32::from_str_radix(address.get(at..at + 8)?, 16)
                .ok()?
                .to_ne_bytes(),
        );
    }
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some((fields.get(9)?.parse().ok()?, SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn own_listeners_are_found() {
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let found = listening(&[std::process::id() as i32].into());
        assert!(found.contains(&four.local_addr().unwrap()), "{found:?}");
        if let Ok(six) = TcpListener::bind("[::1]:0") {
            let found = listening(&[std::process::id() as i32].into());
            assert!(found.contains(&six.local_addr().unwrap()), "{found:?}");
        }
    }

    #[test]
    fn only_listening_sockets_count() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        let established = "   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000 0 0 777 1 0 20 4 30 10 -1";
        let listens = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 778 1 0 100 0 0 10 0";
        assert_eq!(parse(head), None);
        assert_eq!(parse(established), None);
        assert_eq!(parse(listens), Some((778, "0.0.0.0:8080".parse().unwrap())));
    }
}
