//! The end of a project in this room: its uploads and its rows go, the bytes with the next
//! collection.

use ondol_store::{ForgetProject, Forgotten, ProjectHold, StoreError};
use ondol_types::Problem;

use crate::service::RegistryService;
use crate::store;
use crate::uploads::is_of;

/// The most staged files that are looked at: more than there may be.
const LISTED: usize = 100_000;

#[async_trait::async_trait]
impl ForgetProject for RegistryService {
    fn name(&self) -> &'static str {
        "registry"
    }

    async fn forget(&self, hold: &ProjectHold) -> Result<Forgotten, Problem> {
        let project = &hold.name;
        let mut busy = 0;
        for entry in self.blobs().staged(LISTED).await? {
            if !is_of(&entry.name, project) {
                continue;
            }
            if self.uploads().is_busy(&entry.name) {
                busy += 1;
            } else {
                self.uploads().remove(&entry.name);
                self.blobs().discard_staged(&entry.name).await?;
            }
        }
        self.store()
            .write::<_, StoreError, _>(|tx| Box::pin(store::delete_project(tx, project)))
            .await?;
        if busy > 0 {
            return Ok(Forgotten::Remains(format!(
                "{busy} uploads are being received"
            )));
        }
        Ok(Forgotten::Entirely)
    }
}
