#!/usr/bin/env bash
# Doubt, branch and summary phrases over training.
# bash reproduce/fig_phrases.sh [profile] [--quick] [--recorded] [--method NAME ...] [--jobs N] [--dry-run]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
run_artefact fig_phrases "$@"
