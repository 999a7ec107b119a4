#!/usr/bin/env bash
# Table 1 from a fresh clone: bash reproduce/table1.sh [profile] [--quick] [--recorded] [--method NAME ...] [--jobs N] [--dry-run]
# Probe, train and evaluate every method and seed of the profile (default: tiny), then write results/<profile>/.
# A second call recomputes nothing; a killed one goes on where it stood. All hyperparameters: reproduce/profiles/.
# --method: run only these rows. --recorded: take the numbers in the repository for what is not here; run the rest.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
run_artefact table1 "$@"
