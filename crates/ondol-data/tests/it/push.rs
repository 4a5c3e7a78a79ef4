//! Pushing.

use bytes::Bytes;
use ondol_auth::Role;
use ondol_background::Reconciler;
use ondol_data::client::{PushOptions, Transport};
use ondol_data::model::CommitHead;
use ondol_data::wire::{Frame, encode_commit};
use ondol_data::{DataError, DatasetOwner, ExpiredPushes, Key, model::FileEntry};
use ondol_store::blobs::BlobOwner;
use ondol_store::events::EventFilter;
use ondol_types::event::{DATASET_COMMITTED, DatasetCommitted};

use crate::fixture::*;

const IRIS: &str = "a,b\n1,x\n2,y\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_a_version_with_its_event() {
    for world in worlds().await {
        let large = noise(3_000_000, 1);
        let folder = world.folder("in");
        write(
            &folder,
            &[
                ("iris.csv", IRIS),
                ("docs/readme.txt", "hello"),
                ("empty", ""),
            ],
        );
        std::fs::write(folder.join("large.bin"), &large).unwrap();
        let options = PushOptions {
            message: "first".into(),
            ..PushOptions::default()
        };
        let first = world.push_with(&folder, &options).await.unwrap();
        assert!(first.changed, "{}", world.backend.name);
        let version = &first.version;
        assert_eq!(
            (version.number, version.files, version.rows),
            (1, 4, Some(2))
        );
        assert_eq!(
            (version.author.as_str(), version.message.as_str()),
            ("ada", "first")
        );
        assert_eq!(version.bytes, version.new_bytes);
        assert_eq!(world.checkout("latest").await, contents(&folder));

        let same = world.push(&folder).await.unwrap();
        assert!(!same.changed);
        assert_eq!(same.version, first.version);

        std::fs::write(folder.join("docs/readme.txt"), "hello again").unwrap();
        let second = world.push(&folder).await.unwrap().version;
        assert_eq!((second.number, second.new_bytes), (2, 11));
        assert_eq!(second.parent.as_ref(), Some(&version.id));
        assert_eq!(world.checkout("1").await["docs/readme.txt"], b"hello");
        assert_eq!(world.checkout(second.id.hex()).await, contents(&folder));

        let events = world
            .backend
            .store
            .read::<_, DataError, _>(|tx| {
                Box::pin(async move { Ok(tx.events_after(0, &EventFilter::default(), 10).await?) })
            })
            .await
            .unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!(events[1].event_type, DATASET_COMMITTED);
        assert_eq!(events[1].chain, events[1].id.to_string());
        let content: DatasetCommitted = events[1].content().unwrap();
        assert_eq!((content.number, &content.version), (2, &second.id));
        assert_eq!(content.parent, second.parent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_file_is_a_dataset_too() {
    for world in worlds().await {
        let folder = world.folder("in");
        write(&folder, &[("iris.csv", IRIS)]);
        world.push(&folder.join("iris.csv")).await.unwrap();
        assert_eq!(world.checkout("latest").await, contents(&folder));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pushes_at_once_do_not_lose_one() {
    for world in worlds().await {
        world.push_files(&[("a.txt", "1")]).await.unwrap();
        let direct = Direct {
            world: &world,
            ctx: world.ctx(),
        };
        let (mine, yours) = (direct.begin().await.unwrap(), direct.begin().await.unwrap());
        let commit = |content: &'static str, session: &ondol_data::model::PushSession, force| {
            let key = Key::of(content.as_bytes());
            let mut bundle = Vec::new();
            Frame::Chunk {
                key,
                bytes: Bytes::from_static(content.as_bytes()),
            }
            .encode(&mut bundle);
            Frame::End { frames: 1 }.encode(&mut bundle);
            let file = FileEntry {
                path: "a.txt".parse().unwrap(),
                executable: false,
                size: content.len() as u64,
                chunks: vec![ondol_data::chunk::ChunkRef {
                    key,
                    len: content.len() as u32,
                }],
            };
            let head = CommitHead {
                parent: session.head.clone(),
                force,
                ..CommitHead::default()
            };
            (Bytes::from(bundle), encode_commit(&head, &[file]))
        };
        let (bundle, manifest) = commit("mine", &mine, false);
        direct.upload(mine.id, bundle).await.unwrap();
        let made = direct.commit(mine.id, manifest.clone()).await.unwrap();
        // The answer was lost: the same session gives it again.
        assert_eq!(direct.commit(mine.id, manifest).await.unwrap(), made);
        let (bundle, manifest) = commit("yours", &yours, false);
        direct.upload(yours.id, bundle).await.unwrap();
        let refused = direct.commit(yours.id, manifest).await.unwrap_err();
        assert_eq!(refused.code, "data.push.moved");
        assert!(refused.message.contains("version 2"), "{refused:?}");
        assert!(refused.hint.unwrap().contains("--force"));
        let (_, forced) = commit("yours", &yours, true);
        assert_eq!(
            direct
                .commit(yours.id, forced)
                .await
                .unwrap()
                .version
                .number,
            3
        );
        assert_eq!(world.checkout("latest").await["a.txt"], b"yours");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forced_pushes_side_by_side_all_become_versions() {
    for world in worlds().await {
        let folders: Vec<_> = (0..4)
            .map(|n| {
                let folder = world.folder(&format!("in{n}"));
                write(&folder, &[("x.txt", &format!("content {n}"))]);
                folder
            })
            .collect();
        let options = PushOptions {
            force: true,
            threads: 1,
            ..PushOptions::default()
        };
        let pushes = folders
            .iter()
            .map(|folder| world.push_with(folder, &options));
        for pushed in futures_util::future::join_all(pushes).await {
            pushed.unwrap();
        }
        let log = world
            .service
            .log(&world.ctx(), &world.project, &world.dataset, None, 10)
            .await
            .unwrap();
        assert_eq!(
            log.iter().map(|version| version.number).collect::<Vec<_>>(),
            [4, 3, 2, 1]
        );
        for pair in log.windows(2) {
            assert_eq!(pair[0].parent.as_ref(), Some(&pair[1].id));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn knowing_a_digest_does_not_give_its_bytes() {
    for mut world in worlds().await {
        let secret = "what another project pushed";
        world.push_files(&[("secret.txt", secret)]).await.unwrap();
        world.project = "other".parse().unwrap();
        let direct = Direct {
            world: &world,
            ctx: world.ctx(),
        };
        let session = direct.begin().await.unwrap();
        let key = Key::of(secret.as_bytes());
        // It is stored, but not for this project.
        assert_eq!(
            direct.missing(session.id, &[key, key]).await.unwrap(),
            [key]
        );
        let file = FileEntry {
            path: "stolen.txt".parse().unwrap(),
            executable: false,
            size: secret.len() as u64,
            chunks: vec![ondol_data::chunk::ChunkRef {
                key,
                len: secret.len() as u32,
            }],
        };
        let refused = direct
            .commit(session.id, encode_commit(&CommitHead::default(), &[file]))
            .await
            .unwrap_err();
        assert_eq!(refused.code, "data.push.incomplete");
        // Who has the bytes may push them; they are stored once.
        let before = world.blobs.clone();
        world.push_files(&[("own.txt", secret)]).await.unwrap();
        before.verify(&key.digest()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_an_interruption_is_not_sent_again() {
    for world in worlds().await {
        let content = "sent, then the client died";
        let key = Key::of(content.as_bytes());
        let direct = Direct {
            world: &world,
            ctx: world.ctx(),
        };
        let session = direct.begin().await.unwrap();
        let mut bundle = Vec::new();
        Frame::Chunk {
            key,
            bytes: Bytes::from_static(content.as_bytes()),
        }
        .encode(&mut bundle);
        Frame::End { frames: 1 }.encode(&mut bundle);
        direct.upload(session.id, bundle.into()).await.unwrap();
        let again = direct.begin().await.unwrap();
        assert!(direct.missing(again.id, &[key]).await.unwrap().is_empty());
        // An open push pins what it sent.
        let owner = DatasetOwner::new(world.backend.store.clone(), world.blobs.clone());
        assert!(owner.pinned_since().await.unwrap().is_some());
        assert_eq!(
            ExpiredPushes::new(world.backend.store.clone())
                .tick()
                .await
                .unwrap()
                .changed,
            0
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_push_pushes_and_only_into_their_own_session() {
    for world in worlds().await {
        let viewer = Direct {
            world: &world,
            ctx: somebody("vera", Role::Viewer),
        };
        assert_eq!(viewer.begin().await.unwrap_err().code, "auth.forbidden");
        let ada = Direct {
            world: &world,
            ctx: world.ctx(),
        };
        let session = ada.begin().await.unwrap();
        let bob = Direct {
            world: &world,
            ctx: somebody("bob", Role::Developer),
        };
        let refused = bob.missing(session.id, &[]).await.unwrap_err();
        assert_eq!(refused.code, "data.push.missing");
        let absent = world
            .service
            .begin(&world.ctx(), &"absent".parse().unwrap(), &world.dataset)
            .await;
        assert!(matches!(absent, Err(DataError::NoProject(_))));
        let nobody = ondol_auth::Ctx::new(
            ondol_auth::Principal::anonymous(),
            std::sync::Arc::new(ondol_types::SystemClock),
        );
        assert!(matches!(
            world.service.list(&nobody, &world.project, "", 10).await,
            Err(DataError::Denied(_))
        ));
    }
}
