#!/usr/bin/env bash
# The unit tests in four processes side by side, each with folders of its own. Workers of pytest-xdist would each collect
# every test first, and import SGLang for it: half of the time.
#   scripts/unit_tests.sh          any options of pytest follow
#   scripts/unit_tests.sh --cov    with the coverage of all of them together, which takes half as long again
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly BIN=.venv/bin ENGINE=test/sglang_memserve
others=()
for folder in test/*/; do
    case ${folder%/} in
    test/router | test/mempool | "$ENGINE" | test/e2e | test/security | test/support | */__pycache__) ;;
    *) others+=("${folder%/}") ;;
    esac
done
readonly SHARES=(
    "test/router"
    "test/mempool"
    "$ENGINE --ignore=$ENGINE/bench --ignore=$ENGINE/cli --ignore=$ENGINE/cluster"
    "$ENGINE/bench $ENGINE/cli $ENGINE/cluster ${others[*]}"
)

output=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$output"' EXIT
pids=() failed=0
for share in "${!SHARES[@]}"; do
    read -ra folders <<<"${SHARES[share]}"
    COVERAGE_FILE=$output/.coverage.$share \
        "$BIN/python" -m pytest "${folders[@]}" --cov-report= "$@" >"$output/$share.log" 2>&1 &
    pids+=($!)
done
for share in "${!SHARES[@]}"; do
    wait "${pids[share]}" || failed=1
    cat "$output/$share.log"
done
if [ -e "$output/.coverage.0" ]; then
    "$BIN/coverage" combine --quiet --data-file="$output/.coverage" "$output"
    "$BIN/coverage" report --skip-covered --data-file="$output/.coverage"
fi
exit "$failed"
