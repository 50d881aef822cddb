"""Inspection of users' data: errors that prevent training, warnings, and counts."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tabulate import tabulate

from .. import audio, identity, manifest
from ..manifest import Clip
from . import quality
from .custom import Table

VALID_FRACTION = 0.15
VALID_SEED = 20181
LISTED = 10  # unreadable clips, problems or warnings of one kind that are listed


def find_problems(table: Table) -> list[tuple[int | None, str]]:
    """List (row or None, reason) of all that prevents training on a CSV, except for its audio."""
    if table.problems:
        return table.problems
    clips = with_validation(table.clips)
    if not any(clip.split == "valid" for clip in clips):
        lacking = "no group of train can be spared for validation"
        return [(None, f"{lacking}; expected more groups there, or rows whose split is valid")]
    return [(None, manifest.without_labels(split)) for split in manifest.unlabelled(clips)]


def find_warnings(clips: list[Clip], classes: list[str], hashes: Sequence[str | None]) -> list[str]:
    """List sentences on labels and audio that make results unreliable.

    Args:
        hashes: sha256 of each clip's audio file, None if it cannot be read.
    """
    shared = quality.shared_audio_warnings(clips, hashes)
    if len(shared) > LISTED:
        shared = [*shared[:LISTED], f"{len(shared) - LISTED} more files are in several groups"]
    return quality.label_warnings(clips, classes) + shared


def audio_hashes(clips: list[Clip], folder: Path) -> list[str | None]:
    """Compute the sha256 of each clip's audio file below `folder`; None if it cannot be read."""
    hashes = {}
    for path in {clip.audio for clip in clips}:
        with suppress(OSError, UnicodeError):  # the latter for a name that the locale cannot encode
            hashes[path] = identity.of_file(folder / path)
    return [hashes.get(clip.audio) for clip in clips]


def unusable_audio(
    folder: str | Path,
    clips: Sequence[Clip],
    warn: audio.Warn = warnings.warn,
    shortest_s: float = audio.SHORTEST_CLIP,
) -> dict[str, str]:
    """Decode the clips' audio, as the stage `extract` will: {clip: reason} of those it refuses.

    It takes 20 ms per clip and core.

    Args:
        folder: folder that the clips' audio paths are relative to.
        warn, shortest_s: see `audio.clip`.
    """
    lines = []

    def complaint(clip: Clip) -> str | None:
        path = Path(folder) / clip.audio
        return audio.complaint(path, clip.start_s, shortest_s, lines.append, clip.seconds)

    with ThreadPoolExecutor() as pool:
        reasons = list(pool.map(complaint, clips))
    for line in dict.fromkeys(lines):  # a file may hold many clips
        warn(line)
    return {clip.clip: reason for clip, reason in zip(clips, reasons, strict=True) if reason}


def line(row: int | None, reason: str) -> str:
    """Format a problem."""
    return reason if row is None else f"row {row}: {reason}"


def counted(things: Sequence, name: str) -> str:
    """Format a number of things.

    >>> counted([1], "problem"), counted([], "problem")
    ('1 problem', '0 problems')
    """
    return f"{len(things)} {name}" if len(things) == 1 else f"{len(things)} {name}s"


def counts(clips: list[Clip], classes: list[str]) -> list[str]:
    """Format tables of the clips and groups per split, and of the labels per class."""
    splits = {split: [clip for clip in clips if clip.split == split] for split in manifest.SPLITS}
    sizes = []
    for split, members in splits.items():
        sizes.append([split, len(members), len({clip.group for clip in members})])
    labels = []
    for name in classes:
        values = [clip.labels[name] for clip in clips if name in clip.labels]
        present = sum(value >= manifest.PRESENT for value in values)
        row = [name, present, len(values) - present, len(clips) - len(values)]
        for members in splits.values():
            row.append(sum(name in clip.labels for clip in members))
        labels.append(row)
    columns = ["class", "present", "absent", "unknown", *(f"in {split}" for split in splits)]
    tables = [
        tabulate(sizes, ["split", "clips", "groups"], "plain"),
        tabulate(labels, columns, "plain"),
    ]
    return ["", *"\n\n".join(tables).splitlines(), ""]


def summary(clips: list[Clip], classes: list[str]) -> str:
    """Format the number of clips, groups and labels in one line."""
    parts = []
    for split in manifest.SPLITS:
        groups = [clip.group for clip in clips if clip.split == split]
        parts.append(f"{split} {len(groups)} clips of {len(set(groups))} groups")
    values = [value for clip in clips for value in clip.labels.values()]
    present = sum(value >= manifest.PRESENT for value in values)
    cells = len(clips) * len(classes)
    parts.append(
        f"{len(values)} of {cells} labels observed ({len(values) / cells:.1%}), "
        f"{present / len(values):.0%} of them present"
    )
    return "; ".join(parts)


def check_splits(root: Path, clips: list[Clip]) -> None:
    """Refuse a corpus without clips for training, validation or test.

    Raises:
        ManifestError: the message names the empty splits.
    """
    splits = {clip.split for clip in clips}
    empty = [split for split in manifest.SPLITS if split not in splits]
    if empty:
        raise manifest.ManifestError(
            f"{root}: no clip is in {' or '.join(empty)}; "
            "expected more groups (artists), and clips in both train and test"
        )


def with_validation(clips: list[Clip]) -> list[Clip]:
    """Draw a validation split, unless the clips have one."""
    if any(clip.split == "valid" for clip in clips):
        return clips
    return manifest.split_validation(clips, VALID_FRACTION, VALID_SEED)
