//! `ondol static-server`: what serves a static site, as a workload like any other.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use http::{HeaderMap, HeaderValue, Uri, header};
use tower_http::services::{ServeDir, ServeFile};

use crate::error::{Exit, Failure, Outcome};
use crate::output;

/// Serve a folder of files on $PORT.
#[derive(Debug, clap::Args)]
pub(crate) struct StaticServer {
    /// The folder.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Where to listen.
    #[arg(long, env = "HOST", default_value = "127.0.0.1")]
    host: std::net::IpAddr,
    /// The port.
    #[arg(long, env = "PORT", default_value_t = 8000)]
    port: u16,
}

impl StaticServer {
    pub(crate) fn run(self) -> Outcome<Exit> {
        let root = self
            .root
            .canonicalize()
            .map_err(Failure::io(format!("open {}", self.root.display())))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::io("start the runtime"))?;
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind((self.host, self.port))
                .await
                .map_err(Failure::io(format!(
                    "listen on {}:{}",
                    self.host, self.port
                )))?;
            output::note(format!(
                "serving {} on {}:{}",
                root.display(),
                self.host,
                self.port
            ));
            axum::serve(listener, router(&root))
                .with_graceful_shutdown(super::asked_to_stop())
                .await
                .map_err(Failure::io("serve"))?;
            Ok(Exit::Success)
        })
    }
}

/// Files, `index.html` of folders, and the site's own `404.html` when it has one. What begins
/// with a dot is not part of a site.
fn router(root: &std::path::Path) -> Router {
    let missing = root.join("404.html");
    let files = ServeDir::new(root)
        .append_index_html_on_directories(true)
        .precompressed_gzip();
    let root = Arc::new(root.to_owned());
    let app = if missing.is_file() {
        Router::new().fallback_service(files.not_found_service(ServeFile::new(missing)))
    } else {
        Router::new().fallback_service(files)
    };
    app.layer(axum::middleware::from_fn(
        move |mut request: axum::extract::Request, next: axum::middleware::Next| {
            let root = root.clone();
            async move {
                let Some(uri) =
                    without_empty_parts(request.uri()).filter(|uri| allowed(&root, uri.path()))
                else {
                    return axum::response::IntoResponse::into_response(
                        http::StatusCode::NOT_FOUND,
                    );
                };
                *request.uri_mut() = uri.clone();
                let mut response = next.run(request).await;
                stay_here(&uri, response.headers_mut());
                response
            }
        },
    ))
}

/// The address with single slashes: a path that begins with two is read as the address of another
/// server when it comes back in a redirect.
fn without_empty_parts(uri: &Uri) -> Option<Uri> {
    let mut path = String::with_capacity(uri.path().len());
    for c in uri.path().chars() {
        if !(c == '/' && path.ends_with('/')) {
            path.push(c);
        }
    }
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    path.parse().ok()
}

/// Makes the redirect from a folder to its slash relative. So it leads to the same folder below
/// whatever prefix the gateway serves this site, and never to another server.
fn stay_here(uri: &Uri, headers: &mut HeaderMap) {
    if !headers.contains_key(header::LOCATION) {
        return;
    }
    let folder = uri.path().rsplit('/').next().unwrap_or_default();
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    headers.remove(header::LOCATION);
    if let Ok(place) = HeaderValue::from_str(&format!("./{folder}/{query}")) {
        headers.insert(header::LOCATION, place);
    }
}

/// Whether a path names a file of the site: no hidden part, and no link that leads out of it.
fn allowed(root: &std::path::Path, path: &str) -> bool {
    let decoded = percent_decode(path);
    if decoded
        .split('/')
        .any(|part| part.starts_with('.') && part != ".well-known" && !part.is_empty())
    {
        return false;
    }
    match root.join(decoded.trim_start_matches('/')).canonicalize() {
        Ok(real) => real.starts_with(root),
        Err(_) => true,
    }
}

fn percent_decode(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|&byte| (byte as char).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (bytes[index], hex(index + 1), hex(index + 2)) {
            out.push((high * 16 + low) as u8);
            index += 3;
        } else {
            out.push(bytes[index]);
            index += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::Service;

    use super::*;

    #[tokio::test]
    async fn redirects_lead_to_the_same_folder_and_to_no_other_server() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for folder in ["evil.com", "docs/deep"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
            std::fs::write(root.join(folder).join("index.html"), folder).unwrap();
        }
        let mut site = router(&root);
        let mut get = async |path: &str| {
            let request = http::Request::builder()
                .uri(path)
                .body(Body::empty())
                .unwrap();
            let response = site.call(request).await.unwrap();
            let place = response.headers().get(header::LOCATION);
            let place = place.map(|place| place.to_str().unwrap().to_owned());
            (response.status().as_u16(), place)
        };
        for (path, place) in [
            ("/evil.com", "./evil.com/"),
            ("//evil.com", "./evil.com/"),
            ("///evil.com", "./evil.com/"),
            ("/docs//deep?a=b", "./deep/?a=b"),
            ("/docs/deep", "./deep/"),
        ] {
            let (status, found) = get(path).await;
            assert_eq!((status, found.as_deref()), (307, Some(place)), "{path}");
        }
        for path in ["//evil.com/", "/docs//deep/", "/docs/deep/index.html"] {
            assert_eq!(get(path).await, (200, None), "{path}");
        }
        for path in ["/%2Fevil.com", "/%2F%2Fevil.com", "/\\evil.com"] {
            let (_, place) = get(path).await;
            assert!(place.is_none_or(|place| place.starts_with("./")), "{path}");
        }
        // A hidden part stays hidden behind any number of slashes.
        assert_eq!(get("//.git/config").await.0, 404);
    }

    #[test]
    fn hidden_files_and_links_out_are_not_part_of_a_site() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("site").to_owned();
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("index.html"), "x").unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("out")).unwrap();
        let root = root.canonicalize().unwrap();
        for good in ["/", "/index.html", "/missing", "/.well-known/x"] {
            assert!(allowed(&root, good), "{good}");
        }
        for bad in [
            "/.git/config",
            "/%2egit/config",
            "/../secret",
            "/%2e%2e/secret",
            "/out",
            "/.env",
        ] {
            assert!(!allowed(&root, bad), "{bad}");
        }
    }
}
