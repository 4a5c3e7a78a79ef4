//! Tokens and secrets on both databases.

mod secrets;
mod tokens;

use std::sync::Arc;

use ondol_auth::{Ctx, Grant, Principal, PrincipalKind, Secrets, Tokens};
use ondol_store::testing::{TestStore, backends_at};
use ondol_types::{ManualClock, Timestamp, TokenId};

struct Room {
    clock: Arc<ManualClock>,
    backend: TestStore,
    tokens: Tokens,
    secrets: Secrets,
}

async fn rooms() -> Vec<Room> {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(
        1_700_000_000_000_000,
    )));
    backends_at(ondol_auth::MIGRATIONS, clock.clone())
        .await
        .into_iter()
        .map(|backend| {
            let keys = backend.dir.path().join("keys");
            Room {
                clock: clock.clone(),
                tokens: Tokens::open(backend.store.clone(), &keys).unwrap(),
                secrets: Secrets::open(backend.store.clone(), &keys).unwrap(),
                backend,
            }
        })
        .collect()
}

impl Room {
    fn system(&self) -> Ctx {
        Ctx::system(self.clock.clone())
    }

    fn somebody(&self, grant: Grant) -> Ctx {
        let principal = Principal {
            kind: PrincipalKind::Token(TokenId::derived("somebody")),
            name: "somebody".to_owned(),
            grant,
            expires_at: None,
        };
        Ctx::new(principal, self.clock.clone())
    }
}
