#!/usr/bin/env bash
# The generated pages of docs/ must be what the program says now.
set -euo pipefail
cd "$(dirname "$0")/.."
ondol=${ONDOL_BIN:-target/release/ondol}
stale=0
check() {
    local file=$1
    shift
    if ! diff -q <("$ondol" "$@") "$file" >/dev/null 2>&1; then
        echo "$file is not fresh: run \`make reference\` and commit it" >&2
        stale=1
    fi
}
check docs/cli.md reference cli
check docs/configuration.md reference configuration
check docs/openapi.json reference openapi
check docs/ondol.schema.json schema
exit $stale
