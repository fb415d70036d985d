#!/usr/bin/env bash
# Installs what the benchmarks compare against: Mooncake's transfer engine and sglang-router, 0.3 GB, into .peers; and
# beside them the source distribution that has sglang_router's own tests, which test/router/peers runs before both routers.
# .venv stays as it is: only the servers of a peer get .peers on their path. Needs scripts/setup.sh first; on Debian
# it installs the libraries that Mooncake links to, if run as root. A second run finds all up to date and ends at once.
#   scripts/setup_peers.sh          scripts/setup_peers.sh --help
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

readonly MOONCAKE=0.3.13.post1 ROUTER=0.3.2 MSGPACK=1.2.4
# The newest release on PyPI whose source distribution has tests with mock servers.
readonly ROUTER_TESTS=sglang_router-0.3.0.tar.gz
readonly ROUTER_TESTS_SHA256=0dc6752c6c70267670dec68e73d6e4fe0bbd8fc9e3c971bd9211ffc504f0ae25
readonly NAME=setup_peers PEERS=.peers STAMP=.peers/memserve.stamp PYTHON=.venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_DEFAULT_TIMEOUT=30
. scripts/setup_lib.sh

usage() {
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' scripts/setup_peers.sh
}

fingerprint() {
    {
        cat scripts/setup_peers.sh scripts/setup_lib.sh
        "$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)'
    } | sha256sum | cut -d' ' -f1
}

missing_libraries() {
    "$PYTHON" - <<'PYTHON'
import ctypes

for package, library in (("libibverbs1", "libibverbs.so.1"), ("librdmacm1", "librdmacm.so.1")):
    try:
        ctypes.CDLL(library)
    except OSError:
        print(package)
PYTHON
}

install_libraries() {
    local missing
    missing=$(missing_libraries | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "Mooncake needs ${missing% }: install them (Debian: sudo apt-get install ${missing% }), then run this again."
    fi
    step "Debian's package lists" apt-get update
    # shellcheck disable=SC2086 # one word for each package
    step "${missing% }" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
    [ -z "$(missing_libraries)" ] || fail "${missing% } are installed, but cannot be loaded: see ldconfig -p"
}

# The entry point by which SGLang finds the one change that stock SGLang needs to split on a host without a GPU.
write_plugin() {
    mkdir "$SCRATCH/plugin"
    cat >"$SCRATCH/plugin/pyproject.toml" <<'TOML'
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "memserve-stock"
version = "0"

[project.entry-points."sglang.srt.plugins"]
memserve_stock = "sglang_memserve.bench.stock_plugin:register"

[tool.setuptools]
packages = []
TOML
}

# Without dependencies: .venv has them, and nothing may bring another PyTorch.
install() {
    write_plugin
    "$PYTHON" -m pip install --no-deps --no-build-isolation --target "$SCRATCH/peers" \
        "mooncake-transfer-engine-non-cuda==$MOONCAKE" "sglang-router==$ROUTER" "msgpack==$MSGPACK" "$SCRATCH/plugin"
}

# pip would build what it downloads, for which this one needs Rust.
download_tests() {
    "$PYTHON" - "$SCRATCH/peers" "$ROUTER_TESTS" "$ROUTER_TESTS_SHA256" <<'PYTHON'
import hashlib
import json
import os
import sys
from pathlib import Path
from urllib.parse import urljoin
from urllib.request import Request, urlopen

folder, name, wanted = sys.argv[1:]
index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/sglang-router/"
with urlopen(Request(index, headers={"Accept": "application/vnd.pypi.simple.v1+json"}), timeout=30) as answer:
    files = json.load(answer)["files"]
url = urljoin(index, next(file["url"] for file in files if file["filename"] == name))
with urlopen(url, timeout=30) as answer:
    content = answer.read()
got = hashlib.sha256(content).hexdigest()
assert got == wanted, f"{url} has the SHA-256 {got}; {wanted} is wanted"
(Path(folder) / name).write_bytes(content)
PYTHON
}

verify() {
    PYTHONPATH="$SCRATCH/peers" "$PYTHON" - "$SCRATCH/peers" <<'PYTHON'
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import mooncake.engine
import sglang_router.launch_router

peers = Path(sys.argv[1]).resolve()
for module in (mooncake.engine, sglang_router.launch_router):
    assert Path(module.__file__).resolve().is_relative_to(peers), f"{module.__name__} is another one: {module.__file__}"
for name in ("torch", "sglang", "aiohttp"):
    assert not (peers / name).exists(), f"{name} was installed again"
    assert find_spec(name), f"{name} is missing from .venv: run scripts/setup.sh"
assert entry_points(group="sglang.srt.plugins", name="memserve_stock"), "the entry point is missing"
PYTHON
}

main() {
    local began=$SECONDS wanted
    case "${1:-}" in
    "") ;;
    -h | --help) usage && return ;;
    *) fail "unknown argument $1; --help tells more" ;;
    esac
    [ -x "$PYTHON" ] || fail "there is no .venv here: run scripts/setup.sh first"
    lock
    wanted=$(fingerprint)
    if [ "$(cat "$STAMP" 2>/dev/null)" = "$wanted" ] && [ -z "$(missing_libraries)" ]; then
        echo "$NAME: $PEERS is up to date"
        return
    fi
    rm -rf "$PEERS".* # of a set-up that was killed
    # Beside its later place, so that the move at the end is at once.
    SCRATCH=$(mktemp -d ./.peers.XXXXXX)
    readonly SCRATCH LOG="$SCRATCH/log"
    trap 'rm -rf "$SCRATCH"' EXIT
    install_libraries
    step "Mooncake $MOONCAKE and sglang-router $ROUTER" install
    step "sglang_router's own tests" download_tests
    step "check" verify
    echo "$wanted" >"$SCRATCH/peers/memserve.stamp"
    rm -rf "$PEERS"
    mv "$SCRATCH/peers" "$PEERS"
    echo "$NAME: done in $((SECONDS - began)) s"
}

main "$@"
