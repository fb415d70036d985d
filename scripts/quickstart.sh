#!/usr/bin/env bash
# From nothing to a chat: sets up .venv, makes the embedded model, starts one prefill and one decode instance with a
# router, and holds a chat of three turns. Then serves until Ctrl-C, or ends with --exit.
# All flags go to `memserve up` (.venv/bin/memserve up --help), for example: scripts/quickstart.sh --port 31000 --exit
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

"$root/scripts/setup.sh"
exec "$root/.venv/bin/memserve" up --chat "$@"
