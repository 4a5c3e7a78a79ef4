//! The registry as its clients see it.
#![expect(clippy::print_stderr, reason = "a test that did nothing must say so")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use ondol_auth::{Ctx, Denied, Grant, Principal, PrincipalKind, Role};
use ondol_registry::http::{Authenticate, Door, router};
use ondol_registry::image::BuildRequest;
use ondol_registry::{
    Config, MIGRATIONS, Reference, RegistryError, RegistryService, Repository, Retained,
};
use ondol_store::blobs::Blobs;
use ondol_store::testing::{TestStore, backends};
use ondol_types::{Digest, Problem, ProjectName, SystemClock, TokenId};

struct Nothing;

#[async_trait::async_trait]
impl Retained for Nothing {
    async fn images(&self) -> Result<Vec<Digest>, Problem> {
        Ok(Vec::new())
    }
}

#[async_trait::async_trait]
impl ondol_registry::http::Projects for Nothing {
    async fn exists(&self, project: &ProjectName) -> Result<bool, Problem> {
        Ok(project.as_str() == "web" || project.as_str() == "other")
    }
}

/// `Basic user:token` where the token is the name of a role.
struct ByRole;

#[async_trait::async_trait]
impl Authenticate for ByRole {
    async fn principal(
        &self,
        headers: &HeaderMap,
        _: Option<std::net::IpAddr>,
    ) -> Result<Principal, Denied> {
        let Some(value) = headers
            .get("authorization")
            .and_then(|value| value.to_str().ok())
        else {
            return Ok(Principal::anonymous());
        };
        // base64 of `u:developer` and `u:viewer`.
        match value {
            "Basic dTpkZXZlbG9wZXI=" => Ok(somebody(Role::Developer)),
            "Basic dTp2aWV3ZXI=" => Ok(somebody(Role::Viewer)),
            _ => Err(Denied::Unauthenticated),
        }
    }
}

fn somebody(role: Role) -> Principal {
    Principal {
        kind: PrincipalKind::Token(TokenId::derived("t")),
        name: "somebody".to_owned(),
        grant: Grant {
            everywhere: None,
            projects: [("web".parse().unwrap(), role)].into(),
        },
        expires_at: None,
    }
}

fn ctx(role: Role) -> Ctx {
    Ctx::new(somebody(role), Arc::new(SystemClock))
}

fn service(backend: &TestStore) -> RegistryService {
    let blobs = Blobs::open(&backend.dir.path().join("blobs")).unwrap();
    RegistryService::new(backend.store.clone(), blobs, Config::default())
}

async fn serve(registry: RegistryService) -> SocketAddr {
    let door = Door {
        registry,
        authenticate: Arc::new(ByRole),
        projects: Arc::new(Nothing),
        retained: Arc::new(Nothing),
        clock: Arc::new(SystemClock),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(door)).await.unwrap() });
    address
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join(".venv/lib")).unwrap();
    std::fs::write(dir.path().join(".venv/lib/dep.py"), "x = 1").unwrap();
    std::fs::write(dir.path().join("app.py"), "print('hi')").unwrap();
    dir
}

fn request(root: &Path) -> BuildRequest {
    BuildRequest {
        repository: "web".parse().unwrap(),
        tags: vec!["main".to_owned()],
        root: root.to_owned(),
        keep: Arc::new(|_: &Path| true),
        command: Some("python3 app.py".to_owned()),
        env: BTreeMap::from([("MODE".to_owned(), "prod".to_owned())]),
        labels: BTreeMap::from([(
            "org.opencontainers.image.revision".to_owned(),
            "abc".to_owned(),
        )]),
        base: None,
        host: vec!["python3".to_owned()],
        chain: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_becomes_an_image_and_comes_back() {
    for backend in backends(MIGRATIONS).await {
        let registry = service(&backend);
        let ctx = ctx(Role::Developer);
        let source = folder();
        let built = registry.build(&ctx, &request(source.path())).await.unwrap();
        assert_eq!((built.layers, built.layers_new), (2, 2));
        let again = registry
            .build(&ctx, &request(folder().path()))
            .await
            .unwrap();
        assert_eq!(
            again.digest, built.digest,
            "{}: the same input gives the same digest",
            backend.name
        );
        assert_eq!(again.layers_new, 0);
        let target = backend.dir.path().join("out");
        let unpacked = registry
            .unpack(&ctx, &"web".parse().unwrap(), &built.digest, &target)
            .await
            .unwrap();
        assert_eq!(
            std::fs::read_to_string(target.join("app.py")).unwrap(),
            "print('hi')"
        );
        assert_eq!(
            std::fs::read_to_string(target.join(".venv/lib/dep.py")).unwrap(),
            "x = 1"
        );
        assert_eq!(unpacked.command, ["/bin/sh", "-c", "exec python3 app.py"]);
        assert!(
            unpacked
                .env
                .contains(&("MODE".to_owned(), "prod".to_owned()))
        );
        assert!(
            unpacked
                .labels
                .contains(&("dev.ondol.host".to_owned(), "python3".to_owned()))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_alone_opens_nothing() {
    for backend in backends(MIGRATIONS).await {
        let registry = service(&backend);
        let system = Ctx::system(Arc::new(SystemClock));
        let other: Repository = "other".parse().unwrap();
        let secret = registry
            .put_blob(&system, &other, Bytes::from_static(b"secret"))
            .await
            .unwrap();
        let ctx = ctx(Role::Developer);
        let web: Repository = "web".parse().unwrap();
        assert!(matches!(
            registry.blob(&ctx, &web, &secret).await,
            Err(RegistryError::BlobUnknown { .. })
        ));
        assert!(matches!(
            registry.blob(&ctx, &other, &secret).await,
            Err(RegistryError::Denied(Denied::Invisible(_)))
        ));
        assert!(
            !registry.mount(&ctx, &web, &secret, &other).await.unwrap(),
            "no mount from what one may not read"
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{secret}","size":6}},"layers":[]}}"#
        );
        let tag: Reference = "v1".parse().unwrap();
        let refused = registry
            .put_manifest(&ctx, &web, &tag, "", manifest.into())
            .await;
        assert!(matches!(
            refused,
            Err(RegistryError::ManifestBlobUnknown(_))
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_keeps_what_a_release_needs() {
    struct Held(Digest);
    #[async_trait::async_trait]
    impl Retained for Held {
        async fn images(&self) -> Result<Vec<Digest>, Problem> {
            Ok(vec![self.0.clone()])
        }
    }
    let clock = Arc::new(ondol_types::ManualClock::at(
        ondol_types::Timestamp::from_micros(1_000_000_000_000),
    ));
    for backend in ondol_store::testing::backends_at(MIGRATIONS, clock.clone()).await {
        let registry = service(&backend);
        let ctx = ctx(Role::Maintainer);
        let mut digests = Vec::new();
        for text in ["1", "2"] {
            let source = folder();
            std::fs::write(source.path().join("app.py"), text).unwrap();
            digests.push(
                registry
                    .build(&ctx, &request(source.path()))
                    .await
                    .unwrap()
                    .digest,
            );
        }
        clock.advance(std::time::Duration::from_secs(7_200));
        assert_eq!(
            registry.retain(&Held(digests[0].clone())).await.unwrap(),
            0,
            "{}",
            backend.name
        );
        let held = registry
            .delete_manifest(
                &ctx,
                &"web".parse().unwrap(),
                &Reference::Digest(digests[0].clone()),
                &Held(digests[0].clone()),
            )
            .await;
        assert!(matches!(held, Err(RegistryError::InUse(_))));
        assert_eq!(
            registry.retain(&Nothing).await.unwrap(),
            1,
            "the untagged one goes when no release needs it"
        );
        assert_eq!(
            registry.held_digests("", 100).await.unwrap().len(),
            4,
            "manifest, configuration and two layers stay"
        );
    }
}

/// The requests of a client, by hand: status and headers.
async fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    auth: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, HeaderMap, Bytes) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::new();
    let mut request = client
        .request(method.parse().unwrap(), format!("http://{address}{path}"))
        .body(body.to_vec());
    if !auth.is_empty() {
        request = request.header("authorization", auth);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    (
        response.status().as_u16(),
        response.headers().clone(),
        response.bytes().await.unwrap(),
    )
}

const DEVELOPER: &str = "Basic dTpkZXZlbG9wZXI=";
const VIEWER: &str = "Basic dTp2aWV3ZXI=";

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_answers_as_clients_expect() {
    let backend = backends(MIGRATIONS).await.swap_remove(0);
    let address = serve(service(&backend)).await;
    let (status, headers, _) = call(address, "GET", "/v2/", "", &[], b"").await;
    assert_eq!(
        (status, headers["www-authenticate"].to_str().unwrap()),
        (401, "Basic realm=\"Ondol\"")
    );
    assert_eq!(
        call(address, "GET", "/v2/", "Basic eDp4", &[], b"").await.0,
        401
    );
    assert_eq!(
        call(address, "GET", "/v2/", DEVELOPER, &[], b"").await.0,
        200
    );
    assert_eq!(
        call(address, "POST", "/v2/web/blobs/uploads/", VIEWER, &[], b"")
            .await
            .0,
        403
    );
    assert_eq!(
        call(
            address,
            "POST",
            "/v2/other/blobs/uploads/",
            DEVELOPER,
            &[],
            b""
        )
        .await
        .0,
        404
    );

    let (status, headers, _) = call(
        address,
        "POST",
        "/v2/web/blobs/uploads/",
        DEVELOPER,
        &[],
        b"",
    )
    .await;
    let location = headers["location"].to_str().unwrap().to_owned();
    assert_eq!(status, 202);
    let (status, headers, _) = call(
        address,
        "PATCH",
        &location,
        DEVELOPER,
        &[("content-range", "0-2")],
        b"abc",
    )
    .await;
    assert_eq!((status, headers["range"].to_str().unwrap()), (202, "0-2"));
    let (status, headers, _) = call(
        address,
        "PATCH",
        &location,
        DEVELOPER,
        &[("content-range", "9-11")],
        b"xyz",
    )
    .await;
    assert_eq!((status, headers["range"].to_str().unwrap()), (416, "0-2"));
    assert_eq!(
        call(address, "GET", &location, DEVELOPER, &[], b"").await.0,
        204
    );
    // sha256 of `abcdef`.
    let digest = "sha256:bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721";
    let (status, headers, _) = call(
        address,
        "PUT",
        &format!("{location}?digest={digest}"),
        DEVELOPER,
        &[],
        b"def",
    )
    .await;
    assert_eq!(
        (status, headers["docker-content-digest"].to_str().unwrap()),
        (201, digest)
    );
    let (status, headers, body) = call(
        address,
        "GET",
        &format!("/v2/web/blobs/{digest}"),
        DEVELOPER,
        &[("range", "bytes=2-3")],
        b"",
    )
    .await;
    assert_eq!(
        (
            status,
            &body[..],
            headers["content-range"].to_str().unwrap()
        ),
        (206, &b"cd"[..], "bytes 2-3/6")
    );

    let (_, headers, _) = call(
        address,
        "POST",
        "/v2/web/blobs/uploads/",
        DEVELOPER,
        &[],
        b"",
    )
    .await;
    let wrong = format!("{}?digest={digest}", headers["location"].to_str().unwrap());
    let (status, _, body) = call(address, "PUT", &wrong, DEVELOPER, &[], b"other").await;
    assert!(status == 400 && String::from_utf8_lossy(&body).contains("DIGEST_INVALID"));

    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.example+json","digest":"{digest}","size":6}},"layers":[]}}"#
    );
    let media = ("content-type", "application/vnd.oci.image.manifest.v1+json");
    let (status, headers, _) = call(
        address,
        "PUT",
        "/v2/web/manifests/v1",
        DEVELOPER,
        &[media],
        manifest.as_bytes(),
    )
    .await;
    assert_eq!(status, 201);
    let subject = headers["docker-content-digest"]
        .to_str()
        .unwrap()
        .to_owned();
    let referrer = manifest.replacen(
        r#""layers":[]"#,
        &format!(
            r#""layers":[],"subject":{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{subject}","size":{}}}"#,
            manifest.len()
        ),
        1,
    );
    let (status, headers, _) = call(
        address,
        "PUT",
        "/v2/web/manifests/sig",
        DEVELOPER,
        &[media],
        referrer.as_bytes(),
    )
    .await;
    assert_eq!(
        (status, headers["oci-subject"].to_str().unwrap()),
        (201, subject.as_str())
    );
    let (status, headers, body) = call(
        address,
        "GET",
        &format!("/v2/web/referrers/{subject}?artifactType=application/vnd.example%2Bjson"),
        DEVELOPER,
        &[],
        b"",
    )
    .await;
    assert_eq!(
        (status, headers["oci-filters-applied"].to_str().unwrap()),
        (200, "artifactType")
    );
    assert!(String::from_utf8_lossy(&body).contains("application/vnd.example+json"));
    let (_, headers, body) =
        call(address, "GET", "/v2/web/tags/list?n=1", DEVELOPER, &[], b"").await;
    assert_eq!(
        (&body[..], headers.contains_key("link")),
        (&br#"{"name":"web","tags":["sig"]}"#[..], true)
    );
    assert_eq!(
        call(
            address,
            "GET",
            "/v2/web/manifests/none",
            DEVELOPER,
            &[],
            b""
        )
        .await
        .0,
        404
    );
    assert_eq!(
        call(address, "GET", "/v2/nothing/tags/list", DEVELOPER, &[], b"")
            .await
            .0,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_both_ways() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("skopeo is not installed: this test did nothing (`make setup` installs it)");
        return;
    }
    let backend = backends(MIGRATIONS).await.swap_remove(0);
    let registry = service(&backend);
    let project: ProjectName = "web".parse().unwrap();
    let built = registry
        .build(&ctx(Role::Developer), &request(folder().path()))
        .await
        .unwrap();
    let address = serve(registry).await;
    let dir = backend.dir.path().join("layout");
    let skopeo = |arguments: Vec<String>| {
        tokio::task::spawn_blocking(move || {
            let output = Command::new("skopeo").args(&arguments).output().unwrap();
            assert!(
                output.status.success(),
                "skopeo {arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    };
    let image = format!("docker://{address}/{project}:main");
    let shown = skopeo(vec![
        "inspect".into(),
        "--tls-verify=false".into(),
        "--creds=u:developer".into(),
        image.clone(),
    ])
    .await
    .unwrap();
    assert!(shown.contains(&built.digest.to_string()), "{shown}");
    let layout = format!("oci:{}:main", dir.display());
    skopeo(vec![
        "copy".into(),
        "--src-tls-verify=false".into(),
        "--src-creds=u:developer".into(),
        image,
        layout.clone(),
    ])
    .await
    .unwrap();
    let copy = format!("docker://{address}/{project}/copy:1");
    skopeo(vec![
        "copy".into(),
        "--dest-tls-verify=false".into(),
        "--dest-creds=u:developer".into(),
        layout,
        copy,
    ])
    .await
    .unwrap();
}
