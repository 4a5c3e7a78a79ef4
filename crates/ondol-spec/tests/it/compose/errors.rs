//! Golden messages: place, thing, remedy.

use ondol_types::Classified;

use super::{Given, web_file};

#[track_caller]
fn refuses(given: &Given, message: &str, hint: &str) {
    let error = match given.read() {
        Ok(_) => panic!("accepted"),
        Err(error) => error,
    };
    assert_eq!(error.to_string(), message);
    assert_eq!(error.hint().unwrap_or_default(), hint);
}

#[track_caller]
fn file(text: &str, message: &str, hint: &str) {
    refuses(&Given::new(text), message, hint);
}

/// The same for lines below `services.web`, which begin in line 4 and column 5.
#[track_caller]
fn lines(lines: &str, message: &str, hint: &str) {
    refuses(&Given::new(&web_file(lines)), message, hint);
}

#[test]
fn unknown_keys() {
    lines(
        "enviroment: [A=1]",
        "compose.yaml:4:5: unknown key `enviroment` under `services.web`",
        "did you mean `environment`?",
    );
    lines(
        "replicas: 2",
        "compose.yaml:4:5: unknown key `replicas` under `services.web`",
        "`replicas` belongs to `services.*.deploy`",
    );
    lines(
        "healthcheck: { test: x, intervall: 5s }",
        "compose.yaml:4:29: unknown key `intervall` under `services.web.healthcheck`",
        "did you mean `interval`?",
    );
    lines(
        "ports: [{ target: 80, foo: 1 }]",
        "compose.yaml:4:27: unknown key `foo` under `services.web.ports.0`",
        "known here: app_protocol, host_ip, mode, name, protocol, published, target",
    );
    lines(
        "frobnicate: 1",
        "compose.yaml:4:5: unknown key `frobnicate` under `services.web`",
        "write keys of your own with `x-` in front",
    );
    file(
        "service: {}\n",
        "compose.yaml:1:1: unknown key `service`",
        "did you mean `services`?",
    );
    file(
        "services: { a: { image: x } }\nnetworks: { n: { internl: true } }\n",
        "compose.yaml:2:18: unknown key `internl` under `networks.n`",
        "did you mean `internal`?",
    );
    // A service that does not run is written in the same language.
    lines(
        "profiles: [x]\nimag: y",
        "compose.yaml:5:5: unknown key `imag` under `services.web`",
        "did you mean `image`?",
    );
    refuses(
        &Given::new("services: { a: { extends: { file: b.yml, service: b } } }\n")
            .file("b.yml", "services:\n  b:\n    image: x\n    comand: y\n"),
        "b.yml:4:5: unknown key `comand` under `services.a`",
        "did you mean `command`?",
    );
    // Extensions are never unknown.
    assert!(
        Given::new(&web_file(
            "x-y: 1\ndeploy: { x-z: 2, placement: { x-a: 1 } }"
        ))
        .read()
        .is_ok()
    );
}

#[test]
fn values() {
    for (text, message, hint) in [
        (
            "ports: [\"a:80\"]",
            "compose.yaml:4:13: `services.web.ports.0` must have ports from 1 to 65535, found `a`",
            "the form is `\"8080:80\"`, with quotes",
        ),
        (
            "ports: [\"80-81:90-95\"]",
            "compose.yaml:4:13: `services.web.ports.0` has 2 ports of the host for 6 of the container",
            "",
        ),
        (
            "ports: [\"80:80\", \"80:80/tcp\"]",
            "compose.yaml:4:22: `services.web.ports.1` publishes 80/tcp a second time",
            "keep one of them",
        ),
        (
            "healthcheck: { test: x, interval: 5 }",
            "compose.yaml:4:39: `services.web.healthcheck.interval` must be a duration such as `30s`, found `5`",
            "say the unit: `5s`",
        ),
        (
            "healthcheck: { test: [curl, x] }",
            "compose.yaml:4:27: `services.web.healthcheck.test.0` must be `CMD`, `CMD-SHELL` or `NONE`, found `curl`",
            "write `[CMD, curl, …]`",
        ),
        (
            "restart: sometimes",
            "compose.yaml:4:14: `services.web.restart` must be one of `no`, `false`, `always`, `unless-stopped`, `on-failure`, found `sometimes`",
            "",
        ),
        (
            "restart: allways",
            "compose.yaml:4:14: `services.web.restart` must be one of `no`, `false`, `always`, `unless-stopped`, `on-failure`, found `allways`",
            "did you mean `always`?",
        ),
        (
            "command: echo 'a",
            "compose.yaml:4:14: `services.web.command` cannot be divided into words: a single quote is not closed",
            "write it as a list, or close the quote",
        ),
        (
            "mem_limit: much",
            "compose.yaml:4:16: `services.web.mem_limit` must be a size such as `512m` or `2g`, found `much`",
            "",
        ),
        (
            "mem_limit: 1g\ndeploy: { resources: { limits: { memory: 2g } } }",
            "compose.yaml:4:16: `services.web.mem_limit` differs from `deploy.resources.limits.memory`",
            "keep `mem_limit` or `deploy.resources.limits.memory`",
        ),
        (
            "read_only: maybe",
            "compose.yaml:4:16: `services.web.read_only` must be `true` or `false`, found `maybe`",
            "",
        ),
        (
            "cap_add: [CHOWNE]",
            "compose.yaml:4:15: `services.web.cap_add.0` must be a capability of Linux, found `CHOWNE`",
            "did you mean `CHOWN`?",
        ),
        (
            "network_mode: none\nnetworks: [a]",
            "compose.yaml:5:15: `services.web.networks` stands beside `network_mode`",
            "keep one of them",
        ),
        (
            "scale: 1000",
            "compose.yaml:4:12: `services.web.scale` must be a whole number from 0 to 100, found `1000`",
            "",
        ),
        (
            "command: { a: b }",
            "compose.yaml:4:14: `services.web.command` must be text or a list",
            "",
        ),
        (
            "volumes: [\"a/b:/c\"]",
            "compose.yaml:4:15: `services.web.volumes.0` names `a/b`, which is no volume",
            "write `./a/b` for a path of the repository",
        ),
        (
            "volumes: [\"./x:rel\"]",
            "compose.yaml:4:15: `services.web.volumes.0` must be mounted at an absolute path below `/`, found `rel`",
            "",
        ),
        (
            "volumes: [\"./data:/var/lib/data\"]",
            "compose.yaml:4:15: `services.web.volumes.0` mounts `./data`, which is not in the repository",
            "data that outlives releases needs a named volume, such as `data:/var/lib/data`; a file has to be committed",
        ),
        (
            "ulimits: { nofiles: 1 }",
            "compose.yaml:4:25: `services.web.ulimits.nofiles` is not a limit that Ondol knows",
            "did you mean `nofile`?",
        ),
        (
            "env_file: x.env",
            "compose.yaml:4:15: `services.web.env_file.0` names `./x.env`, which is not in the repository",
            "commit it, say `required: false`, or set its secrets by `ondol secret set` and name them under `environment`",
        ),
        (
            "memswap_limit: 1g",
            "compose.yaml:4:20: `services.web.memswap_limit` needs a memory limit beside it",
            "set `mem_limit`",
        ),
    ] {
        lines(text, message, hint);
    }
    lines(
        "secrets: [{ source: a, mode: 440 }]",
        "compose.yaml:4:25: `services.web.secrets.0.source` names the secret `a`, which is not declared",
        "add `secrets: { a: }` to the top level",
    );
    file(
        "services: { a: { image: x, secrets: [{ source: s, mode: 440 }] } }\nsecrets: { s: { external: true } }\n",
        "compose.yaml:1:57: `services.a.secrets.0.mode` must say that it is octal, found `440`",
        "write `0440`",
    );
    file(
        "services: { a: { user: x } }\n",
        "compose.yaml:1:16: `services.a` needs `image` or `build`",
        "name an image, or write `build: .`",
    );
    file(
        "services: { a: { build: . } }\n",
        "compose.yaml:1:25: `services.a.build` finds no Dockerfile in `.`",
        "commit one, or name it by `dockerfile`",
    );
    file(
        "volumes: {}\n",
        "compose.yaml:1:1: `services` is missing",
        "name what runs: `services: { web: { build: . } }`",
    );
    file(
        "services: { a: { image: UPPER } }\n",
        "compose.yaml:1:25: `services.a.image`: `UPPER` is not an image reference such as `docker.io/library/python:3.13-slim`",
        "",
    );
    file(
        "- a\n",
        "compose.yaml:1:1: the file must be a mapping of keys to values",
        "write keys and values, such as `services: { web: { build: . } }`",
    );
}

#[test]
fn references() {
    for (text, message, hint) in [
        (
            "services: { web: { image: x, depends_on: [dbb] }, db: { image: y } }\n",
            "compose.yaml:1:42: `services.web.depends_on` names `dbb`, and there is no such service",
            "did you mean `db`?",
        ),
        (
            "services: { a: { image: x, depends_on: [b] }, b: { image: x, depends_on: [c] }, c: { image: x, depends_on: [b] } }\n",
            "compose.yaml:1:74: `services.b.depends_on` makes a ring: b → c → b",
            "remove one of these dependencies",
        ),
        (
            "services: { a: { image: x, depends_on: [b] }, b: { image: x, profiles: [p] } }\n",
            "compose.yaml:1:40: `services.a.depends_on` names `b`, which runs only with the profile p",
            "activate the profile, or say `required: false` of `b`",
        ),
        (
            "services: { a: { image: x, depends_on: { b: { condition: service_healthy } } }, b: { image: x, healthcheck: { disable: true } } }\n",
            "compose.yaml:1:40: `services.a.depends_on` waits for the health of `b`, whose check is switched off",
            "give it a `healthcheck`, or wait for `service_started`",
        ),
        (
            "services: { a: { image: x, depends_on: { b: { condition: service_completed_successfully } } }, b: { image: x, restart: always } }\n",
            "compose.yaml:1:40: `services.a.depends_on` waits for `b` to end, which is started again after every end",
            "remove `restart` of `b`, or say `on-failure`",
        ),
        (
            "services: { a: { image: x, networks: [bak] } }\nnetworks: { back: }\n",
            "compose.yaml:1:39: `services.a.networks.bak` names the network `bak`, which is not declared",
            "did you mean `back`?",
        ),
        (
            "services: { a: { image: x, volumes: [\"data:/d\"] } }\n",
            "compose.yaml:1:38: `services.a.volumes.0` names the volume `data`, which is not declared",
            "add `volumes: { data: }` to the top level",
        ),
        (
            "services: { a: { image: x, configs: [c] } }\n",
            "compose.yaml:1:38: `services.a.configs.0` names the config `c`, which is not declared",
            "add `configs: { c: }` to the top level",
        ),
        (
            "services: { a: { image: x, ports: [\"80:80\"] }, b: { image: x, ports: [\"80:81\"] } }\n",
            "compose.yaml:1:70: `services.b.ports` publishes 80/tcp, as `a` does",
            "give one of them another port",
        ),
        (
            "x-ondol: { route: db }\nservices: { web: { image: x, ports: [80] }, db: { image: y } }\n",
            "compose.yaml:1:19: `x-ondol.route` names `db`, which has no route",
            "name a service with a port that speaks HTTP",
        ),
        (
            "services: { a: { image: x, extends: a } }\n",
            "compose.yaml:1:37: `services.a.extends` leads back to itself",
            "",
        ),
        (
            "services: { a: { extends: b } }\n",
            "compose.yaml:1:27: `services.a.extends`: there is no service `b` in compose.yaml",
            "",
        ),
        (
            "services: { a: { extends: { service: b, file: c.yml } } }\n",
            "compose.yaml:1:27: `services.a.extends`: there is no file `./c.yml` in the repository",
            "commit it, or correct the path",
        ),
        (
            "include: [x.yaml]\nservices: { a: { image: x } }\n",
            "compose.yaml:1:11: `include.0`: there is no file `./x.yaml` in the repository",
            "commit it, or correct the path",
        ),
    ] {
        file(text, message, hint);
    }
}

#[test]
fn files_over_files() {
    refuses(
        &Given::new("services:\n  a:\n    image: x\n    dns: { a: b }\n").file(
            "compose.override.yml",
            "services:\n  a:\n    dns: [1.1.1.1]\n",
        ),
        "compose.override.yml:3:10: `services.a.dns` is a list here, and something else in what it is laid over",
        "write both in the same form, or replace it with `!override`",
    );
    refuses(
        &Given::new("include: [b.yaml]\nservices: { a: { image: x } }\n")
            .file("b.yaml", "services: { a: { image: y } }\n"),
        "compose.yaml:2:16: `services.a` is in b.yaml and differs here",
        "rename one of them, or lay it over by an override file",
    );
    refuses(
        &Given::new("include: [a/b.yaml]\nservices: { a: { image: x } }\n")
            .file("a/b.yaml", "include: [b.yaml]\nservices: {}\n"),
        "a/b.yaml:1:11: `include.0` leads back to `a/b.yaml`",
        "",
    );
    refuses(
        &Given::new("services: { a: { image: x } }\n").file(".env", "A=1\nB='x\n"),
        ".env:2:1: a quote is not closed",
        "close the quote",
    );
}

#[test]
fn variables() {
    lines(
        "environment:\n  A: ${TOKEN:?ask the team}",
        "compose.yaml:5:10: `services.web.environment.A`: the variable `TOKEN` must be set and not empty: ask the team",
        "set it in `.env`, or with `ondol secret set TOKEN`",
    );
    lines(
        "command: echo $(date)",
        "compose.yaml:4:14: `services.web.command`: `$(date)` is not a variable",
        "write `$$` for a dollar sign",
    );
    refuses(
        &Given::new(&web_file("labels: { a: \"${PW}\" }")).secret("PW"),
        "compose.yaml:4:18: `services.web.labels.a` uses `PW`, which is a secret",
        "secrets can be used in `environment`, `command`, `entrypoint`, `healthcheck.test` and `configs.*.content`, and as files by `secrets`",
    );
    refuses(
        &Given::new(&web_file(
            "build: { dockerfile_inline: FROM x, args: [PW] }",
        ))
        .secret("PW"),
        "compose.yaml:4:48: `services.web.build.args.PW` uses `PW`, which is a secret: arguments stay in the image's history",
        "use `build.secrets`, which leave no trace",
    );
}

#[test]
fn what_is_not_supported() {
    for (text, message, hint) in [
        (
            "network_mode: service:db",
            "compose.yaml:4:19: `services.web.network_mode`: `service:db` is not supported",
            "put both services on one network; they find each other by name",
        ),
        (
            "external_links: [redis]",
            "compose.yaml:4:5: `services.web.external_links` is not supported",
            "containers of others cannot be reached",
        ),
        (
            "post_start: [{ command: x }]",
            "compose.yaml:4:5: `services.web.post_start` is not supported",
            "put it into the entrypoint, or into a service that others wait for",
        ),
        (
            "provider: { type: x }",
            "compose.yaml:4:5: `services.web.provider` is not supported",
            "programs of the host that manage resources are not run",
        ),
        (
            "build: https://example.org/x.git",
            "compose.yaml:4:12: `services.web.build.context`: a context outside the repository, `https://example.org/x.git`, is not supported",
            "build from a folder of the repository, or use `image`",
        ),
        (
            "volumes: [{ type: image, source: x, target: /x }]",
            "compose.yaml:4:23: `services.web.volumes.0.type`: `image` is not supported",
            "use `volume`, `bind` of files of the repository, or `tmpfs`",
        ),
    ] {
        lines(text, message, hint);
    }
    file(
        "services: { a: { image: x, networks: [n] } }\nnetworks: { n: { external: true } }\n",
        "compose.yaml:2:18: `networks.n.external` is not supported",
        "a project is on its own networks only; the gateway reaches its services by itself",
    );
    file(
        "services: { a: { image: x, networks: { n: { ipv4_address: 10.0.0.2 } } } }\nnetworks: { n: }\n",
        "compose.yaml:1:45: `services.a.networks.n.ipv4_address` is not supported",
        "two releases overlap, and cannot share an address; use the service's name",
    );
}

#[test]
fn bounds() {
    let mut many = String::from("services:\n");
    for number in 0..101 {
        many.push_str(&format!("  s{number}: {{ image: x }}\n"));
    }
    let error = Given::new(&many).read().unwrap_err();
    assert_eq!(error.code(), "spec.file.too-large");
    assert_eq!(
        error.to_string(),
        "compose.yaml:2:3: `services` has more than 100 entries"
    );

    let mut bomb = String::from("x-a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n");
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        bomb.push_str(&format!(
            "x-a{level}: &a{level} [{}]\n",
            vec![alias; 10].join(",")
        ));
    }
    assert_eq!(
        Given::new(&bomb).read().unwrap_err().code(),
        "spec.file.too-large"
    );
    let deep = format!("x-a: {}{}\n", "[".repeat(60), "]".repeat(60));
    assert!(Given::new(&deep).read().is_err());
    let large = format!("# {}\n", "x".repeat(ondol_spec::MAX_BYTES));
    assert_eq!(
        Given::new(&large).read().unwrap_err().code(),
        "spec.file.too-large"
    );

    // A chain of copies of something large stops before it is large.
    let mut copies = String::from("services:\n  s0:\n    image: x\n    environment:\n");
    for number in 0..5_000 {
        copies.push_str(&format!("      V{number}: 1\n"));
    }
    for number in 1..100 {
        copies.push_str(&format!("  s{number}: {{ extends: s0 }}\n"));
    }
    assert_eq!(
        Given::new(&copies).read().unwrap_err().code(),
        "spec.file.too-large"
    );
    // And so does a chain of files.
    let mut given = Given::new("include: [f0.yaml]\nservices: { a: { image: x } }\n");
    for number in 0..60 {
        let next = format!("include: [f{}.yaml]\nservices: {{}}\n", number + 1);
        given = given.file(&format!("f{number}.yaml"), &next);
    }
    assert!(given.read().is_err());
}
