#!/usr/bin/env bash
# The tests: bash tests/run.sh [options of pytest]. They need no network once the environment exists.
# TEST_EXTRAS=test,test-heavy,demo,onnx runs those that are skipped otherwise, too.
[ -n "${BASH_VERSION:-}${ZSH_VERSION:-}" ] || { echo "error: found another shell, expected bash; run: bash tests/run.sh" >&2; return 2 2>/dev/null || exit 2; }
if (return 0 2>/dev/null); then source "$(dirname -- "${BASH_SOURCE[0]:-${(%):-%x}}")/../egs/child.sh"; return; fi

set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
root=$PWD
source egs/environment.sh
use_python "${TEST_EXTRAS-test}"
run -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
