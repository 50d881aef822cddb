#!/usr/bin/env bash
# Retrains the shipped backbone, pretrained_models/ast_tiny_synth.safetensors, from scratch.
# The options are those of src/pretrain.py: --crops, --epochs, ...
[ -n "${BASH_VERSION:-}${ZSH_VERSION:-}" ] || { echo "error: found another shell, expected bash; run: bash run.sh" >&2; return 2 2>/dev/null || exit 2; }
if (return 0 2>/dev/null); then source "$(dirname -- "${BASH_SOURCE[0]:-${(%):-%x}}")/../child.sh"; return; fi

set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
root=$(cd ../.. && pwd)
source ../environment.sh
use_python
run "$root/src/pretrain.py" --out ../../pretrained_models/ast_tiny_synth.safetensors --data data \
    --nj "$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)" "$@"
