use std::io::Write;

use ondol_types::{Algorithm, EventId, ManualClock, Timestamp};
use proptest::prelude::*;
use serde_json::json;

use super::segment::{Wanted, check, checkpoint, encode, select};
use super::{Event, EventFilter};
use crate::blobs::Hasher;

fn event(seq: i64, project: Option<&str>, subject: &str) -> Event {
    Event {
        seq,
        id: EventId::generate(&ManualClock::at(Timestamp::from_micros(seq))),
        event_type: format!("dev.cdevents.thing.happened.{}", seq % 3),
        time: Timestamp::from_micros(1_700_000_000_000_000 + seq),
        project: project.map(|name| name.parse().unwrap()),
        subject: subject.to_owned(),
        chain: format!("chain-{}", seq % 5),
        document: json!({ "context": { "id": seq }, "subject": { "id": subject } }),
    }
}

fn text(event: &Event) -> String {
    serde_json::to_string(event).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_encoded_is_selected_again(
        first in 1i64..1_000_000,
        subjects in prop::collection::vec("[^\u{0}]{0,40}", 1..60),
        cut in 0usize..70,
        limit in 1usize..80,
    ) {
        let events: Vec<Event> = subjects
            .iter()
            .enumerate()
            .map(|(at, subject)| {
                let project = [None, Some("a"), Some("b")][at % 3];
                event(first + at as i64, project, subject)
            })
            .collect();
        let last = first + events.len() as i64 - 1;
        let (bytes, _) = encode(&events).unwrap();
        prop_assert_eq!(check(&bytes, first, last, events.len() as u64), Ok(()));
        prop_assert!(check(&bytes, first, last + 1, events.len() as u64).is_err());
        let filters = [
            EventFilter::default(),
            EventFilter { project: Some("a".parse().unwrap()), ..EventFilter::default() },
            EventFilter {
                type_prefix: Some("dev.cdevents.thing.happened.1".to_owned()),
                ..EventFilter::default()
            },
            EventFilter { chain: Some("chain-2".to_owned()), ..EventFilter::default() },
            EventFilter { subject: Some(subjects[0].clone()), ..EventFilter::default() },
        ];
        let place = first + cut as i64 - 1;
        for filter in &filters {
            let fitting: Vec<&Event> = events.iter().filter(|event| filter.matches(event)).collect();
            let after: Vec<String> = fitting
                .iter()
                .filter(|event| event.seq > place)
                .take(limit)
                .map(|event| text(event))
                .collect();
            let found = select(&bytes, filter, &Wanted::After(place, limit)).unwrap();
            prop_assert_eq!(found.iter().map(text).collect::<Vec<_>>(), after);
            let before: Vec<&&Event> = fitting.iter().filter(|event| event.seq < place).collect();
            let before: Vec<String> = before[before.len().saturating_sub(limit)..]
                .iter()
                .map(|event| text(event))
                .collect();
            let found = select(&bytes, filter, &Wanted::Before(place, limit)).unwrap();
            prop_assert_eq!(found.iter().map(text).collect::<Vec<_>>(), before);
        }
    }
}

#[test]
fn damage_is_an_error_and_never_a_shorter_answer() {
    let events: Vec<Event> = (1..=50).map(|seq| event(seq, Some("a"), "s")).collect();
    let (bytes, _) = encode(&events).unwrap();
    let all = Wanted::After(0, 1_000);
    for length in 0..bytes.len() {
        let cut = &bytes[..length];
        assert!(check(cut, 1, 50, 50).is_err(), "{length}");
        if let Ok(found) = select(cut, &EventFilter::default(), &all) {
            assert_eq!(found.len(), 50, "{length}: all of it or an error");
        }
    }
    // A gap, and an event twice.
    let gap: Vec<Event> = [1, 2, 4].map(|seq| event(seq, None, "s")).into();
    let (bytes, _) = encode(&gap).unwrap();
    assert!(check(&bytes, 1, 4, 3).unwrap_err().contains("event 4"));
    let twice: Vec<Event> = [1, 1, 2].map(|seq| event(seq, None, "s")).into();
    let (bytes, _) = encode(&twice).unwrap();
    assert!(check(&bytes, 1, 2, 3).is_err());
}

/// A segment as version 1 writes it. It must be readable for as long as archives are kept.
const STORED: &str = r#"{"format":1,"first":7,"last":8,"events":2}
{"seq":7,"id":"ev_01kdq6x0000000000000000000","type":"dev.cdevents.repository.created.0.3.0","time":1767225600000000,"project":"iris","subject":"iris","chain":"ev_01kdq6x0000000000000000000","document":{"context":{"type":"dev.cdevents.repository.created.0.3.0"}}}
{"seq":8,"id":"ev_01kdq6x0010000000000000000","type":"dev.cdeventsx.ondol-token.revoked.0.1.0","time":1767225601000000,"subject":"tok_1","chain":"ev_01kdq6x0010000000000000000","document":{}}
"#;

#[test]
fn the_first_format_stays_readable() {
    let mut frame = zstd::Encoder::new(Vec::new(), 3).unwrap();
    frame.write_all(STORED.as_bytes()).unwrap();
    let bytes = frame.finish().unwrap();
    check(&bytes, 7, 8, 2).unwrap();
    let found = select(&bytes, &EventFilter::default(), &Wanted::After(0, 10)).unwrap();
    assert_eq!(found[0].project.as_ref().unwrap().as_str(), "iris");
    assert_eq!(found[0].time.as_micros(), 1_767_225_600_000_000);
    assert_eq!(found[1].project, None);
    // What is written now has the same lines.
    let (now, raw) = encode(&found).unwrap();
    let plain = zstd::decode_all(&now[..]).unwrap();
    assert_eq!(String::from_utf8(plain).unwrap(), STORED);
    assert_eq!(raw, STORED.len() as u64);
    let newer = STORED.replace("\"format\":1", "\"format\":2");
    let mut frame = zstd::Encoder::new(Vec::new(), 3).unwrap();
    frame.write_all(newer.as_bytes()).unwrap();
    let problem = check(&frame.finish().unwrap(), 7, 8, 2).unwrap_err();
    assert!(problem.contains("its format is 2"), "{problem}");
}

#[test]
fn a_checkpoint_depends_on_everything_before_it() {
    let digest = |text: &str| Hasher::digest(Algorithm::Blake3, text.as_bytes());
    let one = checkpoint("", &digest("a"), 1, 10, 10);
    assert_eq!(one, checkpoint("", &digest("a"), 1, 10, 10));
    let others = [
        checkpoint("x", &digest("a"), 1, 10, 10),
        checkpoint("", &digest("b"), 1, 10, 10),
        checkpoint("", &digest("a"), 2, 10, 10),
        checkpoint("", &digest("a"), 1, 11, 10),
        checkpoint("", &digest("a"), 1, 10, 9),
    ];
    assert!(!others.contains(&one));
}
