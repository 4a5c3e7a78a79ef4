//! What retention may remove: decided here, without a database and without a clock.
//!
//! A tag stays when a rule keeps it or a release needs what it names. A manifest stays when a tag
//! that stays names it, a release needs it, or it came or was asked for lately; and whatever such
//! a manifest names, is named by as a subject, or names as its own subject, stays with it. The
//! database is asked first and changes meanwhile, so [`confirm`] looks at a handful of candidates
//! again in the transaction that removes them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use ondol_types::{Digest, Timestamp};

/// Text with `*` for anything, also nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// The longest pattern, in bytes.
    const MAX: usize = 255;

    /// A pattern.
    ///
    /// # Errors
    /// A sentence, when it is empty or too long.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > Self::MAX {
            return Err(format!("a pattern has 1 to {} characters", Self::MAX));
        }
        Ok(Self(text.into()))
    }

    /// Every text.
    pub fn any() -> Self {
        Self("*".into())
    }

    /// Whether the whole of `text` fits. Takes at most the product of both lengths in steps.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut at, mut star) = (0, None);
        let mut next = 0;
        while next < text.len() {
            if pattern.get(at) == Some(&b'*') {
                star = Some((at, next));
                at += 1;
            } else if pattern.get(at) == Some(&text[next]) {
                at += 1;
                next += 1;
            } else if let Some((place, taken)) = star {
                star = Some((place, taken + 1));
                at = place + 1;
                next = taken + 1;
            } else {
                return false;
            }
        }
        pattern[at..].iter().all(|&byte| byte == b'*')
    }
}

/// Which tags of a repository stay: those that fit `tags` and are among the newest, or young
/// enough. Without either limit, all that fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Which tags it is about.
    pub tags: Pattern,
    /// How many of them, newest first.
    pub newest: Option<u32>,
    /// For how long after they were last moved.
    pub within: Option<Duration>,
}

/// What stays in the repositories that fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Repositories it is about; `*` crosses slashes.
    pub repositories: Pattern,
    /// A tag stays when one of these keeps it.
    pub keep: Vec<Keep>,
    /// How long a manifest stays that no tag names.
    pub untagged: Duration,
}

impl Default for Rule {
    /// The newest 50 tags of every repository; manifests without a tag for an hour.
    fn default() -> Self {
        Self {
            repositories: Pattern::any(),
            keep: vec![Keep {
                tags: Pattern::any(),
                newest: Some(50),
                within: None,
            }],
            untagged: Duration::from_secs(3_600),
        }
    }
}

/// The rule for a repository.
pub(crate) fn rule_for<'r>(rules: &'r [Rule], repository: &str) -> Option<&'r Rule> {
    rules
        .iter()
        .find(|rule| rule.repositories.matches(repository))
}

/// A tag as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TagFact {
    pub(crate) name: String,
    pub(crate) digest: Digest,
    pub(crate) moved_at: Timestamp,
}

/// A manifest as it stands.
#[derive(Clone, Debug)]
pub(crate) struct ManifestFact {
    pub(crate) digest: Digest,
    pub(crate) subject: Option<Digest>,
    /// When it was pushed or last asked for by somebody who may build on it.
    pub(crate) used_at: Timestamp,
}

/// A repository as it stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) tags: Vec<TagFact>,
    pub(crate) manifests: Vec<ManifestFact>,
    /// Index and child.
    pub(crate) children: Vec<(Digest, Digest)>,
}

/// What may go, in the order in which it goes: whoever names something goes before it, and a
/// subject before what refers to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retirement {
    pub(crate) tags: Vec<TagFact>,
    pub(crate) manifests: Vec<Digest>,
}

fn kept_tags<'v>(view: &'v View, keep: &[Keep], now: Timestamp) -> HashSet<&'v str> {
    let mut newest: Vec<&TagFact> = view.tags.iter().collect();
    newest.sort_by(|a, b| {
        b.moved_at
            .cmp(&a.moved_at)
            .then_with(|| a.name.cmp(&b.name))
    });
    let mut kept = HashSet::new();
    for keep in keep {
        let fitting = newest.iter().filter(|tag| keep.tags.matches(&tag.name));
        for (place, tag) in fitting.enumerate() {
            let few = keep.newest.is_none_or(|newest| place < newest as usize);
            let young = keep
                .within
                .is_none_or(|within| now.since(tag.moved_at) < within);
            if few && young {
                kept.insert(tag.name.as_str());
            }
        }
    }
    kept
}

/// What a rule lets go of a repository. `held` are the digests that releases need.
pub(crate) fn retire(
    view: &View,
    rule: &Rule,
    held: &HashSet<Digest>,
    now: Timestamp,
) -> Retirement {
    let kept = kept_tags(view, &rule.keep, now);
    let (staying, going): (Vec<&TagFact>, Vec<&TagFact>) = view
        .tags
        .iter()
        .partition(|tag| kept.contains(tag.name.as_str()) || held.contains(&tag.digest));
    let place: HashMap<&Digest, usize> = view
        .manifests
        .iter()
        .enumerate()
        .map(|(place, manifest)| (&manifest.digest, place))
        .collect();
    // Edges both ways along subjects, one way from an index to its children.
    let mut edges: Vec<Vec<usize>> = vec![Vec::new(); view.manifests.len()];
    for (index, child) in &view.children {
        if let (Some(&from), Some(&to)) = (place.get(index), place.get(child)) {
            edges[from].push(to);
        }
    }
    for (from, manifest) in view.manifests.iter().enumerate() {
        if let Some(&to) = manifest.subject.as_ref().and_then(|it| place.get(it)) {
            edges[from].push(to);
            edges[to].push(from);
        }
    }
    let tagged: HashSet<&Digest> = staying.iter().map(|tag| &tag.digest).collect();
    let mut alive = vec![false; view.manifests.len()];
    let mut open: Vec<usize> = view
        .manifests
        .iter()
        .enumerate()
        .filter(|(_, manifest)| {
            tagged.contains(&manifest.digest)
                || held.contains(&manifest.digest)
                || now.since(manifest.used_at) < rule.untagged
        })
        .map(|(place, _)| place)
        .collect();
    while let Some(at) = open.pop() {
        if !std::mem::replace(&mut alive[at], true) {
            open.extend(edges[at].iter().filter(|&&to| !alive[to]));
        }
    }
    let manifests = ordered(view, &place, &alive);
    Retirement {
        tags: going.into_iter().cloned().collect(),
        manifests,
    }
}

/// The dead in an order in which each can go after the ones before it. Where no order exists, as
/// in a ring over subjects, the rest follows as it is, and [`confirm`] takes it together.
fn ordered(view: &View, place: &HashMap<&Digest, usize>, alive: &[bool]) -> Vec<Digest> {
    let mut before = vec![0_u32; alive.len()];
    let mut after: Vec<Vec<usize>> = vec![Vec::new(); alive.len()];
    let mut precede = |first: Option<&usize>, second: Option<&usize>| {
        if let (Some(&first), Some(&second)) = (first, second)
            && !alive[first]
            && !alive[second]
        {
            after[first].push(second);
            before[second] += 1;
        }
    };
    for (index, child) in &view.children {
        precede(place.get(index), place.get(child));
    }
    for (at, manifest) in view.manifests.iter().enumerate() {
        let subject = manifest.subject.as_ref().and_then(|it| place.get(it));
        precede(subject, Some(&at));
    }
    let mut ready: Vec<usize> = (0..alive.len())
        .filter(|&at| !alive[at] && before[at] == 0)
        .collect();
    let mut done = vec![false; alive.len()];
    let mut order = Vec::new();
    while let Some(at) = ready.pop() {
        done[at] = true;
        order.push(view.manifests[at].digest.clone());
        for &next in &after[at] {
            before[next] -= 1;
            if before[next] == 0 {
                ready.push(next);
            }
        }
    }
    let ring = (0..alive.len()).filter(|&at| !alive[at] && !done[at]);
    order.extend(ring.map(|at| view.manifests[at].digest.clone()));
    order
}

/// What the removing transaction sees of one candidate.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) manifest: ManifestFact,
    pub(crate) tagged: bool,
    /// Whether its subject is in the repository.
    pub(crate) subject_here: bool,
    /// Indexes of the repository that name it.
    pub(crate) named_by: Vec<Digest>,
    /// When the youngest manifest was used that has it as its subject.
    pub(crate) referrer_used_at: Option<Timestamp>,
}

/// Those of the candidates that may go now: nothing outside of them names them, none of them was
/// used since `before`, and none refers to something that stays.
pub(crate) fn confirm(
    candidates: &[Candidate],
    held: &HashSet<Digest>,
    before: Timestamp,
) -> Vec<Digest> {
    let mut going: BTreeMap<&Digest, &Candidate> = candidates
        .iter()
        .map(|candidate| (&candidate.manifest.digest, candidate))
        .collect();
    loop {
        let staying: Vec<&Digest> = going
            .iter()
            .filter(|(digest, candidate)| {
                candidate.tagged
                    || held.contains(**digest)
                    || candidate.manifest.used_at > before
                    || candidate.referrer_used_at.is_some_and(|used| used > before)
                    || candidate
                        .named_by
                        .iter()
                        .any(|index| !going.contains_key(index))
                    || (candidate.subject_here
                        && candidate
                            .manifest
                            .subject
                            .as_ref()
                            .is_some_and(|subject| !going.contains_key(subject)))
            })
            .map(|(digest, _)| *digest)
            .collect();
        if staying.is_empty() {
            break;
        }
        for digest in staying {
            going.remove(digest);
        }
    }
    let going: BTreeSet<&Digest> = going.into_keys().collect();
    candidates
        .iter()
        .map(|candidate| &candidate.manifest.digest)
        .filter(|digest| going.contains(digest))
        .cloned()
        .collect()
}

/// Everything that is needed with `held`: children of indexes, through any number of levels.
pub(crate) fn closure(held: HashSet<Digest>, children: &[(Digest, Digest)]) -> HashSet<Digest> {
    let mut below: HashMap<&Digest, Vec<&Digest>> = HashMap::new();
    for (index, child) in children {
        below.entry(index).or_default().push(child);
    }
    let mut open: Vec<Digest> = held.iter().cloned().collect();
    let mut all = held;
    while let Some(digest) = open.pop() {
        for child in below.get(&digest).into_iter().flatten() {
            if all.insert((*child).clone()) {
                open.push((*child).clone());
            }
        }
    }
    all
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
