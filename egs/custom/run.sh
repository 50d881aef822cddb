#!/usr/bin/env bash
# Own data: any classes, from a CSV. `source run.sh --manifest songs.csv` trains, scores and reports; `source run.sh --help` lists the options.
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

corpora=(custom)
backbones=(auto ast_tiny_synth ast_audioset)
protocols=(clean paper)
corpus=custom
backbone=auto
protocol=clean
conf=ast_linear,ast_unet,ast_unet_residual
seeds=0

source "$(dirname -- "${BASH_SOURCE[0]}")/../recipe.sh"
