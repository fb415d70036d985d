#!/usr/bin/env bash
# What CI runs: set-up, lint, types, unit tests, real servers. Takes pytest's arguments, and --full for the whole matrix.
#   scripts/test.sh                 scripts/test.sh --full                 scripts/test.sh test/router -k pair
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh
bin=.venv/bin
$bin/ruff check .
$bin/ruff format --check --quiet .
$bin/mypy
# Tests leave nothing in the tree, and their servers are not to read what a user's shell has set.
unset "${!MEMSERVE_@}" "${!SGLANG_@}"
exec $bin/python -m pytest "$@"
