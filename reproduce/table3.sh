#!/usr/bin/env bash
# Table 3, ablations of AttnPO.
# bash reproduce/table3.sh [profile] [--quick] [--recorded] [--method NAME ...] [--jobs N] [--dry-run]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
run_artefact table3 "$@"
