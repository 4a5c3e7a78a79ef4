//! Leases on both databases.

use std::sync::Arc;
use std::time::Duration;

use ondol_background::MIGRATIONS;
use ondol_background::leases::{Holder, Lease, LeaseError, Leases, verify};
use ondol_store::Store;
use ondol_store::testing::{backends, backends_at};
use ondol_types::{ManualClock, Timestamp};

const TTL: Duration = Duration::from_secs(30);

fn leases(store: &Store, installation: &str, incarnation: &str) -> Leases {
    let holder = Holder {
        installation: installation.to_owned(),
        incarnation: incarnation.to_owned(),
    };
    Leases::new(store.clone(), holder)
}

async fn may_record(store: &Store, lease: &Lease) -> bool {
    let outcome = store
        .write::<_, LeaseError, _>(|tx| Box::pin(async move { verify(tx, lease).await }))
        .await;
    match outcome {
        Ok(()) => true,
        Err(LeaseError::Lost { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_has_one_holder_until_it_ends() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1_000_000)));
    for backend in backends_at(MIGRATIONS, clock.clone()).await {
        let store = &backend.store;
        let (a, b) = (leases(store, "one", "1"), leases(store, "two", "1"));
        let first = a.acquire("step", TTL).await.unwrap().unwrap();
        assert!(b.acquire("step", TTL).await.unwrap().is_none());
        assert!(
            a.acquire("step", TTL).await.unwrap().is_none(),
            "not even its own holder gets it twice"
        );
        assert!(b.acquire("other", TTL).await.unwrap().is_some());
        clock.advance(Duration::from_secs(20));
        a.renew(&first).await.unwrap();
        clock.advance(Duration::from_secs(20));
        assert!(b.acquire("step", TTL).await.unwrap().is_none());
        clock.advance(Duration::from_secs(20));
        assert!(
            may_record(store, &first).await,
            "late, but nobody else began"
        );
        let second = b.acquire("step", TTL).await.unwrap().unwrap();
        assert!(second.fence() > first.fence());
        assert!(!may_record(store, &first).await);
        assert!(may_record(store, &second).await);
        assert!(matches!(
            a.renew(&first).await,
            Err(LeaseError::Lost { .. })
        ));
        a.release(&first).await.unwrap();
        assert!(
            may_record(store, &second).await,
            "a stale release takes nothing away"
        );
        b.release(&second).await.unwrap();
        assert!(!may_record(store, &second).await);
        let third = a.acquire("step", TTL).await.unwrap().unwrap();
        assert!(third.fence() > second.fence());
        clock.advance(Duration::from_secs(2 * 24 * 3600));
        a.acquire("later", TTL).await.unwrap().unwrap();
        let names: Vec<_> = a
            .list(10)
            .await
            .unwrap()
            .into_iter()
            .map(|info| info.name)
            .collect();
        assert_eq!(names, ["later"], "forgotten leases are deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_installation_takes_over_at_once_and_another_waits() {
    for backend in backends(MIGRATIONS).await {
        let store = &backend.store;
        let before = leases(store, "one", "1");
        let held = before.acquire("step", TTL).await.unwrap().unwrap();
        let elsewhere = leases(store, "two", "7");
        assert!(elsewhere.acquire("step", TTL).await.unwrap().is_none());
        let after = leases(store, "one", "2");
        let taken = after.acquire("step", TTL).await.unwrap().unwrap();
        assert!(!may_record(store, &held).await && may_record(store, &taken).await);
        assert!(after.acquire("step", TTL).await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_race_one_wins() {
    for backend in backends(MIGRATIONS).await {
        for round in 0..5 {
            let name = format!("step-{round}");
            let racers = (0..6).map(|n| {
                let leases = leases(&backend.store, &format!("host-{n}"), "1");
                let name = name.clone();
                tokio::spawn(async move { leases.acquire(&name, TTL).await.unwrap() })
            });
            let mut winners = Vec::new();
            for racer in racers.collect::<Vec<_>>() {
                winners.extend(racer.await.unwrap());
            }
            assert_eq!(winners.len(), 1, "{}", backend.name);
            assert!(may_record(&backend.store, &winners[0]).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_keeps_a_lease_and_notices_its_loss() {
    for backend in backends(MIGRATIONS).await {
        let (a, b) = (
            leases(&backend.store, "one", "1"),
            leases(&backend.store, "two", "1"),
        );
        let ttl = Duration::from_millis(1_500);
        let lease = a.acquire("step", ttl).await.unwrap().unwrap();
        let heartbeat = a.keep(&lease);
        let until = std::time::Instant::now() + 2 * ttl;
        while std::time::Instant::now() < until {
            assert!(b.acquire("step", ttl).await.unwrap().is_none());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(!heartbeat.lost().is_cancelled());
        let successor = leases(&backend.store, "one", "2");
        successor.acquire("step", ttl).await.unwrap().unwrap();
        heartbeat.lost().cancelled().await;
    }
}
