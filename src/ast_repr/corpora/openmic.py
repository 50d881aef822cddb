"""OpenMIC-2018 (Humphrey, Durand and McFee 2018): 20,000 clips of 10 s, twenty instruments.

A tenth of the labels are observed. They are read from the aggregated CSV, never from
openmic-2018.npz, whose loading would run pickled code. The same code reads any corpus in this
layout, with other classes or sizes.
"""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path

from .. import atomic
from ..manifest import Clip, ManifestError
from ..registry import unknown
from . import table
from .remote import Remote, download, only_user_of, unpack

ARCHIVE = Remote(
    url="https://zenodo.org/records/1432913/files/openmic-2018-v1.0.0.tgz?download=1",
    bytes=2_623_376_754,
    md5="e4ccf187e2bb5ab2e115416e8aafe7f4",
)
# Of the genuine archive; summed over its tables, labels binarised at 0.5.
COUNTS = {"train": 14_915, "test": 5_085, "observed": 41_268}
SHORTEST_SECONDS = 9.9  # anything shorter has been truncated
LABELS = "openmic-2018-aggregated-labels.csv"
METADATA = "openmic-2018-metadata.csv"
TRUTH = ("truth.csv", "truth_train.csv", "truth_test.csv")  # not in the genuine archive
LAYOUT = "expected a folder in OpenMIC-2018's layout"


def is_unpacked(root: Path) -> bool:
    """True if `fetch` has completed."""
    return (root / "partitions").is_dir()


def fetch(root: Path) -> None:
    """Download and unpack the corpus, unless that is done.

    Raises:
        RemoteError: the archive cannot be downloaded, or is damaged.
    """
    if is_unpacked(root):
        return
    with only_user_of(root.parent):
        if not is_unpacked(root):  # by another process in the meantime
            unpack(download(ARCHIVE, root.with_name("openmic-2018-v1.0.0.tgz")), root)


def clips(root: str | Path, relative_to: str | Path) -> tuple[list[Clip], list[str]]:
    """Read the corpus at `root`.

    Args:
        root: folder with class-map.json, aggregated labels, metadata, partitions/ and audio/, and
            optionally one of TRUTH: which classes sound in a clip, 1 or 0 in a column per class.
        relative_to: folder that the clips' audio paths will be relative to.

    Returns:
        (clips with splits train and test, class names).

    Raises:
        ManifestError: a table is missing or inconsistent; the message names file and row.
    """
    root = Path(root)
    classes = _classes(root)
    splits = _splits(root)
    groups = {}
    artists = table.read_columns(root / METADATA, ("sample_key", "artist_id"), LAYOUT)
    for _, (name, artist) in artists:
        groups[name] = f"artist {artist}"
    labels = {name: {} for name in splits}
    columns = ("sample_key", "instrument", "relevance")
    for number, cells in table.read_columns(root / LABELS, columns, LAYOUT):
        name, instrument, relevance = cells
        where = f"{root / LABELS}, line {number}"
        if name not in labels:
            raise ManifestError(
                f"{where}: a label for {name}, which is in neither partition; "
                "expected only clips of the partitions"
            )
        if instrument not in classes:
            raise ManifestError(f"{where}: {unknown('instrument', instrument, classes)}")
        labels[name][instrument] = _relevance(relevance, where)  # of duplicates, the last counts
    truth = _truth(root, splits, classes)
    all_clips = []
    for name, split in splits.items():
        path = os.path.relpath(audio_path(root, name), relative_to)
        all_clips.append(
            Clip(
                clip=name,
                group=groups.get(name, name),
                audio=path,
                start_s=0.0,
                split=split,
                labels=labels[name],
                truth=truth.get(name, {}),
            )
        )
    return all_clips, classes


def check_counts(clips: Iterable[Clip]) -> None:
    """Check that the tables of the genuine archive are complete.

    Raises:
        ManifestError: the number of clips or labels differs from OpenMIC-2018's.
    """
    counts = dict.fromkeys(COUNTS, 0)
    for clip in clips:
        counts[clip.split] += 1
        counts["observed"] += len(clip.labels)
    if counts != COUNTS:
        raise ManifestError(
            f"found {counts}, expected OpenMIC-2018's {COUNTS}; fetch the archive again"
        )


def audio_path(root: str | Path, sample_key: str) -> Path:
    """Return the path of a clip's audio: audio/<first three characters>/<sample_key>.ogg."""
    return Path(root) / "audio" / sample_key[:3] / f"{sample_key}.ogg"


def _classes(root: Path) -> list[str]:
    path = root / "class-map.json"
    try:
        indices = json.loads(atomic.read_text(path))
        classes = sorted(indices, key=indices.get)
        consistent = [indices[name] for name in classes] == list(range(len(classes)))
    except FileNotFoundError as error:
        raise ManifestError(f"{root}: no class-map.json; {LAYOUT}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: not a map of class names to indices ({error})") from error
    if not consistent or not classes:
        raise ManifestError(
            f"{path}: indices {sorted(indices.values())}; expected 0 to K - 1, each once"
        )
    return classes


def _splits(root: Path) -> dict[str, str]:
    """Return {sample_key: split}."""
    splits = {}
    for split in ("train", "test"):
        path = root / "partitions" / f"split01_{split}.csv"
        if not path.is_file():
            raise ManifestError(f"{path}: missing; {LAYOUT}")
        for name in table.read_text(path).split():
            if name in splits:
                where = "twice in" if splits[name] == split else "in both partitions, train and"
                raise ManifestError(f"{path}: {name} is {where} {split}; expected once")
            splits[name] = split
    if not splits:
        raise ManifestError(f"{root / 'partitions'}: no clips; expected one sample_key per line")
    return splits


def _truth(root: Path, splits: dict[str, str], classes: list[str]) -> dict[str, dict[str, int]]:
    """Return {sample_key: {class: 0 or 1}} of the clips whose truth is known."""
    truth = {}
    for path in [root / name for name in TRUTH if (root / name).is_file()]:
        rows = table.read_columns(path, ("sample_key", *classes), LAYOUT)
        for number, (name, *cells) in rows:
            where = f"{path}, line {number}"
            if name not in splits:
                raise ManifestError(f"{where}: {name} is in neither partition; expected a clip")
            if not set(cells) <= {"0", "1"}:
                raise ManifestError(f"{where}: {cells}; expected 0 or 1 for each class")
            truth[name] = dict(zip(classes, map(int, cells), strict=True))
    return truth


def _relevance(text: str | None, where: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= 1:  # false for NaN too
        raise ManifestError(f"{where}: relevance {text!r}; expected a number from 0 to 1")
    return value
