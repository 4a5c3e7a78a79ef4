//! What retention and collection read and remove.

use ondol_store::{Row, StoreError, Tx, params};
use ondol_types::{Digest, Timestamp};

use crate::model::Repository;
use crate::plan::{Candidate, ManifestFact, TagFact, View};

/// Repositories after `last`, by name.
pub(crate) async fn repositories(
    tx: &mut Tx<'_>,
    last: &str,
    limit: u32,
) -> Result<Vec<String>, StoreError> {
    tx.fetch_all(
        "SELECT name FROM registry_repository WHERE name > $1 ORDER BY name LIMIT $2",
        params![last, limit],
    )
    .await?
    .iter()
    .map(|row| row.get("name"))
    .collect()
}

/// Every digest that some repository links, a page at a time: the mark of the collection.
pub(crate) async fn linked_digests(
    tx: &mut Tx<'_>,
    after: &str,
    limit: u32,
) -> Result<Vec<Digest>, StoreError> {
    // Each half ends after a page by its index, so that the whole is not gone through per page.
    let page = |rows: Vec<Row>| -> Result<Vec<Digest>, StoreError> {
        rows.iter().map(|row| row.parse("digest")).collect()
    };
    let blobs = page(
        tx.fetch_all(
            "SELECT DISTINCT digest FROM registry_blob WHERE digest > $1 ORDER BY digest LIMIT $2",
            params![after, limit],
        )
        .await?,
    )?;
    let manifests = page(
        tx.fetch_all(
            "SELECT DISTINCT digest FROM registry_manifest WHERE digest > $1 ORDER BY digest LIMIT $2",
            params![after, limit],
        )
        .await?,
    )?;
    // A page that is full says nothing about what comes after its end.
    let ends = [&blobs, &manifests].map(|page| {
        (page.len() >= limit as usize)
            .then(|| page.last().map(ToString::to_string))
            .flatten()
    });
    let end = ends.into_iter().flatten().min();
    let mut both: Vec<Digest> = blobs.into_iter().chain(manifests).collect();
    both.sort_by_cached_key(ToString::to_string);
    both.dedup();
    if let Some(end) = end {
        both.retain(|digest| digest.to_string() <= end);
    }
    Ok(both)
}

fn fact(row: &Row) -> Result<ManifestFact, StoreError> {
    let (pushed, used): (Timestamp, Timestamp) = (row.get("pushed_at")?, row.get("used_at")?);
    Ok(ManifestFact {
        digest: row.parse("digest")?,
        subject: row.parse_opt("subject")?,
        used_at: pushed.max(used),
    })
}

/// A whole repository as retention sees it; blobs are left out.
pub(crate) async fn view(tx: &mut Tx<'_>, repository: &Repository) -> Result<View, StoreError> {
    let tags = tx
        .fetch_all(
            "SELECT tag, digest, updated_at, checked_at FROM registry_tag WHERE repository = $1",
            params![repository.as_str()],
        )
        .await?
        .iter()
        .map(|row| {
            let (moved, checked): (Timestamp, Timestamp) =
                (row.get("updated_at")?, row.get("checked_at")?);
            Ok(TagFact {
                name: row.get("tag")?,
                digest: row.parse("digest")?,
                moved_at: moved.max(checked),
            })
        })
        .collect::<Result<_, StoreError>>()?;
    let manifests = tx
        .fetch_all(
            "SELECT digest, subject, pushed_at, used_at FROM registry_manifest WHERE repository = $1",
            params![repository.as_str()],
        )
        .await?
        .iter()
        .map(fact)
        .collect::<Result<_, StoreError>>()?;
    Ok(View {
        tags,
        manifests,
        children: children(tx, repository).await?,
    })
}

/// Index and child, for every index of a repository.
pub(crate) async fn children(
    tx: &mut Tx<'_>,
    repository: &Repository,
) -> Result<Vec<(Digest, Digest)>, StoreError> {
    tx.fetch_all(
        "SELECT manifest, target FROM registry_reference WHERE repository = $1 AND kind = 'manifest'",
        params![repository.as_str()],
    )
    .await?
    .iter()
    .map(|row| Ok((row.parse("manifest")?, row.parse("target")?)))
    .collect()
}

/// One manifest as it stands now; `None` when it is gone already.
pub(crate) async fn candidate(
    tx: &mut Tx<'_>,
    repository: &Repository,
    digest: &Digest,
) -> Result<Option<Candidate>, StoreError> {
    let name = repository.as_str();
    let Some(row) = tx
        .fetch_optional(
            "SELECT digest, subject, pushed_at, used_at,
                 (SELECT COUNT(*) FROM registry_tag t WHERE t.repository = m.repository AND t.digest = m.digest) AS tags,
                 (SELECT COUNT(*) FROM registry_manifest s WHERE s.repository = m.repository AND s.digest = m.subject) AS subjects,
                 (SELECT MAX(r.used_at) FROM registry_manifest r WHERE r.repository = m.repository AND r.subject = m.digest) AS referrer_used_at
             FROM registry_manifest m WHERE repository = $1 AND digest = $2",
            params![name, digest],
        )
        .await?
    else {
        return Ok(None);
    };
    let named_by = tx
        .fetch_all(
            "SELECT manifest FROM registry_reference WHERE repository = $1 AND target = $2 AND kind = 'manifest'",
            params![name, digest],
        )
        .await?
        .iter()
        .map(|row| row.parse("manifest"))
        .collect::<Result<_, StoreError>>()?;
    Ok(Some(Candidate {
        manifest: fact(&row)?,
        tagged: row.get::<i64>("tags")? > 0,
        subject_here: row.get::<i64>("subjects")? > 0,
        named_by,
        referrer_used_at: row.get("referrer_used_at")?,
    }))
}

/// Removes a tag, unless it was moved, pushed or checked since it was seen.
pub(crate) async fn delete_tag_as(
    tx: &mut Tx<'_>,
    repository: &Repository,
    tag: &TagFact,
) -> Result<bool, StoreError> {
    let removed = tx
        .execute(
            "DELETE FROM registry_tag WHERE repository = $1 AND tag = $2 AND digest = $3
             AND updated_at <= $4 AND checked_at <= $4",
            params![
                repository.as_str(),
                tag.name.as_str(),
                &tag.digest,
                tag.moved_at
            ],
        )
        .await?;
    Ok(removed > 0)
}

/// A blob link with its size.
#[derive(Clone, Debug)]
pub(crate) struct Loose {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// Blob links older than `before` that no manifest of the repository names.
pub(crate) async fn loose_blobs(
    tx: &mut Tx<'_>,
    repository: &Repository,
    before: Timestamp,
    limit: u32,
) -> Result<Vec<Digest>, StoreError> {
    tx.fetch_all(
        "SELECT digest FROM registry_blob b WHERE repository = $1 AND linked_at < $2
         AND NOT EXISTS (SELECT 1 FROM registry_reference r
                         WHERE r.repository = b.repository AND r.target = b.digest)
         LIMIT $3",
        params![repository.as_str(), before, limit],
    )
    .await?
    .iter()
    .map(|row| row.parse("digest"))
    .collect()
}

/// Takes away one blob link, when it is still loose and still older than `before`.
pub(crate) async fn unlink_loose(
    tx: &mut Tx<'_>,
    repository: &Repository,
    digest: &Digest,
    before: Timestamp,
) -> Result<bool, StoreError> {
    let removed = tx
        .execute(
            "DELETE FROM registry_blob WHERE repository = $1 AND digest = $2 AND linked_at < $3
             AND NOT EXISTS (SELECT 1 FROM registry_reference r
                             WHERE r.repository = registry_blob.repository AND r.target = registry_blob.digest)",
            params![repository.as_str(), digest, before],
        )
        .await?;
    Ok(removed > 0)
}

/// Forgets repositories in which nothing is left, unless they are younger than `before`.
pub(crate) async fn drop_empty_repositories(
    tx: &mut Tx<'_>,
    before: Timestamp,
) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM registry_repository WHERE created_at < $1
         AND NOT EXISTS (SELECT 1 FROM registry_manifest m WHERE m.repository = registry_repository.name)
         AND NOT EXISTS (SELECT 1 FROM registry_blob b WHERE b.repository = registry_repository.name)
         AND NOT EXISTS (SELECT 1 FROM registry_tag t WHERE t.repository = registry_repository.name)",
        params![before],
    )
    .await
}

/// Bytes of the blobs that repositories of an upstream link.
pub(crate) async fn upstream_bytes(tx: &mut Tx<'_>, upstream: &str) -> Result<u64, StoreError> {
    tx.fetch_one(
        "SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) AS bytes FROM registry_blob WHERE repository LIKE $1",
        params![format!("{upstream}/%")],
    )
    .await?
    .get("bytes")
}

/// Blobs of an upstream that were not asked for the longest.
pub(crate) async fn oldest_blobs(
    tx: &mut Tx<'_>,
    upstream: &str,
    limit: u32,
) -> Result<Vec<(String, Loose)>, StoreError> {
    tx.fetch_all(
        "SELECT repository, digest, size FROM registry_blob WHERE repository LIKE $1
         ORDER BY linked_at, digest LIMIT $2",
        params![format!("{upstream}/%"), limit],
    )
    .await?
    .iter()
    .map(|row| {
        let blob = Loose {
            digest: row.parse("digest")?,
            size: row.get("size")?,
        };
        Ok((row.get("repository")?, blob))
    })
    .collect()
}
