//! What is refused without an administrator, each with the permission that allows it.

use ondol_spec::SpecError;
use ondol_spec::compose::{MountFrom, NetworkMode, Permission};
use ondol_types::{Classified, ErrorKind};

use super::{Given, service, web_file};

/// Every refusal: the lines of a service, and which permission allows them.
const REFUSED: &[(&str, Permission)] = &[
    ("privileged: true", Permission::Privileged),
    ("network_mode: host", Permission::HostNetwork),
    ("pid: host", Permission::HostPid),
    ("ipc: host", Permission::HostIpc),
    ("uts: host", Permission::HostUts),
    ("userns_mode: host", Permission::HostUsers),
    ("cgroup: host", Permission::HostCgroup),
    ("cgroup_parent: other.slice", Permission::CgroupParent),
    ("volumes: [\"/srv/data:/data\"]", Permission::HostMounts),
    ("volumes: [\"~/data:/data:ro\"]", Permission::HostMounts),
    ("volumes: [\"../other:/data\"]", Permission::HostMounts),
    (
        "volumes: [{ type: bind, source: /, target: /host }]",
        Permission::HostMounts,
    ),
    (
        "volumes: [\"/var/run/docker.sock:/var/run/docker.sock\"]",
        Permission::EngineSocket,
    ),
    (
        "volumes: [\"/run/podman/podman.sock:/s:ro\"]",
        Permission::EngineSocket,
    ),
    ("use_api_socket: true", Permission::EngineSocket),
    (
        "devices: [\"/dev/ttyUSB0:/dev/ttyUSB0\"]",
        Permission::Devices,
    ),
    ("device_cgroup_rules: [\"c 1:3 mr\"]", Permission::Devices),
    ("cap_add: [SYS_ADMIN]", Permission::Capabilities),
    ("cap_add: [ALL]", Permission::Capabilities),
    ("cap_add: [NET_RAW]", Permission::Capabilities),
    (
        "security_opt: [\"seccomp:unconfined\"]",
        Permission::Unconfined,
    ),
    (
        "security_opt: [apparmor=unconfined]",
        Permission::Unconfined,
    ),
    ("security_opt: [\"label:disable\"]", Permission::Unconfined),
    (
        "security_opt: [\"no-new-privileges:false\"]",
        Permission::Unconfined,
    ),
    ("sysctls: { kernel.core_pattern: x }", Permission::Sysctls),
    ("runtime: runc", Permission::Runtime),
    ("oom_kill_disable: true", Permission::OutOfMemory),
    ("oom_score_adj: -500", Permission::OutOfMemory),
    (
        "build: { dockerfile_inline: FROM x, privileged: true }",
        Permission::Privileged,
    ),
    (
        "build: { dockerfile_inline: FROM x, network: host }",
        Permission::HostNetwork,
    ),
    (
        "build: { dockerfile_inline: FROM x, entitlements: [network.host] }",
        Permission::Privileged,
    ),
];

#[test]
fn everything_that_is_refused_can_be_allowed_by_name() {
    for (lines, permission) in REFUSED {
        let error = match Given::new(&web_file(lines)).read() {
            Ok(_) => panic!("accepted: {lines}"),
            Err(error) => error,
        };
        assert!(matches!(error, SpecError::Refused(_)), "{lines}: {error}");
        assert_eq!(error.kind(), ErrorKind::Forbidden);
        assert_eq!(error.code(), "spec.policy.refused");
        assert!(error.position().is_some(), "{lines}");
        assert_eq!(
            error.hint().unwrap(),
            format!("remove it, or ask an administrator to allow this project `{permission}`"),
            "{lines}"
        );
        for other in Permission::ALL.iter().filter(|other| *other != permission) {
            assert!(
                Given::new(&web_file(lines)).allow(*other).read().is_err(),
                "`{other}` allows {lines}"
            );
        }
        let allowed = Given::new(&web_file(lines)).allow(*permission).project();
        let web = service(&allowed, "web");
        match web.build {
            // What a build may, its container may not.
            Some(build) => {
                assert!(build.elevated.contains(permission), "{lines}");
                assert!(web.elevated.is_empty(), "{lines}");
            }
            None => assert!(web.elevated.contains(permission), "{lines}"),
        }
    }
    let named: std::collections::BTreeSet<Permission> =
        REFUSED.iter().map(|(_, permission)| *permission).collect();
    for permission in Permission::ALL {
        // Ports of the host are not refused: without permission they are only not published.
        assert!(
            named.contains(permission) || *permission == Permission::HostPorts,
            "{permission} has no test"
        );
        assert_eq!(
            permission.word().parse::<Permission>().as_ref(),
            Ok(permission)
        );
    }
}

#[test]
fn what_is_switched_off_is_not_refused() {
    let lines = "privileged: false\ndevices: []\npid: \"\"\nuserns_mode: \"\"\nipc: shareable\ncgroup: private\nuse_api_socket: false\noom_score_adj: 100";
    assert!(Given::new(&web_file(lines)).project().notices.is_empty());
}

#[test]
fn services_that_do_not_run_are_not_refused() {
    let lines = "privileged: true\nprofiles: [debug]";
    assert_eq!(Given::new(&web_file(lines)).project().disabled.len(), 1);
    assert!(
        Given::new(&web_file(lines))
            .profile("debug")
            .read()
            .is_err()
    );
}

#[test]
fn what_is_allowed_is_in_the_model() {
    let given = Given::new(&web_file(
        "network_mode: host\nvolumes: [\"/srv:/srv:ro\"]\ndevices: [/dev/fuse]",
    ))
    .allow(Permission::HostNetwork)
    .allow(Permission::HostMounts)
    .allow(Permission::Devices);
    let web = service(&given.project(), "web");
    assert_eq!(web.network, NetworkMode::Host);
    assert_eq!(web.mounts["/srv"].from, MountFrom::Host("/srv".to_owned()));
    assert!(web.devices.contains("/dev/fuse:/dev/fuse:rwm"));
    assert_eq!(web.elevated.len(), 3);
    let options = "services: { a: { image: x, volumes: [\"v:/v\"] } }\nvolumes: { v: { driver_opts: { device: / } } }\n";
    let project = Given::new(options).allow(Permission::HostMounts).project();
    assert_eq!(
        project.volumes[&"v".parse().unwrap()].options["device"],
        "/"
    );
    let more =
        "cgroup_parent: a.slice\nruntime: kata\nuse_api_socket: true\noom_kill_disable: true";
    let mut given = Given::new(&web_file(more));
    for permission in Permission::ALL {
        given = given.allow(*permission);
    }
    let web = service(&given.project(), "web");
    assert_eq!(web.cgroup_parent.as_deref(), Some("a.slice"));
    assert_eq!(web.runtime.as_deref(), Some("kata"));
    assert!(web.resources.oom_kill_disable && web.mounts.contains_key("/var/run/docker.sock"));
}

#[test]
fn ports_of_the_host_need_permission() {
    let file = web_file("ports: [\"5432:5432\"]");
    let without = Given::new(&file).project();
    assert_eq!(super::codes(&without), ["ports"]);
    let with = Given::new(&file).allow(Permission::HostPorts).project();
    assert!(with.notices.is_empty());
    assert!(
        service(&with, "web")
            .elevated
            .contains(&Permission::HostPorts)
    );
    let two =
        Given::new(&web_file("ports: [\"5432:5432\"]\nscale: 2")).allow(Permission::HostPorts);
    assert!(two.read().unwrap_err().to_string().contains("2 replicas"));
}

#[test]
fn a_volume_is_no_way_to_the_host() {
    let file = "services: { a: { image: x, volumes: [\"v:/v\"] } }\nvolumes: { v: { driver_opts: { type: none, o: bind, device: / } } }\n";
    let error = Given::new(file).read().unwrap_err();
    assert_eq!(
        error.to_string(),
        "compose.yaml:2:17: `volumes.v.driver_opts` is refused: it gives the container files of the host"
    );
}
