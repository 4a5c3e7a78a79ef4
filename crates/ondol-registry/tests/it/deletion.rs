//! What is left of a deleted project: nothing.

use bytes::Bytes;
use ondol_auth::Role;
use ondol_registry::{MIGRATIONS, RegistryError, Repository};
use ondol_store::testing::backends;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_project_leaves_no_image_and_no_upload() {
    use ondol_store::{ForgetProject, Forgotten, StoreError};
    use ondol_types::Classified;
    for backend in backends(MIGRATIONS).await {
        let registry = service(&backend);
        let dir = folder();
        let developer = ctx(Role::Developer);
        registry
            .build(&developer, &request(dir.path()))
            .await
            .unwrap();
        let repository: Repository = "web".parse().unwrap();
        let nested: Repository = "web/tools".parse().unwrap();
        registry
            .put_blob(&developer, &nested, Bytes::from_static(b"nested"))
            .await
            .unwrap();
        let upload = registry
            .begin_upload(&developer, &repository, ondol_types::Algorithm::Sha256)
            .await
            .unwrap();
        let project = repository.project().unwrap();
        let hold = backend
            .store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.hold_project(project, 1, "kim").await?;
                    Ok(tx.project_hold(project).await?.unwrap())
                })
            })
            .await
            .unwrap();
        // Whoever is late is refused while the name is held.
        let late = registry
            .put_blob(&developer, &repository, Bytes::from_static(b"late"))
            .await
            .unwrap_err();
        assert_eq!(late.code(), "store.project.deleting");
        for _ in 0..2 {
            assert_eq!(registry.forget(&hold).await.unwrap(), Forgotten::Entirely);
        }
        for table in [
            "registry_blob",
            "registry_manifest",
            "registry_reference",
            "registry_tag",
        ] {
            let sql = ondol_store::AssertSqlSafe(format!("SELECT COUNT(*) AS n FROM {table}"));
            let left: i64 = backend
                .store
                .read::<_, StoreError, _>(|tx| {
                    Box::pin(async move { tx.fetch_one(sql, vec![]).await?.get("n") })
                })
                .await
                .unwrap();
            assert_eq!(left, 0, "{}: {table}", backend.name);
        }
        backend
            .store
            .write::<_, StoreError, _>(|tx| Box::pin(tx.release_project(&hold)))
            .await
            .unwrap();
        // The upload of the deleted project does not end in the next one.
        let gone = registry.upload_size(&developer, &repository, &upload).await;
        assert!(matches!(gone, Err(RegistryError::UploadUnknown(_))));
        registry
            .put_blob(&developer, &repository, Bytes::from_static(b"new"))
            .await
            .unwrap();
    }
}
