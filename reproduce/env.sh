# Sourced by the scripts of this folder: makes the checkout's own environment, .venv, or uses the one that is there.
# It is made again when the pins or the Python change, and when an earlier call was stopped half-way.
# Afterwards $ROOT is the checkout and $ROOT/.venv/bin/attnpo runs. PYTHON=… chooses the interpreter.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3 python python3.12 python3.13}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 or newer with venv found (tried: ${PYTHON:-python3.11 python3 python python3.12 python3.13});" \
        "install one (on Debian also its -venv package), or set PYTHON=/path/to/python3.11" >&2
    return 1
}

make_environment() {
    local python stamp
    python="$(find_python)" || return
    # shellcheck disable=SC2016
    stamp="$("$python" -c 'import hashlib, sys
pins = b"".join(open(path, "rb").read() for path in sys.argv[1:])
print(sys.version.split()[0], hashlib.sha256(pins).hexdigest())' "$ROOT/constraints.txt" "$ROOT/pyproject.toml")" || return
    if [ -f "$ROOT/.venv/stamp" ] && [ "$(cat "$ROOT/.venv/stamp")" = "$stamp $ROOT" ]; then
        return
    fi
    echo "making the environment in .venv, once: the packages pinned in constraints.txt, about 3 minutes and 2 GB" \
        "(with CUDA 8 GB); nothing is run before that" >&2
    rm -rf "$ROOT/.venv"
    "$python" -m venv "$ROOT/.venv" || return
    echo "installing torch" >&2
    # torch by its pin first: no other package's range can then pull in another build of it
    "$ROOT/.venv/bin/python" -m pip install --quiet -c "$ROOT/constraints.txt" torch || return
    echo "installing attnpo with transformers, TRL, lm-eval and the rest" >&2
    "$ROOT/.venv/bin/python" -m pip install --quiet -c "$ROOT/constraints.txt" -e "$ROOT" || return
    echo "$stamp $ROOT" >"$ROOT/.venv/stamp"
}

# run_artefact NAME [profile] [options]: `attnpo run NAME`, profile tiny if none is named.
run_artefact() {
    local name="$1" profile=tiny
    shift
    if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
        profile="$1"
        shift
    fi
    exec "$ROOT/.venv/bin/attnpo" run "$name" --profile "$profile" "$@"
}

make_environment || exit 1
