# The stages of every recipe. A recipe's run.sh declares the array `recipe` (corpora, the first
# of which is the default, and configs) and sources this in a separate bash. Without a folder conf,
# a recipe uses the configs of openmic.
set -euo pipefail
export PYTHONUTF8=1 # text and file names are UTF-8, whatever the locale
unset CDPATH
called_from=$PWD
cd -- "$(dirname -- "${BASH_SOURCE[1]}")"
root=$(cd ../.. && pwd)
conf_dir=conf
[[ -d conf ]] || conf_dir=../openmic/conf

log() { echo "[$SECONDS s] $*"; }

stage_fetch() { # sets name, corpus_root, weights, and the corpus and backbone that `auto` stands for
    local selection
    log "fetch"
    exec {selection}< <(become "$root/src/fetch.py" --data data "${fetch_options[@]}")
    child=$!
    finish || return
    IFS=$'\t' read -r -u "$selection" corpus name corpus_root backbone weights
    experiments=exp/$name
    [[ $protocol == clean ]] || experiments+=-$protocol
    config_options+=(--conf-dir "$conf_dir" --corpus "$corpus" --backbone "$backbone")
    case $corpus_root in
        data/openmic-2018 | data/irmas-1.0 | data/mtat) prepare_options+=(--genuine) ;;
    esac
}

stage_check() { # before the stages that take long
    run "$root/src/check.py" "${config_options[@]}" "${check_options[@]}"
}

stage_prepare() {
    log "prepare: $name"
    run "$root/src/prepare.py" --corpus "$corpus" --root "$corpus_root" --data "data/$name" \
        "${prepare_options[@]}"
}

stage_extract() {
    log "extract: $name"
    run "$root/src/extract.py" --data "data/$name" "${config_options[@]}" "${extract_options[@]}"
}

stage_preview() { # the table of the configs that train in seconds, unless there is a table
    [[ ! -e $experiments/RESULTS.md ]] || return 0
    local conf=$preview
    local config_options=("${config_options[@]}" --conf "$conf")
    for stage in train score report; do
        "stage_$stage" || return
    done
}

stage_train() {
    log "train: $conf; $backbone on $name, protocol $protocol, seeds $seeds"
    run "$root/src/train.py" --data "data/$name" --exp "$experiments" "${config_options[@]}" \
        --weights "$weights" "${train_options[@]}"
}

stage_score() {
    log "score: $experiments"
    run "$root/src/score.py" --data "data/$name" --exp "$experiments" "${config_options[@]}" \
        --weights "$weights" "${score_options[@]}"
}

stage_report() {
    log "report: $experiments"
    run "$root/src/report.py" --exp "$experiments" --out "$experiments/RESULTS.md" \
        --conf "$conf" --conf-dir "$conf_dir" "${report_options[@]}"
}

failed() { # stage, exit code
    case $2 in
        130) log "$1 interrupted; the same command resumes it" ;;
        129 | 143) log "$1 terminated; the same command resumes it" ;;
        137) log "$1 was killed (exit 137), probably out of memory; try a smaller --nj" ;;
        *) log "$1 failed (exit $2)" ;;
    esac >&2
    exit "$2"
}

source "$root/egs/environment.sh"
settings=$(any_python "$root/src/options.py" --name "$(basename -- "$PWD")" --conf-dir "$conf_dir" \
    --called-from "$called_from" "${recipe[@]}" -- "$@") || exit
eval "$settings" # conf, preview, protocol, seeds, stages; per stage an array of its options
use_python

stage=fetch
ended() { failed "$stage" "$1"; }
for stage in "${stages[@]}"; do
    "stage_$stage" || failed "$stage" $?
done
log "done"
