#!/usr/bin/env bash
# Accuracy at token budgets.
# bash reproduce/fig_budget.sh [profile] [--quick] [--recorded] [--method NAME ...] [--jobs N] [--dry-run]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
run_artefact fig_budget "$@"
