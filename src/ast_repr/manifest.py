"""The manifest: one JSON line per clip of any corpus, and labels as targets and a mask.

Conventions
    A line: {"clip", "group", "audio", "start_s", "split", "labels": {instrument: relevance 0..1},
    "sha256", "sidecars": {feature: sha256}, "truth": {instrument: 0 or 1}, "seconds"}.
    An instrument that is absent from `labels` is unobserved. `truth`, which is empty unless the
    corpus knows it, says which instruments really sound; it is used in scoring alone.
    `audio` is relative to the manifest's folder, and `sha256` is that of the file's bytes. Splits
    are train, valid and test; a `group`, such as an artist, is never divided between splits.
    `sidecars` are precomputed features of the corpus, one file beside each audio file.
    `classes.txt` beside the manifest names the classes, one per line, in the order of every column.
    `manifest.sha256` seals both; `sha256sum -c manifest.sha256` verifies them.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from . import atomic, identity
from .audio import CLIP_SECONDS
from .registry import unknown

SPLITS = ("train", "valid", "test")
PRESENT = 0.5  # least relevance of a present instrument
SIDECARS = ("vggish",)  # features that a corpus may carry
MANIFEST = "manifest.jsonl"
CLASSES = "classes.txt"
SEAL = "manifest.sha256"
HASHES = "file_hashes.json"  # of the files that the clips are made from


class ManifestError(ValueError):
    """An unusable manifest, or unusable labels for one; the message names the error."""


@dataclass(frozen=True)
class Clip:
    """One clip of a corpus; `sha256` and `sidecars` are empty until `with_hashes` fills them.

    `truth` is empty, or has every class of the corpus.
    """

    clip: str
    group: str
    audio: str
    start_s: float
    split: str
    labels: dict[str, float]
    sha256: str = ""
    sidecars: dict[str, str] = field(default_factory=dict)
    truth: dict[str, int] = field(default_factory=dict)
    seconds: float = CLIP_SECONDS

    def source(self, folder: str | Path, feature: str) -> tuple[Path, str]:
        """Return the file that `feature` is made from, for a manifest in `folder`, and its sha256.

        The sha256 is "" for a sidecar that did not exist when the manifest was made.
        """
        audio = Path(folder) / self.audio
        if feature in SIDECARS:
            return sidecar(audio, feature), self.sidecars.get(feature, "")
        return audio, self.sha256

    def identity(self, feature: str) -> str:
        """Return the identity of the data that `feature` is computed from."""
        _, sha256 = self.source("", feature)
        length = "" if self.seconds == CLIP_SECONDS else f"+{self.seconds:.15g}"
        return f"{sha256}@{self.start_s:.15g}{length}"


def sidecar(audio: str | Path, feature: str) -> Path:
    """Return OpenMIC-2018's path of a precomputed feature: audio/000/x.ogg -> vggish/000/x.json."""
    path = Path(audio)
    return path.parent.parent.parent / feature / path.parent.name / f"{path.stem}.json"


def identities(clips: Iterable[Clip], feature: str) -> dict[str, str]:
    """Return {name: identity} of the clips, for one feature."""
    return {clip.clip: clip.identity(feature) for clip in clips}


def with_hashes(folder: str | Path, clips: Sequence[Clip]) -> list[Clip]:
    """Return the clips with the sha256 of their files, empty for unreadable ones.

    The manifest's `folder` keeps the hashes; unchanged files are not hashed again.
    """
    folder = Path(folder)
    paths = set()
    for clip in clips:
        audio = folder / clip.audio
        paths |= {audio, *(sidecar(audio, feature) for feature in SIDECARS)}
    paths = sorted(path for path in paths if path.is_file() and os.access(path, os.R_OK))
    cache = identity.FileHashes(folder / HASHES)
    hashes = dict(zip(paths, cache.of_all(paths, "hash audio"), strict=True))
    hashed = []
    for clip in clips:
        audio = folder / clip.audio
        sidecars = {}
        for feature in SIDECARS:
            if sidecar(audio, feature) in hashes:
                sidecars[feature] = hashes[sidecar(audio, feature)]
        hashed.append(replace(clip, sha256=hashes.get(audio, ""), sidecars=sidecars))
    return hashed


def forget_hashes(folder: str | Path) -> None:
    """Make `with_hashes` hash all files again."""
    (Path(folder) / HASHES).unlink(missing_ok=True)


def content_sha256(clips: Iterable[Clip], classes: Sequence[str]) -> str:
    """Return the identity of a manifest: its content except for the paths of the audio files.

    The truth, which nothing is trained on, does not count; see `truth_sha256`.
    """
    lines = [asdict(clip) for clip in clips]
    for line in lines:
        del line["audio"]
        del line["truth"]
        if line["seconds"] == CLIP_SECONDS:  # older manifests hold none
            del line["seconds"]
    return identity.of_values([lines, list(classes)])


def truth_sha256(clips: Iterable[Clip]) -> str:
    """Return the identity of the truth of clips."""
    return identity.of_values([[clip.clip, clip.truth] for clip in clips])


def write(folder: str | Path, clips: Iterable[Clip], classes: Iterable[str]) -> None:
    """Write classes.txt, manifest.jsonl and, after both, the seal into `folder`."""
    folder = Path(folder)
    class_data = "".join(f"{name}\n" for name in classes).encode()
    lines = [json.dumps(asdict(clip), ensure_ascii=False) + "\n" for clip in clips]
    clip_data = "".join(lines).encode()
    atomic.write_bytes(folder / CLASSES, class_data)
    atomic.write_bytes(folder / MANIFEST, clip_data)
    atomic.write_bytes(folder / SEAL, _seal(class_data, clip_data))


def read(folder: str | Path) -> tuple[list[Clip], list[str]]:
    """Read and check (clips, classes) from `folder`.

    Raises:
        ManifestError: there is no manifest, it is damaged or edited, or `check` refuses it.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise ManifestError(f"{path}: no manifest; run the stage `prepare` first")
    try:
        class_data = (folder / CLASSES).read_bytes()
        clip_data = path.read_bytes()
        intact = (folder / SEAL).read_bytes() == _seal(class_data, clip_data)
    except FileNotFoundError:
        intact = False
    if not intact:
        raise ManifestError(
            f"{path}: damaged, edited or of an older version, {SEAL} differs; "
            "run the stage `prepare` again"
        )
    classes = class_data.decode().split("\n")[:-1]
    clips = []
    for number, line in enumerate(clip_data.decode().split("\n")[:-1], 1):
        try:
            clips.append(Clip(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise ManifestError(
                f"{path}, line {number}: not a clip ({error}); run the stage `prepare` again"
            ) from error
    check(clips, classes)
    return clips, classes


def _seal(class_data: bytes, clip_data: bytes) -> bytes:
    """Return the content of the seal: a sha256 and a name per line, as `sha256sum` writes it."""
    classes_line = f"{identity.of_bytes(class_data)}  {CLASSES}\n"
    return f"{classes_line}{identity.of_bytes(clip_data)}  {MANIFEST}\n".encode()


def check(clips: Sequence[Clip], classes: Sequence[str]) -> None:
    """Refuse clips that would silently invalidate an experiment.

    Raises:
        ManifestError: a duplicate clip, a group in two splits, an unknown split or instrument, a
            relevance outside 0..1, a class that is never observed in training, or a validation or
            test split without labels.
    """
    splits = {}
    groups = {}
    observed = set()
    for clip in clips:
        problem = _problem(clip, classes)
        if problem:
            raise ManifestError(f"clip {clip.clip}: {problem}")
        if clip.clip in splits:
            raise ManifestError(
                f"clip {clip.clip} is listed twice, in {splits[clip.clip]} and {clip.split}; "
                "expected once"
            )
        splits[clip.clip] = clip.split
        if clip.split == "train":
            observed |= clip.labels.keys()
        if groups.setdefault(clip.group, clip.split) != clip.split:
            raise ManifestError(
                f"group {clip.group} is in both {groups[clip.group]} and {clip.split}; "
                "expected in one split only"
            )
    unobserved = [name for name in classes if name not in observed]
    if unobserved:
        raise ManifestError(
            f"never observed in training: {', '.join(unobserved)}; "
            "give these classes labels or leave them out"
        )
    for split in unlabelled(clips):
        raise ManifestError(without_labels(split))


def _problem(clip: Clip, classes: Sequence[str]) -> str | None:
    """Describe an invalid value of one clip, if there is one."""
    if clip.split not in SPLITS:
        return unknown("split", clip.split, SPLITS)
    if not clip.seconds > 0:
        return f"a length of {clip.seconds} s; expected one above 0"
    for name, value in clip.labels.items():
        if name not in classes:
            return unknown("instrument", name, classes)
        if not (isinstance(value, int | float) and 0 <= value <= 1):
            return f"the relevance of {name} is {value}; expected a number from 0 to 1"
    if clip.truth:
        binary = all(type(value) is int and value in (0, 1) for value in clip.truth.values())
        if not binary or clip.truth.keys() != set(classes):
            return f"a truth of {', '.join(map(str, clip.truth))}; expected 0 or 1 for each class"
    return None


def unlabelled(clips: Iterable[Clip]) -> list[str]:
    """List the validation and test splits that have clips but no label."""
    labelled = {clip.split for clip in clips if clip.labels}
    present = {clip.split for clip in clips}
    return [split for split in ("valid", "test") if split in present - labelled]


def without_labels(split: str) -> str:
    """Return the message for a split of `unlabelled`."""
    purpose = {"valid": "choose an epoch by", "test": "score"}[split]
    return f"no clip in {split} has a label: nothing to {purpose}; give some of its clips labels"


def split_validation(clips: Sequence[Clip], fraction: float, seed: int) -> list[Clip]:
    """Move whole groups of training clips to the split "valid" until it holds `fraction` of them.

    Groups are taken in a random order that depends on `seed` but not on the order of the clips. A
    group is skipped if a class would lose its last observed training label.
    """
    groups = {}
    left = Counter()  # observed training labels per class
    for clip in clips:
        if clip.split == "train":
            groups.setdefault(clip.group, []).append(clip)
            left.update(clip.labels.keys())
    names = sorted(groups)
    wanted = fraction * sum(map(len, groups.values()))
    chosen = set()
    size = 0
    for index in np.random.default_rng(seed).permutation(len(names)):
        if size >= wanted:
            break
        counts = Counter()
        for clip in groups[names[index]]:
            counts.update(clip.labels.keys())
        if all(left[name] > count for name, count in counts.items()):
            chosen.add(names[index])
            size += len(groups[names[index]])
            left -= counts
    moved = []
    for clip in clips:
        if clip.split == "train" and clip.group in chosen:
            clip = replace(clip, split="valid")
        moved.append(clip)
    return moved


def targets(clips: Sequence[Clip], classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return relevances float32 (N, K), 0 where unobserved, and a mask (N, K), True if observed."""
    column = {name: k for k, name in enumerate(classes)}
    values = np.zeros((len(clips), len(classes)), np.float32)
    mask = np.zeros(values.shape, bool)
    for row, clip in enumerate(clips):
        for name, relevance in clip.labels.items():
            values[row, column[name]] = relevance
            mask[row, column[name]] = True
    return values, mask


def truth(clips: Sequence[Clip], classes: Sequence[str]) -> np.ndarray | None:
    """Return the truth as int8 (N, K), 1 if an instrument sounds; None unless all have it."""
    if not all(clip.truth for clip in clips):
        return None
    return np.array([[clip.truth[name] for name in classes] for clip in clips], np.int8)
