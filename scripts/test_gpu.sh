#!/usr/bin/env bash
# The tests that need CUDA; each is skipped, with the reason, where there is none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
exec .venv/bin/python -m pytest -m gpu "$@"
