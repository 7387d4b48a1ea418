#!/usr/bin/env bash
# Install wheels from a folder, without a network and in addition to the installed packages, and run the parts by priority:
#   bash benchmarks/gpu_check.sh WHEELS OUT [options of python -m benchmarks.gpu_check, e.g. --budget 420 --parts quickstart]
# WHEELS is a folder of wheels (see gpu_wheels.txt), or - to install nothing. OUT gets results.jsonl, table.md and log.txt.
# PYTHON names the interpreter with torch; by default python3.
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
wheels=$1 out=$2
shift 2
python=${PYTHON:-python3}
mkdir -p "$out"
out=$(cd "$out" && pwd)
if [ "$wheels" != - ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
        --target "$site" "$wheels"/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
cd "$(dirname "$0")/.."
"$python" -m benchmarks.gpu_check --out "$out" "$@"
