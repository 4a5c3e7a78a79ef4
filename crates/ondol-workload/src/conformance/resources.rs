//! Limits, ports, and what programs leave behind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Bench, skipped};
use crate::model::{PortRequest, WorkloadKind};

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
/// `alive` tells whether the host has a process with such an argument.
pub async fn what_is_left_behind_is_ended(bench: Bench, alive: impl Fn(&str) -> bool) {
    let marks: Vec<String> = (0..2)
        .map(|n| format!("{}{n}", 600_000 + std::process::id()))
        .collect();
    let script = format!(
        "setsid sh -c 'trap \"\" TERM HUP; sleep {} & wait' >/dev/null 2>&1 & setsid sleep {} &
         trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done",
        marks[0], marks[1]
    );
    let spec = bench.script(&script);
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "ready").await;
    bench
        .until("its processes", || {
            let all = marks.iter().all(|mark| alive(mark));
            async move { all }
        })
        .await;
    let policy = crate::model::StopPolicy {
        grace: Duration::from_millis(300),
        ..crate::model::StopPolicy::default()
    };
    let exit = bench.engine.stop(&spec.id, policy).await;
    assert!(
        exit.as_ref().is_ok_and(|exit| exit.code == Some(3)),
        "{exit:?}"
    );
    let left: Vec<&String> = marks.iter().filter(|mark| alive(mark)).collect();
    assert!(left.is_empty(), "{left:?}");
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

fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A server that answers with the port it was given, and listens there or where it is told.
pub(super) fn server(bench: &Bench, port: &str) -> crate::model::WorkloadSpec {
    let ip = bench.reachable_ip();
    let mut spec = bench.script(&format!(
        "mkdir -p www && echo \"port $PORT\" > www/index.html && exec busybox httpd -f -p {ip}:{port} -h www"
    ));
    spec.kind = WorkloadKind::KeepAlive;
    spec
}

/// Where a workload listens, as soon as it does.
pub(super) async fn listens(bench: &Bench, id: &ondol_types::WorkloadId) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for _ in 0..3_000 {
        found = match bench.engine.listening(id).await {
            Ok(found) => found,
            Err(error) => panic!("{error:?}"),
        };
        if !found.is_empty() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    found
}

/// A program gets a port of its own and is reached there; another that ignores it is found.
pub async fn a_port_is_given_and_listeners_are_found(bench: Bench) {
    let mut spec = server(&bench, "$PORT");
    spec.port = PortRequest::Auto;
    let seen = bench.start(&spec).await;
    let Some(address) = seen.address else {
        panic!("no address: {seen:?}")
    };
    let inside = |port| SocketAddr::new(bench.reachable_ip(), port);
    assert_eq!(listens(&bench, &spec.id).await, [inside(address.port())]);
    let answer = get(address).unwrap_or_else(|error| panic!("{error}"));
    assert!(
        answer
            .trim_end()
            .ends_with(&format!("port {}", address.port())),
        "{answer}"
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
    assert_eq!(listens(&bench, &stubborn.id).await, [inside(habit.port())]);
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
        let Some(address) = seen.address else {
            panic!("no address: {seen:?}")
        };
        let inside = SocketAddr::new(bench.reachable_ip(), 8_123);
        assert_eq!(listens(&bench, &spec.id).await, [inside]);
        let answer = get(address).unwrap_or_else(|error| panic!("{error}"));
        assert!(answer.trim_end().ends_with("port 8123"), "{answer}");
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
    bench
        .until("the end of its port", || {
            let closed = TcpStream::connect(addresses[0]).is_err();
            async move { closed }
        })
        .await;
}

/// From a network namespace the host is reached, and the name server is the one provided.
pub async fn a_fixed_port_has_a_way_out(bench: Bench) {
    if !bench.engine.capabilities().await.netns_outbound {
        skipped("this host has no way out of a network namespace");
        return;
    }
    let mut host = server(&bench, "$PORT");
    host.port = PortRequest::Auto;
    let seen = bench.start(&host).await;
    listens(&bench, &host.id).await;
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
    let mut spec = server(&bench, "$PORT");
    spec.port = PortRequest::Assigned(free.port());
    let seen = bench.start(&spec).await;
    assert_eq!(seen.address, Some(free));
    let mut second = server(&bench, "$PORT");
    second.port = PortRequest::Assigned(free.port());
    let error = bench.engine.start(second).await;
    assert!(
        matches!(error, Err(crate::EngineError::PortTaken { .. })),
        "{error:?}"
    );
    let _ = bench.engine.kill(&spec.id).await;
}
