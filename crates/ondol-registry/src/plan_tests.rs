//! Properties of retention over generated repositories.

use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);
const NOW: Timestamp = Timestamp::from_micros(1_000_000_000_000);

fn digest(number: usize) -> Digest {
    format!("sha256:{number:064x}").parse().unwrap()
}

fn hours_ago(hours: u64) -> Timestamp {
    NOW.minus(HOUR * hours as u32)
}

/// Repositories in which manifests name only those before them, as digests must, but indexes and
/// subjects in any mixture.
fn views() -> impl Strategy<Value = View> {
    let manifest = (
        0_u64..6,
        proptest::option::of(0_usize..30),
        proptest::collection::vec(0_usize..30, 0..3),
    );
    let manifests = proptest::collection::vec(manifest, 0..30);
    let tags = proptest::collection::vec((0_usize..30, 0_u64..200), 0..12);
    (manifests, tags).prop_map(|(manifests, tags)| {
        let mut view = View::default();
        for (at, (age, subject, children)) in manifests.into_iter().enumerate() {
            view.manifests.push(ManifestFact {
                digest: digest(at),
                // Some subjects were never pushed.
                subject: subject.filter(|it| *it < at || *it > 25).map(digest),
                used_at: hours_ago(age),
            });
            for child in children
                .into_iter()
                .filter(|child| *child < at || *child > 25)
            {
                let edge = (digest(at), digest(child));
                if !view.children.contains(&edge) {
                    view.children.push(edge);
                }
            }
        }
        for (number, (target, age)) in tags.into_iter().enumerate() {
            view.tags.push(TagFact {
                name: format!("{}{number}", if number % 2 == 0 { "v" } else { "main-" }),
                digest: digest(target),
                moved_at: hours_ago(age),
            });
        }
        view
    })
}

fn rule(newest: u32) -> Rule {
    Rule {
        repositories: Pattern::any(),
        keep: vec![Keep {
            tags: Pattern::any(),
            newest: Some(newest),
            within: None,
        }],
        untagged: HOUR * 2,
    }
}

/// What the database would say of each manifest in a repository without `gone`.
fn candidates(
    view: &View,
    gone: &HashSet<Digest>,
    tags: &[TagFact],
    step: &[Digest],
) -> Vec<Candidate> {
    let here: Vec<&ManifestFact> = view
        .manifests
        .iter()
        .filter(|it| !gone.contains(&it.digest))
        .collect();
    here.iter()
        .filter(|it| step.contains(&it.digest))
        .map(|it| Candidate {
            manifest: (*it).clone(),
            tagged: tags.iter().any(|tag| tag.digest == it.digest),
            subject_here: here
                .iter()
                .any(|other| Some(&other.digest) == it.subject.as_ref()),
            named_by: view
                .children
                .iter()
                .filter(|(index, child)| *child == it.digest && !gone.contains(index))
                .map(|(index, _)| index.clone())
                .collect(),
            referrer_used_at: here
                .iter()
                .filter(|other| other.subject.as_ref() == Some(&it.digest))
                .map(|other| other.used_at)
                .max(),
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_is_kept_keeps_all_it_names(view in views(), newest in 0_u32..6, held in 0_usize..30) {
        let held: HashSet<Digest> = [digest(held)].into();
        let retirement = retire(&view, &rule(newest), &held, NOW);
        let gone: HashSet<&Digest> = retirement.manifests.iter().collect();
        prop_assert_eq!(gone.len(), retirement.manifests.len(), "each goes once");
        prop_assert!(held.iter().all(|it| !gone.contains(it)));
        let dropped: HashSet<&str> = retirement.tags.iter().map(|tag| tag.name.as_str()).collect();
        for tag in view.tags.iter().filter(|tag| !dropped.contains(tag.name.as_str())) {
            prop_assert!(!gone.contains(&tag.digest));
        }
        for tag in &retirement.tags {
            prop_assert!(!held.contains(&tag.digest));
        }
        for (index, child) in &view.children {
            prop_assert!(gone.contains(index) || !gone.contains(child));
        }
        for manifest in &view.manifests {
            if NOW.since(manifest.used_at) < HOUR * 2 {
                prop_assert!(!gone.contains(&manifest.digest));
            }
            if let Some(subject) = &manifest.subject
                && view.manifests.iter().any(|it| it.digest == *subject)
            {
                prop_assert_eq!(gone.contains(subject), gone.contains(&manifest.digest));
            }
        }
        prop_assert!(view.tags.len() - retirement.tags.len() >= (newest as usize).min(view.tags.len()));
    }

    /// Everything that is planned goes, however small the steps, when nothing happens meanwhile.
    #[test]
    fn what_is_planned_is_confirmed(view in views(), step in 1_usize..40) {
        let held = HashSet::new();
        let retirement = retire(&view, &rule(2), &held, NOW);
        let dropped: HashSet<&str> = retirement.tags.iter().map(|tag| tag.name.as_str()).collect();
        let tags: Vec<TagFact> =
            view.tags.iter().filter(|tag| !dropped.contains(tag.name.as_str())).cloned().collect();
        let mut gone = HashSet::new();
        // A ring over subjects goes when one step holds all of it, so more rounds need a larger one.
        for round in [step, 40] {
            let left: Vec<Digest> =
                retirement.manifests.iter().filter(|it| !gone.contains(*it)).cloned().collect();
            for step in left.chunks(round) {
                let seen = candidates(&view, &gone, &tags, step);
                gone.extend(confirm(&seen, &held, NOW.minus(HOUR * 2)));
            }
        }
        prop_assert_eq!(gone, retirement.manifests.into_iter().collect::<HashSet<_>>());
    }

    /// Something is tagged, used or released between plan and removal.
    #[test]
    fn what_changed_since_the_plan_stays_with_all_it_names(
        view in views(),
        changed in 0_usize..30,
        kind in 0..3,
        step in 1_usize..10,
    ) {
        let none = HashSet::new();
        let mut view = view;
        let retirement = retire(&view, &rule(0), &none, NOW);
        let changed = digest(changed);
        let (mut tags, mut held) = (Vec::new(), HashSet::new());
        match kind {
            0 => tags.push(TagFact { name: "new".to_owned(), digest: changed.clone(), moved_at: NOW }),
            1 => { held.insert(changed.clone()); }
            _ => for it in &mut view.manifests {
                if it.digest == changed { it.used_at = NOW; }
            },
        }
        let held = closure(held, &view.children);
        let mut gone = HashSet::new();
        for step in retirement.manifests.chunks(step) {
            let seen = candidates(&view, &gone, &tags, step);
            gone.extend(confirm(&seen, &held, NOW.minus(HOUR * 2)));
        }
        prop_assert!(!gone.contains(&changed));
        for (index, child) in &view.children {
            prop_assert!(gone.contains(index) || !gone.contains(child));
        }
        // Who signs what stays, stays.
        for manifest in &view.manifests {
            if let Some(subject) = &manifest.subject
                && view.manifests.iter().any(|it| it.digest == *subject)
                && !gone.contains(subject)
            {
                prop_assert!(!gone.contains(&manifest.digest));
            }
        }
    }

    #[test]
    fn patterns_match_like_their_expression(pattern in "[ab*]{1,8}", text in "[ab]{0,10}") {
        let expression = format!("^{}$", pattern.replace('*', ".*"));
        let expected = simple(&expression, &text);
        prop_assert_eq!(Pattern::new(&pattern).unwrap().matches(&text), expected);
    }
}

/// Matching by trying every split: slow and obvious.
fn simple(expression: &str, text: &str) -> bool {
    fn go(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'.', b'*', rest @ ..] => (0..=text.len()).any(|taken| go(rest, &text[taken..])),
            [letter, rest @ ..] => text.first() == Some(letter) && go(rest, &text[1..]),
        }
    }
    go(
        expression.trim_matches(['^', '$']).as_bytes(),
        text.as_bytes(),
    )
}

#[test]
fn the_first_rule_that_fits_decides() {
    let rules = vec![
        Rule {
            repositories: Pattern::new("web/*").unwrap(),
            ..rule(1)
        },
        rule(2),
    ];
    assert_eq!(rule_for(&rules, "web/api/x"), Some(&rules[0]));
    assert_eq!(rule_for(&rules, "web"), Some(&rules[1]));
    assert_eq!(rule_for(&rules[..1], "other"), None);
    assert!(Pattern::new("").is_err());
}
