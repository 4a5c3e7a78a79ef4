//! Images from folders and back, and what keeps them.

use std::sync::Arc;

use bytes::Bytes;
use ondol_auth::{Ctx, Denied, Role};
use ondol_registry::{MIGRATIONS, Reference, RegistryError, Repository, Retained};
use ondol_store::testing::backends;
use ondol_types::{Digest, Problem, SystemClock};

use crate::support::{Nothing, ctx, folder, request, service};

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_becomes_an_image_and_comes_back() {
    for backend in backends(MIGRATIONS).await {
        let registry = service(&backend);
        let ctx = ctx(Role::Developer);
        let source = folder();
        let built = registry.build(&ctx, &request(source.path())).await.unwrap();
        assert_eq!((built.layers, built.layers_new), (2, 2));
        let again = registry
            .build(&ctx, &request(folder().path()))
            .await
            .unwrap();
        assert_eq!(
            again.digest, built.digest,
            "{}: the same input gives the same digest",
            backend.name
        );
        assert_eq!(again.layers_new, 0);
        let target = backend.dir.path().join("out");
        let unpacked = registry
            .unpack(&ctx, &"web".parse().unwrap(), &built.digest, &target)
            .await
            .unwrap();
        assert_eq!(
            std::fs::read_to_string(target.join("app.py")).unwrap(),
            "print('hi')"
        );
        assert_eq!(
            std::fs::read_to_string(target.join(".venv/lib/dep.py")).unwrap(),
            "x = 1"
        );
        assert_eq!(unpacked.command, ["/bin/sh", "-c", "exec python3 app.py"]);
        assert!(
            unpacked
                .env
                .contains(&("MODE".to_owned(), "prod".to_owned()))
        );
        assert!(
            unpacked
                .labels
                .contains(&("dev.ondol.host".to_owned(), "python3".to_owned()))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_alone_opens_nothing() {
    for backend in backends(MIGRATIONS).await {
        let registry = service(&backend);
        let system = Ctx::system(Arc::new(SystemClock));
        let other: Repository = "other".parse().unwrap();
        let secret = registry
            .put_blob(&system, &other, Bytes::from_static(b"secret"))
            .await
            .unwrap();
        let ctx = ctx(Role::Developer);
        let web: Repository = "web".parse().unwrap();
        assert!(matches!(
            registry.blob(&ctx, &web, &secret).await,
            Err(RegistryError::BlobUnknown { .. })
        ));
        assert!(matches!(
            registry.blob(&ctx, &other, &secret).await,
            Err(RegistryError::Denied(Denied::Invisible(_)))
        ));
        assert!(
            !registry
                .mount(&ctx, &web, &secret, Some(&other))
                .await
                .unwrap(),
            "no mount from what one may not read"
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{secret}","size":6}},"layers":[]}}"#
        );
        let tag: Reference = "v1".parse().unwrap();
        let refused = registry
            .put_manifest(&ctx, &web, &tag, "", manifest.into())
            .await;
        assert!(matches!(
            refused,
            Err(RegistryError::ManifestBlobUnknown(_))
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_keeps_what_a_release_needs() {
    struct Held(Digest);
    #[async_trait::async_trait]
    impl Retained for Held {
        async fn images(&self) -> Result<Vec<Digest>, Problem> {
            Ok(vec![self.0.clone()])
        }
    }
    let clock = Arc::new(ondol_types::ManualClock::at(
        ondol_types::Timestamp::from_micros(1_000_000_000_000),
    ));
    for backend in ondol_store::testing::backends_at(MIGRATIONS, clock.clone()).await {
        let registry = service(&backend);
        let ctx = ctx(Role::Maintainer);
        let mut digests = Vec::new();
        for text in ["1", "2"] {
            let source = folder();
            std::fs::write(source.path().join("app.py"), text).unwrap();
            digests.push(
                registry
                    .build(&ctx, &request(source.path()))
                    .await
                    .unwrap()
                    .digest,
            );
        }
        clock.advance(std::time::Duration::from_secs(7_200));
        assert_eq!(
            registry.retain(&Held(digests[0].clone())).await.unwrap(),
            0,
            "{}",
            backend.name
        );
        let held = registry
            .delete_manifest(
                &ctx,
                &"web".parse().unwrap(),
                &Reference::Digest(digests[0].clone()),
                &Held(digests[0].clone()),
            )
            .await;
        assert!(matches!(held, Err(RegistryError::InUse(_))));
        assert_eq!(
            registry.retain(&Nothing).await.unwrap(),
            3,
            "the untagged one goes when no release needs it, with its configuration and its layer"
        );
        assert_eq!(
            registry.held_digests("", 100).await.unwrap().len(),
            4,
            "manifest, configuration and two layers stay"
        );
    }
}
