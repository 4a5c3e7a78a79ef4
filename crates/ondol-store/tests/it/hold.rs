//! Names of projects that are being deleted.

use ondol_store::StoreError;
use ondol_store::testing::backends;
use ondol_types::{Classified, ErrorKind, ProjectName};

#[tokio::test(flavor = "multi_thread")]
async fn a_held_name_admits_nobody_until_it_is_released() {
    for backend in backends(&[]).await {
        let store = &backend.store;
        let (web, other): (&ProjectName, &ProjectName) =
            (&"web".parse().unwrap(), &"other".parse().unwrap());
        let hold = &store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.admit_project(web).await?;
                    tx.hold_project(web, 7, "kim").await?;
                    // Whoever holds it again changes nothing.
                    tx.hold_project(web, 9, "bob").await?;
                    tx.admit_project(other).await?;
                    Ok(tx.project_hold(web).await?.unwrap())
                })
            })
            .await
            .unwrap();
        assert_eq!((hold.seq, hold.by.as_str()), (7, "kim"));
        let refused = store
            .read::<_, StoreError, _>(|tx| Box::pin(tx.admit_project(web)))
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        assert_eq!(refused.code(), "store.project.deleting");
        assert!(refused.to_string().contains("`web`"));
        assert!(refused.hint().unwrap().contains("projects delete web"));
        let holds = store
            .read::<_, StoreError, _>(|tx| Box::pin(tx.project_holds("", 10)))
            .await
            .unwrap();
        assert_eq!(holds.as_slice(), std::slice::from_ref(hold));
        // A hold of an earlier time is not this one.
        let mut earlier = hold.clone();
        earlier.seq = 3;
        for (hold, expected) in [(&earlier, false), (hold, true), (hold, false)] {
            let released = store
                .write::<_, StoreError, _>(|tx| Box::pin(tx.release_project(hold)))
                .await
                .unwrap();
            assert_eq!(released, expected);
        }
        store
            .read::<_, StoreError, _>(|tx| Box::pin(tx.admit_project(web)))
            .await
            .unwrap();
    }
}

/// Two writers at the same moment: what the one let in, the other's look afterwards finds.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_admitted_is_seen_after_the_hold() {
    for backend in backends(&[]).await {
        let store = &backend.store;
        for round in 0..30 {
            let web: &ProjectName = &format!("web{round}").parse().unwrap();
            let admitted = store.write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.admit_project(web).await?;
                    tx.append(
                        ondol_store::events::NewEvent::new(
                            ondol_types::event::REPOSITORY_CREATED,
                            web,
                        )
                        .project(web),
                    )
                    .await
                })
            });
            let held = async {
                store
                    .write::<_, StoreError, _>(|tx| Box::pin(tx.hold_project(web, 1, "kim")))
                    .await
                    .unwrap();
                let filter = &ondol_store::events::EventFilter {
                    project: Some(web.clone()),
                    ..Default::default()
                };
                store
                    .write::<_, StoreError, _>(|tx| {
                        Box::pin(async move {
                            // Reads as a room does that is about to forget.
                            Ok(tx.events_after(0, filter, 10).await?.len())
                        })
                    })
                    .await
                    .unwrap()
            };
            let (admitted, seen) = tokio::join!(admitted, held);
            match admitted {
                Ok(_) => assert_eq!(seen, 1, "{}: admitted and not seen", backend.name),
                Err(error) => assert_eq!(error.code(), "store.project.deleting"),
            }
        }
    }
}
