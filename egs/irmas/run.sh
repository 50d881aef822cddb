#!/usr/bin/env bash
# Predominant instruments, as in IRMAS: trained on excerpts of three seconds with one label each,
# tested on longer ones with up to five. `source run.sh --help` lists the options.
[ -n "${BASH_VERSION:-}${ZSH_VERSION:-}" ] || { echo "error: found another shell, expected bash; run: bash run.sh" >&2; return 2 2>/dev/null || exit 2; }
if (return 0 2>/dev/null); then source "$(dirname -- "${BASH_SOURCE[0]:-${(%):-%x}}")/../child.sh"; return; fi

recipe=(
    --corpora irmas_synthetic,irmas
    --conf logmel_statistics,ast_linear,ast_logistic,ast_patch,han_convnet_short
)
source "$(dirname -- "${BASH_SOURCE[0]}")/../recipe.sh"
