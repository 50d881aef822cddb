# What every recipe does: options, stages, environment. A recipe's run.sh declares names and sources this:
#   corpora backbones protocols     what may be chosen
#   corpus backbone protocol conf seeds clips     what is chosen where the command line says nothing
# A recipe whose only corpus is custom has --manifest in place of the options that choose a corpus, and no clips.
# A recipe without a folder conf has the configs of openmic. It runs in a bash of its own: run.sh sees to that.
set -euo pipefail
export PYTHONUTF8=1 # text and the names of files are UTF-8, whatever the locale
unset CDPATH
called_from=$PWD
cd -- "$(dirname -- "${BASH_SOURCE[1]}")"
recipe=$(basename -- "$PWD")
root=$(cd ../.. && pwd)
stages=(fetch prepare extract train score report)
conf_dir=conf
[[ -d conf ]] || conf_dir=../openmic/conf

usage_corpus() { # the options that say what the corpus is
    if [[ $corpus == custom ]]; then
        cat <<USAGE
  --manifest CSV         your data: a row for each clip, with its path, and a column for each class: 1, 0, a relevance or nothing;
                         egs/README.md says what else it may have; look through it first: python src/prepare.py --check CSV
USAGE
    else
        cat <<USAGE
  --corpus NAME          $(one_of "${corpora[@]}") (default $corpus: openmic where it is at hand, else synthetic)
  --data-root DIR        a copy of OpenMIC-2018 on disk, or another corpus in its layout
  --clips N              size of the synthetic corpus, 200 to 20000 (default $clips)
USAGE
    fi
}

usage_examples() {
    if [[ $corpus == custom ]]; then
        cat <<USAGE
    source run.sh --manifest ~/songs.csv
    source run.sh --manifest ~/songs.csv --conf ast_linear,ast_unet --seeds 0,1,2 --from train
USAGE
    else
        cat <<USAGE
    source run.sh                                        the built-in corpus: nothing to download
    source run.sh --corpus openmic                       the paper: downloads OpenMIC-2018 and the AudioSet AST (3 GB)
    source run.sh --conf all --seeds 0,1,2 --from train
    source run.sh --conf ast_unet --set optimizer.lr=0.0003 --overwrite
USAGE
    fi
}

usage() {
    local asked=' or --corpus openmic asks for it'
    [[ $corpus != custom ]] || asked=
    cat <<USAGE
The $recipe recipe: from a corpus to a table of reprogrammed backbones.

    source run.sh [--name value | --name=value ...]      or: bash run.sh ...

$(usage_corpus)
  --allow-missing N      go on without up to N clips whose audio is missing or damaged (default $allow_missing)
  --backbone NAME        $(one_of "${backbones[@]}")
                         (default $backbone: ast_audioset where it is at hand$asked, else ast_tiny_synth)
  --backbone-file FILE   weights of an AST on disk: the authors' .pth, or safetensors
  --conf A,B,...         configs of $conf_dir/, or all (default $conf)
                         there are: $(confs | paste -sd ' ' -)
                         a variant: A+section.key=value; a study, which stands for several: $(studies | paste -sd ' ' -)
  --set SECTION.KEY=VAL  one setting over the configs; may be repeated
  --seeds 0,1,...        one run for each (default $seeds)
  --protocol NAME        $(one_of "${protocols[@]}") (default $protocol)
  --device NAME          auto, cpu, cuda or cuda:N (default $device)
  --ngpu N               GPUs of each training run, or with --device cpu processes, which share its batches (default $ngpu)
  --jobs N               training runs at the same time (default: as many as there are GPUs for, one on the CPU)
  --nj N                 processes (default: one per core, here $nj)
  --from STAGE           begin there (fetch always runs: it decides what is used)
  --to STAGE             end there
  --features-in PLACE    $(one_of "${places[@]}"): where features stay in training (default $features_in: the first with room)
  --recompute            compute the backbone's activations twice in training: less memory, more time
  --compile              compile the backbone before training (torch.compile): for GPUs, takes a minute
  --dry-run              estimate the time and memory of the training, and stop there
  --overwrite            train anew what has been trained
  --debug                show the traceback of an error
  --help                 show this

Stages: ${stages[*]}. Each finds out by itself what is done already.

Examples:
$(usage_examples)
USAGE
}

confs() { # names of the configs, one a line
    local file
    for file in "$conf_dir"/*.yaml; do
        case ${file##*/} in base.yaml | studies.yaml | published.yaml | corpus_* | protocol_*) ;; *) basename -- "$file" .yaml ;; esac
    done
}

studies() { # names of the studies, one a line
    local line
    [[ -f $conf_dir/studies.yaml ]] || return 0
    while IFS= read -r line; do
        if [[ $line =~ ^([a-z_]+): ]]; then echo "${BASH_REMATCH[1]}"; fi
    done <"$conf_dir/studies.yaml"
}

log() { echo "[$SECONDS s] $*"; }
wrong() { # a usage error
    echo "error: $*" >&2
    exit 2
}

one_of() { # "a, b or c"
    local last=${*: -1} rest
    printf -v rest '%s, ' "${@:1:$#-1}"
    echo "${rest%, } or $last"
}

edits() { # how many letters to add, drop or change to get from one word to the other
    local a=$1 b=$2 i j above diagonal row=()
    for ((j = 0; j <= ${#b}; j++)); do row[j]=$j; done
    for ((i = 1; i <= ${#a}; i++)); do
        diagonal=${row[0]} row[0]=$i
        for ((j = 1; j <= ${#b}; j++)); do
            above=${row[j]}
            [[ ${a:i-1:1} == "${b:j-1:1}" ]] || diagonal=$((diagonal + 1))
            row[j]=$((above + 1 < row[j - 1] + 1 ? above + 1 : row[j - 1] + 1))
            ((row[j] <= diagonal)) || row[j]=$diagonal
            diagonal=$above
        done
    done
    echo "${row[${#b}]}"
}

check() { # kind of thing, what was found, what there is...
    local kind=$1 found=$2 choice count hint= fewest=$((${#2} / 2 + 1))
    shift 2
    for choice; do [[ $choice != "$found" ]] || return 0; done
    for choice; do
        count=$(edits "$found" "$choice")
        if ((count < fewest)); then fewest=$count hint="did you mean '$choice'? "; fi
    done
    wrong "unknown $kind '$found': ${hint}valid: $*"
}

check_form() { # option, value, pattern, what is expected
    [[ $2 =~ ^($3)$ ]] || wrong "$1 $2: expected $4"
}

absolute() { # a path as seen from where the command was given
    case $1 in
        '' | /*) echo "$1" ;;
        '~/'*) echo "${HOME:-}/${1#'~/'}" ;; # bash leaves the tilde of --data-root=~/x as it is
        *) echo "$called_from/$1" ;;
    esac
}

places=(auto device memory disk)
data_root='' manifest='' backbone_file='' allow_missing=0 device=auto ngpu=1 jobs='' features_in=auto
settings=() recompute=() compile=() dry_run=() overwrite=() debug=()
nj=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
from=${stages[0]} to=${stages[-1]}
options=(--corpus --data-root --clips)
[[ $corpus != custom ]] || options=(--manifest)
options+=(--allow-missing --backbone --backbone-file --conf --set --seeds --protocol --device --ngpu --jobs --features-in --nj --from --to)
flags=(--recompute --compile --dry-run --overwrite --debug)

while (($#)); do
    option=${1%%=*}
    case $1 in
        --help | -h)
            usage
            exit 0
            ;;
    esac
    check option "$option" "${options[@]}" "${flags[@]}" --help
    if [[ " ${flags[*]} " == *" $option "* ]]; then
        [[ $1 != *=* ]] || wrong "$option takes no value, found '${1#*=}'"
        option=${option#--}
        printf -v "${option//-/_}" %s "$1" # an array of one word
        shift
        continue
    fi
    case $1 in
        *=*) value=${1#*=} ;;
        *) value=${2-} && shift $(($# > 1)) ;;
    esac
    [[ $value && $value != --* ]] || wrong "$option needs a value, found ${value:-none}; source run.sh --help shows them"
    shift
    case $option in
        --set) settings+=(--set "$value") ;;
        *)
            option=${option#--}
            printf -v "${option//-/_}" %s "$value"
            ;;
    esac
done

conf=${conf//[[:space:]]/} seeds=${seeds//[[:space:]]/}
check corpus "$corpus" "${corpora[@]}"
check backbone "$backbone" "${backbones[@]}"
check protocol "$protocol" "${protocols[@]}"
check place "$features_in" "${places[@]}"
check stage "$from" "${stages[@]}"
check stage "$to" "${stages[@]}"
if [[ $corpus == custom ]]; then
    [[ $manifest ]] || wrong "no --manifest, expected a CSV of own data; source run.sh --help says what it holds"
    size=()
else
    check_form --clips "$clips" '[1-9][0-9]{0,8}' 'a number of at least 1'
    size=(--clips "$clips")
fi
check_form --ngpu "$ngpu" '[1-9][0-9]{0,3}' 'a number of at least 1'
[[ ! $jobs ]] || check_form --jobs "$jobs" '[1-9][0-9]{0,3}' 'a number of at least 1'
check_form --nj "$nj" '[1-9][0-9]{0,3}' 'a number of at least 1'
check_form --allow-missing "$allow_missing" '0|[1-9][0-9]{0,8}' 'a number of at least 0'
check_form --seeds "$seeds" '[0-9]{1,9}(,[0-9]{1,9})*' 'whole numbers separated by commas, such as 0,1,2'
check_form --device "$device" 'auto|cpu|cuda(:[0-9]{1,3})?' 'auto, cpu, cuda or cuda:N'
check_form --conf "$conf" '[^,]+(,[^,]+)*' 'names separated by commas, or all'
mapfile -t known < <(confs; studies)
IFS=, read -ra chosen <<<"$conf"
for one in "${chosen[@]}"; do check conf "${one%%+*}" all "${known[@]}"; done
for one in "${settings[@]}"; do [[ $one == --set || $one == *?.?*=* ]] || wrong "--set $one: expected section.key=value"; done
data_root=$(absolute "$data_root") manifest=$(absolute "$manifest") backbone_file=$(absolute "$backbone_file")

begin='' end=''
for i in "${!stages[@]}"; do
    [[ ${stages[i]} != "$from" ]] || begin=$i
    [[ ${stages[i]} != "$to" ]] || end=$i
done
((begin <= end)) || wrong "--from $from comes after --to $to; the order is: ${stages[*]}"
wanted=("${stages[@]:begin:end-begin+1}")
((${#dry_run[@]} == 0)) || wanted=(prepare train)

stage_fetch() {
    local selection
    log "fetch: corpus $corpus, backbone $backbone"
    exec {selection}< <(
        become "$root/src/fetch.py" --corpus "$corpus" --data data "${size[@]}" \
            ${data_root:+--data-root "$data_root"} ${manifest:+--manifest "$manifest"} --backbone "$backbone" \
            ${backbone_file:+--backbone-file "$backbone_file"} "${debug[@]}"
    )
    child=$!
    finish || return
    IFS=$'\t' read -r -u "$selection" corpus name corpus_root backbone weights
    experiments=exp/$name
    [[ $protocol == clean ]] || experiments+=-$protocol
    config_options=(--conf-dir "$conf_dir" --conf "$conf" --protocol "$protocol" --corpus "$corpus" "${settings[@]}")
    if [[ $corpus == openmic && ! $data_root ]]; then genuine=(--genuine); else genuine=(); fi
}

check_confs() { # before the stages that take long
    run "$root/src/check.py" "${config_options[@]}" "${debug[@]}"
}

stage_prepare() {
    log "prepare: $name"
    run "$root/src/prepare.py" --corpus "$corpus" --root "$corpus_root" --data "data/$name" "${size[@]}" --nj "$nj" \
        --allow-missing "$allow_missing" "${genuine[@]}" "${debug[@]}"
}

stage_extract() {
    log "extract: $name"
    run "$root/src/extract.py" --data "data/$name" "${config_options[@]}" --nj "$nj" \
        --allow-missing "$allow_missing" "${debug[@]}"
}

stage_train() {
    log "train: $conf; $backbone on $name, protocol $protocol, seeds $seeds"
    run "$root/src/train.py" --data "data/$name" --exp "$experiments" "${config_options[@]}" --seeds "$seeds" \
        --backbone "$backbone" --weights "$weights" --device "$device" --ngpu "$ngpu" ${jobs:+--jobs "$jobs"} \
        --features-in "$features_in" "${recompute[@]}" "${compile[@]}" "${dry_run[@]}" "${overwrite[@]}" "${debug[@]}"
}

stage_score() {
    log "score: $experiments"
    run "$root/src/score.py" --data "data/$name" --exp "$experiments" "${config_options[@]}" --seeds "$seeds" \
        --backbone "$backbone" --weights "$weights" --device "$device" "${debug[@]}"
}

stage_report() {
    log "report: $experiments"
    run "$root/src/report.py" --exp "$experiments" --out "$experiments/RESULTS.md" --conf "$conf" \
        --conf-dir "$conf_dir" "${debug[@]}"
}

failed() { # stage, exit code
    case $2 in
        130) log "$1 interrupted; the same command resumes there" ;;
        129 | 143) log "$1 terminated; the same command resumes there" ;;
        137) log "$1 was killed (exit 137), most often because memory ran out; try a smaller --nj" ;;
        *) log "$1 failed (exit $2)" ;;
    esac >&2
    exit "$2"
}

extra=
source "$root/egs/environment.sh"
stage=fetch
ended() { failed "$stage" "$1"; }
stage_fetch || failed fetch $?
if [[ " ${wanted[*]} " =~ \ (prepare|extract|train)\  ]]; then
    stage='check of the confs'
    check_confs || failed "$stage" $?
fi
for stage in "${wanted[@]}"; do
    [[ $stage == fetch ]] || "stage_$stage" || failed "$stage" $?
done
log "done"
