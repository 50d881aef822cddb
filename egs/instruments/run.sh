#!/usr/bin/env bash
# Makes the instruments models that are shipped, exp/instruments_ast and exp/instruments_musicnn, from
# the clips of ../pretrain/run.sh, which come first, and the main job's corpus, which it prepares.
# About half an hour on two cores. The options are those of src/fit_instruments.py: --try-on, ...
[ -n "${BASH_VERSION:-}${ZSH_VERSION:-}" ] || { echo "error: found another shell, expected bash; run: bash run.sh" >&2; return 2 2>/dev/null || exit 2; }
if (return 0 2>/dev/null); then source "$(dirname -- "${BASH_SOURCE[0]:-${(%):-%x}}")/../child.sh"; return; fi

set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
root=$(cd ../.. && pwd)
source ../environment.sh
use_python
for backbone in ast_tiny_synth musicnn_msd; do
    bash ../openmic/run.sh --corpus synthetic --backbone "$backbone" --conf ast_linear --to extract
    run "$root/src/fit_instruments.py" --backbone "$backbone" --clips ../pretrain/exp \
        --data ../openmic/data/synthetic --out "exp/instruments_${backbone%%_*}" \
        --nj "$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)" "$@"
done
