use ondol_spec::model::{Replicas, Target};
use proptest::prelude::*;

use super::*;

fn service(min: u32, max: u32, rps: f64) -> Service {
    let mut service = Service::new("serve");
    service.replicas = Replicas {
        min,
        max,
        target: Some(Target {
            rps: Some(rps),
            ..Target::default()
        }),
    };
    service
}

/// A service under a load, looked at every five seconds.
struct Bench {
    service: Service,
    now: Timestamp,
    requests: f64,
    samples: Vec<Sample>,
    scale: Option<Scale>,
    asked: Option<u32>,
    rollout: Option<i64>,
    /// Every judgement that was made, with its time.
    judged: Vec<(Timestamp, u32)>,
}

impl Bench {
    fn new(service: Service) -> Self {
        let mut bench = Self {
            service,
            now: Timestamp::from_micros(1_800_000_000_000_000),
            requests: 0.0,
            samples: Vec::new(),
            scale: None,
            asked: None,
            rollout: None,
            judged: Vec::new(),
        };
        bench.look();
        bench
    }

    fn release() -> ReleaseId {
        ReleaseId::derived("it")
    }

    fn load(&self) -> Load<'_> {
        Load {
            now: self.now,
            release: Self::release(),
            asked: self.asked,
            rollout: self.rollout,
            samples: &self.samples,
        }
    }

    fn replicas(&self) -> u32 {
        wanted(&self.service, self.scale.as_ref())
    }

    fn judge(&self) -> Judgement {
        judge(&self.service, self.scale.as_ref(), &self.load())
    }

    /// Takes what is decided, through the form in which it is stored; true when the load changed
    /// the number.
    fn look(&mut self) -> bool {
        let before = self.scale.clone();
        let Some((next, changes)) = next(&self.service, before.as_ref(), &self.load()) else {
            return false;
        };
        if before.is_some_and(|before| before.release == next.release)
            && let Ok((asks, _)) = self.judge()
        {
            self.judged.push((self.now, asks));
        }
        let stored = serde_json::to_string(&next).unwrap();
        self.scale = Some(serde_json::from_str(&stored).unwrap());
        changes
    }

    fn tick(&mut self, rps: f64) -> bool {
        self.now = self.now.plus(Duration::from_secs(5));
        self.requests += rps * 5.0;
        self.samples.push(Sample {
            at: self.now,
            requests: self.requests as u64,
            ..Sample::default()
        });
        let surplus = self.samples.len().saturating_sub(12);
        self.samples.drain(..surplus);
        self.look()
    }

    fn run(&mut self, rps: f64, seconds: u32) {
        for _ in 0..seconds / 5 {
            self.tick(rps);
        }
    }
}

#[test]
fn more_come_at_once_and_fewer_after_five_minutes() {
    let mut bench = Bench::new(service(1, 10, 50.0));
    bench.run(10.0, 60);
    assert_eq!(bench.replicas(), 1);
    bench.run(140.0, 60);
    assert_eq!(bench.replicas(), 3);
    let words = bench.scale.as_ref().unwrap().reason.clone();
    assert!(
        words.contains("requests/s") && words.contains("ask for 3 of 1 to 10"),
        "{words}"
    );
    bench.run(20.0, 300);
    assert_eq!(bench.replicas(), 3, "less than five minutes");
    bench.run(20.0, 60);
    assert_eq!(bench.replicas(), 1);
}

#[test]
fn a_short_dip_takes_nothing_away() {
    let mut bench = Bench::new(service(1, 10, 50.0));
    bench.run(400.0, 120);
    assert_eq!(bench.replicas(), 8);
    for _ in 0..5 {
        bench.run(0.0, 200);
        bench.run(400.0, 60);
        assert_eq!(bench.replicas(), 8);
    }
}

#[test]
fn one_step_adds_four_or_as_many_as_there_are() {
    let mut bench = Bench::new(service(1, 100, 1.0));
    let mut steps = vec![1];
    for _ in 0..60 {
        bench.tick(1_000.0);
        if bench.replicas() != *steps.last().unwrap() {
            steps.push(bench.replicas());
        }
    }
    assert_eq!(steps, [1, 5, 10, 20, 40, 80, 100]);
}

#[test]
fn a_tenth_more_or_less_changes_nothing() {
    let mut bench = Bench::new(service(1, 10, 50.0));
    bench.run(100.0, 60);
    assert_eq!(bench.replicas(), 2);
    bench.run(109.0, 600);
    assert_eq!(bench.replicas(), 2);
    bench.run(112.0, 60);
    assert_eq!(bench.replicas(), 3);
}

#[test]
fn too_little_is_known_for_a_judgement() {
    let mut bench = Bench::new(service(1, 10, 50.0));
    bench.run(500.0, 15);
    assert_eq!(bench.replicas(), 1);
    assert!(bench.judge().unwrap_err().contains("of 4 samples"));
    bench.run(500.0, 30);
    assert!(bench.replicas() > 1);
    // The platform starts over: what it read is gone, what it decided is not.
    let before = bench.replicas();
    bench.samples.clear();
    bench.tick(0.0);
    assert_eq!(bench.replicas(), before);
    assert!(bench.judge().is_err());
    // Samples that are old say nothing about now.
    bench.run(0.0, 30);
    bench.now = bench.now.plus(Duration::from_secs(20));
    assert!(bench.judge().is_err());
}

#[test]
fn a_silence_is_no_load() {
    let mut bench = Bench::new(service(1, 10, 50.0));
    bench.run(400.0, 120);
    assert_eq!(bench.replicas(), 8);
    bench.now = bench.now.plus(Duration::from_secs(3_600));
    bench.samples.clear();
    bench.run(0.0, 290);
    assert_eq!(bench.replicas(), 8, "only what was seen counts");
    bench.run(0.0, 60);
    assert_eq!(bench.replicas(), 1);
}

#[test]
fn counters_that_begin_anew_are_no_load_and_no_silence() {
    let mut bench = Bench::new(service(1, 10, 50.0));
    bench.run(100.0, 60);
    bench.requests = 0.0;
    bench.run(100.0, 60);
    assert_eq!(bench.replicas(), 2);
}

#[test]
fn a_rollout_stops_it_and_a_person_is_stronger() {
    let mut bench = Bench::new(service(1, 10, 50.0));
    bench.run(100.0, 60);
    bench.rollout = Some(7);
    bench.run(500.0, 120);
    assert_eq!(bench.replicas(), 2);
    assert!(bench.judge().unwrap_err().contains("rollout 7"));
    bench.rollout = None;
    bench.asked = Some(6);
    bench.run(100.0, 600);
    assert!(bench.judge().unwrap_err().contains("a person asked for 6"));
    // It goes on from the person's number, not from the one before.
    bench.asked = None;
    bench.run(100.0, 120);
    assert_eq!(bench.replicas(), 6);
    bench.run(100.0, 300);
    assert_eq!(bench.replicas(), 2);
}

#[test]
fn a_new_release_keeps_the_number_and_is_measured_anew() {
    let mut bench = Bench::new(service(1, 10, 50.0));
    bench.run(400.0, 120);
    let mut old = bench.scale.clone().unwrap();
    old.release = ReleaseId::derived("older");
    bench.scale = Some(old);
    bench.tick(0.0);
    assert_eq!(bench.replicas(), 8);
    assert!(bench.judge().is_err(), "what came before is not its load");
    bench.run(0.0, 290);
    assert_eq!(bench.replicas(), 8);
}

#[test]
fn the_load_that_asks_for_most_decides() {
    let mut service = service(1, 10, 50.0);
    let target = service.replicas.target.as_mut().unwrap();
    target.concurrency = Some(4.0);
    target.cpu = Some("50%".parse().unwrap());
    let mut bench = Bench::new(service);
    bench.run(60.0, 30);
    let id = ReplicaId::derived("one");
    for (index, sample) in bench.samples.iter_mut().enumerate() {
        sample.in_flight = 14;
        sample.cpu = BTreeMap::from([(id, index as f64 * 5.0 * 0.9)]);
    }
    let (asks, words) = bench.judge().unwrap();
    assert_eq!(asks, 4, "{words}");
    assert!(words.contains("in flight"), "{words}");
    for sample in &mut bench.samples {
        sample.in_flight = 1;
    }
    let (asks, words) = bench.judge().unwrap();
    assert!(asks == 2 && words.contains("requests/s"), "{words}");
    bench.service.replicas.target.as_mut().unwrap().rps = None;
    let (asks, words) = bench.judge().unwrap();
    assert!(asks == 2 && words.contains("processor"), "{words}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_step_keeps_the_rules(
        min in 1u32..4,
        more in 0u32..30,
        each in 1f64..100.0,
        loads in proptest::collection::vec((0f64..2_000.0, 1u32..60, any::<bool>()), 1..25),
    ) {
        let max = min + more;
        let mut bench = Bench::new(service(min, max, each));
        let begun = bench.now;
        for (rps, ticks, silent) in loads {
            if silent {
                bench.now = bench.now.plus(Duration::from_secs(40));
                bench.samples.clear();
            }
            for _ in 0..ticks {
                let before = bench.replicas();
                let changed = bench.tick(rps);
                let after = bench.replicas();
                prop_assert!((min..=max).contains(&after));
                prop_assert_eq!(changed, before != after);
                prop_assert!(after <= before.saturating_mul(2).max(before + STEP));
                let scale = bench.scale.as_ref().unwrap();
                prop_assert!(scale.peaks.len() <= 22, "{}", scale.peaks.len());
                prop_assert!(scale.peaks.windows(2).all(|pair| pair[0].replicas > pair[1].replicas && pair[0].at <= pair[1].at));
                if after < before {
                    let recent = bench.judged.iter().filter(|(at, _)| bench.now.since(*at) <= STABILIZATION);
                    let most = recent.map(|(_, asks)| *asks).max().unwrap();
                    prop_assert!(after >= most, "{after} although {most} were asked for");
                    prop_assert!(bench.now.since(begun) >= STABILIZATION);
                }
            }
        }
    }

    #[test]
    fn a_steady_load_comes_to_rest(each in 1f64..100.0, rps in 0u32..3_000, before in 0u32..3_000) {
        let (rps, before) = (f64::from(rps), f64::from(before));
        let mut bench = Bench::new(service(1, 40, each));
        bench.run(before, 200);
        bench.run(rps, 600);
        let rest = bench.replicas();
        // What runs is enough, and no more than the tolerance allows.
        let exact = rps / each;
        prop_assert!(f64::from(rest) * 1.101 >= exact.min(40.0), "{rest} for {exact}");
        prop_assert!(rest == 1 || f64::from(rest) * 0.899 <= exact + 1.0, "{rest} for {exact}");
        for _ in 0..200 {
            prop_assert!(!bench.tick(rps));
        }
        prop_assert_eq!(bench.replicas(), rest);
    }
}
