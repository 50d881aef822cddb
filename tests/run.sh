#!/usr/bin/env bash
# The tests: bash tests/run.sh [options of pytest]. They need no network once the environment is there.
# Sourced, it runs as a child, so the caller's shell stays as it is. (From zsh too; elsewhere it asks for bash.)
if [ -n "${ZSH_VERSION:-}" ]; then eval 'command bash "${(%):-%x}" "$@"; return'; fi
if [ -z "${BASH_VERSION:-}" ]; then
    echo "error: found another shell, expected bash; run: bash tests/run.sh" >&2
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
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
root=$PWD
extra=test,demo,onnx
source egs/environment.sh
run -m pytest "$@"
