//! Images that an engine has built: into the registry, out of it, and run.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use ondol_auth::{Ctx, Role};
use ondol_registry::image::{Built, ImportRequest};
use ondol_registry::{Manifest, Reference, RegistryService, Repository};
use ondol_testing::engine::{Podman, podman};
use ondol_types::{Digest, NoCrash, SystemClock};
use ondol_workload::container::{
    Address, BuildRequest, BuiltImage, ImageRef, ImageSource, Pieces, SourceError, StoredImage,
    StoredLayer,
};
use ondol_workload::{ContainerConfig, ContainerEngine};

use crate::image::{TestImage, TestImages};
use crate::support::{Server, ctx, folder, request};

const BASE: &str = "localhost/ondol-registry-base:1";

/// The registry as a source of images, and the image that builds begin with.
struct Stored(RegistryService);

#[async_trait::async_trait]
impl ImageSource for Stored {
    async fn image(&self, digest: &Digest) -> Result<StoredImage, SourceError> {
        if *digest == TestImage::get().digest() {
            return TestImages.image(digest).await;
        }
        let (ctx, web) = (system(), web());
        let problem = |error: ondol_registry::RegistryError| SourceError(error.to_string());
        let reference = Reference::Digest(digest.clone());
        let pulled = self.0.manifest(&ctx, &web, &reference).await;
        let pulled = pulled.map_err(problem)?;
        let manifest = Manifest::parse(&pulled.bytes, &pulled.media_type).map_err(problem)?;
        let (config, layers) = manifest.blobs.split_first().unwrap();
        Ok(StoredImage {
            config: self.bytes(&config.digest).await,
            layers: layers
                .iter()
                .map(|layer| StoredLayer {
                    digest: layer.digest.clone(),
                    bytes: layer.size,
                })
                .collect(),
        })
    }

    async fn blob(&self, digest: &Digest) -> Result<Pieces, SourceError> {
        if TestImage::get().stored.layers[0].digest == *digest {
            return TestImages.blob(digest).await;
        }
        let bytes = Bytes::from(self.bytes(digest).await);
        Ok(Box::pin(futures_util::stream::iter([Ok(bytes)])))
    }
}

impl Stored {
    async fn bytes(&self, digest: &Digest) -> Vec<u8> {
        let (mut file, _) = self.0.blob(&system(), &web(), digest).await.unwrap();
        let mut bytes = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut file, &mut bytes)
            .await
            .unwrap();
        bytes
    }
}

fn system() -> Ctx {
    Ctx::system(Arc::new(SystemClock))
}

fn web() -> Repository {
    "web".parse().unwrap()
}

struct Stand {
    server: Server,
    engine: ContainerEngine,
    podman: &'static Podman,
    dir: tempfile::TempDir,
}

impl Stand {
    async fn new() -> Option<Self> {
        let podman = podman()?;
        let server = Server::start().await;
        let dir = tempfile::tempdir().unwrap();
        let address = Address::Unix(podman.socket().to_owned());
        let mut config =
            ContainerConfig::new(dir.path().join("engine"), "/bin/false", vec![address]);
        config.images = Arc::new(Stored(server.registry.clone()));
        let engine = ContainerEngine::open(config, Arc::new(SystemClock), Arc::new(NoCrash))
            .await
            .unwrap();
        let base = TestImage::get().digest();
        engine
            .prepare_image(&ImageRef::Stored(base.clone()))
            .await
            .unwrap();
        podman.run(&["tag", base.hex(), BASE]);
        Some(Self {
            server,
            engine,
            podman,
            dir,
        })
    }

    fn checkout(&self) -> std::path::PathBuf {
        let checkout = self.dir.path().join("checkout");
        std::fs::create_dir_all(&checkout).unwrap();
        checkout
    }

    async fn build(&self, checkout: &Path, commit: &str) -> BuiltImage {
        let mut request = BuildRequest::new(
            "web".parse().unwrap(),
            checkout,
            "Dockerfile".parse().unwrap(),
        );
        request
            .labels
            .insert("org.opencontainers.image.revision".into(), commit.into());
        self.engine.build(&request, &mut |_| {}).await.unwrap()
    }

    fn request(&self, image: &BuiltImage) -> ImportRequest {
        ImportRequest {
            repository: web(),
            tags: vec!["main".to_owned()],
            id: image.id.clone(),
            commit: None,
            chain: None,
        }
    }

    async fn import(&self, image: &BuiltImage) -> Built {
        let (registry, ctx, request) = (
            &self.server.registry,
            ctx(Role::Developer),
            self.request(image),
        );
        assert_eq!(registry.import_known(&ctx, &request).await.unwrap(), None);
        let archive = self.engine.export(&image.id).await.unwrap();
        registry.import(&ctx, &request, archive).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_built_image_is_stored_pulled_loaded_and_run() {
    let Some(stand) = Stand::new().await else {
        return;
    };
    let checkout = stand.checkout();
    let dockerfile = format!(
        "FROM {BASE}\nRUN echo slow > /slow\nCOPY word /word\nENTRYPOINT []\nCMD [\"cat\", \"/word\"]\n"
    );
    std::fs::write(checkout.join("Dockerfile"), dockerfile).unwrap();
    std::fs::write(checkout.join("word"), "first").unwrap();
    let image = stand.build(&checkout, "1").await;
    let built = stand.import(&image).await;
    assert!(
        built.layers >= 3 && built.layers_new == built.layers,
        "{built:?}"
    );
    // The same again asks the engine for nothing.
    let same = stand.build(&checkout, "1").await;
    assert_eq!(same.id, image.id);
    let (ctx, request) = (ctx(Role::Developer), stand.request(&same));
    let known = stand
        .server
        .registry
        .import_known(&ctx, &request)
        .await
        .unwrap();
    assert_eq!(known.unwrap().digest, built.digest);
    // A change is one layer.
    std::fs::write(checkout.join("word"), "second").unwrap();
    let changed = stand.build(&checkout, "2").await;
    let second = stand.import(&changed).await;
    assert_eq!((second.layers, second.layers_new), (built.layers, 1));
    // By hand, from the registry.
    let token = stand.server.token(&[("web", Role::Viewer)]).await;
    let name = format!("{}/web@{}", stand.server.address, second.digest);
    let credentials = format!("any:{token}");
    let podman = stand.podman;
    tokio::task::spawn_blocking(move || {
        podman.run(&["pull", "--tls-verify=false", "--creds", &credentials, &name]);
        assert_eq!(
            podman.run(&["run", "--rm", "--network=none", &name]),
            "second"
        );
    })
    .await
    .unwrap();
    // By the engine, which makes of it the image that it was.
    for (digest, id, word) in [
        (&built.digest, &image.id, "first"),
        (&second.digest, &changed.id, "second"),
    ] {
        podman.run(&["untag", id.hex()]);
        podman.run(&["rmi", "--force", id.hex()]);
        stand
            .engine
            .prepare_image(&ImageRef::Stored(digest.clone()))
            .await
            .unwrap();
        assert_eq!(
            podman.run(&["run", "--rm", "--network=none", id.hex()]),
            word
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_is_not_sent_what_it_has_built() {
    let Some(stand) = Stand::new().await else {
        return;
    };
    let checkout = stand.checkout();
    std::fs::write(
        checkout.join("Dockerfile"),
        format!("FROM {BASE}\nRUN echo kept > /kept\n"),
    )
    .unwrap();
    let image = stand.build(&checkout, "1").await;
    let built = stand.import(&image).await;
    stand
        .engine
        .keep_built(&image.id, &built.digest)
        .await
        .unwrap();
    // A source that would fail is not asked.
    let blobs = stand.server.backend.dir.path().join("blobs");
    std::fs::remove_dir_all(blobs).unwrap();
    stand
        .engine
        .prepare_image(&ImageRef::Stored(built.digest))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_image_than_the_engine_named_is_refused() {
    let Some(stand) = Stand::new().await else {
        return;
    };
    let checkout = stand.checkout();
    std::fs::write(
        checkout.join("Dockerfile"),
        format!("FROM {BASE}\nRUN echo one > /x\n"),
    )
    .unwrap();
    let one = stand.build(&checkout, "1").await;
    let two = stand.build(&checkout, "2").await;
    let archive = stand.engine.export(&one.id).await.unwrap();
    let (registry, request) = (&stand.server.registry, stand.request(&two));
    let refused = registry
        .import(&ctx(Role::Developer), &request, archive)
        .await;
    assert!(refused.unwrap_err().to_string().contains("and not sha256:"));
    let pieces = stand.engine.export(&two.id).await.unwrap();
    let cut = pieces
        .take(3)
        .chain(futures_util::stream::iter([Err(std::io::Error::other(
            "gone",
        ))]));
    assert!(
        registry
            .import(&ctx(Role::Developer), &request, cut)
            .await
            .is_err()
    );
    let viewer = registry.import_known(&ctx(Role::Viewer), &request).await;
    assert!(matches!(
        viewer,
        Err(ondol_registry::RegistryError::Denied(_))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_on_a_base_image_run_by_hand() {
    let Some(stand) = Stand::new().await else {
        return;
    };
    let checkout = stand.checkout();
    std::fs::write(
        checkout.join("Dockerfile"),
        format!("FROM {BASE}\nENTRYPOINT []\nENV FROM_BASE=yes\n"),
    )
    .unwrap();
    let base = stand.build(&checkout, "1").await;
    stand.import(&base).await;
    let there = ondol_registry::Upstream {
        name: "there.example".to_owned(),
        url: format!("http://{}", stand.server.address),
        login: Some((
            "any".to_owned(),
            stand.server.token(&[("web", Role::Viewer)]).await.into(),
        )),
    };
    let config = ondol_registry::Config {
        upstreams: vec![there],
        ..ondol_registry::Config::default()
    };
    let server = Server::with(config).await;
    let source = folder();
    let mut request = request(source.path());
    request.base = Some("there.example/web:main".to_owned());
    request.command =
        Some("cat app.py .venv/lib/dep.py; echo \" $MODE $FROM_BASE $PWD\"".to_owned());
    let ctx = ctx(Role::Developer);
    let built = server.registry.build(&ctx, &request).await.unwrap();
    // What changes seldom is below what changes often, and only that is new after a change.
    std::fs::write(source.path().join("app.py"), "print('changed')").unwrap();
    let changed = server.registry.build(&ctx, &request).await.unwrap();
    assert_eq!((changed.layers, changed.layers_new), (built.layers, 1));
    let token = server.token(&[("web", Role::Viewer)]).await;
    let name = format!("{}/web@{}", server.address, changed.digest);
    let credentials = format!("any:{token}");
    let podman = stand.podman;
    tokio::task::spawn_blocking(move || {
        podman.run(&["pull", "--tls-verify=false", "--creds", &credentials, &name]);
        let said = podman.run(&["run", "--rm", "--network=none", &name]);
        assert_eq!(said, "print('changed')x = 1 prod yes /app");
    })
    .await
    .unwrap();
}
