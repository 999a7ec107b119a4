#!/usr/bin/env bash
# What one GPU makes of the project: benchmarks/gpu.py in the active Python if it has what is needed, else in the
# checkout's own environment. At most 8 minutes, no hub; without a GPU it says so and exits with 0.
#
#   bash benchmarks/gpu.sh [--pieces PIECE...] [--out DIR] [--minutes N] [--small] [--device cuda|cpu]
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
has_packages='import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ["torch", "transformers", "trl", "datasets", "tyro"])))'
if python -c "$has_packages" 2>/dev/null; then
    python=python
else
    source "$ROOT/reproduce/env.sh"
    python="$ROOT/.venv/bin/python"
fi
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$ROOT/benchmarks/gpu.py" "$@"
