#!/usr/bin/env bash
# The main job: a frozen AST, reprogrammed, recognises the instruments of OpenMIC-2018.
# `source run.sh --help` lists the options.
[ -n "${BASH_VERSION:-}${ZSH_VERSION:-}" ] || { echo "error: found another shell, expected bash; run: bash run.sh" >&2; return 2 2>/dev/null || exit 2; }
if (return 0 2>/dev/null); then source "$(dirname -- "${BASH_SOURCE[0]:-${(%):-%x}}")/../child.sh"; return; fi

recipe=(
    --corpora auto,synthetic,openmic
    --conf logmel_statistics,ast_linear,ast_linear_raw,ast_unet
    --preview logmel_statistics,ast_linear,ast_linear_raw
)
source "$(dirname -- "${BASH_SOURCE[0]}")/../recipe.sh"
