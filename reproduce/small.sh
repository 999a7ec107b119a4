#!/usr/bin/env bash
# Make the model of profile small in models/testbed-large and measure its card: nothing is downloaded. One GPU, about half an
# hour, an ESTIMATE; a build that was stopped goes on from its last checkpoint.
#
#   bash reproduce/small.sh && bash reproduce/all.sh small
#
# Every hyperparameter is in attnpo.testbed.build.CONFIGS.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
"$ROOT/.venv/bin/python" -m attnpo.testbed.build --scale testbed-large
"$ROOT/.venv/bin/python" "$ROOT/reproduce/testbed_card.py" --profile small
