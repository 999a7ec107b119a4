#!/usr/bin/env bash
# pass@k up to the responses that the profile samples.
# bash reproduce/fig_passk.sh [profile] [--quick] [--recorded] [--method NAME ...] [--jobs N] [--dry-run]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
run_artefact fig_passk "$@"
