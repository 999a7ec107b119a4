#!/usr/bin/env bash
# Accuracy against tokens as the length penalty grows, with AttnPO and without.
# bash reproduce/fig_strength.sh [profile] [--quick] [--recorded] [--method NAME ...] [--jobs N] [--dry-run]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
run_artefact fig_strength "$@"
