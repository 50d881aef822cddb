"""MagnaTagATune (Law et al. 2009): 25,863 clips of 29 s, tagged by the players of a game.

The classes are the 50 most frequent of the 188 tags. Every tag of every clip is observed: one that
no player gave counts as absent, as in all published results. The folders of the clips, which hold
whole albums, are the usual splits: train 0 to b, validation c, test d to f. Three choices of clips:

    clean     those with any of the 50 tags
    full      all
    artist    as clean, without the training clips of artists who are in validation or test: of the
              test clips of `clean`, 62 % are by an artist of its training split

The same code reads any corpus in this layout.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..manifest import Clip, ManifestError
from . import table
from .remote import Remote, download, only_user_of, unpack

URL = "https://mirg.city.ac.uk/datasets/magnatagatune/"
ANNOTATIONS = "annotations_final.csv"  # separated by tabs
AUDIO = "mp3"  # folder of the unpacked archive
PARTS = ("mp3.zip.001", "mp3.zip.002", "mp3.zip.003")  # of one zip
FILES = {
    ANNOTATIONS: Remote(URL + ANNOTATIONS, 21_517_373, "f04fa01752a8cc64f6e1ca142a0fef1d"),
    PARTS[0]: Remote(URL + PARTS[0], 1_100_000_000, "179c91c8c2a6e9b3da3d4e69d306fd3b"),
    PARTS[1]: Remote(URL + PARTS[1], 1_100_000_000, "acf8265ff2e35c6ff22210e46457a824"),
    PARTS[2]: Remote(URL + PARTS[2], 772_769_864, "582dc649cabb8cd991f09e14b99349a5"),
}
LICENCE = "CC BY-NC-SA, tags 3.0, audio 1.0; not redistributed"
TRUTH = "truth.csv"  # not in the genuine files: the tags that hold, whether given or not
# In the usual order, by frequency.
TAGS = [
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast",
    "piano", "ambient", "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male",
    "singing", "vocals", "no vocals", "harpsichord", "loud", "quiet", "flute", "woman",
    "male vocal", "no vocal", "pop", "soft", "sitar", "solo", "man", "classic", "choir", "voice",
    "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello", "no voice", "weird",
    "country", "metal", "female voice", "choral",
]  # fmt: skip
SPLIT_OF_FOLDER = {
    **dict.fromkeys("0123456789ab", "train"),
    "c": "valid",
    **dict.fromkeys("def", "test"),
}
BROKEN = (  # files of no bytes in the archive
    "6/norine_braun-now_and_zen-08-gently-117-146.mp3",
    "8/jacob_heringman-josquin_des_prez_lute_settings-19-gintzler__pater_noster-204-233.mp3",
    "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-"
    "le_petit_rien_xiveme_ordre_couperin-88-117.mp3",
)
SHORTEST_SECONDS = 28.0  # anything shorter has been truncated
# Of the genuine files. Published lists of the clean split lack three more training clips, which are
# sound and tagged.
COUNTS = {
    "clean": {"train": 15_247, "valid": 1_529, "test": 4_332},
    "full": {"train": 18_706, "valid": 1_825, "test": 5_329},
    "artist": {"train": 9_520, "valid": 1_529, "test": 4_332},
}
LAYOUT = "expected a folder in MagnaTagATune's layout"
PATH = re.compile(
    r"(?P<folder>[0-9a-f])/(?P<artist>[^-/]*)-(?P<album>[^-/]*)-[^/]*"
    r"-(?P<start>\d+)-(?P<end>\d+)\.mp3",
    re.ASCII,
)
COMMAND = "source run.sh --corpus magnatagatune"


def is_unpacked(root: Path) -> bool:
    """True if `fetch` has completed."""
    return (root / AUDIO).is_dir() and (root / ANNOTATIONS).is_file()


def size_to_download(root: Path) -> int:
    """Return the bytes of the files that `root` lacks."""
    needed = [ANNOTATIONS]
    if not (root / AUDIO).is_dir():
        needed += PARTS
    return sum(FILES[name].bytes for name in needed if not (root / name).is_file())


def fetch(root: Path) -> None:
    """Download the tags and the audio, unless that is done; the zip's parts are joined for a while.

    Raises:
        RemoteError: a file cannot be downloaded, or is damaged.
    """
    if is_unpacked(root):
        return
    with only_user_of(root):
        download(FILES[ANNOTATIONS], root / ANNOTATIONS)
        if not (root / AUDIO).is_dir():
            parts = [download(FILES[name], root / name) for name in PARTS]
            joined = root / "mp3.zip"
            try:
                _join(parts, joined)
                unpack(joined, root / AUDIO)
            finally:
                joined.unlink(missing_ok=True)


def clips(
    root: str | Path, relative_to: str | Path, split: str = "clean"
) -> tuple[list[Clip], list[str], list[str]]:
    """Read the corpus at `root`.

    Args:
        root: folder with ANNOTATIONS and the folders 0 to f, or with a folder AUDIO that holds
            those; optionally TRUTH, with the columns of ANNOTATIONS.
        relative_to: folder that the clips' audio paths will be relative to.
        split: clean, full or artist.

    Returns:
        (clips with splits train, valid and test, class names, those of BROKEN that are left out).

    Raises:
        ManifestError: a table is missing or inconsistent; the message names file and line.
    """
    root = Path(root)
    audio = root / AUDIO if (root / AUDIO).is_dir() else root
    tags = _tags(root / ANNOTATIONS)
    truth = _tags(root / TRUTH) if (root / TRUTH).is_file() else {}
    if truth and truth.keys() != tags.keys():
        raise ManifestError(f"{root / TRUTH}: other clips than {ANNOTATIONS}; expected the same")
    broken = [path for path in BROKEN if path in tags]
    chosen = []
    for path, given in tags.items():
        if path not in broken and (split == "full" or any(given.values())):
            file = os.path.relpath(audio / path, relative_to)
            chosen.append(_clip(path, file, given, truth.get(path, {})))
    if split == "artist":
        chosen = _without_known_artists(chosen)
    return chosen, TAGS, broken


def check_counts(clips: Iterable[Clip], split: str) -> None:
    """Check that the genuine files are complete.

    Raises:
        ManifestError: the number of clips in a split differs from MagnaTagATune's.
    """
    counts = dict(Counter(clip.split for clip in clips))
    if counts != COUNTS[split]:
        raise ManifestError(
            f"found {counts}, expected MagnaTagATune's {COUNTS[split]}; delete {ANNOTATIONS} and "
            f"the folder {AUDIO} and fetch them again: {COMMAND}"
        )


def _join(parts: Iterable[Path], path: Path) -> None:
    with open(path, "wb") as file:
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, file)


def _tags(path: Path) -> dict[str, dict[str, int]]:
    """Read a table as {mp3_path: {tag: 0 or 1}}."""
    tags = {}
    for number, cells in table.read_columns(path, ("mp3_path", *TAGS), LAYOUT, delimiter="\t"):
        name, *values = cells
        where = f"{path}, line {number}"
        if not PATH.fullmatch(name or ""):
            raise ManifestError(
                f"{where}: found mp3_path {name!r}; expected a folder 0 to f, and "
                "artist-album-track-title-start-end.mp3"
            )
        if name in tags:
            raise ManifestError(f"{where}: a second {name}; expected each path once")
        if not set(values) <= {"0", "1"}:
            raise ManifestError(f"{where}: a tag is neither 0 nor 1; expected one of them")
        tags[name] = dict(zip(TAGS, map(int, values), strict=True))
    if not tags:
        raise ManifestError(f"{path}: no clips; {LAYOUT}")
    return tags


def _clip(path: str, audio: str, tags: dict[str, int], truth: dict[str, int]) -> Clip:
    """Return the clip of an mp3_path; its group is the album."""
    parts = PATH.fullmatch(path)
    return Clip(
        clip=path.removesuffix(".mp3"),
        group=f"album {parts['folder']}/{parts['artist']}-{parts['album']}",
        audio=audio,
        start_s=0.0,
        split=SPLIT_OF_FOLDER[parts["folder"]],
        labels={tag: float(value) for tag, value in tags.items()},
        truth=truth,
        seconds=float(parts["end"]) - float(parts["start"]),
    )


def _without_known_artists(clips: list[Clip]) -> list[Clip]:
    """Leave out the training clips of artists who are in validation or test."""
    artists = {_artist(clip) for clip in clips if clip.split != "train"}
    return [clip for clip in clips if clip.split != "train" or _artist(clip) not in artists]


def _artist(clip: Clip) -> str:
    return PATH.fullmatch(f"{clip.clip}.mp3")["artist"]
