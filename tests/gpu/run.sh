#!/usr/bin/env bash
# What a GPU makes of headrace, on a machine that has Python 3.11 or newer, torch and CUDA, and no network.
#
#   tests/gpu/run.sh [--minutes N] [PART …]
#
# PARTs, in this order: profile step mixed attention resume layouts tests (tests/gpu/parts.py). Each writes its
# table to ${OUT:-docs}/gpu-tables.md as it goes, and the script stops itself at N minutes (9 unless told),
# naming what was not reached: exit code 3; 1 when a part failed. Without a GPU everything runs at a tiny size,
# into gpu-rehearsal.md.
#   PYTHON   the Python that has torch                       (python3)
#   WHEELS   a folder of tests/gpu/wheels.sh, where there is one: installed for this run alone   (.whl)
#   OUT      the folder of the page                          (docs)
set -euo pipefail
begun=$(date +%s)
[[ -z ${OUT:-} ]] || export OUT=$(realpath -m "$OUT")
[[ -z ${WHEELS:-} ]] || WHEELS=$(realpath -m "$WHEELS")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python3}
wheels=${WHEELS:-.whl}

if [[ -d $wheels ]]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile --no-deps \
        --no-index --find-links "$wheels" --target "$site" --requirement tests/gpu/wheels.txt
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONDONTWRITEBYTECODE=1
"$python" -m tests.gpu.parts --begun "$begun" "$@"
