#!/usr/bin/env bash
# What can be said without running the code: lint, format, direction of imports, types. Half a minute, seconds the second
# time. Runs all four, and fails if one does. Needs scripts/setup.sh first.
#   scripts/check.sh
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly BIN=.venv/bin
[ -x "$BIN/ruff" ] || { echo "check: there is no .venv here: run scripts/setup.sh first" >&2; exit 1; }
failed=0

check() {
    local output
    output=$("$@" 2>&1) && return
    echo "$output"
    echo "check: failed: ${*#"$BIN"/}" >&2
    failed=1
}

check "$BIN/ruff" check .
check "$BIN/ruff" format --check --quiet .
check "$BIN/lint-imports"
check "$BIN/mypy"
exit "$failed"
