//! Workloads beside each other: found by name within a project, out of reach from another.

use super::resources::{listens, server};
use super::{Bench, skipped};
use crate::model::{PortRequest, WorkloadSpec};

/// Fetches from a host and a port with what a shell has.
const FETCH: &str = "fetch() { exec 3<>\"/dev/tcp/$1/$2\" && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && tail -n 1 <&3; }";

fn named(
    bench: &Bench,
    mut spec: WorkloadSpec,
    project: &str,
    scope: Option<&str>,
) -> WorkloadSpec {
    if let Ok(project) = project.parse() {
        spec.project = project;
    }
    spec.container = bench.container.clone().map(|mut container| {
        container.network = scope.map(str::to_owned);
        Box::new(container)
    });
    spec
}

/// Services of one network find each other by name; another project, and another network of the
/// same project, reach them neither by name nor by address, also after a neighbour has ended.
pub async fn neighbours_are_found_and_strangers_are_not(bench: Bench) {
    let Some(can) = bench.engine.capabilities().await.container else {
        skipped("programs share the host's network with this engine, which says so");
        return;
    };
    if !can.service_names || !can.isolated_networks {
        skipped("this engine does not keep networks apart, or has no names in them");
        let notices = bench.engine.capabilities().await.notices;
        assert!(!notices.is_empty(), "it says why");
        return;
    }
    let mut db = named(
        &bench,
        server(&bench, "8000"),
        "conf-one",
        Some("production"),
    );
    if let Some(container) = db.container.as_deref_mut() {
        container.names = vec!["db".into(), "database".into()];
    }
    db.port = PortRequest::Fixed(8_000);
    bench.start(&db).await;
    listens(&bench, &db.id).await;
    let fetch = |project: &str, scope: Option<&str>, script: &str| {
        let spec = bench.script(&format!(
            "exec bash -c '{}; {script}'",
            FETCH.replace('\'', "'\\''")
        ));
        named(&bench, spec, project, scope)
    };
    let friend = fetch(
        "conf-one",
        Some("production"),
        "fetch db 8000; fetch database 8000; getent hosts db",
    );
    let exit = bench.run(&friend).await;
    let out = bench.stdout(&friend.id).await;
    assert!(exit.success(), "{exit:?} {out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["port 8000", "port 8000"], "{out}");
    let address = lines[2].split_whitespace().next().unwrap_or_default();
    assert!(address.contains('.'), "{out}");
    // The friend has ended by now, and its network must be as closed as before.
    let attempt = format!(
        "getent hosts db && echo found; timeout 2 bash -c \"exec 3<>/dev/tcp/{address}/8000\" 2>/dev/null && echo reached; echo end"
    );
    for (project, scope) in [
        ("conf-two", Some("production")),
        ("conf-two", None),
        ("conf-one", Some("staging")),
    ] {
        let stranger = fetch(project, scope, &attempt);
        bench.run(&stranger).await;
        assert_eq!(
            bench.stdout(&stranger.id).await,
            "end",
            "{project} {scope:?}"
        );
    }
    // The name still works for those who may.
    let again = fetch("conf-one", Some("production"), "fetch db 8000");
    bench.run(&again).await;
    assert_eq!(bench.stdout(&again.id).await, "port 8000");
    let _ = bench.engine.kill(&db.id).await;
}
