#!/usr/bin/env bash
# Fuzzes one target after the other for SECONDS each (60), or only those named as arguments.
# What it finds on the way lies in fuzz/found/, an input that breaks a target in fuzz/artifacts/.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v cargo-fuzz >/dev/null || { echo "cargo install cargo-fuzz" >&2; exit 1; }
# The sanitizer's flags are not stable; the coverage of a stable compiler is the same.
export RUSTC_BOOTSTRAP=1
time=${FUZZ_SECONDS:-60}
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo fuzz list)
failed=()
for target in "${targets[@]}"; do
    mkdir -p "fuzz/found/$target"
    echo "== $target"
    cargo fuzz run -s none "$target" "fuzz/found/$target" "fuzz/corpus/$target" -- \
        -fork=0 -max_total_time="$time" -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=1024 \
        -max_len=65536 -print_final_stats=1 || failed+=("$target")
done
[ ${#failed[@]} -eq 0 ] || { echo "broken: ${failed[*]}" >&2; exit 1; }
