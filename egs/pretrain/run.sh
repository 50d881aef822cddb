#!/usr/bin/env bash
# Pre-trains the small AST on rendered music, into exp/ast_tiny_synth.safetensors: 7 GB of clips and
# an estimated four hours on two quiet cores that have bfloat16, printed before it starts. Run it again to resume it.
# The options are those of src/pretrain.py: --soundfonts, --songs, --clips, --epochs, ...
[ -n "${BASH_VERSION:-}${ZSH_VERSION:-}" ] || { echo "error: found another shell, expected bash; run: bash run.sh" >&2; return 2 2>/dev/null || exit 2; }
if (return 0 2>/dev/null); then source "$(dirname -- "${BASH_SOURCE[0]:-${(%):-%x}}")/../child.sh"; return; fi

set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
root=$(cd ../.. && pwd)
source ../environment.sh
use_python
run "$root/src/pretrain.py" --out exp/ast_tiny_synth.safetensors --data exp \
    --nj "$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)" "$@"
