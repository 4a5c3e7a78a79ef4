//! The token flow of Docker's specification, and what its tokens open.

use ondol_auth::Role;
use serde_json::Value;

use crate::support::{Server, basic, text};

fn bearer(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(value["token"], value["access_token"]);
    assert!(
        (60..=900).contains(&value["expires_in"].as_u64().unwrap()),
        "{value}"
    );
    format!("Bearer {}", value["token"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_where_tokens_are_given() {
    let server = Server::start().await;
    let host = server.address.to_string();
    for (path, scope) in [
        ("/v2/", String::new()),
        ("/v2/_catalog", ",scope=\"registry:catalog:*\"".to_owned()),
        (
            "/v2/web/tags/list",
            ",scope=\"repository:web:pull\"".to_owned(),
        ),
        // What does not exist is answered the same.
        (
            "/v2/nothing/x/tags/list",
            ",scope=\"repository:nothing/x:pull\"".to_owned(),
        ),
    ] {
        let (status, headers, body) = server.call("GET", path, "", &[], "").await;
        let offered: Vec<&str> = headers
            .get_all("www-authenticate")
            .iter()
            .map(|it| it.to_str().unwrap())
            .collect();
        let wanted = format!("Bearer realm=\"http://{host}/v2/token\",service=\"{host}\"{scope}");
        assert_eq!(
            (status, offered),
            (401, vec![wanted.as_str(), "Basic realm=\"Ondol\""])
        );
        assert!(text(&body).contains("UNAUTHORIZED"));
        assert_eq!(headers["docker-distribution-api-version"], "registry/2.0");
    }
    let push = server
        .call("POST", "/v2/web/blobs/uploads/", "", &[], "")
        .await
        .1;
    let offered = push["www-authenticate"].to_str().unwrap();
    assert!(
        offered.ends_with("scope=\"repository:web:pull,push\""),
        "{offered}"
    );
    let secure = [("x-forwarded-proto", "https")];
    let offered = server.call("GET", "/v2/", "", &secure, "").await.1;
    assert!(
        offered["www-authenticate"]
            .to_str()
            .unwrap()
            .contains("\"https://")
    );
    let odd = [("host", "a\"b.example")];
    let offered = server.call("GET", "/v2/", "", &odd, "").await.1;
    assert_eq!(offered["www-authenticate"], "Basic realm=\"Ondol\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_what_its_scope_and_its_owner_allow() {
    let server = Server::start().await;
    let secret = server
        .token(&[("web", Role::Developer), ("other", Role::Viewer)])
        .await;
    let auth = basic(&secret);
    let ask = async |scope: &str| {
        let path = format!("/v2/token?service=x&client_id=y&{scope}");
        let (status, headers, body) = server.call("GET", &path, &auth, &[], "").await;
        assert_eq!(
            (status, headers["cache-control"].to_str().unwrap()),
            (200, "no-store")
        );
        bearer(&body)
    };
    let can = async |token: &str, method: &str, path: &str| {
        server.call(method, path, token, &[], "").await.0
    };
    let (read, write) = ("/v2/web/referrers/sha256:", "/v2/web/blobs/uploads/");
    let read = format!("{read}{}", "0".repeat(64));
    let pull = ask("scope=repository:web:pull").await;
    assert_eq!(can(&pull, "GET", "/v2/").await, 200);
    assert_eq!(can(&pull, "GET", &read).await, 200);
    assert_eq!(
        can(&pull, "POST", write).await,
        403,
        "its owner may push, this token may not"
    );
    let push = ask("scope=repository:web:pull,push").await;
    assert_eq!(can(&push, "POST", write).await, 202);
    assert_eq!(
        can(&push, "POST", "/v2/other/blobs/uploads/").await,
        404,
        "another project"
    );
    let both = ask("scope=repository:web:pull,push&scope=repository:other:pull,push").await;
    assert_eq!(can(&both, "POST", write).await, 202);
    assert_eq!(
        can(&both, "POST", "/v2/other/blobs/uploads/").await,
        403,
        "the scope asks for more than its owner may"
    );
    let login = ask("account=any").await;
    assert_eq!(can(&login, "GET", "/v2/").await, 200);
    assert_eq!(
        can(&login, "GET", &read).await,
        401,
        "clients ask for another one then"
    );
    // A narrow token does not become a wide one.
    let (_, _, body) = server
        .call("GET", "/v2/token?scope=repository:web:*", &pull, &[], "")
        .await;
    assert_eq!(can(&bearer(&body), "POST", write).await, 403);
    for wrong in ["", "Basic eDp5", "Bearer nothing", "Bearer ondold_e30.e30"] {
        let (status, headers, _) = server.call("GET", "/v2/token", wrong, &[], "").await;
        assert_eq!(
            (status, headers["www-authenticate"].to_str().unwrap()),
            (401, "Basic realm=\"Ondol\""),
            "{wrong}"
        );
    }
}

/// crane asks to push when it deletes; it is told which scope to ask for.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_token_that_deletes_is_told_the_scope() {
    let server = Server::start().await;
    let auth = server.basic(&[("web", Role::Maintainer)]).await;
    let ask = async |scope: &str| {
        let path = format!("/v2/token?scope=repository:web:{scope}");
        bearer(&server.call("GET", &path, &auth, &[], "").await.2)
    };
    server.push_image("web", &auth, "v1", "image").await;
    let tag = "/v2/web/manifests/v1";
    let push = ask("pull,push").await;
    let (status, headers, body) = server.call("DELETE", tag, &push, &[], "").await;
    let offered = headers["www-authenticate"].to_str().unwrap();
    assert_eq!(status, 401, "{}", text(&body));
    assert!(text(&body).contains("DENIED"), "{}", text(&body));
    let wanted = "scope=\"repository:web:delete\",error=\"insufficient_scope\"";
    assert!(offered.ends_with(wanted), "{offered}");
    let delete = ask("delete").await;
    assert_eq!(server.call("DELETE", tag, &delete, &[], "").await.0, 202);
    let developer = server.basic(&[("web", Role::Developer)]).await;
    assert_eq!(server.call("DELETE", tag, &developer, &[], "").await.0, 403);
    // A token without a scope has none to widen, in whatever form it is shown.
    let viewer = server.token(&[("web", Role::Viewer)]).await;
    let viewer = format!("Bearer {viewer}");
    assert_eq!(server.call("DELETE", tag, &viewer, &[], "").await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn oauth_forms_are_answered_and_revoking_ends_everything() {
    let server = Server::start().await;
    let secret = server.token(&[("web", Role::Developer)]).await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let ask = async |body: String| server.call("POST", "/v2/token", "", &form, body).await;
    let scope = "scope=repository%3Aweb%3Apull%2Cpush&service=x&client_id=y";
    let (status, _, body) = ask(format!(
        "grant_type=password&username=any&password={secret}&access_type=offline&{scope}"
    ))
    .await;
    assert_eq!(status, 200, "{}", text(&body));
    let token = bearer(&body);
    let refresh: Value = serde_json::from_slice(&body).unwrap();
    let refresh = refresh["refresh_token"].as_str().unwrap().to_owned();
    let push = "/v2/web/blobs/uploads/";
    assert_eq!(server.call("POST", push, &token, &[], "").await.0, 202);
    let (status, _, body) = ask(format!(
        "grant_type=refresh_token&refresh_token={refresh}&{scope}"
    ))
    .await;
    assert_eq!(status, 200);
    assert_eq!(
        server.call("POST", push, &bearer(&body), &[], "").await.0,
        202
    );
    let (_, _, body) = ask(format!(
        "grant_type=password&username=any&password={secret}&{scope}"
    ))
    .await;
    assert!(!text(&body).contains("refresh_token"));
    for (wrong, status) in [
        (
            "grant_type=password&username=any&password=x".to_owned(),
            401,
        ),
        ("grant_type=password&username=any".to_owned(), 401),
        ("grant_type=refresh_token&refresh_token=x".to_owned(), 401),
        (format!("grant_type=authorization_code&code={secret}"), 405),
        (String::new(), 405),
        ("x=".to_owned() + &"y".repeat(100_000), 400),
    ] {
        assert_eq!(
            ask(wrong.clone()).await.0,
            status,
            "{}",
            &wrong[..wrong.len().min(80)]
        );
    }
    let system = ondol_auth::Ctx::system(server.backend.store.clock().clone());
    let id = server.tokens.list(&system).await.unwrap()[0].id;
    server.tokens.revoke(&system, id).await.unwrap();
    assert_eq!(server.call("POST", push, &token, &[], "").await.0, 401);
    assert_eq!(
        ask(format!("grant_type=refresh_token&refresh_token={refresh}"))
            .await
            .0,
        401
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_down() {
    let server = Server::start().await;
    let mut last = 0;
    for guess in 0..40 {
        let form = format!("grant_type=password&username=a&password=guess{guess}");
        let (status, headers, body) = server.call("POST", "/v2/token", "", &[], form).await;
        last = status;
        if status == 429 {
            assert!(headers.contains_key("retry-after"));
            assert!(text(&body).contains("TOOMANYREQUESTS"));
            break;
        }
        assert_eq!(status, 401);
    }
    assert_eq!(last, 429);
}
