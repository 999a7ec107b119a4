#!/usr/bin/env bash
# The vLLM server of a two-node profile, on the node that samples: a copy of the model on each of its 8 GPUs.
# bash reproduce/vllm_server.sh PROFILE [options of trl vllm-serve]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
read -r model length < <("$ROOT/.venv/bin/python" -c 'import sys
from attnpo.runs.profile import load_profile
profile = load_profile(sys.argv[1])
print(profile.model, profile.train.grpo["vllm_max_model_length"])' "${1:?name a profile}")
exec "$ROOT/.venv/bin/trl" vllm-serve --model "$model" --max_model_len "$length" --data_parallel_size 8 "${@:2}"
