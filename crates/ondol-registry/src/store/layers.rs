//! What layers of engines became: the compressed blob of each plain one that was taken over. Only
//! what this registry has compressed itself stands here, so that no pusher can say what a layer is.

use ondol_store::{StoreError, Tx, params};
use ondol_types::Digest;

/// The compressed blob of a layer and its size.
pub(crate) async fn known_layer(
    tx: &mut Tx<'_>,
    diff_id: &Digest,
) -> Result<Option<(Digest, u64)>, StoreError> {
    tx.fetch_optional(
        "SELECT digest, size FROM registry_layer WHERE diff_id = $1",
        params![diff_id],
    )
    .await?
    .map(|row| Ok((row.parse("digest")?, row.get("size")?)))
    .transpose()
}

pub(crate) async fn remember_layer(
    tx: &mut Tx<'_>,
    diff_id: &Digest,
    digest: &Digest,
    size: u64,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO registry_layer (diff_id, digest, size) VALUES ($1, $2, $3)
         ON CONFLICT (diff_id) DO UPDATE SET digest = $2, size = $3",
        params![diff_id, digest, size],
    )
    .await?;
    Ok(())
}

/// Forgets layers that no repository has any more.
pub(crate) async fn forget_layers(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM registry_layer WHERE digest NOT IN (SELECT digest FROM registry_blob)",
        params![],
    )
    .await?;
    Ok(())
}
