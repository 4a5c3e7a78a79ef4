//! Uploads in every form that clients use.

use std::time::Duration;

use ondol_auth::{Ctx, Role};
use ondol_registry::{Config, MIGRATIONS, RegistryError};
use ondol_store::blobs::Hasher;
use ondol_store::testing::backends_at;
use ondol_types::{Algorithm, Digest, ManualClock, Timestamp};

use crate::support::{Nothing, Server, chunked, text};

const WEB: &[(&str, Role)] = &[("web", Role::Developer)];

fn sha256(bytes: &[u8]) -> Digest {
    Hasher::digest(Algorithm::Sha256, bytes)
}

async fn begin(server: &Server, auth: &str) -> String {
    let (status, headers, _) = server
        .call(
            "POST",
            "/v2/web/blobs/uploads/",
            auth,
            &[("content-length", "0")],
            "",
        )
        .await;
    assert_eq!(status, 202);
    headers["location"].to_str().unwrap().to_owned()
}

async fn read(server: &Server, auth: &str, digest: &Digest) -> Vec<u8> {
    let path = format!("/v2/web/blobs/{digest}");
    let (status, headers, body) = server.call("GET", &path, auth, &[], "").await;
    assert_eq!(status, 200);
    assert_eq!(
        headers["docker-content-digest"],
        digest.to_string().as_str()
    );
    body.to_vec()
}

/// The classic store of docker: one PATCH in chunked encoding, no length, no range.
#[tokio::test(flavor = "multi_thread")]
async fn one_patch_of_unknown_length_is_a_blob() {
    let server = Server::start().await;
    let auth = server.basic(WEB).await;
    let location = begin(&server, &auth).await;
    let large = vec![7_u8; 3_000_000];
    let body = chunked(&[b"head", &large, b"", b"tail"]);
    let (status, headers, _) = server.call("PATCH", &location, &auth, &[], body).await;
    assert_eq!(
        (status, headers["range"].to_str().unwrap()),
        (202, "0-3000007")
    );
    let whole = [b"head", &large[..], b"tail"].concat();
    let digest = sha256(&whole);
    let location = headers["location"].to_str().unwrap();
    let (status, headers, _) = server
        .call(
            "PUT",
            &format!("{location}?digest={digest}"),
            &auth,
            &[],
            "",
        )
        .await;
    assert_eq!(status, 201);
    assert_eq!(
        headers["docker-content-digest"],
        digest.to_string().as_str()
    );
    assert_eq!(
        headers["location"],
        format!("/v2/web/blobs/{digest}").as_str()
    );
    assert_eq!(read(&server, &auth, &digest).await, whole);
}

/// containerd: HEAD, POST, one PUT.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_with_everything_is_a_blob() {
    let server = Server::start().await;
    let auth = server.basic(WEB).await;
    let digest = sha256(b"all of it");
    let path = format!("/v2/web/blobs/{digest}");
    assert_eq!(server.call("HEAD", &path, &auth, &[], "").await.0, 404);
    let location = begin(&server, &auth).await;
    let (status, headers, _) = server
        .call(
            "PUT",
            &format!("{location}?digest={digest}"),
            &auth,
            &[],
            "all of it",
        )
        .await;
    assert_eq!(status, 201);
    assert!(headers.contains_key("docker-content-digest"));
    let (status, headers, body) = server.call("HEAD", &path, &auth, &[], "").await;
    assert_eq!(
        (
            status,
            headers["content-length"].to_str().unwrap(),
            body.len()
        ),
        (200, "9", 0)
    );
    assert_eq!(
        server.call("GET", &location, &auth, &[], "").await.0,
        404,
        "a finished upload is gone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_digests_and_the_empty_blob_are_taken() {
    let server = Server::start().await;
    let auth = server.basic(WEB).await;
    for bytes in [&b""[..], b"{}", b"something"] {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = Hasher::digest(algorithm, bytes);
            let single = format!("/v2/web/blobs/uploads/?digest={digest}");
            assert_eq!(
                server
                    .call("POST", &single, &auth, &[], bytes.to_vec())
                    .await
                    .0,
                201
            );
            // Begun without saying which digest it will be.
            let location = begin(&server, &auth).await;
            server
                .call("PATCH", &location, &auth, &[], chunked(&[bytes]))
                .await;
            let end = format!("{location}?digest={digest}");
            assert_eq!(
                server.call("PUT", &end, &auth, &[], "").await.0,
                201,
                "{digest}"
            );
            assert_eq!(read(&server, &auth, &digest).await, bytes);
        }
    }
    let (status, _, body) = server
        .call(
            "POST",
            "/v2/web/blobs/uploads/?digest=md5:00",
            &auth,
            &[],
            "x",
        )
        .await;
    assert!(status == 400 && text(&body).contains("DIGEST_INVALID"));
    let blake = Hasher::digest(Algorithm::Blake3, b"x");
    let path = format!("/v2/web/blobs/uploads/?digest={blake}");
    assert_eq!(server.call("POST", &path, &auth, &[], "x").await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_come_in_order_or_not_at_all() {
    let server = Server::start().await;
    let auth = server.basic(WEB).await;
    let location = begin(&server, &auth).await;
    let patch = async |range: &str, body: &'static str| {
        let headers = [("content-range", range)];
        let (status, headers, body) = server.call("PATCH", &location, &auth, &headers, body).await;
        let range = headers
            .get("range")
            .map(|it| it.to_str().unwrap().to_owned());
        (status, range, text(&body))
    };
    assert_eq!(patch("0-2", "abc").await.0, 202);
    let (status, range, body) = patch("9-11", "xyz").await;
    assert_eq!((status, range.as_deref()), (416, Some("0-2")));
    assert!(body.contains("BLOB_UPLOAD_INVALID"), "{body}");
    assert_eq!(patch("0-2", "abc").await.0, 416, "a chunk comes once");
    assert_eq!(patch("nonsense", "abc").await.0, 400);
    let (status, headers, _) = server.call("GET", &location, &auth, &[], "").await;
    assert_eq!((status, headers["range"].to_str().unwrap()), (204, "0-2"));
    let digest = sha256(b"abcdef");
    let (status, _, _) = server
        .call(
            "PUT",
            &format!("{location}?digest={digest}"),
            &auth,
            &[("content-range", "3-5")],
            "def",
        )
        .await;
    assert_eq!(status, 201);
    assert_eq!(read(&server, &auth, &digest).await, b"abcdef");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_not_kept() {
    let server = Server::start().await;
    let auth = server.basic(WEB).await;
    let digest = sha256(b"right");
    let location = begin(&server, &auth).await;
    let end = format!("{location}?digest={digest}");
    let (status, _, body) = server.call("PUT", &end, &auth, &[], "wrong").await;
    assert!(
        status == 400 && text(&body).contains("DIGEST_INVALID"),
        "{}",
        text(&body)
    );
    let path = format!("/v2/web/blobs/{digest}");
    assert_eq!(server.call("HEAD", &path, &auth, &[], "").await.0, 404);
    assert_eq!(server.call("GET", &location, &auth, &[], "").await.0, 404);
    assert!(server.blobs.staged(10).await.unwrap().is_empty());
    let location = begin(&server, &auth).await;
    assert_eq!(
        server.call("DELETE", &location, &auth, &[], "").await.0,
        204
    );
    assert_eq!(
        server.call("PATCH", &location, &auth, &[], "x").await.0,
        404
    );
    assert!(server.blobs.staged(10).await.unwrap().is_empty());
}

/// The process ends in the middle of an upload; the client asks how far it was and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_a_restart() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let server = Server::start().await;
        let auth = server.basic(WEB).await;
        let path = format!(
            "/v2/web/blobs/uploads/?digest-algorithm={}",
            algorithm.name()
        );
        let (_, headers, _) = server.call("POST", &path, &auth, &[], "").await;
        let location = headers["location"].to_str().unwrap().to_owned();
        let first = vec![1_u8; 2_500_000];
        server
            .call("PATCH", &location, &auth, &[], first.clone())
            .await;
        let server = server.restart().await;
        let (status, headers, _) = server.call("GET", &location, &auth, &[], "").await;
        assert_eq!(
            (status, headers["range"].to_str().unwrap()),
            (204, "0-2499999")
        );
        let headers = [("content-range", "2500000-2500002")];
        assert_eq!(
            server
                .call("PATCH", &location, &auth, &headers, "end")
                .await
                .0,
            202
        );
        let server = server.restart().await;
        let whole = [&first[..], b"end"].concat();
        let digest = Hasher::digest(algorithm, &whole);
        let end = format!("{location}?digest={digest}");
        assert_eq!(server.call("PUT", &end, &auth, &[], "").await.0, 201);
        assert_eq!(read(&server, &auth, &digest).await, whole);
    }
}

/// A connection that breaks leaves what came; nobody else may go on with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upload_is_continued_where_it_was_begun() {
    let server = Server::start().await;
    let auth = server
        .basic(&[("web", Role::Developer), ("other", Role::Developer)])
        .await;
    let location = begin(&server, &auth).await;
    let broken: Vec<Result<bytes::Bytes, std::io::Error>> = vec![
        Ok("came".into()),
        Err(std::io::ErrorKind::ConnectionReset.into()),
    ];
    let slow = futures_util::stream::unfold(broken.into_iter(), |mut left| async move {
        // The first part is on its way before the connection breaks.
        tokio::time::sleep(Duration::from_millis(100)).await;
        Some((left.next()?, left))
    });
    let sent = crate::support::client()
        .patch(format!("http://{}{location}", server.address))
        .header("authorization", &auth)
        .body(reqwest::Body::wrap_stream(slow))
        .send()
        .await;
    assert!(sent.is_err());
    let mut range = String::new();
    for _ in 0..100 {
        let (status, headers, _) = server.call("GET", &location, &auth, &[], "").await;
        assert_eq!(status, 204);
        range = headers["range"].to_str().unwrap().to_owned();
        if range == "0-3" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(range, "0-3");
    let elsewhere = location.replace("/v2/web/", "/v2/other/");
    assert_eq!(server.call("GET", &elsewhere, &auth, &[], "").await.0, 404);
    assert_eq!(
        server.call("PATCH", &elsewhere, &auth, &[], "x").await.0,
        404
    );
    let digest = sha256(b"came and went");
    let end = format!("{location}?digest={digest}");
    let headers = [("content-range", "4-12")];
    assert_eq!(
        server
            .call("PUT", &end, &auth, &headers, " and went")
            .await
            .0,
        201
    );
}

/// A request that hangs does not keep the upload: the next one takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_request_is_overtaken() {
    let server = Server::start().await;
    let auth = server.basic(WEB).await;
    let location = begin(&server, &auth).await;
    // Long enough that a part of it is written while the rest never comes.
    let first = vec![1_u8; 3 << 20];
    let hanging = futures_util::StreamExt::chain(
        futures_util::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from(first.clone()))]),
        futures_util::stream::pending(),
    );
    let url = format!("http://{}{location}", server.address);
    let request = crate::support::client()
        .patch(url)
        .header("authorization", &auth)
        .body(reqwest::Body::wrap_stream(hanging));
    let hanging = tokio::spawn(request.send());
    for _ in 0..500 {
        let (_, headers, _) = server.call("GET", &location, &auth, &[], "").await;
        if headers["range"] != "0-0" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (status, headers, _) = server.call("PATCH", &location, &auth, &[], "two").await;
    assert_eq!(status, 202);
    let range = headers["range"].to_str().unwrap();
    let have: usize = range.trim_start_matches("0-").parse::<usize>().unwrap() + 1 - 3;
    assert!(have >= 1 << 20, "what came before stays: {range}");
    assert_eq!(hanging.await.unwrap().unwrap().status().as_u16(), 409);
    let whole = [&first[..have], b"two"].concat();
    let end = format!("{location}?digest={}", sha256(&whole));
    assert_eq!(server.call("PUT", &end, &auth, &[], "").await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_have_ceilings_and_an_end() {
    let clock = std::sync::Arc::new(ManualClock::at(Timestamp::from_micros(1_000_000_000_000)));
    for backend in backends_at(
        &[ondol_auth::MIGRATIONS, MIGRATIONS].concat(),
        clock.clone(),
    )
    .await
    {
        let config = Config {
            max_uploads: 2,
            max_blob_bytes: 10,
            ..Config::default()
        };
        let server = Server::over(backend, config, 0).await;
        let ctx = Ctx::system(clock.clone());
        let web = "web".parse().unwrap();
        let begin = || server.registry.begin_upload(&ctx, &web, Algorithm::Sha256);
        begin().await.unwrap();
        begin().await.unwrap();
        assert!(matches!(begin().await, Err(RegistryError::Busy(2))));
        clock.advance(Duration::from_secs(3_600));
        begin().await.unwrap();
        assert_eq!(
            server.blobs.staged(10).await.unwrap().len(),
            2,
            "the oldest made room"
        );
        let auth = server.basic(WEB).await;
        clock.advance(Duration::from_secs(25 * 3_600));
        assert_eq!(server.registry.retain(&Nothing).await.unwrap(), 2);
        assert!(server.blobs.staged(10).await.unwrap().is_empty());
        let location = begin().await.unwrap();
        let path = format!("/v2/web/blobs/uploads/{location}");
        let (status, _, body) = server
            .call("PATCH", &path, &auth, &[], "eleven bytes")
            .await;
        assert!(
            status == 413 && text(&body).contains("SIZE_INVALID"),
            "{}",
            text(&body)
        );
    }
}
