//! The image that tests use, and the source that gives it to engines.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use ondol_testing::engine::userland;
use ondol_types::{Algorithm, Digest};
use ondol_workload::container::{ImageSource, SourceError, StoredImage, StoredLayer};
use sha2::{Digest as _, Sha256};

/// The image that tests use, made of programs of this host: one layer, whose command says a word.
pub(crate) struct TestImage {
    pub(crate) stored: StoredImage,
    layer: Bytes,
    pub(crate) asked: AtomicUsize,
}

impl TestImage {
    pub(crate) fn get() -> &'static Self {
        static IMAGE: OnceLock<TestImage> = OnceLock::new();
        IMAGE.get_or_init(Self::make)
    }

    /// What stands for the digest of its manifest.
    pub(crate) fn digest(&self) -> Digest {
        self.stored.id()
    }

    fn make() -> Self {
        let layer = Bytes::from(userland());
        let digest = Digest::from_bytes(Algorithm::Sha256, &Sha256::digest(&layer));
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = serde_json::json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Env": ["PATH=/bin:/usr/bin"],
                "Entrypoint": ["echo", "image:"],
                "Cmd": ["own words"],
            },
            "rootfs": { "type": "layers", "diff_ids": [digest.to_string()] },
            // Without a time, Podman finds nothing again of what it has built on this.
            "history": [{ "created": "2020-01-01T00:00:00Z", "created_by": "test" }],
        });
        let stored = StoredImage {
            config: serde_json::to_vec(&config).unwrap(),
            layers: vec![StoredLayer {
                digest,
                bytes: layer.len() as u64,
            }],
        };
        Self {
            stored,
            layer,
            asked: AtomicUsize::new(0),
        }
    }
}

/// The source that gives it to engines.
pub(crate) struct TestImages;

#[async_trait::async_trait]
impl ImageSource for TestImages {
    async fn image(&self, digest: &Digest) -> Result<StoredImage, SourceError> {
        let image = TestImage::get();
        image.asked.fetch_add(1, Ordering::Relaxed);
        if *digest == image.digest() {
            Ok(image.stored.clone())
        } else {
            Err(SourceError("it is not in the store".into()))
        }
    }

    async fn blob(&self, _: &Digest) -> Result<ondol_workload::container::Pieces, SourceError> {
        let layer = TestImage::get().layer.clone();
        let pieces = (0..layer.len())
            .step_by(1 << 20)
            .map(move |at| Ok(layer.slice(at..layer.len().min(at + (1 << 20)))));
        Ok(Box::pin(futures_util::stream::iter(pieces)))
    }
}
