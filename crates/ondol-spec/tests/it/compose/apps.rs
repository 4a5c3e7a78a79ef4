//! Applications as people write them.

use ondol_spec::compose::{
    Condition, HealthTest, Healthcheck, MountFrom, NetworkMode, PullPolicy, ServiceKind, Source,
    UpdateOrder,
};

use super::{Given, codes, environment, project, service, words};

const THREE_TIERS: &str = r#"
name: shop
services:
  web:
    build: .
    ports: ["8000:8000"]
    environment:
      DATABASE_URL: postgres://app:${DB_PASSWORD}@db:5432/app
      REDIS_URL: redis://cache:6379/0
    depends_on:
      db: { condition: service_healthy }
      cache: { condition: service_started }
      migrate: { condition: service_completed_successfully }
    deploy:
      replicas: 2
      resources:
        limits: { cpus: "0.5", memory: 256M }
  migrate:
    build: .
    command: python manage.py migrate --noinput
    environment:
      DATABASE_URL: postgres://app:${DB_PASSWORD}@db:5432/app
    depends_on:
      db: { condition: service_healthy }
  db:
    image: postgres:16-alpine
    restart: unless-stopped
    environment:
      POSTGRES_USER: app
      POSTGRES_PASSWORD: ${DB_PASSWORD:?set it}
      POSTGRES_DB: app
    volumes: ["db-data:/var/lib/postgresql/data", "./init.sql:/docker-entrypoint-initdb.d/init.sql:ro"]
    healthcheck:
      test: ["CMD-SHELL", "pg_isready -U app"]
      interval: 5s
      timeout: 3s
      retries: 10
  cache:
    image: redis:7-alpine
    command: redis-server --save 60 1 --requirepass ${DB_PASSWORD}
volumes:
  db-data:
"#;

#[test]
fn web_postgresql_redis() {
    let project = Given::new(THREE_TIERS)
        .file("Dockerfile", "FROM scratch\n")
        .file("init.sql", "SELECT 1;\n")
        .secret("DB_PASSWORD")
        .project();
    assert_eq!(project.name.as_deref(), Some("shop"));
    assert_eq!(codes(&project), Vec::<&str>::new());
    let layers: Vec<Vec<String>> = project
        .layers()
        .iter()
        .map(|layer| layer.iter().map(ToString::to_string).collect())
        .collect();
    assert_eq!(layers, [vec!["cache", "db"], vec!["migrate"], vec!["web"]]);

    let web = service(&project, "web");
    let route = web.route.as_ref().unwrap();
    assert!(route.primary && route.port == 8000 && route.host_label("shop") == "shop");
    assert_eq!(web.replicas, 2);
    assert_eq!(web.resources.cpu_millis, Some(500));
    assert_eq!(web.resources.memory.unwrap().bytes(), 256 << 20);
    assert_eq!(web.update.order, UpdateOrder::StartFirst);
    assert!(!web.stateful);
    assert_eq!(
        environment(&web)["DATABASE_URL"],
        "postgres://app:${DB_PASSWORD}@db:5432/app"
    );
    let rendered = web.environment["DATABASE_URL"].render(|_| Some("s3cret"));
    assert_eq!(rendered.unwrap(), "postgres://app:s3cret@db:5432/app");
    assert_eq!(
        web.depends_on[&"migrate".parse().unwrap()].condition,
        Condition::CompletedSuccessfully
    );

    let migrate = service(&project, "migrate");
    assert_eq!(migrate.kind, ServiceKind::Job);
    assert_eq!(
        words(&migrate.command).unwrap(),
        ["python", "manage.py", "migrate", "--noinput"]
    );
    assert!(migrate.route.is_none());

    let db = service(&project, "db");
    assert!(db.stateful && db.route.is_none());
    assert_eq!(db.update.order, UpdateOrder::StopFirst);
    assert_eq!(db.image.as_ref().unwrap().as_str(), "postgres:16-alpine");
    assert!(matches!(
        &db.mounts["/var/lib/postgresql/data"].from,
        MountFrom::Volume { name, .. } if name.as_str() == "db-data"
    ));
    assert!(matches!(
        &db.mounts["/docker-entrypoint-initdb.d/init.sql"].from,
        MountFrom::Repository { path: Some(path), content: Some(_) } if path.as_str() == "init.sql"
    ));
    let Some(Healthcheck::Check {
        test,
        retries,
        interval,
        ..
    }) = &db.healthcheck
    else {
        panic!("{:?}", db.healthcheck)
    };
    assert_eq!((*retries, interval.to_string()), (10, "5s".to_owned()));
    assert!(matches!(test, HealthTest::Shell(line) if line.to_string() == "pg_isready -U app"));
    assert_eq!(
        words(&service(&project, "cache").command)
            .unwrap()
            .last()
            .unwrap(),
        "${DB_PASSWORD}"
    );
    // No secret is spelled out anywhere, and the model is written and read again.
    let text = serde_json::to_string(&project).unwrap();
    assert_eq!(
        serde_json::from_str::<ondol_spec::compose::ComposeProject>(&text).unwrap(),
        project
    );
}

#[test]
fn wordpress_with_mysql() {
    let project = Given::new(
        r#"
services:
  db:
    image: mysql:8.0
    command: '--default-authentication-plugin=mysql_native_password'
    volumes:
      - type: volume
        source: db_data
        target: /var/lib/mysql
    restart: always
    environment:
      - MYSQL_ROOT_PASSWORD_FILE=/run/secrets/db_root
      - MYSQL_DATABASE=wordpress
      - MYSQL_USER=wordpress
      - MYSQL_PASSWORD_FILE=/run/secrets/db_password
    expose: [3306, 33060]
    secrets: [db_root, db_password]
  wordpress:
    image: wordpress:latest
    container_name: blog
    depends_on: [db]
    ports: ["80:80"]
    restart: always
    environment:
      WORDPRESS_DB_HOST: db
      WORDPRESS_DB_PASSWORD_FILE: /run/secrets/db_password
    volumes: ["wp_data:/var/www/html"]
    secrets:
      - source: db_password
        uid: "33"
        gid: "33"
        mode: 0440
volumes: { db_data: , wp_data: {} }
secrets:
  db_root: { file: ./db_root.txt }
  db_password: { external: true }
"#,
    )
    .project();
    let wordpress = service(&project, "wordpress");
    assert!(wordpress.route.as_ref().unwrap().primary);
    assert_eq!(wordpress.update.order, UpdateOrder::StopFirst);
    let grant = &wordpress.secrets["/run/secrets/db_password"];
    assert_eq!(
        (grant.uid, grant.gid, grant.mode),
        (Some(33), Some(33), 0o440)
    );
    assert_eq!(
        project.secrets[&"db_root".parse().unwrap()],
        Source::Store("db_root".parse().unwrap())
    );
    assert_eq!(codes(&project), ["secret-file", "secrets"]);
    let NetworkMode::Project(networks) = &wordpress.network else {
        panic!()
    };
    assert!(networks[&"default".parse().unwrap()].contains("blog"));
    assert_eq!(
        words(&service(&project, "db").command).unwrap(),
        ["--default-authentication-plugin=mysql_native_password"]
    );
}

#[test]
fn django_with_profiles() {
    let given = || {
        Given::new(
            r#"
x-app: &app
  build: { context: ., target: runtime, args: [PYTHON=3.13] }
  env_file: [{ path: .env.production }, { path: .env.local, required: false }]
  volumes: ["media:/app/media"]
  depends_on:
    db: { condition: service_healthy }
services:
  web:
    <<: *app
    command: gunicorn shop.wsgi -b 0.0.0.0:8000
    ports: ["8000"]
    healthcheck:
      test: ["CMD", "curl", "-f", "http://localhost:8000/healthz"]
      start_period: 20s
  worker:
    <<: *app
    command: celery -A shop worker
  flower:
    <<: *app
    command: celery -A shop flower
    ports: ["5555:5555"]
    profiles: [debug]
  db:
    image: postgres:16
    environment: [POSTGRES_PASSWORD]
    volumes: ["pg:/var/lib/postgresql/data"]
    healthcheck: { test: pg_isready }
volumes: { media: , pg: }
"#,
        )
        .file("Dockerfile", "FROM python:3.13 AS runtime\n")
        .file(
            ".env.production",
            "DJANGO_SETTINGS_MODULE=shop.production\nDEBUG=0 # off\n",
        )
        .file(".env", "POSTGRES_PASSWORD=dev\n")
    };
    let quiet = given().project();
    assert_eq!(quiet.services.len(), 3);
    assert!(quiet.disabled[&"flower".parse().unwrap()].contains("debug"));
    assert!(service(&quiet, "web").route.unwrap().primary);
    let web = service(&quiet, "web");
    assert_eq!(environment(&web)["DEBUG"], "0");
    assert_eq!(
        web.build.as_ref().unwrap().target.as_deref(),
        Some("runtime")
    );
    assert_eq!(web.build.unwrap().args["PYTHON"], "3.13");
    assert_eq!(
        environment(&service(&quiet, "db"))["POSTGRES_PASSWORD"],
        "dev"
    );
    assert_eq!(codes(&quiet), ["env-file"]);

    let debug = given().profile("debug").project();
    assert_eq!(debug.services.len(), 4);
    let flower = service(&debug, "flower").route.unwrap();
    assert!(!flower.primary && flower.host_label("shop") == "flower-shop");
    assert!(codes(&debug).contains(&"no-primary"));
    let by_variable = given().variable("COMPOSE_PROFILES", "x, debug").project();
    assert_eq!(by_variable.services.len(), 4);
}

#[test]
fn node_behind_a_proxy() {
    let project = Given::new(
        r#"
services:
  proxy:
    image: nginx:1.27
    ports: ["80:80", "443:443"]
    configs: [{ source: site, target: /etc/nginx/conf.d/default.conf }]
    networks: [front]
    depends_on: [api]
  api:
    build: ./api
    pull_policy: build
    init: true
    user: node
    read_only: true
    tmpfs: [/tmp, "/run:size=16m,mode=755"]
    networks: { front: , back: { aliases: [backend] } }
    expose: ["3000"]
    stop_signal: int
    stop_grace_period: 1m30s
    develop: { watch: [{ path: ./api, action: rebuild }] }
    logging: { driver: json-file }
  store:
    image: mongo:7
    networks: [back]
    ports: ["27017:27017"]
    volumes: [/data/db]
networks:
  front: {}
  back: { internal: true }
configs:
  site:
    content: |
      server { proxy_pass http://api:3000; root $$uri; }
"#,
    )
    .file("api/Dockerfile", "FROM node:22\n")
    .project();
    let api = service(&project, "api");
    assert!(api.init && api.read_only && api.route.is_none());
    assert_eq!(api.pull, PullPolicy::Build);
    assert_eq!(api.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(api.stop_grace_period.to_string(), "1m30s");
    assert_eq!(api.build.unwrap().context.unwrap().as_str(), "api");
    assert!(matches!(
        &api.mounts["/run"].from,
        MountFrom::Tmpfs { size: Some(size), mode: Some(0o755), .. } if size.bytes() == 16 << 20
    ));
    let proxy = service(&project, "proxy");
    assert!(proxy.route.as_ref().unwrap().primary && proxy.route.as_ref().unwrap().port == 80);
    assert!(matches!(
        &project.configs[&"site".parse().unwrap()],
        Source::Inline(text) if text.to_string().contains("root $uri;")
    ));
    assert!(project.networks[&"back".parse().unwrap()].internal);
    // An anonymous volume outlives nothing, so nobody has to wait for it.
    assert!(!service(&project, "store").stateful);
    let messages: Vec<&str> = project
        .notices
        .iter()
        .map(|note| note.message.as_str())
        .collect();
    assert_eq!(
        messages,
        [
            "ports that are not published on the host: proxy 443/tcp, store 27017/tcp",
            "`develop` (api) has no effect: watching is for a developer's machine; here a push deploys",
            "`logging` (api) has no effect: Ondol keeps the log of every container itself, with a bound",
        ]
    );
}

#[test]
fn the_names_of_files_have_an_order() {
    let minimal = "services: { a: { image: x } }\n";
    for (files, read) in [
        (&["docker-compose.yaml"][..], "docker-compose.yaml"),
        (&["docker-compose.yml", "compose.yml"], "compose.yml"),
        (&["compose.yml", "compose.yaml"], "compose.yaml"),
    ] {
        let mut given = Given::default();
        for file in files {
            given = given.file(file, minimal);
        }
        let project = given.project();
        assert_eq!(project.files[0].as_str(), read);
        assert_eq!(codes(&project).contains(&"two-files"), files.len() > 1);
    }
    let none = ondol_spec::MemoryTree::new();
    let sources = ondol_spec::compose::ComposeSources::of(&none);
    assert_eq!(ondol_spec::compose::read_compose(&sources), Ok(None));
}

#[test]
fn what_has_no_effect_is_said_once() {
    let project = project(
        "version: '3.8'\nservices:\n  a: { image: x, attach: false }\n  b: { image: x, attach: true, mem_swappiness: 60 }\n",
    );
    let messages: Vec<&str> = project
        .notices
        .iter()
        .map(|note| note.message.as_str())
        .collect();
    assert_eq!(
        messages,
        [
            "`attach` (b) has no effect: logs of every service are kept",
            "`mem_swappiness` (b) has no effect: how the kernel swaps is the host's business, and no program sees it",
            "`version` has no effect: every file is read by the newest specification",
        ]
    );
}
