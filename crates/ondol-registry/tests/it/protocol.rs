//! Manifests, mounts, reads and deletes, as recorded requests.

use ondol_auth::Role;
use ondol_store::blobs::Hasher;
use ondol_types::{Algorithm, Digest};

use crate::support::{INDEX, MANIFEST, Server, manifest, text};

const WEB: &[(&str, Role)] = &[("web", Role::Developer)];

async fn put(
    server: &Server,
    auth: &str,
    reference: &str,
    media: &str,
    body: impl Into<String>,
) -> (u16, String) {
    let path = format!("/v2/web/manifests/{reference}");
    let headers = [("content-type", media)];
    let (status, _, body) = server.call("PUT", &path, auth, &headers, body.into()).await;
    (status, text(&body))
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_status_and_code() {
    let server = Server::start().await;
    let auth = server
        .basic(&[("web", Role::Maintainer), ("conformance", Role::Viewer)])
        .await;
    let zero = "0".repeat(64);
    for (method, path, status, code) in [
        (
            "GET",
            "/v2/web/manifests/none".to_owned(),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            "GET",
            format!("/v2/web/manifests/sha256:{zero}"),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            "GET",
            "/v2/web/manifests/sha256:xyz".to_owned(),
            400,
            "DIGEST_INVALID",
        ),
        (
            "GET",
            "/v2/web/manifests/.tag".to_owned(),
            400,
            "MANIFEST_INVALID",
        ),
        (
            "GET",
            format!("/v2/web/blobs/sha256:{zero}"),
            404,
            "BLOB_UNKNOWN",
        ),
        (
            "GET",
            "/v2/web/blobs/sha256:xyz".to_owned(),
            400,
            "DIGEST_INVALID",
        ),
        (
            "DELETE",
            format!("/v2/web/blobs/sha256:{zero}"),
            404,
            "BLOB_UNKNOWN",
        ),
        (
            "DELETE",
            "/v2/web/manifests/none".to_owned(),
            404,
            "MANIFEST_UNKNOWN",
        ),
        ("GET", "/v2/web/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        ("GET", "/v2/other/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        (
            "GET",
            "/v2/nothing/tags/list".to_owned(),
            404,
            "NAME_UNKNOWN",
        ),
        ("GET", "/v2/WEB/tags/list".to_owned(), 400, "NAME_INVALID"),
        (
            "GET",
            "/v2/docker.io/library/x/tags/list".to_owned(),
            404,
            "NAME_UNKNOWN",
        ),
        (
            "PATCH",
            "/v2/web/blobs/uploads/x".to_owned(),
            404,
            "BLOB_UPLOAD_UNKNOWN",
        ),
        (
            "POST",
            "/v2/conformance/blobs/uploads/".to_owned(),
            403,
            "DENIED",
        ),
        ("POST", "/v2/web/manifests/x".to_owned(), 405, "UNSUPPORTED"),
        ("GET", "/v2/web/nothing".to_owned(), 404, "NAME_UNKNOWN"),
    ] {
        let (got, headers, body) = server.call(method, &path, &auth, &[], "").await;
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (got, body["errors"][0]["code"].as_str()),
            (status, Some(code)),
            "{path}"
        );
        assert_eq!(headers["content-type"], "application/json");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_name_what_is_here() {
    let server = Server::start().await;
    let auth = server.basic(WEB).await;
    let config = server.push("web", &auth, b"{}").await;
    let missing = Hasher::digest(Algorithm::Sha256, b"missing");
    let (status, body) = put(&server, &auth, "v1", MANIFEST, manifest(&missing, 7, "")).await;
    assert!(
        status == 404 && body.contains("MANIFEST_BLOB_UNKNOWN"),
        "{body}"
    );
    let (status, body) = put(&server, &auth, "v1", MANIFEST, manifest(&config, 3, "")).await;
    assert!(
        status == 400 && body.contains("has 2 bytes and not 3"),
        "{body}"
    );
    for wrong in ["", "[]", "{", r#"{"schemaVersion":3}"#] {
        let (status, body) = put(&server, &auth, "v1", MANIFEST, wrong).await;
        assert!(
            status == 400 && body.contains("MANIFEST_INVALID"),
            "{wrong}: {body}"
        );
    }
    let (status, body) = put(&server, &auth, "v1", "", r#"{"schemaVersion":1}"#).await;
    assert!(status == 405 && body.contains("UNSUPPORTED"), "{body}");
    let (status, body) = put(&server, &auth, "v1", INDEX, manifest(&config, 2, "")).await;
    assert!(status == 400 && body.contains("Content-Type"), "{body}");
    let good = manifest(&config, 2, "");
    let digest = Hasher::digest(Algorithm::Sha256, good.as_bytes());
    let (status, body) = put(&server, &auth, &missing.to_string(), MANIFEST, good.clone()).await;
    assert!(status == 400 && body.contains("DIGEST_INVALID"), "{body}");
    assert_eq!(
        put(&server, &auth, &digest.to_string(), MANIFEST, good.clone())
            .await
            .0,
        201
    );
    let sha512 = Hasher::digest(Algorithm::Sha512, good.as_bytes());
    assert_eq!(
        put(&server, &auth, &sha512.to_string(), MANIFEST, good.clone())
            .await
            .0,
        201
    );
    let path = format!("/v2/web/manifests/{sha512}");
    let (status, headers, body) = server.call("GET", &path, &auth, &[], "").await;
    assert_eq!((status, text(&body)), (200, good));
    assert_eq!(
        headers["docker-content-digest"],
        sha512.to_string().as_str()
    );
    assert_eq!(headers["content-type"], MANIFEST);
    // A layer that is not handed on need not be here.
    let foreign = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"x","digest":"{config}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip","digest":"{missing}","size":7,"urls":["https://example.com/layer"]}}]}}"#
    );
    assert_eq!(
        put(&server, &auth, "foreign", MANIFEST, foreign).await.0,
        201
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_has_four_mebibytes() {
    let server = Server::start().await;
    let auth = server.basic(WEB).await;
    let config = server.push("web", &auth, b"{}").await;
    let sized = |size: usize| {
        let bare = manifest(&config, 2, r#","annotations":{"x":""}"#);
        let more = format!(
            r#","annotations":{{"x":"{}"}}"#,
            "a".repeat(size - bare.len())
        );
        manifest(&config, 2, &more)
    };
    let limit = 4 << 20;
    assert_eq!(
        put(&server, &auth, "fits", MANIFEST, sized(limit)).await.0,
        201
    );
    let (status, body) = put(&server, &auth, "not", MANIFEST, sized(limit + 1)).await;
    assert!(status == 413 && body.contains("SIZE_INVALID"), "{body}");
    let (_, headers, body) = server
        .call("GET", "/v2/web/manifests/fits", &auth, &[], "")
        .await;
    assert_eq!(headers["content-length"], limit.to_string().as_str());
    assert_eq!(body.len(), limit);
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_may_be_nested_sparse_or_empty_and_hold_their_children() {
    let server = Server::start().await;
    let auth = server.basic(&[("web", Role::Maintainer)]).await;
    let child = server.push_image("web", &auth, "child", "child").await;
    let size = manifest(&child, 5, "").len();
    let missing = Hasher::digest(Algorithm::Sha256, b"missing");
    let list = |media: &str, children: &[&Digest]| {
        let entries: Vec<String> = children
            .iter()
            .map(|it| format!(r#"{{"mediaType":"{MANIFEST}","digest":"{it}","size":{size}}}"#))
            .collect();
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{media}","manifests":[{}]}}"#,
            entries.join(",")
        )
    };
    let docker = "application/vnd.docker.distribution.manifest.list.v2+json";
    let inner = list(INDEX, &[&child, &missing]);
    let inner_digest = Hasher::digest(Algorithm::Sha256, inner.as_bytes());
    assert_eq!(put(&server, &auth, "sparse", INDEX, inner).await.0, 201);
    assert_eq!(
        put(
            &server,
            &auth,
            "nested",
            INDEX,
            list(INDEX, &[&inner_digest])
        )
        .await
        .0,
        201
    );
    assert_eq!(
        put(&server, &auth, "empty", INDEX, list(INDEX, &[]))
            .await
            .0,
        201
    );
    assert_eq!(
        put(&server, &auth, "docker", docker, list(docker, &[&child]))
            .await
            .0,
        201
    );
    let (_, headers, _) = server
        .call("HEAD", "/v2/web/manifests/docker", &auth, &[], "")
        .await;
    assert_eq!(headers["content-type"], docker);
    let delete = async |reference: String| {
        let path = format!("/v2/web/manifests/{reference}");
        let (status, _, body) = server.call("DELETE", &path, &auth, &[], "").await;
        (status, text(&body))
    };
    let (status, body) = delete(child.to_string()).await;
    assert!(status == 405 && body.contains("DENIED"), "{body}");
    for tag in ["nested", "sparse", "docker"] {
        let (_, headers, _) = server
            .call("HEAD", &format!("/v2/web/manifests/{tag}"), &auth, &[], "")
            .await;
        let digest = headers["docker-content-digest"]
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(delete(digest.clone()).await.0, 202, "{tag}");
        assert_eq!(delete(digest).await.0, 404);
    }
    assert_eq!(delete(child.to_string()).await.0, 202);
    assert_eq!(
        server
            .call("GET", "/v2/web/manifests/child", &auth, &[], "")
            .await
            .0,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_a_manifest_needs_stays() {
    let server = Server::start().await;
    let auth = server.basic(&[("web", Role::Maintainer)]).await;
    let image = server.push_image("web", &auth, "v1", "content").await;
    let blob = Hasher::digest(Algorithm::Sha256, b"content");
    let path = format!("/v2/web/blobs/{blob}");
    let (status, _, body) = server.call("DELETE", &path, &auth, &[], "").await;
    assert!(
        status == 405 && text(&body).contains(&image.to_string()),
        "{}",
        text(&body)
    );
    let manifest = format!("/v2/web/manifests/{image}");
    assert_eq!(
        server.call("DELETE", &manifest, &auth, &[], "").await.0,
        202
    );
    assert_eq!(server.call("DELETE", &path, &auth, &[], "").await.0, 202);
    assert_eq!(server.call("HEAD", &path, &auth, &[], "").await.0, 404);
    let viewer = server.basic(WEB).await;
    assert_eq!(server.call("DELETE", &path, &viewer, &[], "").await.0, 403);
}

/// What one may not read cannot be mounted, and the answer does not tell whether it exists.
#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_no_way_to_look() {
    let server = Server::start().await;
    let owner = server.basic(&[("other", Role::Developer)]).await;
    let secret = server.push("other/vault", &owner, b"secret").await;
    let missing = Hasher::digest(Algorithm::Sha256, b"missing");
    let stranger = server.basic(WEB).await;
    let mount = async |auth: &str, digest: &Digest, from: &str| {
        let path = format!("/v2/web/blobs/uploads/?mount={digest}{from}");
        let (status, headers, body) = server.call("POST", &path, auth, &[], "").await;
        let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
        names.sort();
        (status, names, body.len())
    };
    let refused = mount(&stranger, &missing, "&from=other/vault").await;
    assert_eq!(refused.0, 202, "an ordinary upload begins");
    for (digest, from) in [
        (&secret, "&from=other/vault"),
        (&secret, "&from=other/nothing"),
        (&secret, "&from=nothing"),
        (&secret, "&from=UPPER"),
        (&secret, "&from="),
        (&secret, ""),
        (&missing, ""),
    ] {
        assert_eq!(mount(&stranger, digest, from).await, refused, "{from}");
    }
    let path = format!("/v2/web/blobs/{secret}");
    assert_eq!(server.call("HEAD", &path, &stranger, &[], "").await.0, 404);
    // Claiming it in a manifest opens nothing either.
    let claim = manifest(&secret, 6, "");
    assert_eq!(put(&server, &stranger, "x", MANIFEST, claim).await.0, 404);
    let both = server
        .basic(&[("web", Role::Developer), ("other", Role::Viewer)])
        .await;
    assert_eq!(mount(&both, &secret, "&from=other/vault").await.0, 201);
    let anonymous = server.push("other", &owner, b"anonymous").await;
    assert_eq!(
        mount(&both, &anonymous, "").await.0,
        201,
        "any source that one may read"
    );
    assert_eq!(server.call("GET", &path, &both, &[], "").await.2, "secret");
    let reader = server
        .basic(&[("web", Role::Viewer), ("other", Role::Viewer)])
        .await;
    assert_eq!(mount(&reader, &secret, "&from=other/vault").await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_may_be_partial_or_unnecessary() {
    let server = Server::start().await;
    let auth = server.basic(WEB).await;
    let blob = server.push("web", &auth, b"0123456789").await;
    let path = format!("/v2/web/blobs/{blob}");
    for (range, status, body, place) in [
        ("bytes=2-3", 206, "23", "bytes 2-3/10"),
        ("bytes=7-", 206, "789", "bytes 7-9/10"),
        ("bytes=-2", 206, "89", "bytes 8-9/10"),
        ("bytes=8-99", 206, "89", "bytes 8-9/10"),
        ("bytes=10-", 416, "", "bytes */10"),
        ("bytes=5-2", 416, "", "bytes */10"),
    ] {
        let (got, headers, bytes) = server
            .call("GET", &path, &auth, &[("range", range)], "")
            .await;
        assert_eq!(
            (
                got,
                text(&bytes).as_str(),
                headers["content-range"].to_str().unwrap()
            ),
            (status, body, place),
            "{range}"
        );
    }
    server.push_image("web", &auth, "v1", "image").await;
    for path in [path, "/v2/web/manifests/v1".to_owned()] {
        let etag = server.call("GET", &path, &auth, &[], "").await.1["etag"].clone();
        let known = [("if-none-match", etag.to_str().unwrap())];
        let (status, headers, body) = server.call("GET", &path, &auth, &known, "").await;
        assert_eq!((status, body.len(), &headers["etag"]), (304, 0, &etag));
        let other = [("if-none-match", "\"x\"")];
        assert_eq!(server.call("GET", &path, &auth, &other, "").await.0, 200);
    }
}
