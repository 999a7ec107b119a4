#!/usr/bin/env bash
# Correlation of each head's step scores between the untrained model and checkpoints of training.
# bash reproduce/fig_stability.sh [profile] [--quick] [--recorded] [--method NAME ...] [--jobs N] [--dry-run]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
run_artefact fig_stability "$@"
