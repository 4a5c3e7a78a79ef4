//! The store on both engines.

mod archive;
mod hold;

use std::sync::Arc;
use std::time::Duration;

use ondol_store::events::{EventFilter, NewEvent};
use ondol_store::testing::{backends, backends_at};
use ondol_store::{Migration, StoreError, params};
use ondol_types::{ManualClock, Timestamp, event};

const THINGS: Migration = Migration {
    number: 100,
    name: "things",
    sql: "CREATE TABLE thing (id TEXT PRIMARY KEY, n BIGINT, x DOUBLE PRECISION, b BYTEA, flag BIGINT NOT NULL);\n",
};

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_kind_round_trip() {
    for backend in backends(&[THINGS]).await {
        let store = &backend.store;
        store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.execute(
                        "INSERT INTO thing (id, n, x, b, flag) VALUES ($1, $2, $3, $4, $5), ($6, $7, $8, $9, $10)",
                        params!["a", 7, 1.5, vec![0u8, 255], true, "b", None::<i64>, None::<f64>, None::<Vec<u8>>, false],
                    )
                    .await?;
                    Ok(())
                })
            })
            .await
            .unwrap();
        let rows = store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.fetch_all("SELECT * FROM thing ORDER BY id", params![])
                        .await
                })
            })
            .await
            .unwrap();
        assert_eq!(rows[0].get::<i64>("n").unwrap(), 7, "{}", backend.name);
        assert_eq!(rows[0].get::<f64>("x").unwrap(), 1.5);
        assert_eq!(rows[0].get::<Vec<u8>>("b").unwrap(), vec![0, 255]);
        assert!(rows[0].get::<bool>("flag").unwrap());
        assert_eq!(rows[1].get::<Option<i64>>("n").unwrap(), None);
        assert_eq!(rows[1].get::<Option<Vec<u8>>>("b").unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_closure_leaves_nothing_behind() {
    for backend in backends(&[THINGS]).await {
        let outcome = backend
            .store
            .write::<(), StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.execute("INSERT INTO thing (id, flag) VALUES ('a', 0)", params![])
                        .await?;
                    tx.append(NewEvent::new(event::REPOSITORY_CREATED, "a"))
                        .await?;
                    tx.execute("INSERT INTO thing (id, flag) VALUES ('a', 0)", params![])
                        .await?;
                    Ok(())
                })
            })
            .await;
        assert!(
            outcome.unwrap_err().is_unique_violation(),
            "{}",
            backend.name
        );
        let (things, newest) = backend
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    Ok((
                        tx.fetch_all("SELECT * FROM thing", params![]).await?.len(),
                        tx.newest_event().await?,
                    ))
                })
            })
            .await
            .unwrap();
        assert_eq!((things, newest), (0, 0), "{}", backend.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_append_events_without_gaps() {
    for backend in backends(&[THINGS]).await {
        let mut signal = backend.store.appended();
        let tasks: Vec<_> = (0..8)
            .map(|writer| {
                let store = backend.store.clone();
                tokio::spawn(async move {
                    for n in 0..10 {
                        let name = format!("{writer}-{n}");
                        store
                            .write::<_, StoreError, _>(|tx| {
                                let name = name.clone();
                                Box::pin(async move {
                                    tx.append(NewEvent::new(event::REPOSITORY_CREATED, name))
                                        .await
                                })
                            })
                            .await
                            .unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let events = backend
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move { tx.events_after(0, &EventFilter::default(), 1_000).await })
            })
            .await
            .unwrap();
        assert_eq!(
            events.iter().map(|event| event.seq).collect::<Vec<_>>(),
            (1..=80).collect::<Vec<_>>(),
            "{}",
            backend.name
        );
        assert_eq!(*signal.borrow_and_update(), 80);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_comes_from_the_clock_and_reads_cannot_write() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(5_000_000)));
    for backend in backends_at(&[THINGS], clock.clone()).await {
        clock.advance(Duration::from_secs(1));
        let now = backend
            .store
            .write::<_, StoreError, _>(|tx| Box::pin(async move { Ok(tx.now()) }))
            .await
            .unwrap();
        assert!(now >= Timestamp::from_micros(6_000_000));
        let refused = backend
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move { tx.execute("DELETE FROM thing", params![]).await })
            })
            .await;
        assert!(matches!(refused, Err(StoreError::ReadOnly)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_newer_version_is_refused() {
    for backend in backends(&[THINGS]).await {
        let refused = backend.store.migrate(ondol_store::MIGRATIONS).await;
        let newest = ondol_store::MIGRATIONS
            .last()
            .map(|last| i64::from(last.number));
        assert!(
            matches!(
                refused,
                Err(StoreError::NewerDatabase { found: 100, known }) if Some(known) == newest
            ),
            "{refused:?}"
        );
        let changed = Migration {
            sql: "CREATE TABLE other (id TEXT)",
            ..THINGS
        };
        let mut all = ondol_store::MIGRATIONS.to_vec();
        all.push(changed);
        assert!(matches!(
            backend.store.migrate(&all).await,
            Err(StoreError::ChangedMigration { number: 100, .. })
        ));
    }
}
