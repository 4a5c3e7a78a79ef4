#!/usr/bin/env bash
# Prints our figures and the rivals' from the same run as Markdown. ONDOL_BENCH_WRITE=1 also
# keeps the report as docs/benchmarks.md. Arguments are passed on: names of sections (idle, push,
# data, gateway, dataset, registry, tracking, deploys, containers) and --clean-build.
# ONDOL_BENCH_DEPLOYS and ONDOL_BENCH_SLOW_SECONDS shorten the part that takes longest.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
export ONDOL_BIN=${ONDOL_BIN:-$PWD/target/release/ondol}
[ -x "$ONDOL_BIN" ] || { echo "there is no $ONDOL_BIN: run \`make bench\`, which builds it" >&2; exit 1; }
${CARGO:-cargo} build --release --locked -p ondol-testing --bins
report=$(mktemp)
trap 'rm -f "$report"' EXIT
"$target/release/ondol-bench" "$@" | tee "$report"
if [ "${ONDOL_BENCH_WRITE:-}" = 1 ]; then
    mkdir -p docs
    cp "$report" docs/benchmarks.md
    echo "written to docs/benchmarks.md" >&2
fi
