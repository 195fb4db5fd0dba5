#!/usr/bin/env bash
# The wheels that tests/gpu/run.sh installs on a machine without network: made here, where pip reaches an index.
#
#   tests/gpu/wheels.sh [PYTHON_VERSION]      of that machine's Python: 3.12 unless told; Linux on x86-64
#
# Into ${WHEELS:-.whl}, which git ignores; it is to lie in the same place on that machine. DeepSpeed comes as
# sources, and its wheel is built without compiled operators, of which headrace uses none: that needs a torch in
# PYTHON (python3). More than 40 MiB are refused.
set -euo pipefail
version=${1:-3.12}
[[ -z ${WHEELS:-} ]] || WHEELS=$(realpath -m "$WHEELS")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
wheels=${WHEELS:-.whl}
pip=("${PYTHON:-python3}" -m pip --disable-pip-version-check)

rm -rf "$wheels"
platforms=()
for glibc in 28 27 24 17 12 5; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64)
"${pip[@]}" download --quiet --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
    "${platforms[@]}" --dest "$wheels" --requirement <(grep -v '^deepspeed' tests/gpu/wheels.txt)
DS_BUILD_OPS=0 "${pip[@]}" wheel --quiet --no-deps --no-build-isolation --wheel-dir "$wheels" \
    "$(grep '^deepspeed' tests/gpu/wheels.txt)"

size=$(du --summarize --block-size=1M "$wheels" | cut -f1)
echo "$wheels: $(ls "$wheels" | wc -l) wheels for Python $version, $size MiB"
if ((size > 40)); then
    echo "$wheels: more than 40 MiB; leave out of tests/gpu/wheels.txt what the machine has" >&2
    exit 1
fi
