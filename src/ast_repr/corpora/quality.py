"""Warnings about labels and audio that can be trained on but not trusted: problem and remedy."""

from collections import Counter
from collections.abc import Iterable, Sequence

from .. import manifest
from ..manifest import Clip

ENOUGH = 5  # present, or absent, labels of a class in a split
ONE_SIDED = {  # consequence for classes without present or without absent labels in a split
    "train": "these classes cannot be learned",
    "valid": "these classes have no part in choosing the epoch",
    "test": "these classes have no score and are left out of every mean",
}


def label_warnings(clips: Sequence[Clip], classes: Sequence[str]) -> list[str]:
    """Name the classes with few or no present, or absent, labels in a split.

    Returns at most two sentences per split: one on classes that lack labels of one side, one on
    others with fewer than ENOUGH.
    """
    warnings = []
    for split in manifest.SPLITS:
        present = Counter()
        absent = Counter()
        for clip in clips:
            if clip.split == split:
                for name, relevance in clip.labels.items():
                    side = present if relevance >= manifest.PRESENT else absent
                    side[name] += 1
        one_sided = []
        few = []
        for name in classes:
            fewest = min(present[name], absent[name])
            counts = f"{name} ({present[name]} present, {absent[name]} absent)"
            if fewest == 0:
                one_sided.append(counts)
            elif fewest < ENOUGH:
                few.append(counts)
        if one_sided:
            warnings.append(
                f"{split} lacks present or absent labels of {', '.join(one_sided)}: "
                f"{ONE_SIDED[split]}; give clips of {split} labels of both kinds"
            )
        if few:
            warnings.append(
                f"{split} has fewer than {ENOUGH} present or absent labels of {', '.join(few)}: "
                f"too few to rely on; label more clips of {split}"
            )
    return warnings


def shared_audio_warnings(clips: Iterable[Clip], sha256s: Iterable[str | None]) -> list[str]:
    """Name clips of different groups with identical audio files, which may leak between splits.

    `sha256s` are those of the clips' audio files, None if unreadable.
    """
    groups_of = {}  # {sha256: {group: its first clip}}
    for clip, sha256 in zip(clips, sha256s, strict=True):
        if sha256 is not None:
            groups_of.setdefault(sha256, {}).setdefault(clip.group, clip)
    warnings = []
    for groups in groups_of.values():
        if len(groups) > 1:
            listed = [f"{clip.clip} ({clip.split}, group {clip.group})" for clip in groups.values()]
            warnings.append(
                f"the same audio is in {len(groups)} groups: {', '.join(listed)}; "
                "give these clips one group, or leave all but one out"
            )
    return warnings
