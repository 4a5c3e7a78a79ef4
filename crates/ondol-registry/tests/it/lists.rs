//! Tags, catalog and referrers, page by page.

use ondol_auth::Role;
use ondol_registry::MIGRATIONS;
use ondol_store::testing::backends;
use serde_json::{Value, json};

use crate::support::{MANIFEST, Server, manifest, text};

const WEB: &[(&str, Role)] = &[("web", Role::Developer)];

/// Follows `Link` to the end; the entries and the number of pages.
async fn pages(server: &Server, auth: &str, path: &str, key: &str) -> (Vec<Value>, usize) {
    let (mut found, mut next, mut count) = (Vec::new(), Some(path.to_owned()), 0);
    while let Some(path) = next {
        let (status, headers, body) = server.call("GET", &path, auth, &[], "").await;
        assert_eq!(status, 200, "{path}: {}", text(&body));
        let value: Value = serde_json::from_slice(&body).unwrap();
        found.extend(value[key].as_array().unwrap().iter().cloned());
        count += 1;
        next = headers.get("link").map(|link| {
            let link = link.to_str().unwrap();
            let (place, rel) = link.split_once(">; ").unwrap();
            assert_eq!(rel, "rel=\"next\"");
            place.trim_start_matches('<').to_owned()
        });
        assert!(count < 100);
    }
    (found, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_come_in_order_and_in_pages() {
    for backend in backends(&[ondol_auth::MIGRATIONS, MIGRATIONS].concat()).await {
        let server = Server::over(backend, ondol_registry::Config::default(), 0).await;
        let auth = server.basic(WEB).await;
        assert_eq!(
            server
                .call("GET", "/v2/web/tags/list", &auth, &[], "")
                .await
                .0,
            404
        );
        for tag in ["c", "a", "b", "e", "d"] {
            server.push_image("web", &auth, tag, tag).await;
        }
        let all = json!(["a", "b", "c", "d", "e"]);
        let (tags, count) = pages(&server, &auth, "/v2/web/tags/list", "tags").await;
        assert_eq!((json!(tags), count), (all.clone(), 1));
        let (tags, count) = pages(&server, &auth, "/v2/web/tags/list?n=2", "tags").await;
        assert_eq!((json!(tags), count), (all.clone(), 3));
        let (tags, count) = pages(&server, &auth, "/v2/web/tags/list?n=5", "tags").await;
        assert_eq!((json!(tags), count), (all, 1));
        let (tags, _) = pages(&server, &auth, "/v2/web/tags/list?last=c", "tags").await;
        assert_eq!(json!(tags), json!(["d", "e"]));
        let (_, headers, body) = server
            .call("GET", "/v2/web/tags/list?n=0", &auth, &[], "")
            .await;
        assert_eq!(text(&body), r#"{"name":"web","tags":[]}"#);
        assert!(!headers.contains_key("link"));
        let (status, _, body) = server
            .call("GET", "/v2/web/tags/list?n=x", &auth, &[], "")
            .await;
        assert!(status == 400 && text(&body).contains("PAGINATION_NUMBER_INVALID"));
        let delete = server.basic(&[("web", Role::Maintainer)]).await;
        assert_eq!(
            server
                .call("DELETE", "/v2/web/manifests/a", &delete, &[], "")
                .await
                .0,
            202
        );
        let (tags, _) = pages(&server, &auth, "/v2/web/tags/list", "tags").await;
        assert_eq!(tags.len(), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_shows_what_the_asker_may_read() {
    for backend in backends(&[ondol_auth::MIGRATIONS, MIGRATIONS].concat()).await {
        let server = Server::over(backend, ondol_registry::Config::default(), 0).await;
        let both = server
            .basic(&[("web", Role::Developer), ("other", Role::Developer)])
            .await;
        for repository in ["web", "web/b", "web/a", "other", "other/x"] {
            server.push(repository, &both, b"blob").await;
        }
        let list = async |auth: &str, query: &str| {
            let path = format!("/v2/_catalog{query}");
            json!(pages(&server, auth, &path, "repositories").await.0)
        };
        let all = json!(["other", "other/x", "web", "web/a", "web/b"]);
        assert_eq!(list(&both, "").await, all);
        assert_eq!(list(&both, "?n=2").await, all);
        let one = server.basic(WEB).await;
        assert_eq!(list(&one, "?n=1").await, json!(["web", "web/a", "web/b"]));
        let none = server.basic(&[("conformance", Role::Admin)]).await;
        assert_eq!(list(&none, "").await, json!([]));
        let token = server
            .call("GET", "/v2/token?scope=registry:catalog:*", &one, &[], "")
            .await
            .2;
        let token: Value = serde_json::from_slice(&token).unwrap();
        let token = format!("Bearer {}", token["token"].as_str().unwrap());
        assert_eq!(list(&token, "").await, json!(["web", "web/a", "web/b"]));
        let token = server.call("GET", "/v2/token", &one, &[], "").await.2;
        let token: Value = serde_json::from_slice(&token).unwrap();
        let token = format!("Bearer {}", token["token"].as_str().unwrap());
        assert_eq!(list(&token, "").await, json!([]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_found_by_subject_and_type() {
    for backend in backends(&[ondol_auth::MIGRATIONS, MIGRATIONS].concat()).await {
        let server = Server::over(backend, ondol_registry::Config::default(), 0).await;
        let auth = server.basic(WEB).await;
        let subject = server.push_image("web", &auth, "v1", "subject").await;
        let config = server.push("web", &auth, b"{}").await;
        let list = format!("/v2/web/referrers/{subject}");
        let (status, headers, body) = server.call("GET", &list, &auth, &[], "").await;
        let empty: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &empty["manifests"]), (200, &json!([])));
        assert_eq!(headers["content-type"], crate::support::INDEX);
        let long = "x".repeat(700_000);
        for (number, kind) in ["sbom", "signature", "sbom", "sbom", "sbom", "sbom"]
            .iter()
            .enumerate()
        {
            let more = format!(
                r#","artifactType":"application/vnd.example.{kind}+json","annotations":{{"n":"{number}","long":"{long}"}},"subject":{{"mediaType":"{MANIFEST}","digest":"{subject}","size":1}}"#
            );
            let bytes = manifest(&config, 2, &more);
            let path = format!("/v2/web/manifests/ref-{number}");
            let (status, headers, _) = server
                .call("PUT", &path, &auth, &[("content-type", MANIFEST)], bytes)
                .await;
            assert_eq!(status, 201);
            assert_eq!(headers["oci-subject"], subject.to_string().as_str());
        }
        let (found, count) = pages(&server, &auth, &list, "manifests").await;
        assert_eq!(found.len(), 6);
        assert!(
            count > 1,
            "one answer stays below what clients read of a manifest"
        );
        assert_eq!(found[0]["annotations"]["n"], "0");
        assert_eq!(
            found[0]["artifactType"],
            "application/vnd.example.sbom+json"
        );
        let filtered = format!("{list}?artifactType=application%2Fvnd.example.sbom%2Bjson");
        let (found, _) = pages(&server, &auth, &filtered, "manifests").await;
        assert_eq!(found.len(), 5);
        let (_, headers, _) = server.call("GET", &filtered, &auth, &[], "").await;
        assert_eq!(headers["oci-filters-applied"], "artifactType");
        let viewer = server.basic(&[("other", Role::Admin)]).await;
        assert_eq!(server.call("GET", &list, &viewer, &[], "").await.0, 404);
        assert_eq!(
            server
                .call("GET", "/v2/web/referrers/x", &auth, &[], "")
                .await
                .0,
            400
        );
    }
}

/// The cost of a page does not follow the number of tags.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tags_are_listed() {
    let server = Server::start().await;
    let auth = server.basic(WEB).await;
    let digest = server.push_image("web", &auth, "first", "x").await;
    let manifest = manifest(&server.push("web", &auth, b"x").await, 1, "");
    let tags: Vec<String> = (0..10_000).map(|number| format!("t-{number:05}")).collect();
    for step in tags.chunks(50) {
        let query: Vec<String> = step.iter().map(|tag| format!("tag={tag}")).collect();
        let path = format!("/v2/web/manifests/{digest}?{}", query.join("&"));
        let headers = [("content-type", MANIFEST)];
        let (status, headers, body) = server
            .call("PUT", &path, &auth, &headers, manifest.clone())
            .await;
        assert_eq!(status, 201, "{}", text(&body));
        assert_eq!(headers.get_all("oci-tag").iter().count(), 50);
    }
    let (found, count) = pages(&server, &auth, "/v2/web/tags/list", "tags").await;
    assert_eq!((found.len(), count), (10_001, 2));
    let (found, count) = pages(&server, &auth, "/v2/web/tags/list?n=1000", "tags").await;
    assert_eq!((found.len(), count), (10_001, 11));
    let (found, _) = pages(&server, &auth, "/v2/_catalog", "repositories").await;
    assert_eq!(json!(found), json!(["web"]));
}
