#!/usr/bin/env bash
# Rebuild the embedded model and measure its card: about half an hour on one core, CPU only, no hub.
#
#   bash reproduce/testbed.sh
#
# Every hyperparameter is a field of attnpo.testbed.build.BuildConfig. Another machine's floating point gives
# slightly other weights; the committed ones are those that the results belong to.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
export OMP_NUM_THREADS=1
"$ROOT/.venv/bin/python" -m attnpo.testbed.build "$@"
"$ROOT/.venv/bin/python" "$ROOT/reproduce/testbed_card.py"
