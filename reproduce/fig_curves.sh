#!/usr/bin/env bash
# Accuracy, length, essential and redundant steps over training.
# bash reproduce/fig_curves.sh [profile] [--quick] [--recorded] [--method NAME ...] [--jobs N] [--dry-run]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
run_artefact fig_curves "$@"
