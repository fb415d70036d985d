#!/usr/bin/env bash
# Tests and measures MemServe on the GPUs of this host, with SGLang: parity with each attention backend and page size,
# an MLA model, the overlap schedule, leaks, the benchmarks. Hours. results.json and results.md say what came of it.
#   scripts/test_gpu.sh                 all of it
#   scripts/test_gpu.sh --plan          prints the steps, and runs nothing: needs no GPU
#   scripts/test_gpu.sh --help          models, attention backends, parts of it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=.venv/bin/python
case " $* " in
*" --plan "* | *" --help "* | *" -h "*) [ -x "$python" ] || python=${PYTHON:-python3} ;;
*) scripts/setup.sh ;;
esac
# Servers are not to read what a user's shell has set.
unset "${!MEMSERVE_@}" "${!SGLANG_@}"
exec "$python" -m benchmark.gpu "$@"
