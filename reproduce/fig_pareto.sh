#!/usr/bin/env bash
# Accuracy against tokens.
# bash reproduce/fig_pareto.sh [profile] [--quick] [--recorded] [--method NAME ...] [--jobs N] [--dry-run]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
run_artefact fig_pareto "$@"
