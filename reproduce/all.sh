#!/usr/bin/env bash
# Every table and figure, and the page results/<profile>/index.html; --dry-run prints the plan and a time estimate.
# bash reproduce/all.sh [profile] [--quick] [--recorded] [--method NAME ...] [--jobs N] [--dry-run]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
run_artefact all "$@"
