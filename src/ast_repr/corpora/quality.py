"""Warnings about labels and audio that can be trained on, but not trusted: sentences that say what
is wrong and what to do."""

from collections import Counter

from .. import manifest

ENOUGH = 5  # labels of a kind, present or absent, of a class in a split
ONE_SIDED = {  # what follows in a split for a class that lacks labels of a kind there
    "train": "what has one kind only cannot be told apart",
    "valid": "these have no part in choosing the epoch",
    "test": "these have no score and are left out of every mean",
}


def label_warnings(clips, classes) -> list[str]:
    """Name classes that have few labels of a kind, or none, in a split.

    Args:
        clips: of every split, the validation split included.
        classes: their names.

    Returns:
        At most two sentences per split: one of classes without labels of a kind, one of others
        that have fewer than ENOUGH.
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
            least = min(present[name], absent[name])
            counts = f"{name} ({present[name]} present, {absent[name]} absent)"
            if least == 0:
                one_sided.append(counts)
            elif least < ENOUGH:
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


def shared_audio_warnings(clips, sha256s) -> list[str]:
    """Name clips of different groups whose audio files are the same: what is learned may leak.

    Args:
        clips: with groups and splits; a group is in one split only.
        sha256s: of each clip's audio file, None if it cannot be read.

    Returns:
        One sentence per file content that several groups share.
    """
    sharing = {}
    for clip, sha256 in zip(clips, sha256s, strict=True):
        if sha256 is not None:
            sharing.setdefault(sha256, {}).setdefault(clip.group, clip)
    warnings = []
    for firsts in sharing.values():
        if len(firsts) > 1:
            places = [f"{clip.clip} ({clip.split}, group {clip.group})" for clip in firsts.values()]
            warnings.append(
                f"the same audio is in {len(firsts)} groups: {', '.join(places)}; "
                "give these clips one group, or leave all but one out"
            )
    return warnings
