#!/usr/bin/env bash
# Table 2, out of domain: the shifted test on the testbed, other benchmarks elsewhere.
# bash reproduce/table2.sh [profile] [--quick] [--recorded] [--method NAME ...] [--jobs N] [--dry-run]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
run_artefact table2 "$@"
