//! Retention and collection beside pushes: nothing that is referred to is ever lost.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ondol_auth::{Ctx, Role};
use ondol_registry::{
    Config, Keep, MIGRATIONS, Pattern, Reference, RegistryError, RegistryService, Repository,
    Retained, Rule,
};
use ondol_store::blobs::{BlobOwner, Blobs, Hasher};
use ondol_store::testing::{TestStore, backends_at};
use ondol_types::{Algorithm, Digest, ManualClock, NoCrash, Problem, Timestamp};

use crate::support::{INDEX, MANIFEST, Nothing, ctx, manifest};

struct Held(Vec<Digest>);

#[async_trait::async_trait]
impl Retained for Held {
    async fn images(&self) -> Result<Vec<Digest>, Problem> {
        Ok(self.0.clone())
    }
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_micros(
        1_700_000_000_000_000,
    )))
}

fn registry(
    backend: &TestStore,
    clock: &Arc<ManualClock>,
    config: Config,
) -> (RegistryService, Blobs) {
    let root = backend.dir.path().join("blobs");
    let blobs = Blobs::open_with(&root, clock.clone(), Arc::new(NoCrash)).unwrap();
    (
        RegistryService::new(backend.store.clone(), blobs.clone(), config),
        blobs,
    )
}

fn web() -> Repository {
    "web".parse().unwrap()
}

fn context(clock: &Arc<ManualClock>) -> Ctx {
    Ctx {
        clock: clock.clone(),
        ..ctx(Role::Maintainer)
    }
}

/// Pushes an image of one blob; its manifest and its blob.
async fn push(
    registry: &RegistryService,
    ctx: &Ctx,
    reference: Option<&str>,
    content: &str,
    more: &str,
) -> Result<(Digest, Digest), RegistryError> {
    let bytes = Bytes::from(content.to_owned());
    let size = bytes.len();
    let blob = registry.put_blob(ctx, &web(), bytes).await?;
    let manifest = Bytes::from(manifest(&blob, size, more));
    let digest = Hasher::digest(Algorithm::Sha256, &manifest);
    let reference = match reference {
        Some(tag) => tag.parse().unwrap(),
        None => Reference::Digest(digest.clone()),
    };
    registry
        .put_manifest(ctx, &web(), &reference, MANIFEST, manifest)
        .await?;
    Ok((digest, blob))
}

async fn index(registry: &RegistryService, ctx: &Ctx, tag: &str, children: &[&Digest]) -> Digest {
    let entries: Vec<String> = children
        .iter()
        .map(|it| format!(r#"{{"mediaType":"{MANIFEST}","digest":"{it}","size":1}}"#))
        .collect();
    let bytes = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#,
        entries.join(",")
    );
    let tag = tag.parse().unwrap();
    registry
        .put_manifest(ctx, &web(), &tag, INDEX, bytes.into())
        .await
        .unwrap()
        .0
}

fn subject(of: &Digest) -> String {
    format!(r#","subject":{{"mediaType":"{MANIFEST}","digest":"{of}","size":1}}"#)
}

async fn is_here(registry: &RegistryService, ctx: &Ctx, digest: &Digest) -> bool {
    let reference = Reference::Digest(digest.clone());
    match registry.manifest(ctx, &web(), &reference).await {
        Ok(_) => true,
        Err(RegistryError::ManifestUnknown { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

const DAY: Duration = Duration::from_secs(24 * 3_600);

#[tokio::test(flavor = "multi_thread")]
async fn indexes_hold_children_and_subjects_hold_referrers() {
    let clock = clock();
    for backend in backends_at(MIGRATIONS, clock.clone()).await {
        let (registry, blobs) = registry(&backend, &clock, Config::default());
        let ctx = context(&clock);
        let (child, child_blob) = push(&registry, &ctx, None, "child", "").await.unwrap();
        let signed = push(&registry, &ctx, None, "signature", &subject(&child))
            .await
            .unwrap()
            .0;
        let inner = index(&registry, &ctx, "inner", &[&child]).await;
        let outer = index(&registry, &ctx, "outer", &[&inner]).await;
        let (loose, loose_blob) = push(&registry, &ctx, None, "loose", "").await.unwrap();
        let attested = push(&registry, &ctx, None, "attestation", &subject(&loose))
            .await
            .unwrap()
            .0;
        registry
            .delete_manifest(&ctx, &web(), &"inner".parse().unwrap(), &Nothing)
            .await
            .unwrap();
        clock.advance(DAY);
        assert_eq!(
            registry.retain(&Nothing).await.unwrap(),
            2 + 2,
            "{}",
            backend.name
        );
        for kept in [&child, &signed, &inner, &outer] {
            assert!(is_here(&registry, &ctx, kept).await, "{}", backend.name);
        }
        for gone in [&loose, &attested] {
            assert!(!is_here(&registry, &ctx, gone).await, "{}", backend.name);
        }
        let owners: Vec<Arc<dyn BlobOwner>> = vec![Arc::new(registry.clone())];
        clock.advance(DAY * 2);
        blobs.gc(&owners, DAY).await.unwrap();
        assert_eq!(blobs.size(&loose_blob).await.unwrap(), None);
        assert_eq!(blobs.size(&child_blob).await.unwrap(), Some(5));
        registry
            .delete_manifest(&ctx, &web(), &"outer".parse().unwrap(), &Nothing)
            .await
            .unwrap();
        // What a release needs holds all of it.
        registry.retain(&Held(vec![outer.clone()])).await.unwrap();
        assert!(is_here(&registry, &ctx, &child).await);
        clock.advance(DAY);
        registry.retain(&Nothing).await.unwrap();
        for gone in [&child, &signed, &inner, &outer] {
            assert!(!is_here(&registry, &ctx, gone).await, "{}", backend.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_keep_by_number_age_and_pattern() {
    let clock = clock();
    for backend in backends_at(MIGRATIONS, clock.clone()).await {
        let rule = Rule {
            repositories: Pattern::new("web*").unwrap(),
            keep: vec![
                Keep {
                    tags: Pattern::new("v*").unwrap(),
                    newest: None,
                    within: None,
                },
                Keep {
                    tags: Pattern::new("main-*").unwrap(),
                    newest: Some(2),
                    within: None,
                },
                Keep {
                    tags: Pattern::any(),
                    newest: None,
                    within: Some(DAY),
                },
            ],
            untagged: Duration::from_secs(3_600),
        };
        let config = Config {
            rules: vec![rule],
            ..Config::default()
        };
        let (registry, _) = registry(&backend, &clock, config);
        let ctx = context(&clock);
        let mut images = Vec::new();
        for tag in ["v1", "main-1", "main-2", "main-3", "branch", "released"] {
            images.push((
                tag,
                push(&registry, &ctx, Some(tag), tag, "").await.unwrap().0,
            ));
            clock.advance(Duration::from_secs(60));
        }
        clock.advance(DAY * 3);
        push(&registry, &ctx, Some("young"), "young", "")
            .await
            .unwrap();
        let released = images[5].1.clone();
        registry.retain(&Held(vec![released])).await.unwrap();
        let (tags, _) = registry.tags(&ctx, &web(), "", 100).await.unwrap();
        assert_eq!(
            tags,
            ["main-2", "main-3", "released", "v1", "young"],
            "{}",
            backend.name
        );
        assert!(!is_here(&registry, &ctx, &images[1].1).await);
        assert!(!is_here(&registry, &ctx, &images[4].1).await);
    }
}

/// Whoever asks where an image is can make a release of it: nothing removes it meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_to_be_released_stays() {
    let clock = clock();
    for backend in backends_at(MIGRATIONS, clock.clone()).await {
        let (registry, _) = registry(&backend, &clock, Config::default());
        let ctx = context(&clock);
        let (image, _) = push(&registry, &ctx, None, "image", "").await.unwrap();
        clock.advance(DAY);
        assert_eq!(registry.locate(&image).await.unwrap(), Some(web()));
        registry.retain(&Nothing).await.unwrap();
        let by_digest = Reference::Digest(image.clone());
        let deleted = registry
            .delete_manifest(&ctx, &web(), &by_digest, &Nothing)
            .await;
        assert!(matches!(deleted, Err(RegistryError::InUse(_))));
        assert!(is_here(&registry, &ctx, &image).await);
        clock.advance(DAY);
        registry
            .delete_manifest(&ctx, &web(), &by_digest, &Nothing)
            .await
            .unwrap();
    }
}

/// Pushers, retention and collection at once, with a clock that makes everything old within
/// moments. Whatever a push was told is stored can be read to its last byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pushes_beside_collections_lose_nothing() {
    let clock = clock();
    for backend in backends_at(MIGRATIONS, clock.clone()).await {
        let (registry, blobs) = registry(&backend, &clock, Config::default());
        let stop = Arc::new(AtomicBool::new(false));
        let collecting = {
            let (registry, blobs, stop, clock) =
                (registry.clone(), blobs.clone(), stop.clone(), clock.clone());
            tokio::spawn(async move {
                let owners: Vec<Arc<dyn BlobOwner>> = vec![Arc::new(registry.clone())];
                let (mut removed, mut rounds) = (0, 0);
                // However fast the pushes are, they are seen by several rounds.
                while !stop.load(Ordering::Relaxed) || removed == 0 || rounds < 3 {
                    clock.advance(Duration::from_secs(450));
                    removed += registry.retain(&Nothing).await.unwrap();
                    removed += blobs.gc(&owners, Duration::ZERO).await.unwrap().removed;
                    rounds += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                (removed, rounds)
            })
        };
        let mut pushers = tokio::task::JoinSet::new();
        for pusher in 0..4 {
            let (registry, ctx) = (registry.clone(), context(&clock));
            pushers.spawn(async move {
                let mut last = None;
                for round in 0..25 {
                    // Contents repeat among pushers, so that one finds what another left to be
                    // collected; garbage is made by moving the tag.
                    let content = format!("content {}", (round * 7 + pusher) % 10);
                    let tag = format!("tag-{pusher}");
                    last = loop {
                        match push(&registry, &ctx, Some(&tag), &content, "").await {
                            Ok(pushed) => break Some(pushed),
                            // Between blob and manifest more than an hour went by on this clock:
                            // a client begins again, as after every refusal.
                            Err(
                                RegistryError::ManifestBlobUnknown(_) | RegistryError::Store(_),
                            ) => {}
                            Err(error) => panic!("{error}"),
                        }
                    };
                    let reference = tag.parse().unwrap();
                    let pulled = registry.manifest(&ctx, &web(), &reference).await.unwrap();
                    let (digest, blob) = last.clone().unwrap();
                    assert_eq!(pulled.digest, digest);
                    let (file, size) = registry.blob(&ctx, &web(), &blob).await.unwrap();
                    drop(file);
                    assert_eq!(size, content.len() as u64);
                }
                last.unwrap()
            });
        }
        let mut held = HashSet::new();
        while let Some(pushed) = pushers.join_next().await {
            held.insert(pushed.unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        let (removed, rounds) = collecting.await.unwrap();
        assert!(
            removed > 0 && rounds > 1,
            "{}: {removed} in {rounds} rounds",
            backend.name
        );
        for _ in 0..2 {
            clock.advance(DAY);
            registry.retain(&Nothing).await.unwrap();
            let owners: Vec<Arc<dyn BlobOwner>> = vec![Arc::new(registry.clone())];
            blobs.gc(&owners, Duration::ZERO).await.unwrap();
        }
        let ctx = context(&clock);
        for (manifest, blob) in &held {
            assert!(is_here(&registry, &ctx, manifest).await);
            blobs.verify(blob).await.unwrap();
        }
        let left = registry.held_digests("", 1_000).await.unwrap();
        let wanted: HashSet<Digest> = held
            .into_iter()
            .flat_map(|(manifest, blob)| [manifest, blob])
            .collect();
        assert_eq!(
            left.into_iter().collect::<HashSet<_>>(),
            wanted,
            "{}",
            backend.name
        );
    }
}
