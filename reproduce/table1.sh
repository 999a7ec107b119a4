#!/usr/bin/env bash
# Table 1 from a fresh clone:
# bash reproduce/table1.sh [profile] [--all | --method NAME ...] [--quick] [--recorded] [--jobs N] [--dry-run]
# Probe, train and evaluate the profile's core rows (default: tiny), then write results/<profile>/; the other rows are
# shown from their records. A second call recomputes nothing; a killed one goes on where it stood. All
# hyperparameters: reproduce/profiles/.
# --all: run every method and seed. --method: these rows alone. --recorded: of all rows, run those without a record.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
run_artefact table1 "$@"
