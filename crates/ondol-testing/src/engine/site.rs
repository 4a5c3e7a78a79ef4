//! A repository with a Dockerfile, over a base image of programs of this host.

use super::podman::{Podman, podman};
use super::userland::userland;
use crate::{Options, Platform, Project};

/// What the engine calls the base image.
pub const BASE: &str = "localhost/ondol-userland:1";

/// Two stages, a user without rights, and a `/version` that says which build it is.
const DOCKERFILE: &str = r#"FROM localhost/ondol-userland:1 AS build
COPY app.py /tmp/app.py
RUN mkdir /www && sed -n 's/^VERSION = "\(.*\)"/{"version": "\1"}/p' /tmp/app.py > /www/version
FROM localhost/ondol-userland:1
COPY --from=build /www /www
USER 1000:1001
EXPOSE 8000
CMD ["busybox", "httpd", "-f", "-p", "8000", "-h", "/www"]
"#;

/// The engine with the base image, or `None` where there is no engine.
pub fn engine() -> Option<&'static Podman> {
    let engine = podman()?;
    engine.import(&userland(), BASE);
    Some(engine)
}

/// How a platform finds the engine.
pub fn with_engine(engine: &Podman, more: &[&str]) -> Options {
    let address = format!("unix://{}", engine.socket().display());
    let mut arguments = vec!["--engine-address".to_owned(), address];
    arguments.extend(more.iter().map(|&word| word.to_owned()));
    Options {
        arguments,
        ..Options::default()
    }
}

/// A project of the site, with more of `ondol.yaml`.
pub fn site(platform: &Platform, name: &str, yaml: &str) -> Project {
    let yaml = format!("project: {name}\nbuild: {{ dockerfile: Dockerfile }}\n{yaml}");
    platform.project_of(
        name,
        &[
            ("Dockerfile", DOCKERFILE),
            ("app.py", "VERSION = \"1\"\n"),
            ("ondol.yaml", &yaml),
        ],
    )
}
