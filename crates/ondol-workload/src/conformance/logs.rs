//! Logs: streams, order, following, cutting, bounds.

use super::Bench;
use crate::model::{LogPolicy, LogPosition, LogQuery, LogStreamKind};

/// Lines come with their stream, in order, with a time; a last line without newline is kept.
pub async fn log_lines_carry_stream_and_time(bench: Bench) {
    let spec = bench.script("echo one; echo two >&2; sleep 0.05; printf 'three\\r\\n\\nlast'");
    bench.run(&spec).await;
    let log = bench.log(&spec.id).await;
    let of = |kind| {
        log.iter()
            .filter(|line| line.stream == kind)
            .map(|line| line.text.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(LogStreamKind::Stdout), ["one", "three", "", "last"]);
    assert_eq!(of(LogStreamKind::Stderr), ["two"]);
    assert!(
        log.windows(2)
            .all(|pair| pair[0].seq + 1 == pair[1].seq && pair[0].time <= pair[1].time)
    );
    assert!(
        log.iter()
            .all(|line| line.time.as_micros() > 1_600_000_000_000_000)
    );
}

/// Following shows lines as they come and ends with the workload.
pub async fn following_ends_with_the_workload(bench: Bench) {
    let spec = bench.script("for n in 1 2 3 4 5; do echo line $n; sleep 0.05; done");
    bench.start(&spec).await;
    let query = LogQuery {
        from: LogPosition::Start,
        follow: true,
        limit: None,
    };
    let lines = bench.query(&spec.id, query).await;
    let texts: Vec<&str> = lines
        .iter()
        .filter(|line| line.stream == LogStreamKind::Stdout)
        .map(|line| &*line.text)
        .collect();
    assert_eq!(texts, ["line 1", "line 2", "line 3", "line 4", "line 5"]);
    let some = LogQuery {
        from: LogPosition::Tail(3),
        follow: true,
        limit: Some(2),
    };
    let texts: Vec<String> = bench
        .query(&spec.id, some)
        .await
        .into_iter()
        .map(|line| line.text)
        .collect();
    assert_eq!(texts, ["line 3", "line 4"]);
}

/// A long line is cut into marked pieces, and nothing of it is lost.
pub async fn long_lines_are_cut_and_marked(bench: Bench) {
    let mut spec = bench.script("head -c 5000 /dev/zero | tr '\\0' x; echo; echo end");
    spec.log.max_line_bytes = 1_000;
    bench.run(&spec).await;
    let log = bench.log(&spec.id).await;
    let own: Vec<_> = log
        .iter()
        .filter(|line| line.stream == LogStreamKind::Stdout)
        .collect();
    let joined: usize = own
        .iter()
        .filter(|line| line.text.starts_with('x'))
        .map(|line| line.text.len())
        .sum();
    assert_eq!(joined, 5_000);
    assert!(own.iter().all(|line| line.text.len() <= 1_000));
    assert_eq!(own.iter().filter(|line| line.truncated).count(), 4);
}

/// A flood neither blocks the program nor outgrows its bound; the newest lines are kept.
pub async fn a_log_flood_is_bounded(bench: Bench) {
    let mut spec =
        bench.script("yes 0123456789012345678901234567890123456789 | head -n 200000; echo the end");
    spec.log = LogPolicy {
        max_bytes_per_file: 256 << 10,
        files: 3,
        max_line_bytes: 1 << 10,
    };
    assert!(bench.run(&spec).await.success());
    let log = bench.log(&spec.id).await;
    let bytes: usize = log.iter().map(|line| line.text.len()).sum();
    assert!(bytes <= 3 * (256 << 10), "{bytes}");
    assert_eq!(log.last().map(|line| line.text.as_str()), Some("the end"));
    assert!(log.iter().any(|line| line.stream == LogStreamKind::System
        && line.text.contains("older lines were deleted")));
}
