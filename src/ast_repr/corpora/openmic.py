"""OpenMIC-2018 (Humphrey, Durand and McFee 2018): 20,000 clips of 10 s, twenty instruments.

A tenth of the labels are observed. They are read from the aggregated CSV, never from
openmic-2018.npz, whose loading would run pickled code. Any corpus in the same layout, with other
classes or sizes, is read by the same code.
"""

import json
import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .. import atomic, audio
from ..manifest import Clip, ManifestError
from ..registry import unknown
from . import table
from .remote import Remote

ARCHIVE = Remote(
    url="https://zenodo.org/records/1432913/files/openmic-2018-v1.0.0.tgz?download=1",
    bytes=2_623_376_754,
    md5="e4ccf187e2bb5ab2e115416e8aafe7f4",
)
LICENCE = (
    "labels and compilation CC BY 4.0; "
    "most of the audio carries a NonCommercial licence: do not pass it on"
)
BIBTEX = """@inproceedings{humphrey2018openmic,
  title = {{OpenMIC-2018}: An Open Data-set for Multiple Instrument Recognition},
  author = {Humphrey, Eric J. and Durand, Simon and McFee, Brian},
  booktitle = {Proc. 19th International Society for Music Information Retrieval Conference (ISMIR)},
  year = {2018}
}"""
# Of the genuine archive; summed over its tables, labels binarised at 0.5.
COUNTS = {"train": 14_915, "test": 5_085, "observed": 41_268}
SHORTEST_SECONDS = 9.9  # anything shorter has been truncated
LABELS = "openmic-2018-aggregated-labels.csv"
METADATA = "openmic-2018-metadata.csv"


def clips(root, relative_to):
    """Read the corpus at `root`.

    Args:
        root: folder with class-map.json, aggregated labels, metadata, partitions/ and audio/.
        relative_to: folder that the clips' audio paths shall be relative to.

    Returns:
        (list of Clip with splits train and test, list of class names).

    Raises:
        ManifestError: a table is missing or says something impossible; file and row are named.
    """
    root = Path(root)
    classes = _classes(root)
    splits = _splits(root)
    artists = {
        row["sample_key"]: f"artist {row['artist_id']}"
        for _, row in _rows(root / METADATA, "sample_key", "artist_id")
    }
    labels = {name: {} for name in splits}
    for number, row in _rows(root / LABELS, "sample_key", "instrument", "relevance"):
        name = row["sample_key"]
        instrument = row["instrument"]
        where = f"{root / LABELS}, line {number}"
        if name not in labels:
            raise ManifestError(
                f"{where}: a label for {name}, which is in neither partition; "
                "expected only clips of the partitions"
            )
        if instrument not in classes:
            raise ManifestError(f"{where}: {unknown('instrument', instrument, classes)}")
        labels[name][instrument] = _relevance(
            row["relevance"], where
        )  # some pairs come twice: the last row counts
    audio = {name: os.path.relpath(audio_path(root, name), relative_to) for name in splits}
    return [
        Clip(name, artists.get(name, name), audio[name], 0.0, split, labels[name])
        for name, split in splits.items()
    ], classes


def audio_path(root, sample_key):
    """Where the corpus keeps a clip's audio."""
    return Path(root) / "audio" / sample_key[:3] / f"{sample_key}.ogg"


def unreadable(root, clips, warn=warnings.warn):
    """List the clips whose audio is missing, not audio, damaged, or truncated: (clip name, reason).

    All of it is decoded, which takes a core 20 ms per clip.

    Args:
        root: folder of the corpus.
        clips: list of Clip.
        warn: called with a line about each file that is read otherwise than it is stored.
    """

    def complaint(clip):
        return audio.complaint(audio_path(root, clip.clip), 0.0, SHORTEST_SECONDS, warn)

    with ThreadPoolExecutor() as pool:
        reasons = pool.map(complaint, clips)
        return [(clip.clip, reason) for clip, reason in zip(clips, reasons) if reason]


def _classes(root):
    path = root / "class-map.json"
    try:
        indices = json.loads(atomic.read_text(path))
        classes = sorted(indices, key=indices.get)
        consistent = [indices[name] for name in classes] == list(range(len(classes)))
    except FileNotFoundError as error:
        raise ManifestError(
            f"{root}: no class-map.json; expected a folder in OpenMIC-2018's layout"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: not a map of class names to indices ({error})") from error
    if not consistent or not classes:
        raise ManifestError(
            f"{path}: indices {sorted(indices.values())}; expected 0 to K - 1, each once"
        )
    return classes


def _splits(root):
    splits = {}
    for split in ("train", "test"):
        path = root / "partitions" / f"split01_{split}.csv"
        if not path.is_file():
            raise ManifestError(f"{path}: missing; expected a folder in OpenMIC-2018's layout")
        for name in table.read_text(path).split():
            if name in splits:
                found = "twice in" if splits[name] == split else "in both partitions, train and"
                raise ManifestError(f"{path}: {name} is {found} {split}; expected once")
            splits[name] = split
    if not splits:
        raise ManifestError(f"{root / 'partitions'}: no clips; expected one sample_key a line")
    return splits


def _rows(path, *columns):
    """(row, {column: cell}) of a CSV's rows, None for a missing cell; the header is row 1."""
    try:
        rows = table.read_rows(path, table.read_text(path))
    except FileNotFoundError as error:
        raise ManifestError(
            f"{path}: missing; expected a folder in OpenMIC-2018's layout"
        ) from error
    header = rows[0] if rows else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise ManifestError(
            f"{path}: no column {', '.join(missing)}; found {', '.join(header) or 'nothing'}"
        )
    places = {name: header.index(name) for name in columns}
    for number, cells in enumerate(rows[1:], 2):
        if cells:
            yield (
                number,
                {name: cells[at] if at < len(cells) else None for name, at in places.items()},
            )


def _relevance(text, where):
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise ManifestError(f"{where}: relevance {text!r}; expected a number from 0 to 1")
    return value
