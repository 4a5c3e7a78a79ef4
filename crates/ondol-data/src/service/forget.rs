//! The end of a project in this room: its rows go, the bytes with the next collection. What a
//! push wrote belongs to the row of its session, so one that is late finds nothing to write to.

use std::sync::PoisonError;

use async_trait::async_trait;
use ondol_store::{ForgetProject, Forgotten, ProjectHold};
use ondol_types::Problem;

use super::DataService;
use crate::error::DataError;
use crate::store;

#[async_trait]
impl ForgetProject for DataService {
    fn name(&self) -> &'static str {
        "data"
    }

    async fn forget(&self, hold: &ProjectHold) -> Result<Forgotten, Problem> {
        let project = &hold.name;
        self.deps
            .store
            .write::<_, DataError, _>(|tx| {
                Box::pin(async move { Ok(store::delete_project(tx, project).await?) })
            })
            .await?;
        // Scopes of other pushes are built again.
        self.scopes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        Ok(Forgotten::Entirely)
    }
}
