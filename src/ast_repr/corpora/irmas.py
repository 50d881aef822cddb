"""IRMAS (Bosch et al. 2012): predominant instruments, eleven classes.

6,705 training excerpts of 3 s have one predominant instrument each, 2,874 test excerpts of 5 to
20 s one to five. The labels of a training excerpt are its folder's: the brackets in its name hold
other codes too ([cla] is clarinet, or the genre classical). A test excerpt has a .txt with one code
per line. Every label of every excerpt is observed: an instrument that is not named is absent, or
not predominant.

Excerpts of one recording are in one group, and so are recordings with an equal excerpt, as many are
in the archive twice; equal excerpts with different labels get the labels of both. The same code
reads any folder in this layout.
"""

import csv
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import soundfile

from .. import atomic, escaping
from ..manifest import CLIP_SECONDS, Clip, ManifestError
from ..registry import unknown
from .remote import Remote, download, only_user_of, size_on_server, unpack

CODES = {
    "cel": "cello",
    "cla": "clarinet",
    "flu": "flute",
    "gac": "acoustic_guitar",
    "gel": "electric_guitar",
    "org": "organ",
    "pia": "piano",
    "sax": "saxophone",
    "tru": "trumpet",
    "vio": "violin",
    "voi": "voice",
}
CLASSES = list(CODES.values())
TRAIN = "IRMAS-TrainingData"
PARTS = ("IRMAS-TestingData-Part1", "IRMAS-TestingData-Part2", "IRMAS-TestingData-Part3")
URL = "https://zenodo.org/records/1290750/files/{}.zip?download=1"
ARCHIVES = {
    TRAIN: Remote(URL.format(TRAIN), None, md5="4fd9f5ed5a18d8e2687e6360b5f60afe"),
    PARTS[0]: Remote(URL.format(PARTS[0]), None, md5="5a2e65520dcedada565dff2050bb2a56"),
    PARTS[1]: Remote(URL.format(PARTS[1]), None, md5="afb0c8ea92f34ee653693106be95c895"),
    PARTS[2]: Remote(URL.format(PARTS[2]), None, md5="9b3fb2d0c89cdc98037121c25bd5b556"),
}
LICENCE = "CC BY-NC-SA 3.0; neither redistributed nor modified"
TRAIN_SECONDS = 3.0
SHORTEST_SECONDS = 2.9  # anything shorter has been truncated
TRUTH = "truth.csv"  # not in the genuine archives: all instruments of an excerpt
# Of the genuine archives.
COUNTS = {"train": 6_705, "test": 2_874, "groups": 2_242, "recordings": 208}
RECORDING = re.compile(r"(?P<number>\d{4})__\d+", re.ASCII)  # end of a training excerpt's name
EXCERPT = re.compile(r"-\d+", re.ASCII)  # of a test excerpt's
LAYOUT = "expected a folder in IRMAS' layout"
COMMAND = "source run.sh --corpus irmas"


def is_unpacked(root: Path) -> bool:
    """True if `fetch` has completed."""
    return all((root / name).is_dir() for name in ARCHIVES)


def size_to_download(root: Path) -> int:
    """Ask the server for the bytes of the archives that `root` lacks.

    Raises:
        RemoteError: there is no answer.
    """
    size = 0
    for name, archive in ARCHIVES.items():
        path = root / f"{name}.zip"
        if not (root / name).is_dir() and not path.is_file():
            size += size_on_server(archive, path)
    return size


def fetch(root: Path) -> None:
    """Download and unpack the archives that `root` lacks.

    Raises:
        RemoteError: an archive cannot be downloaded, or is damaged.
    """
    for name, archive in ARCHIVES.items():
        if (root / name).is_dir():
            continue
        with only_user_of(root):
            if not (root / name).is_dir():  # by another process in the meantime
                unpack(download(archive, root / f"{name}.zip"), root / name)


def clips(root: str | Path, relative_to: str | Path) -> tuple[list[Clip], list[str]]:
    """Read the corpus at `root`.

    Args:
        root: folder with TRAIN and PARTS, and optionally TRUTH: a column `clip`, and 1 or 0 in one
            for each code.
        relative_to: folder that the clips' audio paths will be relative to.

    Returns:
        (clips with splits train and test, class names); see `join_copies` for the groups.

    Raises:
        ManifestError: a folder or a file is missing or unusable; the message names it.
    """
    root = Path(root)
    missing = [name for name in ARCHIVES if not (root / name).is_dir()]
    if missing:
        raise ManifestError(
            f"{root}: no {', '.join(missing)}; {LAYOUT}, with {', '.join(ARCHIVES)}; "
            f"fetch what is missing: {COMMAND}"
        )
    found = _training_clips(root / TRAIN)
    taken = {}
    for name in PARTS:
        found += _test_clips(root / name, taken)
    truth = _truth(root / TRUTH, {clip.clip for clip in found})
    read = []
    for clip in found:
        path = os.path.relpath(clip.audio, relative_to)
        read.append(replace(clip, audio=path, truth=truth.get(clip.clip, {})))
    return read, CLASSES


def join_copies(clips: Sequence[Clip]) -> list[Clip]:
    """Join the groups of training clips with equal audio, and the labels of such clips.

    Args:
        clips: with the sha256 of their audio.
    """
    copies = {}
    for clip in clips:
        if clip.split == "train" and clip.sha256:
            copies.setdefault(clip.sha256, []).append(clip)
    parents = {}  # {group: an earlier group that it is joined with}
    labels = {}  # {sha256: labels of all copies}
    for sha256, equal in copies.items():
        groups = sorted({_first_group(clip.group, parents) for clip in equal})
        parents |= dict.fromkeys(groups[1:], groups[0])
        labels[sha256] = {
            name: max(clip.labels[name] for clip in equal) for name in equal[0].labels
        }
    joined = []
    for clip in clips:
        if clip.split == "train":
            group = _first_group(clip.group, parents)
            clip = replace(clip, group=group, labels=labels.get(clip.sha256, clip.labels))
        joined.append(clip)
    return joined


def check_counts(clips: Iterable[Clip]) -> None:
    """Check that the genuine archives are complete, after `join_copies`.

    Raises:
        ManifestError: the number of clips, groups or recordings differs from IRMAS'.
    """
    train = [clip.group for clip in clips if clip.split != "test"]
    test = [clip.group for clip in clips if clip.split == "test"]
    counts = {
        "train": len(train),
        "test": len(test),
        "groups": len(set(train)),
        "recordings": len(set(test)),
    }
    if counts != COUNTS:
        raise ManifestError(
            f"found {counts}, expected IRMAS' {COUNTS}; delete the folder of the archive that is "
            f"incomplete and fetch it again: {COMMAND}"
        )


def _first_group(group: str, parents: dict[str, str]) -> str:
    while group in parents:
        group = parents[group]
    return group


def _training_clips(folder: Path) -> list[Clip]:
    """Read <folder>/<code>/*.wav; `audio` is the whole path."""
    found = {}
    for path in _files(folder, ".wav"):
        code = path.parent.name
        if code not in CODES:
            raise ManifestError(f"{path}: {unknown('folder', code, CODES)}; {LAYOUT}")
        stem = _normalised(path.stem)
        number = re.search(RECORDING.pattern + "$", stem, re.ASCII)
        if number is None:
            raise ManifestError(
                f"{path}: no recording number in its name; expected one as in [cel][cla]0001__1.wav"
            )
        name = f"{code}/{stem}"
        if name in found:
            raise ManifestError(f"{path}: a second {name}; expected each name once")
        found[name] = Clip(
            clip=name,
            group=f"recording {number['number']}",
            audio=str(path),
            start_s=0.0,
            split="train",
            labels=_labels([code]),
            seconds=TRAIN_SECONDS,
        )
    missing = [code for code in CODES if not any(name.startswith(f"{code}/") for name in found)]
    if missing:
        raise ManifestError(
            f"{folder}: no excerpts of {', '.join(missing)}; expected folders "
            f"{', '.join(CODES)} with .wav files; fetch the archive again: {COMMAND}"
        )
    return list(found.values())


def _test_clips(folder: Path, taken: dict[str, Path]) -> list[Clip]:
    """Read the pairs of .wav and .txt anywhere below a part's folder.

    Args:
        taken: paths of the excerpts read so far, by their names; extended.
    """
    annotations = {_normalised(path.stem): path for path in _files(folder, ".txt")}
    found = []
    for path in _files(folder, ".wav"):
        stem = _normalised(path.stem)
        annotation = annotations.pop(stem, None)
        if annotation is None:
            remedy = f"fetch the archive again: {COMMAND}"
            if path.parent.name in CODES:
                remedy = f"it belongs to {TRAIN}, put it there"
            raise ManifestError(f"{path}: no .txt beside it, expected its labels; {remedy}")
        if stem in taken:
            raise ManifestError(
                f"{path}: is in two parts, also {taken[stem]}; expected each excerpt once; "
                "unpack each archive into the folder of its name"
            )
        taken[stem] = path
        recording = re.sub(EXCERPT.pattern + "$", "", stem, flags=re.ASCII)
        found.append(
            Clip(
                clip=f"test/{stem}",
                group=f"test recording {recording}",
                audio=str(path),
                start_s=0.0,
                split="test",
                labels=_labels(_codes(annotation)),
                seconds=_seconds(path),
            )
        )
    # Others are documents.
    lonely = [
        path for path in annotations.values() if path.read_bytes()[:3].decode("latin-1") in CODES
    ]
    if lonely:
        raise ManifestError(f"{lonely[0]}: no .wav beside it; fetch the archive again: {COMMAND}")
    if not found:
        raise ManifestError(
            f"{folder}: no excerpts; expected pairs of .wav and .txt; fetch the archive again: "
            f"{COMMAND}"
        )
    return found


def _files(folder: Path, suffix: str) -> list[Path]:
    """List the files with a suffix anywhere below a folder, sorted, without hidden ones."""
    paths = [path for path in folder.rglob("*") if path.suffix.lower() == suffix]
    return sorted(path for path in paths if path.is_file() and not path.name.startswith("."))


def _normalised(name: str) -> str:
    """Return a name in NFC: file systems and archives differ in how they compose accents."""
    return unicodedata.normalize("NFC", name)


def _codes(path: Path) -> list[str]:
    """Read the codes of a test excerpt, one per line; genuine lines end in a tab."""
    codes = []
    for number, line in enumerate(atomic.read_text(path).splitlines(), 1):
        code = line.strip()
        if not code:
            continue
        if code not in CODES:
            raise ManifestError(f"{path}, line {number}: {unknown('instrument', code, CODES)}")
        codes.append(code)
    if not codes:
        raise ManifestError(f"{path}: no instrument; expected one of {', '.join(CODES)} per line")
    return codes


def _labels(codes: Sequence[str]) -> dict[str, float]:
    return {name: float(code in codes) for code, name in CODES.items()}


def _seconds(path: Path) -> float:
    """Return the length in a file's header; `prepare` says why a file is unreadable."""
    try:
        return soundfile.info(path).duration or CLIP_SECONDS
    except soundfile.SoundFileError:
        return CLIP_SECONDS


def _truth(path: Path, names: set[str]) -> dict[str, dict[str, int]]:
    """Return {clip: {class: 0 or 1}}; empty without a file."""
    if not path.is_file():
        return {}
    truth = {}
    reader = csv.DictReader(atomic.read_text(path).splitlines())
    if reader.fieldnames != ["clip", *CODES]:
        raise ManifestError(
            f"{path}: found columns {reader.fieldnames}; expected clip, a code each"
        )
    for number, row in enumerate(reader, 2):
        if row["clip"] not in names or not {row[code] for code in CODES} <= {"0", "1"}:
            raise ManifestError(
                f"{path}, line {number}: found {escaping.terminal(str(row['clip']))}; expected an "
                "excerpt of this folder, and 0 or 1 for each instrument"
            )
        truth[row["clip"]] = {name: int(row[code]) for code, name in CODES.items()}
    return truth
