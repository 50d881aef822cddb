"""The manifest: one JSON line a clip, whatever the corpus; and labels as targets and a mask.

Conventions
    A line: {"clip", "group", "audio", "start_s", "split", "labels": {instrument: relevance 0..1}}.
    An instrument that is absent from `labels` is unobserved: the mask is absence, and cannot disagree with the labels.
    `audio` is relative to the manifest's folder. Splits are train, valid and test; `group` is the artist, kept whole.
    `classes.txt` beside the manifest names the classes, one a line, in the order of every column.
"""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from . import files
from .rooms import unknown

SPLITS = ("train", "valid", "test")
PRESENT = 0.5  # a relevance of at least this says that the instrument is present


class ManifestError(ValueError):
    """A manifest, or the labels that it is made from, that cannot be used; the message names what is wrong."""


@dataclass(frozen=True)
class Clip:
    clip: str
    group: str
    audio: str
    start_s: float
    split: str
    labels: dict


def write(folder, clips, classes):
    """Write manifest.jsonl and classes.txt into `folder`; the manifest last, so that it is there only when all is."""
    files.write_text(Path(folder) / "classes.txt", "".join(f"{name}\n" for name in classes))
    lines = (json.dumps(asdict(clip), ensure_ascii=False) + "\n" for clip in clips)
    files.write_text(Path(folder) / "manifest.jsonl", "".join(lines))


def read(folder):
    """Read (clips, classes) from `folder`, checked.

    Raises:
        ManifestError: nothing there, an unreadable line, or labels that `check` refuses.
    """
    path = Path(folder) / "manifest.jsonl"
    if not path.is_file():
        raise ManifestError(f"{path}: no manifest; run the stage `prepare` first")
    classes = files.read_text(path.with_name("classes.txt")).split("\n")[:-1]
    clips = []
    for number, line in enumerate(files.read_text(path).splitlines(), 1):
        try:
            clips.append(Clip(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise ManifestError(
                f"{path}, line {number}: not a clip ({error}); run the stage `prepare` again"
            ) from error
    check(clips, classes)
    return clips, classes


def check(clips, classes):
    """Refuse what would spoil an experiment silently.

    Raises:
        ManifestError: a clip twice or in two splits, a group in two splits, an unknown split or
            instrument, a relevance outside 0..1, a class that is never observed in training, or
            a validation or test split in which nothing is observed.
    """
    splits, groups, observed = {}, {}, set()
    for clip in clips:
        if clip.split not in SPLITS:
            raise ManifestError(f"clip {clip.clip}: {unknown('split', clip.split, SPLITS)}")
        if clip.clip in splits:
            raise ManifestError(
                f"clip {clip.clip} is listed twice, in {splits[clip.clip]} and {clip.split}; "
                "expected once"
            )
        splits[clip.clip] = clip.split
        for name, relevance in clip.labels.items():
            if name not in classes:
                raise ManifestError(f"clip {clip.clip}: {unknown('instrument', name, classes)}")
            if (
                not isinstance(relevance, (int, float))
                or not math.isfinite(relevance)
                or not 0 <= relevance <= 1
            ):
                raise ManifestError(
                    f"clip {clip.clip}: the relevance of {name} is {relevance}; "
                    "expected a number from 0 to 1"
                )
            if clip.split == "train":
                observed.add(name)
        if groups.setdefault(clip.group, clip.split) != clip.split:
            raise ManifestError(
                f"group {clip.group} is in both {groups[clip.group]} and {clip.split}; "
                "expected in one split only"
            )
    if unseen := [name for name in classes if name not in observed]:
        raise ManifestError(
            f"never observed in training: {', '.join(unseen)}; "
            "give these classes labels or leave them out"
        )
    for split in unlabelled(clips):
        raise ManifestError(without_labels(split))


def unlabelled(clips) -> list[str]:
    """Validation and test splits that have clips but not one label."""
    labelled = {clip.split for clip in clips if clip.labels}
    there = {clip.split for clip in clips}
    return [split for split in ("valid", "test") if split in there - labelled]


def without_labels(split) -> str:
    """What is wrong with a split of `unlabelled`."""
    purpose = {"valid": "choose an epoch by", "test": "score"}[split]
    return f"no clip in {split} has a label: nothing to {purpose}; give some of its clips labels"


def split_validation(clips, fraction, seed):
    """Move whole groups of train clips to the split "valid" until it holds `fraction` of them.

    Groups are taken in a random order set by `seed`, one is skipped where a class would lose its last observed
    training label, and the others' order does not depend on the order of the clips.
    """
    members = {}
    for clip in clips:
        if clip.split == "train":
            members.setdefault(clip.group, []).append(clip)
    left = {}
    for name in (name for group in members.values() for clip in group for name in clip.labels):
        left[name] = left.get(name, 0) + 1
    wanted, chosen, size = fraction * sum(map(len, members.values())), set(), 0
    names = sorted(members)
    for index in np.random.default_rng(seed).permutation(len(names)):
        group = members[names[index]]
        counts = {}
        for name in (name for clip in group for name in clip.labels):
            counts[name] = counts.get(name, 0) + 1
        if size >= wanted or any(left[name] <= count for name, count in counts.items()):
            continue
        chosen.add(names[index])
        size += len(group)
        left = {name: count - counts.get(name, 0) for name, count in left.items()}
    return [
        replace(clip, split="valid") if clip.split == "train" and clip.group in chosen else clip
        for clip in clips
    ]


def targets(clips, classes):
    """Labels as arrays.

    Returns:
        (targets float32 (N, K), relevances, 0 where unobserved; mask bool (N, K), True where observed).
    """
    column = {name: k for k, name in enumerate(classes)}
    values = np.zeros((len(clips), len(classes)), np.float32)
    mask = np.zeros(values.shape, bool)
    for row, clip in enumerate(clips):
        for name, relevance in clip.labels.items():
            values[row, column[name]] = relevance
            mask[row, column[name]] = True
    return values, mask
