//! Short and long forms of every key mean the same.

use std::collections::BTreeSet;

use ondol_spec::compose::{
    HealthTest, Healthcheck, MemorySwap, MountFrom, Protocol, Restart, RestartCondition,
    ServiceKind, Source,
};

use super::{Given, environment, project, service, web, web_file, words};

/// Two ways to say one thing give one model.
#[track_caller]
fn same(a: &str, b: &str) {
    assert_eq!(web(a), web(b), "{a}\n---\n{b}");
}

#[test]
fn lists_and_mappings() {
    same(
        "environment: [A=1, B=x=y, \"C=\"]",
        "environment: { A: 1, B: x=y, C: '' }",
    );
    same(
        "environment: { A: true, B: 1.10 }",
        "environment: [A=true, B=1.10]",
    );
    same("labels: [a.b=c]", "labels: { a.b: c }");
    same("annotations: [a.b=c]", "labels: { a.b: c }");
    same(
        "sysctls: [net.core.somaxconn=1024]",
        "sysctls: { net.core.somaxconn: 1024 }",
    );
    same(
        "extra_hosts: [\"a=10.0.0.1\", \"b:10.0.0.2\", \"c=[::1]\", \"d=host-gateway\"]",
        "extra_hosts: { a: 10.0.0.1, b: [10.0.0.2], c: \"::1\", d: host-gateway }",
    );
    same("dns: 1.1.1.1", "dns: [1.1.1.1]");
    same("dns_search: example.com", "dns_search: [example.com]");
    same("tmpfs: /run", "tmpfs: [/run]");
    same("networks: [default]", "networks: { default: }");
    same("network_mode: bridge", "");
    same(
        "cap_add: [CAP_CHOWN]\ncap_drop: [all]",
        "cap_add: [chown]\ncap_drop: [ALL]",
    );
    same("security_opt: [no-new-privileges:true]", "");
    same(
        "ulimits: { nofile: 1024 }",
        "ulimits: { nofile: { soft: 1024, hard: 1024 } }",
    );
    same("expose: [80, 81]", "expose: [\"80-81/tcp\"]");
}

// `build` needs a Dockerfile in the repository.
#[track_caller]
fn built(lines: &str) -> ondol_spec::compose::ImageBuild {
    let given = Given::new(&web_file(lines))
        .file("Dockerfile", "FROM scratch\n")
        .file("app/prod.Dockerfile", "FROM scratch\n")
        .file("app/src/main.c", "");
    service(&given.project(), "web").build.unwrap()
}

#[test]
fn builds() {
    assert_eq!(built("build: ."), built("build: { context: ./ }"));
    let build = built(
        "build:\n  context: app\n  dockerfile: prod.Dockerfile\n  args: { A: 1, B: }\n  target: run\n  labels: [x=y]\n  no_cache: true\n  pull: \"yes\"\n  network: none\n  shm_size: 1g",
    );
    assert_eq!(build.context.as_ref().unwrap().as_str(), "app");
    assert_eq!(
        build.dockerfile,
        ondol_spec::compose::Dockerfile::File("app/prod.Dockerfile".parse().unwrap())
    );
    assert_eq!(build.args, [("A".to_owned(), "1".to_owned())].into());
    assert!(build.no_cache && build.pull);
    assert_eq!(build.network, ondol_spec::compose::BuildNetwork::None);
    assert_eq!(build.shm_size.unwrap().bytes(), 1 << 30);
    let outside = built("build: { context: app/src, dockerfile: ../prod.Dockerfile }");
    assert_eq!(
        outside.dockerfile,
        ondol_spec::compose::Dockerfile::File("app/prod.Dockerfile".parse().unwrap())
    );
    let inline = built("build: { dockerfile_inline: \"FROM x\" }");
    assert_eq!(
        inline.dockerfile,
        ondol_spec::compose::Dockerfile::Inline("FROM x".to_owned())
    );
}

#[test]
fn commands() {
    same(
        "command: bundle exec thin -p 3000",
        "command: [bundle, exec, thin, -p, \"3000\"]",
    );
    same("entrypoint: /code/run.sh", "entrypoint: [/code/run.sh]");
    assert_eq!(web("command: []").command, Some(Vec::new()));
    assert_eq!(web("command: ''").command, Some(Vec::new()));
    assert_eq!(web("command:").command, None);
    assert_eq!(
        words(&web("command: /bin/sh -c 'echo \"hello $$HOSTNAME\"'").command).unwrap(),
        ["/bin/sh", "-c", "echo \"hello $HOSTNAME\""]
    );
}

#[test]
fn ports() {
    for (short, long) in [
        ("\"3000\"", "{ target: 3000 }"),
        ("3000", "{ target: \"3000\" }"),
        ("\"8000:80\"", "{ target: 80, published: 8000 }"),
        (
            "\"127.0.0.1:8001:8001\"",
            "{ target: 8001, published: \"8001\", host_ip: 127.0.0.1 }",
        ),
        (
            "\"::1:6000:6000\"",
            "{ target: 6000, published: \"6000\", host_ip: \"::1\" }",
        ),
        (
            "\"[::1]:6001:6001\"",
            "{ target: 6001, published: \"6001\", host_ip: \"::1\" }",
        ),
        (
            "\"6060:6060/udp\"",
            "{ target: 6060, published: \"6060\", protocol: udp }",
        ),
        ("\"8000-9000:80\"", "{ target: 80, published: 8000-9000 }"),
        (
            "\"0.0.0.0:80:80\"",
            "{ target: 80, published: 80, mode: host }",
        ),
    ] {
        assert_eq!(
            web(&format!("ports: [{short}]")).ports,
            web(&format!("ports: [{long}]")).ports,
            "{short}"
        );
    }
    let ranges = web("ports: [\"9090-9091:8080-8081\", \"3000-3002\"]").ports;
    let shown: Vec<(u16, Option<(u16, u16)>)> = ranges
        .iter()
        .map(|port| (port.target, port.published))
        .collect();
    assert_eq!(
        shown,
        [
            (3000, None),
            (3001, None),
            (3002, None),
            (8080, Some((9090, 9090))),
            (8081, Some((9091, 9091))),
        ]
    );
    assert_eq!(
        web("ports: [\"53:53/udp\"]").ports[0].protocol,
        Protocol::Udp
    );
}

#[test]
fn which_port_is_the_route() {
    let route = |lines: &str| web(lines).route.map(|route| route.port);
    assert_eq!(route("ports: [\"9000\", \"80\"]"), Some(80));
    assert_eq!(route("ports: [\"5432:5432\"]"), None);
    assert_eq!(
        route("ports: [{ target: 5432, app_protocol: http }, \"80\"]"),
        Some(5432)
    );
    assert_eq!(route("ports: [{ target: 80, app_protocol: redis }]"), None);
    assert_eq!(route("ports: [\"443:443\"]"), None);
    assert_eq!(route("ports: [\"53:53/udp\"]"), None);
    assert_eq!(route("expose: [\"80\"]"), None);
    assert_eq!(
        route("expose: [\"80\"]\nx-ondol: { route: true }"),
        Some(80)
    );
    assert_eq!(route("x-ondol: { route: 9000 }"), Some(9000));
    assert_eq!(route("ports: [\"80\"]\nx-ondol: { route: false }"), None);
    assert_eq!(route("ports: [\"80\"]\nnetwork_mode: none"), None);
    let wished = web("x-ondol:\n  route: { port: 81, hosts: [shop.example.org], paths: [/api] }");
    let wished = wished.route.unwrap();
    assert!(
        wished
            .hosts
            .iter()
            .any(|host| host.as_str() == "shop.example.org")
    );
    assert_eq!(wished.paths[0].as_str(), "/api");
    let named = project(
        "x-ondol: { route: b }\nservices:\n  a: { image: x, ports: [\"80:80\"] }\n  b_2: { image: x, ports: [\"81\"] }\n  b: { image: x, ports: [\"82\"] }\n",
    );
    assert!(service(&named, "b").route.unwrap().primary);
    assert_eq!(
        service(&named, "b_2").route.unwrap().host_label("p"),
        "b-2-p"
    );
}

#[test]
fn mounts() {
    let with = |lines: &str| {
        let file = format!("{}volumes: {{ data: }}\n", web_file(lines));
        service(&Given::new(&file).file("conf/a.conf", "x").project(), "web").mounts
    };
    assert_eq!(
        with("volumes: [\"data:/data:ro\"]"),
        with("volumes: [{ type: volume, source: data, target: /data/, read_only: true }]")
    );
    assert_eq!(
        with("volumes: [\"./conf:/etc/app:ro\"]"),
        with("volumes: [{ type: bind, source: conf, target: /etc/app, read_only: true }]")
    );
    assert_eq!(
        with("tmpfs: [\"/run:size=1m,mode=0700\"]"),
        with("volumes: [{ type: tmpfs, target: /run, tmpfs: { size: 1m, mode: \"700\" } }]")
    );
    assert_eq!(
        with("volumes: [/cache]")["/cache"].from,
        MountFrom::Anonymous
    );
    // A mount of the repository is read-only, whatever the file says.
    assert!(with("volumes: [\"./conf:/etc/app\"]")["/etc/app"].read_only);
    let long = &with(
        "volumes: [{ type: volume, source: data, target: /d, volume: { nocopy: true, subpath: sub } }]",
    )["/d"];
    assert!(matches!(
        &long.from,
        MountFrom::Volume { nocopy: true, subpath: Some(path), .. } if path.as_str() == "sub"
    ));
    assert!(with("volumes: [\"/etc/localtime:/etc/localtime:ro\"]").is_empty());
}

#[test]
fn healthchecks() {
    same(
        "healthcheck: { test: curl -f http://localhost }",
        "healthcheck: { test: [CMD-SHELL, curl -f http://localhost] }",
    );
    for off in ["{ disable: true }", "{ test: [NONE] }", "{ test: NONE }"] {
        let check = web(&format!("healthcheck: {off}")).healthcheck;
        assert_eq!(check, Some(Healthcheck::Disabled), "{off}");
    }
    let Some(Healthcheck::Check {
        test,
        interval,
        timeout,
        retries,
        start_period,
        start_interval,
    }) = web("healthcheck: { interval: 1m30s, start_period: 40s }").healthcheck
    else {
        panic!()
    };
    assert_eq!(test, HealthTest::Image);
    assert_eq!(
        [interval, timeout, start_period, start_interval].map(|time| time.to_string()),
        ["1m30s", "30s", "40s", "5s"]
    );
    assert_eq!(retries, 3);
}

#[test]
fn limits_and_restarts() {
    same(
        "cpus: 0.5\nmem_limit: 50m\npids_limit: 10",
        "deploy: { resources: { limits: { cpus: '0.50', memory: 51200k, pids: 10 } } }",
    );
    same("cpu_quota: 50000\ncpu_period: 100000", "cpus: 0.5");
    same("scale: 3", "deploy: { replicas: \"3\" }");
    same("cpus: 0\npids_limit: -1", "");
    same("gpus: all", "gpus: [{}]");
    same(
        "gpus: [{ driver: nvidia, count: 2 }]",
        "deploy: { resources: { reservations: { devices: [{ capabilities: [gpu], driver: nvidia, count: 2 }] } } }",
    );
    same("restart: always", "restart: unless-stopped");
    same(
        "restart: on-failure:5",
        "deploy: { restart_policy: { condition: on-failure, max_attempts: 5 } }",
    );
    assert_eq!(
        web("memswap_limit: 1g\nmem_limit: 300m")
            .resources
            .memory_swap
            .map(|swap| match swap {
                MemorySwap::Limit(size) => size.bytes(),
                MemorySwap::Unlimited => 0,
            }),
        Some(1 << 30)
    );
    let never: Restart = web("restart: \"no\"").restart;
    assert_eq!(never.condition, RestartCondition::Never);
    assert_eq!(web("restart: no").restart, never);
    assert_eq!(
        web("deploy: { mode: replicated-job }").kind,
        ServiceKind::Job
    );
    let update = web("deploy: { update_config: { parallelism: 2, delay: 10s, order: stop-first, failure_action: pause, max_failure_ratio: 0.25 } }").update;
    assert_eq!((update.parallelism, update.max_failure_permille), (2, 250));
}

#[test]
fn variables_of_a_service() {
    let given = Given::new(&web_file(
        "env_file: [a.env, { path: b.env, format: raw }]\nenvironment:\n  - FROM_ENV\n  - GONE\n  - LAST=environment",
    ))
    .file("a.env", "A=1\nLAST=a\nGONE=a\nTWICE=${A}${OUT}\n")
    .file("b.env", "RAW='$OUT'\nLAST=b\n")
    .file(".env", "FROM_ENV=dotenv\nOUT=weak\n")
    .variable("OUT", "strong");
    let web = service(&given.project(), "web");
    let found = environment(&web);
    let expected = [
        ("A", "1"),
        ("FROM_ENV", "dotenv"),
        ("LAST", "environment"),
        ("RAW", "'$OUT'"),
        ("TWICE", "1strong"),
    ];
    let found: Vec<(&str, &str)> = found
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn secrets_and_configs() {
    let file = format!(
        "{}secrets:\n  a: {{ environment: TOKEN }}\n  b: {{ file: ./b.txt }}\n  my-key: {{ external: true }}\n  unused: {{ external: true }}\nconfigs:\n  c: {{ file: ./c.json }}\n  d: {{ environment: D }}\n",
        web_file(
            "secrets: [a, { source: b, target: certs/b.pem, mode: 0777 }, { source: my-key, target: /k }]\nconfigs: [c, { source: d, target: /etc/d }]"
        )
    );
    let given = Given::new(&file)
        .file("b.txt", "b")
        .file("c.json", "{}")
        .variable("D", "text")
        .secret("TOKEN");
    let project = given.project();
    let web = service(&project, "web");
    assert_eq!(
        web.secrets.keys().collect::<Vec<_>>(),
        ["/k", "/run/secrets/a", "/run/secrets/certs/b.pem"]
    );
    assert_eq!(web.secrets["/run/secrets/certs/b.pem"].mode, 0o555);
    assert_eq!(web.secrets["/k"].mode, 0o444);
    assert_eq!(web.configs.keys().collect::<Vec<_>>(), ["/c", "/etc/d"]);
    let source = |name: &str| project.secrets[&name.parse().unwrap()].clone();
    assert_eq!(source("a"), Source::Store("TOKEN".parse().unwrap()));
    assert_eq!(source("my-key"), Source::Store("MY_KEY".parse().unwrap()));
    assert!(matches!(source("b"), Source::File { .. }));
    assert!(!project.secrets.contains_key(&"unused".parse().unwrap()));
    let codes: BTreeSet<&str> = super::codes(&project).into_iter().collect();
    assert_eq!(codes, BTreeSet::from(["secret-committed", "secrets"]));
}

#[test]
fn links_and_shared_mounts() {
    let project = project(
        "services:\n  a: { image: x, links: [\"db:database\"], volumes_from: [\"db:ro\"] }\n  db: { image: x, volumes: [\"v:/v\", /tmp/x] }\nvolumes: { v: }\n",
    );
    let a = service(&project, "a");
    assert!(a.depends_on.contains_key(&"db".parse().unwrap()));
    assert!(a.mounts["/v"].read_only && a.mounts.len() == 1 && !a.stateful);
    let ondol_spec::compose::NetworkMode::Project(networks) = service(&project, "db").network
    else {
        panic!()
    };
    assert!(networks[&"default".parse().unwrap()].contains("database"));
}
