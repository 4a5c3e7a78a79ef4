//! Fuzz targets over what clients push, what foreign registries answer, and what layers hold.

pub use crate::image::fuzz_layer as layer;
use crate::model::{Manifest, Reference, Repository};
use crate::remote::Remote;
use crate::service::RegistryService;

/// The first line is a path below `/v2/` and an image reference, the rest a manifest. What is
/// accepted is written as it was read, and a path leads to a repository that exists by its grammar.
pub fn manifest(data: &[u8]) {
    let end = data.iter().position(|&byte| byte == b'\n');
    let (line, body) = data.split_at(end.unwrap_or(data.len()));
    if let Ok(text) = std::str::from_utf8(line) {
        crate::http::fuzz_path(text);
        reference(text);
        if let Ok(repository) = text.parse::<Repository>() {
            assert_eq!(repository.to_string(), text);
            assert!(!text.contains("..") && !text.starts_with(['/', '-']));
            if let Some(project) = repository.project() {
                assert_eq!(text.split('/').next(), Some(project.as_str()));
            }
        }
        if let Ok(reference) = text.parse::<Reference>() {
            assert_eq!(reference.to_string(), text);
        }
    }
    let body = body.get(1..).unwrap_or_default();
    if let Ok(read) = Manifest::parse(body, "") {
        assert!(read.blobs.len() + read.manifests.len() <= 10_000);
        if !read
            .media_type
            .contains(|c: char| c == ';' || c.is_whitespace())
        {
            let declared = Manifest::parse(body, &read.media_type);
            assert!(declared.is_ok_and(|declared| declared == read));
        }
    }
    let _ = RegistryService::platform_child(body);
}

/// A reference becomes an address of one host below `/v2/`, and nothing else.
fn reference(text: &str) {
    let Some(remote) = Remote::parse(text) else {
        return;
    };
    let url = format!(
        "https://{}/v2/{}/manifests/{}",
        remote.host, remote.name, remote.reference
    );
    let Ok(parsed) = reqwest::Url::parse(&url) else {
        return;
    };
    assert!(parsed.username().is_empty() && parsed.password().is_none());
    assert!(parsed.query().is_none() && parsed.fragment().is_none());
    assert!(parsed.path().starts_with("/v2/") && parsed.path().contains("/manifests/"));
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpora_and_mutations() {
        ondol_fuzzing::exercise("registry_manifest", super::manifest);
        ondol_fuzzing::exercise("registry_layer", super::layer);
    }
}
