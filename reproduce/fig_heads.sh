#!/usr/bin/env bash
# The heads: Step Ranking Accuracy of each, of ensembles, and what dropping their highest or lowest steps does.
# bash reproduce/fig_heads.sh [profile] [--quick] [--recorded] [--method NAME ...] [--jobs N] [--dry-run]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
run_artefact fig_heads "$@"
