//! Golden messages: an error names the place, the thing and the remedy.

use ondol_types::{Classified, ErrorKind};

use crate::read;

#[track_caller]
fn refuses(yaml: &str, message: &str, hint: &str) {
    let error = match read(yaml) {
        Ok(_) => panic!("accepted: {yaml}"),
        Err(error) => error,
    };
    assert_eq!(error.to_string(), message);
    assert_eq!(error.hint().as_deref().unwrap_or_default(), hint);
    assert!(matches!(
        error.kind(),
        ErrorKind::InvalidInput | ErrorKind::TooLarge
    ));
}

#[test]
fn unknown_keys_have_a_line_and_a_neighbour() {
    refuses(
        "test: pytest\nservice:\n  run: python app.py\n  prot: 8000\n",
        "ondol.yaml:4:3: unknown key `prot` under `service`",
        "did you mean `port`?",
    );
    refuses(
        "tests: pytest\n",
        "ondol.yaml:1:1: unknown key `tests`",
        "did you mean `test`?",
    );
    refuses(
        "replicas: 2\n",
        "ondol.yaml:1:1: unknown key `replicas`",
        "`replicas` belongs to `service`",
    );
    refuses(
        "data:\n  iris:\n    schema:\n      petal.length: { minimum: 0 }\n",
        "ondol.yaml:4:23: unknown key `minimum` under `data.iris.schema.\"petal.length\"`",
        "did you mean `min`?",
    );
    refuses(
        "steps:\n  lint: { run: x, frobnicate: 1 }\n",
        "ondol.yaml:2:19: unknown key `frobnicate` under `steps.lint`",
        "known here: run, approve, needs, before, after, timeout, retries, repeatable, allow_failure, branches, junit, artifacts, image, engine, services, matrix, limits, env",
    );
}

#[test]
fn wrong_types_say_what_was_expected_and_found() {
    refuses(
        "service:\n  run: x\n  port: eight\n",
        "ondol.yaml:3:9: `service.port` must be a whole number from 0 to 65535, found the text `eight`",
        "",
    );
    refuses(
        "service: { run: x, port: 70000 }\n",
        "ondol.yaml:1:26: `service.port` must be a whole number from 0 to 65535, found the number 70000",
        "",
    );
    refuses(
        "service: { run: x, drain: 30 }\n",
        "ondol.yaml:1:27: `service.drain` must be a duration such as `30s`, `5m` or `300ms`, found the number 30",
        "say the unit: `30s`",
    );
    refuses(
        "test: [a, b]\n",
        "ondol.yaml:1:7: `test` must be text or a mapping, found a list",
        "",
    );
    refuses(
        "test: false\n",
        "ondol.yaml:1:7: `test` must be text or a mapping, found `false`",
        "the test stage cannot be removed; without a command it only says that there are no tests",
    );
    refuses(
        "release: { strategy: canarry }\n",
        "ondol.yaml:1:22: `release.strategy` must be one of `rolling`, `blue-green`, `canary`, found `canarry`",
        "did you mean `canary`?",
    );
    refuses(
        "service: { run: x, limits: { memory: lots } }\n",
        "ondol.yaml:1:38: `service.limits.memory`: `lots` is not a size such as `512MiB`, `2GiB` or `10MB`",
        "",
    );
    refuses(
        "project: My App\n",
        "ondol.yaml:1:10: `project`: project name `My App` may only have lower-case letters, digits and inner hyphens, and begin with a letter",
        "",
    );
    refuses(
        "- a\n- b\n",
        "ondol.yaml:1:1: the file must be a mapping of keys to values",
        "write keys and values, such as `test: pytest -q`",
    );
    refuses(
        "service: { port: 8000 }\n",
        "ondol.yaml:1:10: `service` needs `run`",
        "no command was detected; add `service.run`, or remove `service`",
    );
}

#[test]
fn keys_come_once() {
    refuses(
        "test: a\nservice: { run: x }\ntest: b\n",
        "ondol.yaml:3:1: the key `test` is here twice; the first is in line 1",
        "keep one of them",
    );
}

#[test]
fn text_that_is_no_yaml_has_a_place() {
    let error = read("service:\n  run: [a\n").unwrap_err();
    assert_eq!(error.code(), "spec.file.syntax");
    assert!(
        error
            .to_string()
            .starts_with("ondol.yaml:2:8: not valid YAML: unclosed bracket"),
        "{error}"
    );
}

#[test]
fn steps_do_not_wait_in_circles() {
    refuses(
        "steps:\n  a: { run: x, needs: b }\n  b: { run: x, needs: c }\n  c: { run: x, needs: [a] }\n",
        "ondol.yaml:2:6: `steps.a`: the steps wait for each other in a circle: a → c → b → a",
        "remove one of their `needs`, `before` or `after`",
    );
    refuses(
        "steps:\n  late: { run: x, after: release, before: test }\n",
        "ondol.yaml:2:9: `steps.late`: the steps wait for each other in a circle: late → test → release → late",
        "remove one of their `needs`, `before` or `after`",
    );
    refuses(
        "steps:\n  lint: { run: x, needs: tset }\n",
        "ondol.yaml:2:26: `steps.lint.needs.0`: there is no step `tset`",
        "did you mean `test`?",
    );
    refuses(
        "steps:\n  build: make\n",
        "ondol.yaml:2:10: `steps.build`: a step of this name is built in",
        "give the step another name; the test command is set by `test:`, the build by `build:`",
    );
}

#[test]
fn expressions_are_checked_when_the_file_is_read() {
    refuses(
        "release:\n  strategy: canary\n  check: error_rate <\n",
        "ondol.yaml:3:10: `release.check`: the expression is not valid CEL at character 13: \
         it ends where something is missing",
        "",
    );
    refuses(
        "release: { check: errorrate < 0.01 }\n",
        "ondol.yaml:1:19: `release.check`: `errorrate` is not known here; known are error_rate, p50, p95, p99, requests, rps of the canary, \
         and the same of the serving release as `current.…`",
        "did you mean `error_rate`?",
    );
    refuses(
        "data: { iris: {} }\ntrain: { auto: species, accept: accuracy }\n",
        "ondol.yaml:2:33: `train.accept`: `accuracy` is a number, where true or false is needed",
        "",
    );
    refuses(
        "data: { iris: {} }\ntrain: { auto: species, accept: accuracy > champ.accuracy }\n",
        "ondol.yaml:2:33: `train.accept`: `champ.accuracy` is not known here; known are metrics of the candidate, and those of the champion as `champion.<metric>`",
        "did you mean `champion.accuracy`?",
    );
}

#[test]
fn paths_stay_in_the_repository() {
    let expected = "is not a folder inside the work directory, such as `data`, or an absolute path of a container";
    for (path, shown) in [
        ("../x", "../x"),
        ("./", ""),
        ("/", "/"),
        ("/proc/x", "/proc/x"),
    ] {
        refuses(
            &format!("volumes: {{ state: {path} }}\n"),
            &format!("ondol.yaml:1:19: `volumes.state`: `{shown}` {expected}"),
            "",
        );
    }
    refuses(
        "data: { iris: ../../etc/passwd }\n",
        "ondol.yaml:1:15: `data.iris.path`: `../../etc/passwd` is not a relative path that stays inside its folder",
        "write a path inside the repository, without a leading `/` and without `..`",
    );
    refuses(
        "volumes: { a: data/, b: data/deep }\n",
        "ondol.yaml:1:15: `volumes.a`: `data` and the volume `b` lie in each other",
        "give each volume a folder of its own",
    );
}

#[test]
fn values_must_go_together() {
    refuses(
        "data: { iris: {} }\ntrain: { run: x, auto: y }\n",
        "ondol.yaml:2:24: `train.auto`: `run` and `auto` exclude each other",
        "keep `run` for your own program, or `auto` for the built-in trainer",
    );
    refuses(
        "data: { iris: {} }\ntrain: { timeout: 5m }\n",
        "ondol.yaml:2:8: `train`: needs `run` or `auto`",
        "add `run: python train.py` or `auto: <target column>`",
    );
    refuses(
        "train: { run: x, model: m }\n",
        "ondol.yaml:1:8: `train.on`: does not say which data starts training",
        "add `on: <dataset>`, one of those under `data`",
    );
    refuses(
        "release: { steps: [50, 10, 100] }\n",
        "ondol.yaml:1:19: `release.steps`: must ascend from at least 1 to 100, in at most 20 steps",
        "write shares such as `[10, 50, 100]`",
    );
    refuses(
        "release: { steps: [10, 50] }\n",
        "ondol.yaml:1:19: `release.steps`: must ascend from at least 1 to 100, in at most 20 steps",
        "write shares such as `[10, 50, 100]`",
    );
    refuses(
        "test: ''\n",
        "ondol.yaml:1:7: `test.run`: the command is empty",
        "write what a shell should run",
    );
    refuses(
        "env: { A: 1 }\nsecrets: [A]\n",
        "ondol.yaml:1:11: `env.A`: there is a secret of this name",
        "keep it under `secrets` or under `env`, not both",
    );
    refuses(
        "env: { A_FILE: /x }\nsecrets: [{ name: A, as: file }]\n",
        "ondol.yaml:1:16: `env.A_FILE`: this variable has the path of a secret's file",
        "rename the variable or the secret",
    );
    refuses(
        "secrets:\n  - A_FILE\n  - { name: A, as: file }\n",
        "ondol.yaml:2:5: `secrets.0`: the variable `A_FILE` has the path of the file of secret `A`",
        "rename one of the two",
    );
    refuses(
        "secrets:\n  - A\n  - { name: A, as: file }\n",
        "ondol.yaml:3:5: `secrets.1`: `A` is here twice",
        "",
    );
    refuses(
        "env: { PORT: 80 }\n",
        "ondol.yaml:1:14: `env.PORT`: variable name `PORT` is reserved",
        "the platform sets `PORT`, `PATH`, `HOME`, `LD_*` and `ONDOL_*` itself; see `build.path`",
    );
    refuses(
        "service: { run: x, replicas: { min: 3, max: 2 } }\n",
        "ondol.yaml:1:45: `service.replicas.max`: max (2) is less than min (3)",
        "",
    );
    refuses(
        "data: { a: { schema: { x: { pattern: '(' } } } }\n",
        "ondol.yaml:1:38: `data.a.schema.x.pattern`: not a regular expression: unclosed group",
        "",
    );
    refuses(
        "data: { a: { schema: { x: { type: integer, in: [1, a] } } } }\n",
        "ondol.yaml:1:52: `data.a.schema.x.in.1`: the value has not the column's type",
        "put text in quotes, and numbers not",
    );
}

#[test]
fn two_files_are_one_too_many() {
    let mut tree = crate::tree("", &[]);
    tree.insert("ondol.yml".parse().unwrap(), "");
    let error = ondol_spec::resolve(&ondol_spec::Sources::of(&tree)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ondol.yml:1:1: there is also `ondol.yaml`"
    );
}

#[test]
fn a_secret_is_a_name_or_says_how_it_is_received() {
    refuses(
        "secrets:\n  - TOKEN\n  - { name: CERT, as: fil }\n",
        "ondol.yaml:3:23: `secrets.1.as` must be one of `env`, `file`, found `fil`",
        "did you mean `file`?",
    );
    refuses(
        "secrets:\n  - { nam: CERT }\n",
        "ondol.yaml:2:7: unknown key `nam` under `secrets.0`",
        "did you mean `name`?",
    );
    refuses(
        "secrets: [{ as: file }]\n",
        "ondol.yaml:1:11: `secrets.0` needs `name`",
        "add `name`",
    );
    refuses(
        "secrets: [7]\n",
        "ondol.yaml:1:11: `secrets.0` must be text or a mapping with `name` and `as`, found the number 7",
        "",
    );
}

#[test]
fn a_build_with_a_dockerfile_is_checked() {
    refuses(
        "build:\n  target: web\n",
        "ondol.yaml:2:11: `build.target`: only a build with a Dockerfile has it",
        "add `build.dockerfile: Dockerfile`",
    );
    refuses(
        "build:\n  dockerfile: ../Dockerfile\n",
        "ondol.yaml:2:15: `build.dockerfile`: `../Dockerfile` is not a relative path that stays inside its folder",
        "write a path inside the repository, without a leading `/` and without `..`",
    );
    refuses(
        "secrets: [A]\nbuild:\n  dockerfile: Dockerfile\n  secrets:\n    - A\n    - B\n",
        "ondol.yaml:6:7: `build.secrets.1`: `B` is not a secret of this project",
        "name it under `secrets` too",
    );
    refuses(
        "secrets: [TOKEN]\nbuild:\n  dockerfile: Dockerfile\n  args: { TOKEN: x }\n",
        "ondol.yaml:4:18: `build.args.TOKEN`: a build argument can be read in the image, and this is the name of a secret",
        "name it under `build.secrets`, and read it by `RUN --mount=type=secret`",
    );
    refuses(
        "build: { dockerfile: Dockerfile, target: -x }\n",
        "ondol.yaml:1:42: `build.target`: is no name of a stage",
        "write the name behind `AS` in the Dockerfile",
    );
    refuses(
        "build: { dockerfile: Dockerfile, limits: { memory: 1KiB } }\n",
        "ondol.yaml:1:52: `build.limits.memory`: no program starts in less than 4MiB",
        "",
    );
}

#[test]
fn images_services_and_matrices_are_checked_where_they_are_written() {
    refuses(
        "steps:\n  e2e:\n    run: x\n    engine: process\n    image: python:3\n",
        "ondol.yaml:4:13: `steps.e2e.engine`: a process runs on the host, not in an image",
        "remove `image`, or write `engine: container`",
    );
    refuses(
        "test: { run: x, engine: container }\n",
        "ondol.yaml:1:25: `test.engine`: a container needs an image",
        "name one under `image`, such as `docker.io/library/python:3.13-slim`",
    );
    refuses(
        "test:\n  run: x\n  image: python:${{ matrix.python }}\n",
        "ondol.yaml:3:10: `test.image`: there is no matrix, and so no `matrix.python`",
        "",
    );
    refuses(
        "test:\n  run: x\n  image: py:${{ matrix.v }}\n  matrix: { values: { v: [3.10, 'a b'] } }\n",
        "ondol.yaml:3:10: `test.image`: `py:a b` is not an image reference such as `docker.io/library/python:3.13-slim`",
        "",
    );
    refuses(
        "test:\n  run: x ${{ matrix.v }}\n  matrix: { values: { v: [1] } }\n",
        "ondol.yaml:2:8: `test.run`: `${{ … }}` is not filled in here: a shell would read it as its own",
        "read a value of the matrix from its variable, such as `$MATRIX_PYTHON`",
    );
    refuses(
        "steps:\n  a: { run: x, matrix: { values: { v: [1, 2] } } }\n  a-1: x\n",
        "ondol.yaml:2:24: `steps.a.matrix`: it makes a step `a-1`, and there is one already",
        "rename one of them",
    );
    refuses(
        "steps:\n  a: { run: x, matrix: { values: { v: [1] }, exclude: { w: 1 } } }\n",
        "ondol.yaml:2:60: `steps.a.matrix.exclude.0.w`: the matrix has no values of this name",
        "",
    );
    refuses(
        "test:\n  run: x\n  services:\n    db: { image: postgres, deadline: 1h }\n",
        "ondol.yaml:4:38: `test.services.db.deadline`: at most `5m` are allowed",
        "",
    );
    refuses(
        "test:\n  run: x\n  services:\n    My_DB: postgres\n",
        "ondol.yaml:4:5: `test.services`: `My_DB` is not a name such as `postgres`, of lower-case letters, digits and inner hyphens",
        "",
    );
}

#[test]
fn an_approval_is_a_step_of_its_own() {
    refuses(
        "steps:\n  ship: { approve: look at staging, run: make ship }\n",
        "ondol.yaml:2:42: `steps.ship.run`: a step that waits for a person does nothing else",
        "make it two steps, of which one needs the other",
    );
    refuses(
        "steps:\n  ship: { needs: test }\n",
        "ondol.yaml:2:9: `steps.ship.run`: the command is empty",
        "write what a shell should run",
    );
    let spec = read(
        "steps:\n  ship: { approve: look at staging }\nconcurrency: { group: deploy, policy: keep-all }\n",
    );
    let spec = spec.unwrap().spec;
    let approve = spec.steps.values().next().unwrap().approve.clone().unwrap();
    assert_eq!(approve.message.as_deref(), Some("look at staging"));
    assert_eq!(spec.concurrency.group.unwrap().as_str(), "deploy");
}

#[test]
fn numbers_of_a_matrix_are_as_they_are_spelled() {
    let spec = read("test:\n  run: x\n  matrix: { values: { python: [3.9, 3.10] } }\n").unwrap();
    let matrix = spec.spec.test.unwrap().matrix.unwrap();
    assert_eq!(matrix.values["python"], ["3.9", "3.10"]);
}
