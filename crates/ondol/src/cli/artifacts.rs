//! Files that the steps of a run left behind: listed, and fetched into a folder.
//!
//! A file is written under another name and takes its own only when its bytes are those that the
//! server named; a file that is there already is never replaced unasked.

use std::io::Write;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use ondol_store::blobs::Hasher;
use ondol_types::{Digest, RelPath, StepName};
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Api, encode};
use crate::error::{Exit, Failure, Outcome};
use crate::output;

/// The most files that one command lists or fetches.
const MOST: usize = 100_000;

async fn listed(api: &Api, run: &str, step: Option<&StepName>) -> Outcome<Vec<Value>> {
    let route = match step {
        Some(step) => format!("{run}/steps/{}/artifacts", encode(step.as_str())),
        None => format!("{run}/artifacts"),
    };
    let found = api.list(&route, MOST).await?;
    Ok(found.as_array().cloned().unwrap_or_default())
}

/// Prints what there is.
pub(super) async fn list(api: &Api, run: &str, step: Option<&StepName>) -> Outcome<Exit> {
    let found = listed(api, run, step).await?;
    if output::style().json {
        output::json(&Value::Array(found));
        return Ok(Exit::Success);
    }
    let text = |value: &Value| output::printable(value.as_str().unwrap_or_default());
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|one| {
            vec![
                text(&one["step"]),
                output::bytes(one["bytes"].as_f64().unwrap_or_default()),
                text(&one["path"]),
            ]
        })
        .collect();
    if rows.is_empty() {
        output::note(
            "no step of this run left files; `artifacts` under a step of ondol.yaml names those to keep",
        );
    } else {
        output::table(&["STEP", "SIZE", "PATH"], &rows);
    }
    Ok(Exit::Success)
}

/// Fetches everything, or what one step left.
pub(super) async fn download(
    api: &Api,
    run: &str,
    step: Option<&StepName>,
    dir: &Path,
    force: bool,
) -> Outcome<Exit> {
    let found = listed(api, run, step).await?;
    let (mut files, mut bytes) = (0u64, 0u64);
    for one in &found {
        let field = |name: &str| one[name].as_str().unwrap_or_default();
        let odd = |error: &dyn std::fmt::Display| {
            Failure::new(
                Exit::Internal,
                format!("the server named an odd file: {error}"),
            )
        };
        let owner: StepName = field("step").parse().map_err(|error| odd(&error))?;
        let path: RelPath = field("path").parse().map_err(|error| odd(&error))?;
        let digest: Digest = field("digest").parse().map_err(|error| odd(&error))?;
        // Two steps may have left the same path.
        let target = match step {
            Some(_) => path.below(dir),
            None => path.below(&dir.join(owner.as_str())),
        };
        if !force && target.symlink_metadata().is_ok() {
            return Err(Failure::new(
                Exit::Conflict,
                format!("{} exists already", target.display()),
            )
            .hint("name another folder with `-o`, or replace files with `--force`"));
        }
        let route = format!(
            "{run}/steps/{}/artifacts/file?path={}",
            encode(owner.as_str()),
            encode(path.as_str())
        );
        bytes += fetch(
            api,
            &route,
            &target,
            &digest,
            one["executable"] == json!(true),
        )
        .await?;
        files += 1;
    }
    if output::style().json {
        output::json(&json!({ "files": files, "bytes": bytes }));
    } else {
        let size = output::bytes(bytes as f64);
        let what = if files == 1 { "file" } else { "files" };
        output::note(format!("{files} {what}, {size} in {}", dir.display()));
    }
    Ok(Exit::Success)
}

async fn fetch(
    api: &Api,
    route: &str,
    target: &Path,
    digest: &Digest,
    executable: bool,
) -> Outcome<u64> {
    let response = api.send(api.request(Method::GET, route)).await?;
    if let Some(parent) = target.parent() {
        let action = format!("make {}", parent.display());
        std::fs::create_dir_all(parent).map_err(Failure::io(action))?;
    }
    let partial = partial_of(target);
    let writing = || Failure::io(format!("write {}", target.display()));
    let mut file = std::fs::File::create(&partial).map_err(writing())?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut bytes = 0;
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| {
            let _ = std::fs::remove_file(&partial);
            Failure::new(Exit::Unavailable, "the server broke off").because(error)
        })?;
        hasher.update(&chunk);
        bytes += chunk.len() as u64;
        file.write_all(&chunk).map_err(writing())?;
    }
    if hasher.finish() != *digest {
        let _ = std::fs::remove_file(&partial);
        let text = format!(
            "the bytes of {} are not those that were kept",
            target.display()
        );
        return Err(Failure::new(Exit::Internal, text).hint("try again"));
    }
    if executable {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(0o755);
        file.set_permissions(mode).map_err(writing())?;
    }
    drop(file);
    std::fs::rename(&partial, target).map_err(writing())?;
    Ok(bytes)
}

fn partial_of(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    target.with_file_name(name)
}
