#!/usr/bin/env bash
# Tags of music, as in MagnaTagATune: fifty per clip, of instruments, voices, styles, tempo and level.
# `source run.sh --help` lists the options.
[ -n "${BASH_VERSION:-}${ZSH_VERSION:-}" ] || { echo "error: found another shell, expected bash; run: bash run.sh" >&2; return 2 2>/dev/null || exit 2; }
if (return 0 2>/dev/null); then source "$(dirname -- "${BASH_SOURCE[0]:-${(%):-%x}}")/../child.sh"; return; fi

recipe=(
    --corpora magnatagatune_synthetic,magnatagatune
    --conf logmel_statistics,ast_linear,ast_logistic
)
source "$(dirname -- "${BASH_SOURCE[0]}")/../recipe.sh"
