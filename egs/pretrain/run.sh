#!/usr/bin/env bash
# Remakes pretrained_models/ast_tiny_synth.safetensors from nothing but code.
# Options are those of src/pretrain.py: --crops, --epochs, ...
# Sourced, it runs as a child, so the caller's shell stays as it is. (From zsh too; elsewhere it asks for bash.)
if [ -n "${ZSH_VERSION:-}" ]; then eval 'command bash "${(%):-%x}" "$@"; return'; fi
if [ -z "${BASH_VERSION:-}" ]; then
    echo "error: found another shell, expected bash; run: bash run.sh" >&2
    return 2 2>/dev/null || exit 2
fi
if (return 0 2>/dev/null); then
    # Without arguments of its own a sourced script sees its caller's; bash 5 then has its file name in BASH_ARGV.
    if [ "${BASH_ARGV[0]:-}" = "${BASH_SOURCE[0]}" ]; then
        command bash "${BASH_SOURCE[0]}"
    else
        command bash "${BASH_SOURCE[0]}" "$@"
    fi
    return
fi

set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
root=$(cd ../.. && pwd)
extra=
source ../environment.sh
nj=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
run "$root/src/pretrain.py" --out ../../pretrained_models/ast_tiny_synth.safetensors --data data --nj "$nj" "$@"
