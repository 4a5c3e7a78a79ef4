//! The numbers of the design, printed and never asserted. Run with
//! `cargo test --release -p ondol-data --test it -- --ignored --nocapture ten_thousand`.

#![expect(clippy::print_stderr, reason = "the measurement is the point")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ondol_data::client::{Progress, PushOptions, push};

use crate::fixture::*;

fn stored(folder: &Path) -> u64 {
    let mut total = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            match entry.metadata().unwrap() {
                metadata if metadata.is_dir() => folders.push(entry.path()),
                metadata => total += metadata.len(),
            }
        }
    }
    total
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn ten_thousand_small_files() {
    for world in worlds().await {
        let folder = world.folder("in");
        for n in 0..10_000u64 {
            let path = folder.join(format!("part-{:02}", n % 100));
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join(format!("file-{n:05}.bin")), noise(10_240, n + 1)).unwrap();
        }
        let blobs = world.backend.dir.path().join("blobs");
        let packs = blobs.join("packs");
        let measure = async |what: &str| {
            let (before, all) = (stored(&packs), stored(&blobs));
            let began = Instant::now();
            // When each phase was last heard of: found, hashed, asked, sent.
            let phases = Arc::new(Mutex::new([0.0f64; 4]));
            let noted = phases.clone();
            let direct = Direct {
                world: &world,
                ctx: world.ctx(),
            };
            let note = move |progress: Progress| {
                let phase = match progress {
                    Progress::Found { .. } => 0,
                    Progress::Hashed { .. } => 1,
                    Progress::Missing { .. } => 2,
                    Progress::Sent { .. } => 3,
                };
                noted.lock().unwrap()[phase] = began.elapsed().as_secs_f64();
            };
            let pushed = push(&direct, &folder, &PushOptions::default(), Arc::new(note))
                .await
                .unwrap();
            eprintln!(
                "            found, hashed, asked, sent after {:.2?} s",
                phases.lock().unwrap()
            );
            eprintln!(
                "{:<11} {what:<14} {:>6.2} s  +{:>9} bytes of packs, +{:>9} in all, changed: {}",
                world.backend.name,
                began.elapsed().as_secs_f64(),
                stored(&packs) - before,
                stored(&blobs) - all,
                pushed.changed,
            );
        };
        measure("first push").await;
        measure("unchanged").await;
        for n in 0..100u64 {
            let n = n * 97 % 10_000;
            let path = folder.join(format!("part-{:02}/file-{n:05}.bin", n % 100));
            std::fs::write(path, noise(10_240, n + 1_000_000)).unwrap();
        }
        measure("1 % changed").await;
        let began = Instant::now();
        let files = world.checkout("latest").await.len();
        eprintln!(
            "{:<11} checkout       {:>6.2} s  {files} files, with reading them back",
            world.backend.name,
            began.elapsed().as_secs_f64()
        );
        let began = Instant::now();
        world
            .service
            .verify(&world.ctx(), &world.project, &world.dataset, "latest")
            .await
            .unwrap();
        eprintln!(
            "{:<11} verify         {:>6.2} s",
            world.backend.name,
            began.elapsed().as_secs_f64()
        );
    }
}
