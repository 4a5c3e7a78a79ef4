//! The conformance program of the distribution specification, where it is installed. What it
//! checks is also checked by recorded requests in the files beside this one.

use std::process::Command;

use ondol_auth::Role;

use crate::support::{Server, program, text};

#[tokio::test(flavor = "multi_thread")]
async fn the_conformance_program_finds_nothing() {
    let Some(program) = program("oci-conformance") else {
        eprintln!(
            "oci-conformance is not installed: this test did nothing (`make setup` builds it where Go is)"
        );
        return;
    };
    let server = Server::start().await;
    let token = server.token(&[("conformance", Role::Maintainer)]).await;
    for version in ["1.1", "dev"] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(&program);
        command
            .current_dir(folder.path())
            .env("OCI_REGISTRY", server.address.to_string())
            .env("OCI_TLS", "disabled")
            .env("OCI_REPO1", "conformance/one")
            .env("OCI_REPO2", "conformance/two")
            .env("OCI_USERNAME", "any")
            .env("OCI_PASSWORD", &token)
            .env("OCI_VERSION", version)
            // Manifests without their blobs are refused here, as the specification allows.
            .env("OCI_DATA_SPARSE", "false")
            .env("OCI_RESULTS_DIR", folder.path());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{said}");
        let counts = |name: &str| -> usize {
            let line = said
                .lines()
                .find(|line| line.trim_start().starts_with(&format!("{name}.")))
                .unwrap_or_else(|| panic!("no line for {name}: {said}"));
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        eprintln!("conformance {version}: {} passed", counts("Pass"));
        assert_eq!((counts("FAIL"), counts("Error")), (0, 0), "{said}");
        assert!(counts("Pass") > 500, "{said}");
    }
}
