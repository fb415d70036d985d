#!/usr/bin/env bash
# What CI runs, in stages: set-up, check (lint, imports, types), docs, unit tests side by side, attacks, real servers one
# after the other. All stages run, whatever the ones before them say; the last line is pytest's own, of the last stage.
#   scripts/test.sh                        all stages
#   scripts/test.sh --full                 the whole matrix of real servers too
#   scripts/test.sh test/router -k pair    with any of pytest's other arguments: set-up, check, and these tests alone
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly BIN=.venv/bin
failed=0 timings=""

# stage <name> <command...>
stage() {
    local name=$1 began=$SECONDS result=ok
    shift
    echo "== $name"
    "$@" || { result=FAILED; failed=1; }
    timings+="${timings:+, }$name $((SECONDS - began)) s"
    [ "$result" = ok ] || { timings+=" (FAILED)"; echo "== $name FAILED"; }
}

# The last stage: says how the others went before it, and leaves the last line to pytest.
last_stage() {
    echo "== $1 (before it: $timings)"
    shift
    "$@" || failed=1
    exit "$failed"
}

docs() {
    local site status=0
    site=$(mktemp -d)
    # Else mkdocs-material advertises, on every build.
    NO_MKDOCS_2_WARNING=1 "$BIN/mkdocs" build --strict --quiet --site-dir "$site" || status=$?
    rm -rf "$site"
    return "$status"
}

scripts/setup.sh || exit
# Tests leave nothing in the tree, and their servers are not to read what a user's shell has set.
unset "${!MEMSERVE_@}" "${!SGLANG_@}"
timings="set-up $SECONDS s"

stage check scripts/check.sh
case "$*" in
"" | --full)
    stage docs docs
    stage "unit tests" scripts/unit_tests.sh "$@"
    stage attacks "$BIN/python" -m pytest test/security "$@"
    last_stage "real servers" "$BIN/python" -m pytest test/e2e "$@"
    ;;
*)
    last_stage tests "$BIN/python" -m pytest "$@"
    ;;
esac
