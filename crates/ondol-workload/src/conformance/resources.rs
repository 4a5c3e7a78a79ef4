//! Limits, ports, and what programs leave behind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Bench;
use crate::model::{PortRequest, WorkloadKind};

#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// A program that takes more memory than it may is killed, and that is why.
pub async fn out_of_memory_is_told(bench: Bench) {
    if !bench.engine.capabilities().await.memory_limit {
        skipped("this host does not limit memory");
        return;
    }
    let mut spec = bench.script("exec tail /dev/zero");
    spec.limits.memory_bytes = Some(32 << 20);
    let exit = bench.run(&spec).await;
    assert!(exit.oom && !exit.success(), "{exit:?}");
    assert_eq!(exit.signal, Some(9));
}

/// A program that forks without end stays within its limit and can be ended, with all its
/// children.
pub async fn a_fork_bomb_is_contained(bench: Bench) {
    if !bench.engine.capabilities().await.pids_limit {
        skipped(
            "this host does not limit the processes of a workload, and a test must not bomb it",
        );
        return;
    }
    let mut spec =
        bench.script("echo ready; bomb() { bomb | bomb & }; bomb; while :; do sleep 0.05; done");
    spec.limits.pids = Some(40);
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "ready").await;
    for _ in 0..20 {
        let usage = bench.engine.usage(&spec.id).await.unwrap_or_default();
        assert!(usage.pids <= 40, "{usage:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let exit = bench
        .engine
        .kill(&spec.id)
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    assert!(exit.stopped);
}

/// Processes that were put into the background, into sessions of their own, end with the main one.
pub async fn what_is_left_behind_is_ended(bench: Bench, alive: impl Fn(i32) -> bool) {
    let script = "setsid sh -c 'trap \"\" TERM HUP; sleep 600 & wait' >/dev/null 2>&1 & echo pid $!; (sleep 601 & echo pid $!); sleep 0.1; exit 3";
    let spec = bench.script(script);
    assert_eq!(bench.run(&spec).await.code, Some(3));
    let out = bench.stdout(&spec.id).await;
    let pids: Vec<i32> = out
        .lines()
        .filter_map(|line| line.strip_prefix("pid ")?.parse().ok())
        .collect();
    assert_eq!(pids.len(), 2, "{out}");
    assert!(pids.iter().all(|&pid| !alive(pid)), "{pids:?}");
}

/// What is used is counted, and kept with the exit.
pub async fn usage_is_counted(bench: Bench) {
    let mut spec = bench.script("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; while :; do sleep 0.05; done");
    spec.kind = WorkloadKind::KeepAlive;
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "done").await;
    let usage = bench.engine.usage(&spec.id).await.unwrap_or_default();
    assert!(
        usage.cpu_seconds > 0.0 && usage.memory_bytes > 0 && usage.pids >= 1,
        "{usage:?}"
    );
    let _ = bench.engine.kill(&spec.id).await;
    let total = bench.engine.usage(&spec.id).await.unwrap_or_default();
    assert!(
        total.cpu_seconds >= usage.cpu_seconds,
        "{total:?} after {usage:?}"
    );
}

const SERVER: &str = "import http.server, os, sys
port = int(sys.argv[1]) if len(sys.argv) > 1 else int(os.environ['PORT'])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = ('port %s' % os.environ.get('PORT')).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
server = http.server.HTTPServer(('127.0.0.1', port), Handler)
print('listening', flush=True)
server.serve_forever()
";

fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn server(bench: &Bench, argument: &str) -> crate::model::WorkloadSpec {
    let mut spec = bench.script(&format!("exec python3 -c \"$SERVER\" {argument}"));
    spec.env.insert("SERVER".into(), SERVER.into());
    spec.kind = WorkloadKind::KeepAlive;
    spec
}

/// A program gets a port of its own and is reached there; another that ignores it is found.
pub async fn a_port_is_given_and_listeners_are_found(bench: Bench) {
    let mut spec = server(&bench, "");
    spec.port = PortRequest::Auto;
    let seen = bench.start(&spec).await;
    let Some(address) = seen.address else {
        panic!("no address: {seen:?}")
    };
    bench.until_logged(&spec.id, "listening").await;
    let answer = get(address).unwrap_or_else(|error| panic!("{error}"));
    assert!(
        answer.ends_with(&format!("port {}", address.port())),
        "{answer}"
    );
    assert_eq!(
        bench.engine.listening(&spec.id).await.unwrap_or_default(),
        [address]
    );

    // A free port that was not asked for, as a program with a habit takes it.
    let habit = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let Ok(habit) = habit else {
        panic!("no free port")
    };
    let mut stubborn = server(&bench, &habit.port().to_string());
    stubborn.port = PortRequest::Auto;
    let other = bench.start(&stubborn).await;
    assert_ne!(other.address, Some(address));
    bench.until_logged(&stubborn.id, "listening").await;
    assert_eq!(
        bench
            .engine
            .listening(&stubborn.id)
            .await
            .unwrap_or_default(),
        [habit]
    );
    for id in [spec.id, stubborn.id] {
        let _ = bench.engine.kill(&id).await;
    }
}

/// Two programs that insist on one port both run, each reached at its own address.
pub async fn a_fixed_port_has_a_network_of_its_own(bench: Bench) {
    if !bench.engine.capabilities().await.netns {
        skipped("this host allows no network namespaces");
        return;
    }
    let mut addresses = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut spec = server(&bench, "8123");
        spec.port = PortRequest::Fixed(8_123);
        let seen = bench.start(&spec).await;
        bench.until_logged(&spec.id, "listening").await;
        let Some(address) = seen.address else {
            panic!("no address: {seen:?}")
        };
        let answer = get(address).unwrap_or_else(|error| panic!("{error}"));
        assert!(answer.ends_with("port 8123"), "{answer}");
        assert_eq!(
            bench.engine.listening(&spec.id).await.unwrap_or_default(),
            ["127.0.0.1:8123".parse::<SocketAddr>().unwrap_or(address)]
        );
        addresses.push(address);
        ids.push(spec.id);
    }
    assert_ne!(addresses[0], addresses[1]);
    for id in &ids {
        let exit = bench
            .engine
            .stop(id, crate::model::StopPolicy::default())
            .await;
        assert!(exit.is_ok_and(|exit| exit.stopped && exit.signal == Some(15)));
    }
    assert!(TcpStream::connect(addresses[0]).is_err());
}

/// From a network namespace the host is reached, and the name server is the one provided.
pub async fn a_fixed_port_has_a_way_out(bench: Bench) {
    if !bench.engine.capabilities().await.netns_outbound {
        skipped("this host has no way out of a network namespace");
        return;
    }
    let mut host = server(&bench, "");
    host.port = PortRequest::Auto;
    let seen = bench.start(&host).await;
    bench.until_logged(&host.id, "listening").await;
    let Some(address) = seen.address else {
        panic!("no address: {seen:?}")
    };
    let fetch = "import sys, urllib.request
print(urllib.request.urlopen('http://10.0.2.2:' + sys.argv[1], timeout=20).read().decode())";
    let mut spec = bench.script(&format!(
        "cat /etc/resolv.conf; exec python3 -c \"$FETCH\" {}",
        address.port()
    ));
    spec.env.insert("FETCH".into(), fetch.into());
    spec.port = PortRequest::Fixed(8_124);
    let exit = bench.run(&spec).await;
    let out = bench.stdout(&spec.id).await;
    assert!(
        exit.success() && out.contains(&format!("port {}", address.port())),
        "{exit:?} {out}"
    );
    assert!(out.contains("nameserver 10.0.2.3"), "{out}");
    let _ = bench.engine.kill(&host.id).await;
}

/// A port that the caller picked is given, and refused while another has it.
pub async fn an_assigned_port_is_given_once(bench: Bench) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let Ok(free) = free else {
        panic!("no free port")
    };
    let mut spec = server(&bench, "");
    spec.port = PortRequest::Assigned(free.port());
    let seen = bench.start(&spec).await;
    assert_eq!(seen.address, Some(free));
    let mut second = server(&bench, "");
    second.port = PortRequest::Assigned(free.port());
    let error = bench.engine.start(second).await;
    assert!(
        matches!(error, Err(crate::EngineError::PortTaken { .. })),
        "{error:?}"
    );
    let _ = bench.engine.kill(&spec.id).await;
}
