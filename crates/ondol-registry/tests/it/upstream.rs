//! Other registries read through this one: kept, verified, served while they are away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use ondol_auth::Role;
use ondol_registry::{Config, MIGRATIONS, Retained, Upstream};
use ondol_store::blobs::Hasher;
use ondol_store::testing::backends_at;
use ondol_types::{Algorithm, Classified, Digest, ErrorKind, ManualClock, Secret, Timestamp};

use crate::support::{MANIFEST, Nothing, Server, manifest, text};

const WEB: &[(&str, Role)] = &[("web", Role::Viewer)];

/// The other registry is one of ours, which wants a token.
async fn there() -> (Server, String, String) {
    let there = Server::start().await;
    let token = there.token(&[("web", Role::Maintainer)]).await;
    let auth = crate::support::basic(&token);
    (there, token, auth)
}

fn config(url: String, login: Option<(String, Secret<String>)>) -> Config {
    Config {
        upstreams: vec![Upstream {
            name: "there.example".to_owned(),
            url,
            login,
        }],
        ..Config::default()
    }
}

async fn here(clock: Arc<ManualClock>, config: Config) -> Server {
    let all = [ondol_auth::MIGRATIONS, MIGRATIONS].concat();
    Server::over(backends_at(&all, clock).await.swap_remove(0), config, 0).await
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_micros(
        1_700_000_000_000_000,
    )))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_is_here_while_the_other_registry_is_away() {
    let (there, token, their) = there().await;
    let image = there
        .push_image("web/app", &their, "v1", "their content")
        .await;
    let clock = clock();
    let url = format!("http://{}", there.address);
    let login = Some(("any".to_owned(), Secret::new(token)));
    let here = here(clock.clone(), config(url, login)).await;
    let auth = here.basic(WEB).await;
    let by_tag = "/v2/there.example/web/app/manifests/v1";
    assert_eq!(here.call("GET", by_tag, "", &[], "").await.0, 401);
    let (status, headers, body) = here.call("GET", by_tag, &auth, &[], "").await;
    assert_eq!(status, 200, "{}", text(&body));
    assert_eq!(headers["docker-content-digest"], image.to_string().as_str());
    let blob = Hasher::digest(Algorithm::Sha256, b"their content");
    let path = format!("/v2/there.example/web/app/blobs/{blob}");
    let (status, headers, _) = here.call("HEAD", &path, &auth, &[], "").await;
    assert_eq!(
        (status, headers["content-length"].to_str().unwrap()),
        (200, "13")
    );
    let part = [("range", "bytes=6-")];
    let (status, _, body) = here.call("GET", &path, &auth, &part, "").await;
    assert_eq!((status, text(&body)), (206, "content".to_owned()));
    // A tag that moves is seen after a while, and not before.
    let moved = there.push_image("web/app", &their, "v1", "newer").await;
    let seen = async || {
        let (status, headers, _) = here.call("HEAD", by_tag, &auth, &[], "").await;
        assert_eq!(status, 200);
        headers["docker-content-digest"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(seen().await, image.to_string());
    clock.advance(Duration::from_secs(601));
    assert_eq!(seen().await, moved.to_string());
    drop(there);
    tokio::time::sleep(Duration::from_millis(100)).await;
    clock.advance(Duration::from_secs(601));
    assert_eq!(seen().await, moved.to_string());
    let (status, _, body) = here.call("GET", &path, &auth, &[], "").await;
    assert_eq!((status, text(&body)), (200, "their content".to_owned()));
    let other = "/v2/there.example/web/app/manifests/other";
    let (status, _, body) = here.call("GET", other, &auth, &[], "").await;
    assert_eq!(status, 502, "{}", text(&body));
    // Nobody pushes, and an administrator alone deletes.
    let push = "/v2/there.example/web/app/blobs/uploads/";
    assert_eq!(here.call("POST", push, &auth, &[], "").await.0, 405);
    let delete = format!("/v2/there.example/web/app/manifests/{moved}");
    assert_eq!(here.call("DELETE", &delete, &auth, &[], "").await.0, 403);
    assert_eq!(
        here.call("GET", "/v2/else.example/x/tags/list", &auth, &[], "")
            .await
            .0,
        404
    );
    // A mount out of the cache moves what one may read.
    let both = here.basic(&[("web", Role::Developer)]).await;
    let mount = format!("/v2/web/blobs/uploads/?mount={blob}&from=there.example/web/app");
    assert_eq!(here.call("POST", &mount, &both, &[], "").await.0, 201);
}

/// A registry that answers what it is told to.
#[derive(Clone)]
struct Liar {
    manifest: String,
    blob: &'static [u8],
    asked: Arc<AtomicUsize>,
    redirect: Option<String>,
}

async fn lie(State(liar): State<Liar>, request: Request) -> Response {
    if request.uri().path().contains("/manifests/") {
        return ([("content-type", MANIFEST)], liar.manifest).into_response();
    }
    if let Some(place) = liar.redirect {
        return (http::StatusCode::TEMPORARY_REDIRECT, [("location", place)]).into_response();
    }
    liar.asked.fetch_add(1, Ordering::SeqCst);
    let chunks: Vec<Result<bytes::Bytes, std::io::Error>> = liar
        .blob
        .chunks(liar.blob.len() / 4 + 1)
        .map(|chunk| Ok(bytes::Bytes::from_static(chunk)))
        .collect();
    let slow = futures_util::StreamExt::then(futures_util::stream::iter(chunks), |chunk| async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        chunk
    });
    (
        [("content-length", liar.blob.len().to_string())],
        axum::body::Body::from_stream(slow),
    )
        .into_response()
}

async fn lying(liar: Liar) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(lie).with_state(liar);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

fn liar(blob: &'static [u8]) -> Liar {
    Liar {
        manifest: manifest(&Hasher::digest(Algorithm::Sha256, b"{}"), 2, ""),
        blob,
        asked: Arc::default(),
        redirect: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_never_whole_and_never_kept() {
    let address = lying(liar(b"not what was asked for")).await;
    let here = here(clock(), config(format!("http://{address}"), None)).await;
    let auth = here.basic(WEB).await;
    let wanted = Hasher::digest(Algorithm::Sha256, b"something else");
    let path = format!("/v2/there.example/app/blobs/{wanted}");
    for _ in 0..2 {
        let answer = crate::support::client()
            .get(format!("http://{}{path}", here.address))
            .header("authorization", &auth)
            .send()
            .await
            .unwrap();
        let body = answer.bytes().await;
        assert!(body.is_err(), "the last byte is missing: {body:?}");
        let ranged = [("range", "bytes=0-")];
        assert_eq!(here.call("GET", &path, &auth, &ranged, "").await.0, 502);
    }
    let by_digest = format!("/v2/there.example/app/manifests/{wanted}");
    let (status, _, body) = here.call("GET", &by_digest, &auth, &[], "").await;
    assert!(
        status == 502 && text(&body).contains("other bytes"),
        "{}",
        text(&body)
    );
    for _ in 0..50 {
        if here.blobs.staged(10).await.unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(here.blobs.staged(10).await.unwrap().is_empty());
    assert_eq!(here.blobs.size(&wanted).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_ask_at_once() {
    static CONTENT: [u8; 100_000] = [5; 100_000];
    let liar = liar(&CONTENT);
    let asked = liar.asked.clone();
    let address = lying(liar).await;
    let here = Arc::new(here(clock(), config(format!("http://{address}"), None)).await);
    let auth = here.basic(WEB).await;
    let digest = Hasher::digest(Algorithm::Sha256, &CONTENT);
    let path = format!("/v2/there.example/app/blobs/{digest}");
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (here, auth, path) = (here.clone(), auth.clone(), path.clone());
        all.spawn(async move { here.call("GET", &path, &auth, &[], "").await });
    }
    while let Some(done) = all.join_next().await {
        let (status, _, body) = done.unwrap();
        assert_eq!((status, body.len()), (200, CONTENT.len()));
    }
    let before = asked.load(Ordering::SeqCst);
    assert_eq!(here.call("GET", &path, &auth, &[], "").await.0, 200);
    assert_eq!(asked.load(Ordering::SeqCst), before, "it is here now");
}

/// A redirect or a base image must not make this server ask its neighbours.
#[tokio::test(flavor = "multi_thread")]
async fn neighbours_are_not_asked() {
    let neighbour = liar(b"a secret of a neighbour");
    let asked = neighbour.asked.clone();
    let neighbour = lying(neighbour).await;
    for place in [
        format!("http://{neighbour}/secret"),
        format!("https://{neighbour}/secret"),
        format!("http://localhost:{}/secret", neighbour.port()),
        format!("http://[::ffff:127.0.0.1]:{}/secret", neighbour.port()),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        let address = lying(Liar {
            redirect: Some(place.clone()),
            ..liar(b"")
        })
        .await;
        let here = here(clock(), config(format!("http://{address}"), None)).await;
        let auth = here.basic(WEB).await;
        let digest: Digest = Hasher::digest(Algorithm::Sha256, b"a secret of a neighbour");
        let path = format!("/v2/there.example/app/blobs/{digest}");
        let (status, _, body) = here.call("GET", &path, &auth, &[], "").await;
        assert_eq!(status, 502, "{place}: {}", text(&body));
        let request = ondol_registry::image::BuildRequest {
            base: Some(format!("{neighbour}/base:1")),
            ..crate::support::request(crate::support::folder().path())
        };
        let built = here
            .registry
            .build(&crate::support::ctx(Role::Developer), &request)
            .await;
        let refused = built.unwrap_err();
        // What stays refused is no accident that a second attempt could mend.
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
        let refused = refused.to_string();
        assert!(refused.contains("`privateRegistries`"), "{refused}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

/// A registry that is away may come back; a name that it does not know stays wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_cannot_be_had_is_told_from_one_that_may_come_back() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = free.local_addr().unwrap();
    drop(free);
    let (there, token, _) = there().await;
    let login = Some(("any".to_owned(), Secret::new(token)));
    for (url, base, kind) in [
        (
            format!("http://{away}"),
            "there.example/web:main",
            ErrorKind::Unavailable,
        ),
        (
            format!("http://{}", there.address),
            "there.example/web:none",
            ErrorKind::InvalidInput,
        ),
        (
            format!("http://{}", there.address),
            "there.example/web@sha256:short",
            ErrorKind::InvalidInput,
        ),
    ] {
        let here = here(clock(), config(url, login.clone())).await;
        let request = ondol_registry::image::BuildRequest {
            base: Some(base.to_owned()),
            ..crate::support::request(crate::support::folder().path())
        };
        let ours = crate::support::ctx(Role::Developer);
        let refused = here.registry.build(&ours, &request).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{refused}");
    }
}

/// A build on an image of another registry goes on when that is away.
#[tokio::test(flavor = "multi_thread")]
async fn base_images_come_through_the_cache() {
    let (there, token, _) = there().await;
    let ours = crate::support::ctx(Role::Developer);
    let folder = crate::support::folder();
    let base = there
        .registry
        .build(&ours, &crate::support::request(folder.path()))
        .await
        .unwrap();
    let url = format!("http://{}", there.address);
    let login = Some(("any".to_owned(), Secret::new(token)));
    let here = here(clock(), config(url, login)).await;
    let request = ondol_registry::image::BuildRequest {
        base: Some("there.example/web:main".to_owned()),
        ..crate::support::request(folder.path())
    };
    let built = here.registry.build(&ours, &request).await.unwrap();
    assert_eq!(built.layers, base.layers * 2);
    drop(there);
    let again = here.registry.build(&ours, &request).await.unwrap();
    assert_eq!(again.digest, built.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_forgets_by_age_and_by_size() {
    let (there, token, their) = there().await;
    there
        .push_image("web/app", &their, "v1", "old content")
        .await;
    let clock = clock();
    let url = format!("http://{}", there.address);
    let login = Some(("any".to_owned(), Secret::new(token)));
    let config = Config {
        upstream_bytes: 15,
        ..config(url, login)
    };
    let here = here(clock.clone(), config).await;
    let auth = here.basic(WEB).await;
    let get = async |path: &str| here.call("GET", path, &auth, &[], "").await.0;
    let tag = "/v2/there.example/web/app/manifests/v1";
    let old = Hasher::digest(Algorithm::Sha256, b"old content");
    let new = there.push("web/app", &their, b"newer stuff").await;
    assert_eq!(get(tag).await, 200);
    assert_eq!(
        get(&format!("/v2/there.example/web/app/blobs/{old}")).await,
        200
    );
    clock.advance(Duration::from_secs(60));
    assert_eq!(
        get(&format!("/v2/there.example/web/app/blobs/{new}")).await,
        200
    );
    here.registry.retain(&Nothing).await.unwrap();
    drop(there);
    assert_eq!(
        get(&format!("/v2/there.example/web/app/blobs/{old}")).await,
        502
    );
    assert_eq!(
        get(&format!("/v2/there.example/web/app/blobs/{new}")).await,
        200
    );
    assert_eq!(get(tag).await, 200);
    clock.advance(Duration::from_secs(31 * 24 * 3_600));
    assert!(
        here.registry
            .retain(&Nothing as &dyn Retained)
            .await
            .unwrap()
            > 0
    );
    assert_eq!(get(tag).await, 502);
    assert!(here.registry.held_digests("", 10).await.unwrap().is_empty());
}
