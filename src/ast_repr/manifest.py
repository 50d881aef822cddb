"""The manifest: one JSON line per clip, whatever the corpus; and labels as targets and a mask.

Conventions
    A line: {"clip", "group", "audio", "start_s", "split", "labels": {instrument: relevance 0..1},
    "sha256", "sidecars": {feature: sha256}}.
    An instrument that is absent from `labels` is unobserved: the mask is absence, and cannot
    disagree with the labels.
    `audio` is relative to the manifest's folder, and `sha256` is that of the file's bytes. Splits
    are train, valid and test; `group` is the artist, kept whole.
    `sidecars` are features that the corpus carries ready-made, a file beside each audio file.
    `classes.txt` beside the manifest names the classes, one per line, in the order of every column.
    `manifest.sha256` seals both; `sha256sum -c manifest.sha256` verifies them.
"""

import json
import math
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from . import atomic, identity
from .registry import unknown

SPLITS = ("train", "valid", "test")
PRESENT = 0.5  # a relevance of at least this says that the instrument is present
SIDECARS = ("vggish",)  # features that a corpus may carry
MANIFEST, CLASSES, SEAL = "manifest.jsonl", "classes.txt", "manifest.sha256"
HASHES = "file_hashes.json"  # of the files that the clips are made from


class ManifestError(ValueError):
    """An unusable manifest, or unusable labels for one; the message names what is wrong."""


@dataclass(frozen=True)
class Clip:
    """One clip of a corpus; `sha256` and `sidecars` are empty until `with_hashes` fills them."""

    clip: str
    group: str
    audio: str
    start_s: float
    split: str
    labels: dict
    sha256: str = ""
    sidecars: dict[str, str] = field(default_factory=dict)

    def source(self, folder: str | Path, feature: str) -> tuple[Path, str]:
        """The file that `feature` is made from, for a manifest in `folder`, and its sha256.

        The sha256 is "" for a sidecar that was not there when the manifest was made.
        """
        audio = Path(folder) / self.audio
        if feature in SIDECARS:
            return sidecar(audio, feature), self.sidecars.get(feature, "")
        return audio, self.sha256

    def identity(self, feature: str) -> str:
        """What decides the values of `feature`, beside its own settings."""
        _, sha256 = self.source("", feature)
        return f"{sha256}@{self.start_s:.15g}"


def sidecar(audio: str | Path, feature: str) -> Path:
    """Where OpenMIC-2018 keeps a ready-made feature: audio/000/x.ogg -> vggish/000/x.json."""
    path = Path(audio)
    return path.parent.parent.parent / feature / path.parent.name / f"{path.stem}.json"


def identities(clips: list[Clip], feature: str) -> dict[str, str]:
    """{name: identity} of the clips, for one feature."""
    return {clip.clip: clip.identity(feature) for clip in clips}


def with_hashes(folder: str | Path, clips: list[Clip]) -> list[Clip]:
    """The clips with the sha256 of their files, which are hashed again only if they were touched.

    Args:
        folder: what the clips' paths are relative to; it also keeps the hashes.
        clips: of a file that is not there or may not be read the sha256 is empty.
    """
    sources = {Path(folder) / clip.audio for clip in clips}
    for feature in SIDECARS:
        sources |= {clip.source(folder, feature)[0] for clip in clips}
    sources = sorted(path for path in sources if path.is_file() and os.access(path, os.R_OK))
    cache = identity.FileHashes(Path(folder) / HASHES)
    hashes = dict(zip(sources, cache.of_all(sources, "hash audio"), strict=True))
    hashed = []
    for clip in clips:
        paths = {feature: clip.source(folder, feature)[0] for feature in SIDECARS}
        sidecars = {feature: hashes[path] for feature, path in paths.items() if path in hashes}
        sha256 = hashes.get(Path(folder) / clip.audio, "")
        hashed.append(replace(clip, sha256=sha256, sidecars=sidecars))
    return hashed


def forget_hashes(folder: str | Path) -> None:
    """Have `with_hashes` hash all files again."""
    (Path(folder) / HASHES).unlink(missing_ok=True)


def content_sha256(clips: list[Clip], classes: list[str]) -> str:
    """Identity of a manifest: all that it says, but for where the audio files lie."""
    lines = [asdict(clip) for clip in clips]
    for line in lines:
        del line["audio"]
    return identity.of_values([lines, classes])


def write(folder, clips, classes):
    """Write classes.txt, manifest.jsonl and, once both are whole, the seal into `folder`."""
    folder = Path(folder)
    lines = (json.dumps(asdict(clip), ensure_ascii=False) + "\n" for clip in clips)
    texts = {CLASSES: "".join(f"{name}\n" for name in classes), MANIFEST: "".join(lines)}
    seal = ""
    for name, text in texts.items():
        atomic.write_text(folder / name, text)
        seal += f"{identity.of_bytes(text.encode())}  {name}\n"
    atomic.write_text(folder / SEAL, seal)


def read(folder):
    """Read (clips, classes) from `folder`, checked.

    Raises:
        ManifestError: nothing there, damaged or edited, or labels that `check` refuses.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise ManifestError(f"{path}: no manifest; run the stage `prepare` first")
    texts = _unsealed(folder)
    classes = texts[CLASSES].split("\n")[:-1]
    clips = []
    for number, line in enumerate(texts[MANIFEST].split("\n")[:-1], 1):
        try:
            clips.append(Clip(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise ManifestError(
                f"{path}, line {number}: not a clip ({error}); run the stage `prepare` again"
            ) from error
    check(clips, classes)
    return clips, classes


def _unsealed(folder):
    """{name: text} of the files that the seal covers.

    Raises:
        ManifestError: one is not what the seal says.
    """
    texts, seal = {}, b""
    try:
        for name in (CLASSES, MANIFEST):
            data = (folder / name).read_bytes()
            seal += f"{identity.of_bytes(data)}  {name}\n".encode()
            texts[name] = data.decode(errors="replace")
        intact = (folder / SEAL).read_bytes() == seal
    except FileNotFoundError:
        intact = False
    if not intact:
        raise ManifestError(
            f"{folder / MANIFEST}: damaged, edited or of an older version, {SEAL} says otherwise; "
            "run the stage `prepare` again"
        )
    return texts


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
