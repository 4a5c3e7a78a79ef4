#!/usr/bin/env bash
# Walls and habits that a compiler does not check. Each rule names the file and the remedy.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0
complain() { echo "tidy: $1" >&2; failed=1; }

domains='git|pipeline|registry|deploy|gateway|telemetry|data|ml|portal'
for crate in git pipeline registry deploy gateway telemetry data ml; do
    manifest=crates/ondol-$crate/Cargo.toml
    others=$(awk '/^\[/{section=$0} section=="[dependencies]"' "$manifest" | grep -E "^ondol-($domains)\b" | grep -v "^ondol-$crate\b" || true)
    [ -z "$others" ] || complain "$manifest depends on another domain ($others): declare a narrow trait and wire it in the binary"
done

# floor of each crate: arrows only point down
declare -A floor=([types]=0 [store]=1 [spec]=1 [auth]=2 [background]=2 [workload]=2 [git]=3 [pipeline]=3 [registry]=3 [deploy]=3 [gateway]=3 [telemetry]=3 [data]=3 [ml]=3 [api]=4)
for crate in "${!floor[@]}"; do
    while read -r dependency; do
        [ -n "$dependency" ] || continue
        if [ "${floor[$dependency]:-9}" -ge "${floor[$crate]}" ] && [ "$dependency" != "$crate" ]; then
            complain "ondol-$crate (floor ${floor[$crate]}) depends on ondol-$dependency (floor ${floor[$dependency]:-9})"
        fi
    done < <(awk '/^\[/{section=$0} section=="[dependencies]"' "crates/ondol-$crate/Cargo.toml" | sed -n 's/^ondol-\([a-z]*\)\b.*/\1/p')
done

sql=$(grep -rnE '\.(execute|fetch_all|fetch_optional|fetch_one)\($' crates/*/src --include='*.rs' -A1 | grep -E '"(SELECT|INSERT|UPDATE|DELETE|CREATE)' | grep -vE '/store(\.rs|/)|ondol-store|ondol-testing' || true)
[ -z "$sql" ] || complain "SQL outside a store: $sql"

long=$(git ls-files '*.rs' | grep -vE '/tests?/|_tests?\.rs$|/tests\.rs$' | xargs -r wc -l | awk '$2!="total" && $1>700 {print $2" ("$1" lines)"}')
[ -z "$long" ] || complain "files over 700 lines, split them by noun: $long"

open=$(git grep -nE 'todo!\(|unimplemented!\(|FIXME|XXX' -- '*.rs' || true)
[ -z "$open" ] || complain "left open: $open"

exit $failed
