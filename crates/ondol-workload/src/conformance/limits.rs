//! Limits as the program itself sees them.

use super::{Bench, skipped};

/// Finds the group of a controller below `/sys/fs/cgroup`, in a container or outside, and prints a
/// file of it. On hosts with both hierarchies, the old one is the one that counts.
const SHOW: &str = r#"
show() {
    below=$(sed -n "s/^[0-9]*:\([a-z_,]*,\)\{0,1\}$1\(,[a-z_,]*\)\{0,1\}:\(.*\)/\3/p" /proc/self/cgroup)
    unified=$(sed -n 's/^0:://p' /proc/self/cgroup)
    for file in "/sys/fs/cgroup/$1$below/$2" "/sys/fs/cgroup/$1/$2" "/sys/fs/cgroup$unified/$3" "/sys/fs/cgroup/unified$unified/$3" "/sys/fs/cgroup/$3"; do
        if [ -r "$file" ]; then echo "$1 $(cat "$file")"; return; fi
    done
    echo "$1 nowhere"
}
"#;

/// Limits on memory, processor and processes are set on the group that the program is in.
pub async fn limits_are_set(bench: Bench) {
    let can = bench.engine.capabilities().await;
    let mut spec = bench.script(&format!(
        "{SHOW} show memory memory.limit_in_bytes memory.max; show cpu cpu.cfs_quota_us cpu.max; show pids pids.max pids.max"
    ));
    spec.limits.memory_bytes = Some(64 << 20);
    spec.limits.cpu_cores = Some(0.5);
    spec.limits.pids = Some(77);
    let seen = bench.start(&spec).await;
    bench.end(&spec.id).await;
    let out = bench.stdout(&spec.id).await;
    let value = |name: &str| {
        let line = out.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next())
            .map(str::to_owned)
    };
    let expect = |can: bool, name: &str, expected: &str| {
        if can {
            assert_eq!(value(name).as_deref(), Some(expected), "{name}: {out}");
        } else {
            skipped(&format!("this host does not limit {name}"));
        }
    };
    expect(can.memory_limit, "memory", "67108864");
    expect(can.pids_limit, "pids", "77");
    expect(can.cpu_limit, "cpu", "50000");
    if !can.memory_limit || !can.cpu_limit {
        assert!(!seen.notices.is_empty(), "it says so: {seen:?}");
    }
}
