//! What of a request's and a response's head goes on, and what the gateway says instead.
//!
//! Nothing hop-by-hop passes, framing is always our own, and what a client claims about its own
//! address, host or path is not believed unless a trusted proxy stands before the gateway.

use bytes::{BufMut, BytesMut};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use crate::upstream::has_token;

const MAX_NAMED: usize = 32;

/// How the request body is framed towards the replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// What the gateway adds to a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forwarding<'a> {
    /// The host as the client named it, with its port.
    pub(crate) host: &'a str,
    /// The client's address.
    pub(crate) peer: &'a str,
    /// The prefix that was stripped from the path, or nothing.
    pub(crate) prefix: &'a str,
    /// Whether a trusted proxy stands before the gateway.
    pub(crate) trusted: bool,
    pub(crate) request_id: &'a HeaderValue,
    pub(crate) framing: Framing,
    /// The protocol to change to.
    pub(crate) upgrade: Option<&'a HeaderValue>,
}

/// The host a request is for, as the client wrote it.
pub(crate) fn request_host(parts: &Parts) -> Result<&str, &'static str> {
    if let Some(authority) = parts.uri.authority() {
        return Ok(authority.as_str());
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host
            .to_str()
            .map_err(|_| "the Host header is not a host name"),
        (None, _) => Err("the request names no host"),
        (Some(_), Some(_)) => Err("the request names two hosts"),
    }
}

/// The path and query a replica is asked for.
pub(crate) fn upstream_path<'a>(uri: &'a http::Uri, prefix: &str) -> &'a str {
    let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let rest = &whole[prefix.len().min(whole.len())..];
    if rest.is_empty() { "/" } else { rest }
}

/// Whether the client wants to change protocols, and to which.
pub(crate) fn wanted_upgrade(parts: &Parts) -> Option<HeaderValue> {
    if parts.version != Version::HTTP_11 {
        return None;
    }
    let protocol = parts.headers.get(header::UPGRADE)?;
    let asked = parts
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .any(|value| has_token(value.as_bytes(), b"upgrade"));
    // A change to HTTP/2 is between the client and us, and clients get it by asking directly: in
    // a tunnel, requests would pass that nobody has cleaned. A list could hide it.
    let ours = protocol.as_bytes().contains(&b',')
        || protocol
            .as_bytes()
            .get(..2)
            .is_some_and(|start| start.eq_ignore_ascii_case(b"h2"));
    (asked && !ours).then(|| protocol.clone())
}

/// Whether sending the request twice does no more than sending it once.
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::TE
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::PROXY_AUTHORIZATION
            | header::PROXY_AUTHENTICATE
    ) || matches!(
        name.as_str(),
        "keep-alive" | "proxy-connection" | "http2-settings"
    )
}

/// Whether a name is one of `known`. Some application servers read `_` as `-`, so both count.
fn is_spelling_of(name: &str, known: &[&str]) -> bool {
    known.iter().any(|known| {
        name.len() == known.len()
            && name
                .bytes()
                .zip(known.bytes())
                .all(|(byte, wanted)| byte == wanted || (byte == b'_' && wanted == b'-'))
    })
}

/// Fields that the gateway writes itself, whoever stands before it.
const OURS: [&str; 6] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-real-ip",
    "x-request-id",
];

/// What says where a message ends or where it is for, which is written anew.
const FRAMING: [&str; 3] = ["content-length", "transfer-encoding", "host"];

/// Header fields whose truth only the gateway knows, or a proxy before it that is trusted.
fn is_forwarding(name: &str, trusted: bool) -> bool {
    let claim = name
        .get(.."x-forwarded".len())
        .is_some_and(|start| is_spelling_of(start, &["x-forwarded"]));
    is_spelling_of(name, &OURS) || (claim && !trusted)
}

/// Whether a field may not pass in the head or behind the body.
fn is_kept_back(name: &HeaderName, trusted: bool) -> bool {
    is_hop_by_hop(name)
        || is_forwarding(name.as_str(), trusted)
        || is_spelling_of(name.as_str(), &FRAMING)
        || *name == header::FORWARDED
}

/// Takes out of the fields behind a body what may not pass before it either: some servers put
/// both together.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    let kept_back: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| is_kept_back(name, false))
        .cloned()
        .collect();
    for name in kept_back {
        trailers.remove(name);
    }
}

/// Names that a `Connection` field declares to be hop-by-hop.
fn connection_named(headers: &HeaderMap) -> Result<Vec<HeaderName>, &'static str> {
    let mut named = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|&byte| byte == b',') {
            let token = token.trim_ascii();
            let plain: [&[u8]; 5] = [b"", b"close", b"keep-alive", b"upgrade", b"te"];
            if plain.iter().any(|known| token.eq_ignore_ascii_case(known)) {
                continue;
            }
            if named.len() == MAX_NAMED {
                return Err("the Connection header names too many fields");
            }
            // What is no field name cannot name a field.
            if let Ok(name) = HeaderName::from_bytes(token) {
                named.push(name);
            }
        }
    }
    Ok(named)
}

fn put_field(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// Writes the head that the replica sees.
pub(crate) fn write_request_head(
    out: &mut BytesMut,
    parts: &Parts,
    forwarding: Forwarding<'_>,
) -> Result<(), &'static str> {
    let path = upstream_path(&parts.uri, forwarding.prefix);
    out.reserve(path.len() + 256);
    out.put_slice(parts.method.as_str().as_bytes());
    out.put_u8(b' ');
    if !path.starts_with('/') && path != "*" {
        out.put_u8(b'/');
    }
    out.put_slice(path.as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    put_field(out, "host", forwarding.host.as_bytes());

    let named = connection_named(&parts.headers)?;
    let mut cookies: Option<BytesMut> = None;
    for (name, value) in &parts.headers {
        match *name {
            header::EXPECT if forwarding.framing == Framing::None => continue,
            // HTTP/2 may split cookies into fields; HTTP/1.1 has one.
            header::COOKIE if parts.version == Version::HTTP_2 => {
                let all = cookies.get_or_insert_with(BytesMut::new);
                if !all.is_empty() {
                    all.put_slice(b"; ");
                }
                all.put_slice(value.as_bytes());
                continue;
            }
            _ => {}
        }
        if is_kept_back(name, forwarding.trusted) || named.contains(name) {
            continue;
        }
        put_field(out, name.as_str(), value.as_bytes());
    }
    if let Some(cookies) = cookies {
        put_field(out, "cookie", &cookies);
    }
    let wants_trailers = parts
        .headers
        .get_all(header::TE)
        .iter()
        .any(|value| has_token(value.as_bytes(), b"trailers"));
    match (forwarding.upgrade, wants_trailers) {
        (Some(protocol), _) => {
            put_field(out, "connection", b"upgrade");
            put_field(out, "upgrade", protocol.as_bytes());
        }
        (None, true) => out.put_slice(b"te: trailers\r\nconnection: te\r\n"),
        (None, false) => {}
    }
    write_forwarding(out, &parts.headers, forwarding);
    match forwarding.framing {
        Framing::None if matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) => {
            out.put_slice(b"content-length: 0\r\n");
        }
        Framing::None => {}
        Framing::Length(length) => put_field(out, "content-length", length.to_string().as_bytes()),
        Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.put_slice(b"\r\n");
    Ok(())
}

fn write_forwarding(out: &mut BytesMut, headers: &HeaderMap, forwarding: Forwarding<'_>) {
    let claimed = |name: &str| {
        if forwarding.trusted {
            headers.get_all(name).iter().next_back()
        } else {
            None
        }
    };
    out.put_slice(b"x-forwarded-for: ");
    if forwarding.trusted {
        // The last field is the trusted proxy's own; those before it may be the client's.
        for chain in headers.get_all("x-forwarded-for") {
            out.put_slice(chain.as_bytes());
            out.put_slice(b", ");
        }
    }
    out.put_slice(forwarding.peer.as_bytes());
    out.put_slice(b"\r\n");
    let proto = claimed("x-forwarded-proto").map_or(b"http".as_slice(), HeaderValue::as_bytes);
    put_field(out, "x-forwarded-proto", proto);
    let host =
        claimed("x-forwarded-host").map_or(forwarding.host.as_bytes(), HeaderValue::as_bytes);
    put_field(out, "x-forwarded-host", host);
    let outer = claimed("x-forwarded-prefix").map_or(b"".as_slice(), HeaderValue::as_bytes);
    if !outer.is_empty() || !forwarding.prefix.is_empty() {
        out.put_slice(b"x-forwarded-prefix: ");
        out.put_slice(outer.strip_suffix(b"/").unwrap_or(outer));
        out.put_slice(forwarding.prefix.as_bytes());
        out.put_slice(b"\r\n");
    }
    let real = claimed("x-real-ip").map_or(forwarding.peer.as_bytes(), HeaderValue::as_bytes);
    put_field(out, "x-real-ip", real);
    put_field(out, "x-request-id", forwarding.request_id.as_bytes());
}

/// Takes away what is between us and the replica, and puts a stripped prefix back in front of
/// where the replica sends the client.
pub(crate) fn clean_response(headers: &mut HeaderMap, status: StatusCode, prefix: &str) {
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    let named = connection_named(headers).unwrap_or_default();
    for name in named {
        headers.remove(name);
    }
    if !switching {
        headers.remove(header::CONNECTION);
        headers.remove(header::UPGRADE);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
    if prefix.is_empty() {
        return;
    }
    let moved = headers
        .get(header::LOCATION)
        .map(HeaderValue::as_bytes)
        .and_then(|location| {
            let absolute_path = location.first() == Some(&b'/') && location.get(1) != Some(&b'/');
            let rest = location.strip_prefix(prefix.as_bytes());
            let inside =
                rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/' | b'?' | b'#')));
            if !absolute_path || inside {
                return None;
            }
            HeaderValue::from_bytes(&[prefix.as_bytes(), location].concat()).ok()
        });
    if let Some(location) = moved {
        headers.insert(header::LOCATION, location);
    }
}

/// See [`super::fuzz_request`].
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut parsed = httparse::Request::new(&mut fields);
    if !matches!(parsed.parse(bytes), Ok(httparse::Status::Complete(_))) {
        return;
    }
    let mut builder = http::Request::builder()
        .method(parsed.method.unwrap_or("GET"))
        .uri(parsed.path.unwrap_or("/"));
    for field in parsed.headers.iter() {
        builder = builder.header(field.name, field.value);
    }
    let Ok(request) = builder.body(()) else {
        return;
    };
    let mut parts = request.into_parts().0;
    if choice & 1 != 0 {
        parts.version = Version::HTTP_2;
    }
    let Ok(host) = request_host(&parts) else {
        return;
    };
    if crate::routing::normalize_host(host).is_none() {
        return;
    }
    let upgrade = wanted_upgrade(&parts);
    let forwarding = Forwarding {
        host,
        peer: "192.0.2.7",
        prefix: "",
        trusted: choice & 2 != 0,
        request_id: &HeaderValue::from_static("req_1"),
        framing: match choice >> 2 & 3 {
            0 => Framing::None,
            1 => Framing::Length(7),
            _ => Framing::Chunked,
        },
        upgrade: upgrade.as_ref(),
    };
    let mut out = BytesMut::new();
    if write_request_head(&mut out, &parts, forwarding).is_err() {
        return;
    }
    let mut fields = [httparse::EMPTY_HEADER; 400];
    let mut seen = httparse::Request::new(&mut fields);
    let read = seen.parse(&out).expect("what is written is a request");
    assert_eq!(read, httparse::Status::Complete(out.len()), "one request");
    assert_eq!(seen.method, Some(parts.method.as_str()));
    let values = |wanted: &str| -> Vec<&[u8]> {
        seen.headers
            .iter()
            .filter(|field| field.name.replace('_', "-").eq_ignore_ascii_case(wanted))
            .map(|field| field.value)
            .collect()
    };
    assert_eq!(values("host"), [host.as_bytes()]);
    let framed = values("content-length").len() + values("transfer-encoding").len();
    assert!(framed <= 1 && (forwarding.framing == Framing::None || framed == 1));
    for name in [
        "x-forwarded-for",
        "x-real-ip",
        "x-forwarded-proto",
        "x-request-id",
    ] {
        assert_eq!(values(name).len(), 1, "{name}");
    }
    assert!(values("forwarded").is_empty());
    assert!(values("x-forwarded-for")[0].ends_with(b"192.0.2.7"));
    if !forwarding.trusted {
        assert_eq!(values("x-forwarded-for"), [b"192.0.2.7"]);
        assert_eq!(values("x-real-ip"), [b"192.0.2.7"]);
    }
    if let Some(protocol) = upgrade {
        assert!(!protocol.as_bytes().to_ascii_lowercase().starts_with(b"h2"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_to_http2_is_not_hidden_in_a_list() {
        for protocol in ["h2c", "H2C", "websocket, h2c", "foo,h2c"] {
            let request = http::Request::get("/")
                .header("connection", "upgrade")
                .header("upgrade", protocol)
                .body(())
                .unwrap();
            assert_eq!(wanted_upgrade(&request.into_parts().0), None, "{protocol}");
        }
    }

    #[test]
    fn framing_and_claims_in_other_spellings_and_in_trailers_do_not_pass() {
        let forged = [
            ("content_length", "5"),
            ("transfer_encoding", "chunked"),
            ("x_forwarded_user", "admin"),
            ("x-forwarded-user", "admin"),
            ("x-forwarded_for", "6.6.6.6"),
            ("x-kept", "1"),
        ];
        let mut request = http::Request::get("/x");
        let mut trailers = HeaderMap::new();
        trailers.insert("host", HeaderValue::from_static("other"));
        for (name, value) in forged {
            request = request.header(name, value);
            trailers.insert(name, HeaderValue::from_static(value));
        }
        let head = head_of(request.body(()).unwrap(), false, "");
        for gone in ["content_length", "transfer_encoding", "admin", "6.6.6.6"] {
            assert!(!head.contains(gone), "{gone} in {head}");
        }
        assert!(head.contains("x-kept: 1"));
        clean_trailers(&mut trailers);
        let left: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-kept"]);
    }

    #[test]
    fn what_a_trusted_proxy_says_comes_after_what_its_client_said() {
        let request = http::Request::get("/x")
            .header("x-forwarded-for", "6.6.6.6")
            .header("x-forwarded-for", "192.0.2.1")
            .header("x-forwarded-proto", "http")
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-user", "kim")
            .body(())
            .unwrap();
        let head = head_of(request, true, "");
        assert!(
            head.contains("x-forwarded-for: 6.6.6.6, 192.0.2.1, 10.0.0.9\r\n")
                && head.contains("x-forwarded-proto: https\r\n")
                && head.contains("x-forwarded-user: kim\r\n"),
            "{head}"
        );
    }

    fn head_of(request: http::Request<()>, trusted: bool, prefix: &str) -> String {
        let parts = request.into_parts().0;
        let mut out = BytesMut::new();
        let request_id = HeaderValue::from_static("req_1");
        let forwarding = Forwarding {
            host: "web.localhost:8080",
            peer: "10.0.0.9",
            prefix,
            trusted,
            request_id: &request_id,
            framing: Framing::None,
            upgrade: None,
        };
        write_request_head(&mut out, &parts, forwarding).unwrap();
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn claims_of_the_client_are_replaced_in_every_spelling() {
        let request = || {
            http::Request::get("/x")
                .header("x-forwarded-for", "6.6.6.6")
                .header("X_Forwarded_For", "6.6.6.6")
                .header("x-real-ip", "6.6.6.6")
                .header("x-forwarded-proto", "https")
                .header("x-forwarded-prefix", "/evil")
                .header("forwarded", "for=6.6.6.6")
                .body(())
                .unwrap()
        };
        let head = head_of(request(), false, "");
        assert!(
            head.contains("x-forwarded-for: 10.0.0.9\r\n")
                && head.contains("x-real-ip: 10.0.0.9\r\n"),
            "{head}"
        );
        assert!(
            !head.contains("6.6.6.6") && !head.contains("https") && !head.contains("evil"),
            "{head}"
        );
        let head = head_of(request(), true, "/apps/web");
        assert!(
            head.contains("x-forwarded-for: 6.6.6.6, 10.0.0.9\r\n"),
            "{head}"
        );
        assert!(
            head.contains("x-forwarded-proto: https\r\n")
                && head.contains("x-forwarded-prefix: /evil/apps/web\r\n")
        );
    }

    #[test]
    fn hop_by_hop_fields_end_here() {
        let request = http::Request::get("/x")
            .header("connection", "keep-alive, X-Private , te")
            .header("x-private", "1")
            .header("keep-alive", "timeout=5")
            .header("te", "trailers, deflate")
            .header("proxy-authorization", "Basic x")
            .header("upgrade", "h2c")
            .header("x-kept", "1")
            .header("traceparent", "00-1-2-01")
            .body(())
            .unwrap();
        let head = head_of(request, false, "");
        for gone in [
            "x-private",
            "keep-alive",
            "proxy-authorization",
            "upgrade",
            "deflate",
        ] {
            assert!(!head.contains(gone), "{gone} in {head}");
        }
        assert!(
            head.contains("x-kept: 1")
                && head.contains("te: trailers")
                && head.contains("traceparent: 00-1-2-01")
        );
    }

    #[test]
    fn a_prefix_leaves_the_path_and_returns_in_redirects() {
        let head = head_of(
            http::Request::get("/apps/web/a?b=/apps/web/")
                .body(())
                .unwrap(),
            false,
            "/apps/web",
        );
        assert!(
            head.starts_with("GET /a?b=/apps/web/ HTTP/1.1\r\n")
                && head.contains("x-forwarded-prefix: /apps/web\r\n")
        );
        for (location, expected) in [
            ("/login", "/apps/web/login"),
            ("/apps/web/login", "/apps/web/login"),
            ("/apps/website", "/apps/web/apps/website"),
            ("//other.example/", "//other.example/"),
            ("https://other.example/", "https://other.example/"),
            ("relative", "relative"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, location.parse().unwrap());
            clean_response(&mut headers, StatusCode::FOUND, "/apps/web");
            assert_eq!(headers[header::LOCATION], expected);
        }
    }

    #[test]
    fn cookies_of_http2_become_one_field() {
        let mut request = http::Request::get("/")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(())
            .unwrap();
        *request.version_mut() = Version::HTTP_2;
        assert!(head_of(request, false, "").contains("cookie: a=1; b=2\r\n"));
    }

    #[test]
    fn a_post_without_body_says_so() {
        let head = head_of(http::Request::post("/").body(()).unwrap(), false, "");
        assert!(head.contains("content-length: 0\r\n"));
    }
}
