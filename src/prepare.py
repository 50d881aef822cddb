"""Stage `prepare`: turn a corpus into a manifest with training, validation and test splits.

The manifest is kept if it agrees with the corpus, including the sha256 of each audio file. Audio
from elsewhere is decoded once to find unusable clips. With --check, a CSV of your own data is only
checked: its problems are listed and its labels counted.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

import argparse
import os
import shlex
from pathlib import Path

from ast_repr import atomic, audio, choices, cli, escaping, manifest, options
from ast_repr.commands.check import check
from ast_repr.corpora import (
    custom,
    inspection,
    irmas,
    irmas_synthetic,
    magnatagatune,
    magnatagatune_synthetic,
    openmic,
    synthetic,
)
from ast_repr.corpora.inspection import LISTED
from ast_repr.manifest import Clip, ManifestError

# Seconds of audio that a clip must have, by corpus. Clips of the built-in corpora are encoded here
# and always have them; if one is damaged later, the stage `extract` refuses it.
SHORTEST_SECONDS = {
    "custom": audio.SHORTEST_CLIP,
    "irmas": irmas.SHORTEST_SECONDS,
    "magnatagatune": magnatagatune.SHORTEST_SECONDS,
    "openmic": openmic.SHORTEST_SECONDS,
}
Corpus = tuple[list[Clip], list[str], dict[str, str]]  # clips, classes, {clip: its source}


def main(args: argparse.Namespace) -> None:
    """Prepare a corpus, or check a CSV."""
    if args.check:
        check(args.check)
        return
    missing = [name for name in ("corpus", "root", "data") if getattr(args, name) is None]
    if missing:
        raise cli.UsageError(f"no --{missing[0]}: expected --corpus, --root and --data, or --check")
    args.data.mkdir(parents=True, exist_ok=True)
    atomic.sweep(args.data)
    is_irmas = args.corpus in ("irmas", "irmas_synthetic")
    if is_irmas:
        clips, classes, sources = read_irmas(args)
    elif args.corpus in ("magnatagatune", "magnatagatune_synthetic"):
        clips, classes, sources = read_magnatagatune(args)
    elif args.corpus == "custom":
        clips, classes, sources = read_custom(args)
    else:
        clips, classes, sources = read_openmic(args)
    clips = manifest.with_hashes(args.data, clips)
    if is_irmas:
        clips = irmas.join_copies(clips)
        if args.genuine:
            irmas.check_counts(clips)
    previous = read_manifest(args.data)
    reasons = {}
    if args.corpus in SHORTEST_SECONDS:
        checked = {part_of_audio(clip) for clip in previous[0]} if previous else set()
        unchecked = [clip for clip in clips if part_of_audio(clip) not in checked]
        shortest_s = SHORTEST_SECONDS[args.corpus]
        unusable = inspection.unusable_audio(args.data, unchecked, cli.warn, shortest_s)
        reasons = {name: f"{sources[name]}: {reason}" for name, reason in unusable.items()}
    clips = inspection.with_validation(drop_unusable(clips, reasons, args.allow_missing))
    inspection.check_splits(args.root, clips)
    manifest.check(clips, classes)
    if args.corpus == "custom":
        for warning in inspection.find_warnings(clips, classes, [c.sha256 for c in clips]):
            print(f"  warning: {warning}")
    state = " is up to date"
    if previous != (clips, classes):
        manifest.write(args.data, clips, classes)
        state = ""
    print(f"{args.data}/manifest.jsonl{state}: {inspection.summary(clips, classes)}")


def read_manifest(folder: Path) -> tuple[list[Clip], list[str]] | None:
    """Read (clips, classes) of a folder's manifest; None if it is missing or damaged."""
    try:
        return manifest.read(folder)
    except ManifestError:
        return None


def part_of_audio(clip: Clip) -> tuple[str, float, float]:
    """Return what decides whether the audio of a clip is usable."""
    return clip.sha256, clip.start_s, clip.seconds


def read_openmic(args: argparse.Namespace) -> Corpus:
    """Read a folder in OpenMIC-2018's layout, after making it if it is the built-in corpus."""
    if args.corpus == "synthetic":
        synthetic.make(args.root, args.clips, nj=args.nj)
    clips, classes = openmic.clips(args.root, relative_to=args.data)
    if args.genuine:
        openmic.check_counts(clips)
    sources = {clip.clip: str(openmic.audio_path(args.root, clip.clip)) for clip in clips}
    return clips, classes, sources


def read_irmas(args: argparse.Namespace) -> Corpus:
    """Read a folder in IRMAS' layout, after making it if it is the built-in corpus."""
    if args.corpus == "irmas_synthetic":
        irmas_synthetic.make(args.root, nj=args.nj)
    clips, classes = irmas.clips(args.root, relative_to=args.data)
    return clips, classes, audio_paths(clips, args.data)


def read_magnatagatune(args: argparse.Namespace) -> Corpus:
    """Read a folder in MagnaTagATune's layout, after making it if it is the built-in corpus."""
    if args.corpus == "magnatagatune_synthetic":
        magnatagatune_synthetic.make(args.root, nj=args.nj)
    clips, classes, broken = magnatagatune.clips(args.root, args.data, args.split)
    if broken:
        print(f"  left out: {len(broken)} files that are empty in the archive: {', '.join(broken)}")
    if args.genuine:
        magnatagatune.check_counts(clips, args.split)
    return clips, classes, audio_paths(clips, args.data)


def audio_paths(clips: list[Clip], folder: Path) -> dict[str, str]:
    """Return {clip: path of its audio}, for messages; `folder` is the manifest's."""
    return {clip.clip: os.path.normpath(folder / clip.audio) for clip in clips}


def read_custom(args: argparse.Namespace) -> Corpus:
    """Read a CSV of custom data.

    Raises:
        ManifestError: it has problems; the first of them are printed.
    """
    table = custom.read(args.root, relative_to=args.data)
    for note in table.notes:
        print(f"  note: {note}")
    problems = inspection.find_problems(table)
    for problem in problems[:LISTED]:
        print(escaping.terminal(f"  {inspection.line(*problem)}"))
    if problems:
        raise ManifestError(
            f"{args.root}: {inspection.counted(problems, 'problem')}, "
            f"{min(LISTED, len(problems))} listed above; fix them; "
            f"python src/prepare.py --check {shlex.quote(str(args.root))} lists them all"
        )
    sources = {name: inspection.line(row, name) for name, row in table.rows.items()}
    return table.clips, table.classes, sources


def drop_unusable(clips: list[Clip], unusable: dict[str, str], allowed: int) -> list[Clip]:
    """Leave out clips without usable audio.

    Args:
        unusable: {name: reason}.
        allowed: number of clips that may be left out.

    Raises:
        ValueError: there are more; the first of them are printed.
    """
    cli.refuse_missing(list(unusable.values()), allowed)
    for reason in unusable.values():
        print(escaping.terminal(f"  left out: {reason}"))
    return [clip for clip in clips if clip.clip not in unusable]


def parse() -> cli.Parser:
    """Return the parser of the options."""
    parser = cli.parser(__doc__)
    parser.add_argument("--corpus", choices=choices.CORPORA)
    parser.add_argument(
        "--root",
        type=Path,
        help="folder in the corpus' layout (built-in corpora: made here); custom: the CSV",
    )
    parser.add_argument("--data", type=Path, help="folder for the manifest")
    options.add_clips_option(parser)
    options.add_split_option(parser)
    parser.add_argument(
        "--genuine",
        action="store_true",
        help="the root is the published archive: check the number of its clips and labels",
    )
    options.add_processing_options(parser)
    parser.add_argument(
        "--check", type=Path, metavar="CSV", help="only check a CSV of your own data"
    )
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
