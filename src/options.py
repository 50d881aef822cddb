"""Translate the command line of a recipe into assignments that recipe.sh evaluates.

    python3 src/options.py RECIPE'S OPTIONS -- USER'S OPTIONS

Each option is declared by a group of ast_repr.options and passed to the stages that use the group.
Standard library only, from Python 3.8 on: this runs before any environment exists.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from functools import partial
from pathlib import Path

from ast_repr import choices, escaping, options

STAGES = ("fetch", "prepare", "extract", "train", "score", "report")
BACKBONES = Path(__file__).parents[1] / "pretrained_models" / "index.yaml"
STAGE_DEFAULTS = {"corpus": "auto"}  # of a stage, if a recipe may have another
NEED_CONFIGS = ("prepare", "extract", "train")  # run only after a check of the configs

CORPUS_EXAMPLES = """\
    source run.sh                               the built-in corpus: nothing to download
    source run.sh --corpus {published}
    source run.sh --conf all --seeds 0,1,2 --from train
    source run.sh --conf ast_unet --set optimizer.lr=0.0003 --overwrite"""
PUBLISHED = {  # corpora to download
    "openmic": "openmic              the paper: downloads OpenMIC-2018 and AST (3 GB)",
    "irmas": "irmas                downloads IRMAS (several GB)",
    "magnatagatune": "magnatagatune        downloads MagnaTagATune (3 GB)",
}
MANIFEST_EXAMPLES = """\
    source run.sh --manifest ~/songs.csv
    source run.sh --manifest ~/songs.csv --conf ast_linear,ast_unet --seeds 0,1,2 --from train"""


def main(arguments: list[str]) -> None:
    """Print the assignments for a recipe's and a user's options."""
    split = arguments.index("--")
    recipe = parse_recipe(arguments[:split])
    given = arguments[split + 1 :]
    groups = option_groups(recipe)
    parser = make_parser(recipe, groups)
    if "--help" in given or "-h" in given:
        print(f"printf '%s\\n' {shlex.quote(parser.format_help())}; exit 0")
        return
    chosen = parse(parser, recipe, given)
    stages = select_stages(chosen)
    if recipe.preview and chosen.conf == recipe.conf and {"train", "report"} <= set(stages):
        stages.insert(stages.index("train"), "preview")
    print(f"export AST_REPR_COMMAND={shlex.quote(join(['source', 'run.sh', *given]))}")
    for name in ("conf", "protocol"):
        print(f"{name}={shlex.quote(getattr(chosen, name))}")
    print(f"preview={shlex.quote(recipe.preview)}")
    print(f"seeds={as_text(chosen.seeds)}")
    print(f"stages=({join(stages)})")
    for stage in (*STAGES, "check", "config"):
        words = []
        for _, add_options, users in groups:
            if stage in users:
                words += hand_over(add_options, chosen)
        print(f"{stage}_options=({join(words)})")


def parse_recipe(arguments: list[str]) -> argparse.Namespace:
    """Parse the description of a recipe from its run.sh and recipe.sh."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--corpora", required=True, type=lambda text: text.split(","))
    parser.add_argument("--conf", required=True, help="configs to run by default")
    parser.add_argument(
        "--preview", default="", help="those of them whose table is printed before the rest is run"
    )
    parser.add_argument("--conf-dir", required=True)
    parser.add_argument("--called-from", required=True, type=Path, help="the user's directory")
    return parser.parse_args(arguments)


def option_groups(recipe: argparse.Namespace) -> list[tuple]:
    """List (title, function that declares the options, stages that take them)."""
    if recipe.corpora == ["custom"]:
        corpus = [("data", options.add_manifest_option, ["fetch"])]
    else:
        add_corpus = partial(options.add_corpus_options, corpora=recipe.corpora)
        corpus = [("corpus", add_corpus, ["fetch"])]
        if "synthetic" in recipe.corpora:
            corpus.append(("built-in corpus", options.add_clips_option, ["fetch", "prepare"]))
        if "magnatagatune" in recipe.corpora:
            corpus.append(("clips", options.add_split_option, ["fetch", "prepare"]))
    add_backbone = partial(
        options.add_backbone_options, backbones=["auto", *choices.keys(BACKBONES)]
    )
    panns = []
    if "multi_stft3_panns" in choices.confs(recipe.conf_dir):
        panns = [("PANNs", options.add_panns_options, ["fetch"])]
    return [
        *corpus,
        ("backbone", add_backbone, ["fetch"]),
        *panns,
        ("audio", options.add_processing_options, ["prepare", "extract"]),
        ("configs", options.add_config_options, ["config"]),
        ("runs", options.add_run_options, ["train", "score"]),
        ("training", options.add_training_options, ["train"]),
        ("errors", options.add_debug_option, [*STAGES, "check"]),
    ]


def make_parser(recipe: argparse.Namespace, groups: list[tuple]) -> options.Parser:
    """Make the parser of the user's options."""
    examples = MANIFEST_EXAMPLES
    if recipe.corpora != ["custom"]:
        examples = CORPUS_EXAMPLES.format(published=PUBLISHED[recipe.corpora[-1]])
    epilog = [
        f"configs: {' '.join(choices.confs(recipe.conf_dir))}",
        f"studies: {' '.join(choices.studies(recipe.conf_dir))}",
        f"examples:\n{examples}",
    ]
    parser = options.Parser(
        f"The {recipe.name} recipe: from a corpus to a table of reprogrammed backbones.",
        prog="source run.sh",
        usage="source run.sh [--option value ...]     or: bash run.sh ...",
        epilog="\n\n".join(epilog),
    )
    for title, add_options, _ in groups:
        add_options(parser.add_argument_group(title))
    stages = parser.add_argument_group("stages", "each one skips finished work")
    stages.add_argument(
        "--from",
        dest="first",
        choices=STAGES,
        default=STAGES[0],
        help="first stage; fetch always runs, since it decides which data is used",
    )
    stages.add_argument("--to", dest="last", choices=STAGES, default=STAGES[-1], help="last stage")
    parser.set_defaults(conf=recipe.conf, nj=available_cores())
    return parser


def parse(parser: options.Parser, recipe: argparse.Namespace, given: list[str]):
    """Parse and check the user's options; paths become absolute."""
    for word in given:
        if not word or re.fullmatch("--[a-z-]+=", word):
            parser.error(f"{word or 'an empty word'}: expected a value")
    chosen = parser.parse_args(given)
    if recipe.corpora == ["custom"] and chosen.manifest is None:
        parser.error("no --manifest: expected a CSV of your own data; see --help")
    known = [*choices.confs(recipe.conf_dir), *choices.studies(recipe.conf_dir), "all"]
    chosen.conf = "".join(chosen.conf.split())
    for conf in chosen.conf.split(","):
        name = conf.partition("+")[0]
        if name not in known:
            parser.error(choices.unknown("conf", name, known))
    protocols = choices.protocols(recipe.conf_dir)
    if chosen.protocol not in protocols:
        parser.error(choices.unknown("protocol", chosen.protocol, protocols))
    for name, value in vars(chosen).items():
        if isinstance(value, Path):
            setattr(chosen, name, recipe.called_from / os.path.expanduser(value))
    return chosen


def select_stages(chosen: argparse.Namespace) -> list[str]:
    """List the stages to run, in order."""
    first = STAGES.index(chosen.first)
    last = STAGES.index(chosen.last)
    if first > last:
        raise options.UsageError(
            f"--from {chosen.first} comes after --to {chosen.last}; the order is: "
            f"{' '.join(STAGES)}"
        )
    stages = [stage for stage in STAGES[first : last + 1] if stage != "fetch"]
    if chosen.dry_run:
        stages = ["prepare", "train"]
    if any(stage in NEED_CONFIGS for stage in stages):
        stages.insert(0, "check")
    return ["fetch", *stages]


def hand_over(add_options, chosen: argparse.Namespace) -> list[str]:
    """Format the options that a function declares as a stage's arguments, without defaults."""
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    words = []
    for name, default in vars(parser.parse_args([])).items():
        value = getattr(chosen, name)
        default = STAGE_DEFAULTS.get(name, default)
        option = f"--{name.replace('_', '-')}"
        if value == default:
            continue
        if value is True:
            words.append(option)
        elif isinstance(value, list):
            for item in value:
                words += [option, item]
        else:
            words += [option, as_text(value)]
    return words


def as_text(value) -> str:
    """Format a value as on the command line."""
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return str(value)


def join(words: list[str]) -> str:
    """Quote words for the shell."""
    return " ".join(shlex.quote(word) for word in words)


def available_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except options.UsageError as error:
        sys.stderr.write(f"error: {escaping.terminal(str(error))}\n")
        sys.exit(2)
