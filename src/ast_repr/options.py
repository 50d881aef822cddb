"""Options of the stages and of the recipes, which pass them on.

Each `add_..._options` takes a parser or an argument group. Standard library only, from Python 3.8
on: `run.sh --help` works before any environment exists.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from .choices import FEATURE_STORAGE, TAG_SPLITS, unknown

CORPUS_HELP = {  # by the default of a recipe
    "auto": "auto: OpenMIC-2018 if it is on disk, otherwise the built-in corpus",
    "irmas_synthetic": "irmas_synthetic: the built-in corpus; irmas: downloads it, or --data-root",
    "magnatagatune_synthetic": "magnatagatune_synthetic: the built-in corpus; magnatagatune: "
    "downloads it, or --data-root",
}
CLIPS = 2_200  # of the built-in corpus, a quarter of them for test


class UsageError(ValueError):
    """Invalid options."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError and suggests the nearest option or choice.

    Options are never abbreviated.
    """

    def __init__(self, description: str, **keywords):
        form = functools.partial(argparse.RawDescriptionHelpFormatter, width=100)
        keywords = {"formatter_class": form, "allow_abbrev": False, **keywords}
        super().__init__(description=description, **keywords)

    def parse_args(self, args=None, namespace=None):
        """Parse a command line; positional arguments may stand before and after options."""
        options, rest = self.parse_known_intermixed_args(args, namespace)
        if rest:
            option = rest[0].partition("=")[0]
            self.error(unknown("option", option, self._option_string_actions))
        return options

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, unknown("choice", value, action.choices))

    def error(self, message):
        """Raise a UsageError."""
        raise UsageError(message)


def between(kind: type, least: float, most: float = float("inf")) -> Callable[[str], float]:
    """Return an option's type: a number of `kind` from `least` to `most`."""
    limit = f" to {most:g}" if most < float("inf") else " on"

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"found {text!r}, expected a number from {least:g}{limit}"
            )
        return value

    return parse


def matching(pattern: str, expected: str) -> Callable[[str], str]:
    """Return an option's type: text that matches a pattern, which `expected` describes."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text, re.DOTALL):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}")
        return text

    return parse


def seeds(text: str) -> tuple[int, ...]:
    """Parse a comma-separated list of seeds; repeated ones are dropped.

    >>> seeds("0,2,2,1")
    (0, 2, 1)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected whole numbers separated by commas, such as 0,1,2"
        )
    return tuple(dict.fromkeys(int(part) for part in parts))


def add_debug_option(parser) -> None:
    """Add the option of all scripts."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_corpus_options(parser, corpora: Sequence[str]) -> None:
    """Add the choice of a corpus, by default the first."""
    parser.add_argument(
        "--corpus",
        choices=corpora,
        default=corpora[0],
        help=f"{CORPUS_HELP[corpora[0]]} (default: %(default)s)",
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="a copy of the published corpus, or another one in its layout",
    )


def add_clips_option(parser) -> None:
    """Add the size of the built-in corpus."""
    parser.add_argument(
        "--clips",
        type=between(int, 1),
        default=CLIPS,
        metavar="N",
        help="size of the built-in corpus, 200 to 20000 (default: %(default)s)",
    )


def add_split_option(parser) -> None:
    """Add the choice of MagnaTagATune's clips."""
    parser.add_argument(
        "--split",
        choices=TAG_SPLITS,
        default=TAG_SPLITS[0],
        help="clean: clips with any of the 50 tags; full: all clips; artist: as clean, without "
        "training clips of artists in validation or test (default: %(default)s)",
    )


def add_manifest_option(parser) -> None:
    """Add the CSV of a user's own data."""
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="CSV",
        help="your data: a row per clip, with its path and a column per class; egs/README.md "
        "describes it, and `python src/prepare.py --check CSV` checks it",
    )


def add_backbone_options(parser, backbones: Sequence[str]) -> None:
    """Add the choice of a frozen backbone, by default the first."""
    parser.add_argument(
        "--backbone",
        choices=backbones,
        default=backbones[0],
        help="auto: ast_audioset if it is on disk or --corpus openmic asks for it, otherwise "
        "ast_tiny_synth; pretrained_models/README.md describes each (default: %(default)s)",
    )
    parser.add_argument(
        "--backbone-file",
        type=Path,
        metavar="FILE",
        help="weights on disk of the network that --backbone names; without --backbone of an AST, "
        "the authors' .pth or safetensors, and its name is the file's",
    )
    parser.add_argument(
        "--teacher-file",
        type=Path,
        metavar="FILE",
        help="a file on disk that would be downloaded for a teacher; it is recognised by its "
        "sha256, and copied to pretrained_models/downloads",
    )


def add_panns_options(parser) -> None:
    """Add the weights that one of the systems for IRMAS starts from."""
    parser.add_argument(
        "--panns",
        action="store_true",
        help="download PANNs' CNN14 (327 MB), from which multi_stft3_panns is trained",
    )
    parser.add_argument(
        "--panns-file",
        type=Path,
        metavar="FILE",
        help="the same on disk: Cnn14_mAP=0.431.pth; its sha256 is checked",
    )


def add_processing_options(parser) -> None:
    """Add the options of the stages that read audio."""
    parser.add_argument(
        "--nj",
        type=between(int, 1),
        default=1,
        metavar="N",
        help="processes (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-missing",
        type=between(int, 0),
        default=0,
        metavar="N",
        help="leave out up to N clips whose audio is missing or damaged (default: %(default)s)",
    )


def add_config_options(parser) -> None:
    """Add the choice of configs, settings and protocol."""
    parser.add_argument(
        "--conf",
        default="all",
        metavar="A,B,...",
        help="configs, variants (A+section.key=value) and studies, or all (default: %(default)s)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=matching(r"[^=]+\.[^=]+=.*", "section.key=value"),
        metavar="SECTION.KEY=VALUE",
        help="a setting merged over each config; may be repeated",
    )
    parser.add_argument(
        "--protocol",
        default="clean",
        help="evaluation protocol: clean, or another one that the configs know "
        "(default: %(default)s)",
    )


def add_run_options(parser) -> None:
    """Add the choice of runs and of the device."""
    parser.add_argument(
        "--seeds",
        type=seeds,
        default=(0,),
        metavar="0,1,...",
        help="a run per config and seed (default: 0)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        type=matching("auto|cpu|cuda(:[0-9]{1,3})?", "auto, cpu, cuda or cuda:N"),
        help="auto, cpu, cuda or cuda:N (default: %(default)s)",
    )


def add_training_options(parser) -> None:
    """Add the options of training that do not change its result."""
    parser.add_argument(
        "--ngpu",
        type=between(int, 1, 9999),
        default=1,
        metavar="N",
        help="GPUs per run, or processes with --device cpu (default: %(default)s)",
    )
    parser.add_argument(
        "--jobs",
        type=between(int, 1, 9999),
        metavar="N",
        help="concurrent runs, which may share GPUs (default: one per GPU, one on the CPU)",
    )
    parser.add_argument(
        "--features-in",
        choices=FEATURE_STORAGE,
        default="auto",
        help="where features are kept during training; auto: the first that fits "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--recompute",
        action="store_true",
        help="activation checkpointing in the backbone: less memory, 20 to 45 %% more time "
        "on a CPU",
    )
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile the backbone: for GPUs"
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="write scalars for TensorBoard into the run folders",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="estimate time and memory without training"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="retrain existing runs from scratch"
    )
