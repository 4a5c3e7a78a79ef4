//! How long the engine keeps what builds have left: a floor, so that a build on a full disk is not
//! a slow one, and a ceiling, so that the disk does not get full.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use bollard::Docker;
use bollard::models::ImageSummary;
use bollard::query_parameters::{ListImagesOptions, RemoveImageOptions};
use ondol_types::Timestamp;

use super::super::client::{failed, is_missing, is_unreachable};
use super::error::BuildError;
use super::ledger::{Entry, Ledger};

/// How much stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRule {
    /// The newest builds of each project stay, whatever their age and size.
    pub newest: usize,
    /// Others stay this long after they were last made.
    pub keep: Duration,
    /// Bytes of all together; over it, the oldest go first.
    pub bytes: u64,
}

impl Default for CacheRule {
    fn default() -> Self {
        Self {
            newest: 3,
            keep: Duration::from_secs(14 * 86_400),
            bytes: 20 << 30,
        }
    }
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Images.
    pub images: usize,
    /// About how many bytes.
    pub bytes: u64,
}

/// An image as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Image {
    parent: String,
    tags: Vec<String>,
    size: u64,
}

/// Which builds stay, as indexes into them. `builds` are oldest first.
fn keep(
    builds: &[Entry],
    rule: &CacheRule,
    now: Timestamp,
    weigh: impl Fn(&BTreeSet<usize>) -> u64,
) -> BTreeSet<usize> {
    let mut of_project: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut floor, mut others) = (BTreeSet::new(), BTreeSet::new());
    for (index, build) in builds.iter().enumerate().rev() {
        let rank = of_project.entry(&build.project).or_default();
        // A build that failed says nothing about what is needed again.
        if build.image.is_some() {
            *rank += 1;
        }
        let at = Timestamp::from_micros(build.at);
        if build.image.is_some() && *rank <= rule.newest {
            floor.insert(index);
        } else if now.since(at) < rule.keep {
            others.insert(index);
        }
    }
    loop {
        let all: BTreeSet<usize> = floor.union(&others).copied().collect();
        if others.is_empty() || weigh(&all) <= rule.bytes {
            return all;
        }
        others.pop_first();
    }
}

/// Full ids of what a build made.
fn ids<'i>(build: &Entry, sorted: &'i [String]) -> Vec<&'i str> {
    build
        .images
        .iter()
        .chain(&build.image)
        .filter_map(|beginning| {
            let at = sorted.partition_point(|id| id.as_str() < beginning.as_str());
            let mut fitting = sorted[at..]
                .iter()
                .take_while(|id| id.starts_with(beginning.as_str()));
            // Of two that begin alike, nobody knows which one it was.
            fitting.next().filter(|_| fitting.next().is_none())
        })
        .map(String::as_str)
        .collect()
}

pub(super) async fn prune(
    docker: &Docker,
    ledger: &Ledger,
    own: &str,
    rule: &CacheRule,
    now: Timestamp,
) -> Result<Pruned, BuildError> {
    let builds = ledger.all().await;
    if builds.is_empty() {
        return Ok(Pruned::default());
    }
    let options = ListImagesOptions {
        all: true,
        ..ListImagesOptions::default()
    };
    let all = docker.list_images(Some(options)).await;
    let all = all.map_err(failed("list its images"))?;
    let images: HashMap<String, Image> = all.into_iter().map(image).collect();
    let mut sorted: Vec<String> = images.keys().cloned().collect();
    sorted.sort_unstable();
    let delta = |id: &str| -> u64 {
        let Some(image) = images.get(id) else {
            return 0;
        };
        let below = images.get(&image.parent).map_or(0, |parent| parent.size);
        image.size.saturating_sub(below)
    };
    let of = |kept: &BTreeSet<usize>| -> HashSet<&str> {
        kept.iter()
            .flat_map(|&index| ids(&builds[index], &sorted))
            .collect()
    };
    let kept = keep(&builds, rule, now, |kept| {
        of(kept).into_iter().map(delta).sum()
    });
    let needed = of(&kept);
    let mut surplus: Vec<&str> = (0..builds.len())
        .filter(|index| !kept.contains(index))
        .flat_map(|index| ids(&builds[index], &sorted))
        .filter(|id| !needed.contains(id))
        .collect();
    surplus.sort_unstable();
    surplus.dedup();
    let mut pruned = Pruned::default();
    // Children before parents: each round removes what nothing stands on any more.
    loop {
        let before = surplus.len();
        let mut left = Vec::new();
        for id in surplus {
            match remove(docker, id, images.get(id), own).await? {
                Removal::Done => {
                    pruned.images += 1;
                    pruned.bytes += delta(id);
                }
                Removal::Others => {}
                Removal::InUse => left.push(id),
            }
        }
        surplus = left;
        if surplus.is_empty() || surplus.len() == before {
            break;
        }
    }
    let gone: Vec<Entry> = (0..builds.len())
        .filter(|index| !kept.contains(index))
        .map(|index| builds[index].clone())
        .collect();
    let still: BTreeSet<String> = surplus.into_iter().map(str::to_owned).collect();
    ledger
        .change(move |builds| {
            builds.retain(|build| !gone.contains(build));
            if let Some(first) = gone.first().filter(|_| !still.is_empty()) {
                // What something else stands on is looked at again.
                let mut rest = first.clone();
                (rest.image, rest.images) = (None, still);
                builds.push(rest);
            }
        })
        .await;
    Ok(pruned)
}

fn image(summary: ImageSummary) -> (String, Image) {
    let hex = |id: String| id.strip_prefix("sha256:").map_or(id.clone(), str::to_owned);
    let tags = summary.repo_tags.into_iter();
    let image = Image {
        parent: hex(summary.parent_id),
        tags: tags.filter(|tag| !tag.contains("<none>")).collect(),
        size: u64::try_from(summary.size).unwrap_or(0),
    };
    (hex(summary.id), image)
}

enum Removal {
    Done,
    /// Somebody has given it a name.
    Others,
    InUse,
}

async fn remove(
    docker: &Docker,
    id: &str,
    image: Option<&Image>,
    own: &str,
) -> Result<Removal, BuildError> {
    let Some(image) = image else {
        return Ok(Removal::Others);
    };
    let ours = |tag: &String| {
        tag.strip_prefix(own)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    if !image.tags.iter().all(ours) {
        return Ok(Removal::Others);
    }
    let by_name = image.tags.iter().map(String::as_str);
    for name in by_name.chain([id]) {
        let options = RemoveImageOptions {
            noprune: true,
            ..RemoveImageOptions::default()
        };
        match docker.remove_image(name, Some(options), None).await {
            Ok(_) => {}
            // The last name has taken it along.
            Err(error) if is_missing(&error) => {}
            Err(error) if is_unreachable(&error) => {
                return Err(failed(format!("remove the image {name}"))(error).into());
            }
            Err(_) => return Ok(Removal::InUse),
        }
    }
    Ok(Removal::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(project: &str, day: i64, image: bool) -> Entry {
        Entry {
            project: project.to_owned(),
            at: day * 86_400_000_000,
            image: image.then(|| format!("{project}{day}")),
            images: BTreeSet::new(),
        }
    }

    fn kept(builds: &[Entry], rule: &CacheRule, today: i64) -> Vec<usize> {
        let now = Timestamp::from_micros(today * 86_400_000_000);
        keep(builds, rule, now, |all| all.len() as u64 * 10)
            .into_iter()
            .collect()
    }

    #[test]
    fn the_floor_holds_and_the_ceiling_takes_the_oldest() {
        let builds = [
            build("a", 1, true),
            build("b", 2, true),
            build("a", 3, false),
            build("a", 4, true),
            build("a", 5, true),
        ];
        let rule = |newest, days: u64, bytes| CacheRule {
            newest,
            keep: Duration::from_secs(days * 86_400),
            bytes,
        };
        assert_eq!(kept(&builds, &rule(1, 100, 1_000), 6), [0, 1, 2, 3, 4]);
        assert_eq!(kept(&builds, &rule(1, 3, 1_000), 6), [1, 3, 4], "age");
        assert_eq!(kept(&builds, &rule(1, 100, 30), 6), [1, 3, 4], "bytes");
        assert_eq!(
            kept(&builds, &rule(1, 0, 0), 6),
            [1, 4],
            "the floor stays over both"
        );
        assert!(kept(&builds, &rule(0, 0, 0), 6).is_empty());
    }

    #[test]
    fn a_beginning_that_two_ids_have_is_neither() {
        let sorted: Vec<String> = ["abc1", "abd1", "abd2"].map(str::to_owned).into();
        let mut entry = build("a", 1, false);
        entry.images = ["abc", "abd", "x"].map(str::to_owned).into();
        assert_eq!(ids(&entry, &sorted), ["abc1"]);
    }
}
