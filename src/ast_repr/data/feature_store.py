"""The feature store: one feature of every clip of a manifest, float16, in HDF5 shards.

HDF5 loses a file that is open for writing when its process dies. So a shard of 256 clips is written
under a temporary name, flushed and renamed, and an interrupted extraction resumes with the next
shard. No file is written by two processes, so several machines can fill one store.

Each shard has a header: the feature's spec, the identity of the data that each clip's feature was
computed from, the clips that were left out and why, and a checksum of each clip's values. The
header carries its own sha256. So features from other settings or other audio are refused, and any
damage is detected.
"""

import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .. import atomic, identity, manifest
from . import windows

SHARD_CLIPS = 256
FORMAT = ("v110", "v110")  # of HDF5: the first whose own structures have checksums
# Errors of h5py and json for a damaged file.
DAMAGED = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError)


class StoreError(ValueError):
    """A damaged or mismatched feature store; the message says found, expected and the remedy."""


@dataclass(frozen=True)
class Header:
    """Header of a shard.

    Attributes:
        spec: spec of the feature.
        identities: {clip: identity}, left-out clips included.
        left_out: {clip: reason} of the clips that have no feature.
        checksums: CRC-32 of the values of each clip that has a feature, in the order of the rows.
    """

    spec: dict[str, Any]
    identities: dict[str, str]
    left_out: dict[str, str]
    checksums: list[int]

    @property
    def rows(self) -> list[str]:
        """Names of the clips that have a feature, in order."""
        return [name for name in self.identities if name not in self.left_out]

    def changed(self, identities: Mapping[str, str]) -> list[str]:
        """List the clips of this shard that have another identity in `identities`."""
        expected = {**self.identities, **identities}
        return [name for name, stored in self.identities.items() if stored != expected[name]]


def shard_path(folder: str | Path, index: int) -> Path:
    """Return the path of shard `index`."""
    return Path(folder) / f"shard-{index:05d}.h5"


def shard_paths(folder: str | Path) -> list[Path]:
    """List the paths of all shards, in order."""
    return sorted(Path(folder).glob("shard-*.h5"))


def write_shard(
    folder: str | Path,
    index: int,
    features: np.ndarray,
    identities: dict[str, str],
    spec: dict[str, Any],
    left_out: dict[str, str] | None = None,
) -> None:
    """Write the features (n, C, T, F), float16, of shard `index`; for the rest see Header."""
    features = np.ascontiguousarray(features)
    checksums = [zlib.crc32(row) for row in features]
    header = Header(spec, identities, left_out or {}, checksums)
    # HDF5 writes to memory: a full disk is then an ordinary error of writing a file, and Ctrl-C is
    # not lost in HDF5's callbacks.
    image = io.BytesIO()
    with h5py.File(image, "w", libver=FORMAT) as file:
        file["features"] = features
        file["header"] = json.dumps(identity.seal(asdict(header)))
    atomic.write_bytes(shard_path(folder, index), image.getvalue())


def read_header(path: Path) -> Header:
    """Read the header of a shard; StoreError if the file is damaged."""
    try:
        with h5py.File(path) as file:
            return _header(file)
    except DAMAGED as error:
        raise _damaged(path, error) from error


def _header(file: h5py.File) -> Header:
    values = json.loads(file["header"][()])
    if not identity.is_sealed(values):
        raise ValueError("the sha256 of its header is wrong")
    del values["sha256"]
    header = Header(**values)
    if len(file["features"]) != len(header.checksums):
        raise ValueError("it lacks clips")
    return header


def holds(
    folder: str | Path, index: int, identities: Mapping[str, str], spec: Mapping[str, Any]
) -> bool:
    """True if shard `index` exists, is undamaged, and was made from exactly these clips.

    Only the header is checked; values are verified when they are read.

    Raises:
        StoreError: it was made with another spec.
    """
    path = shard_path(folder, index)
    if not path.is_file():
        return False
    try:
        header = read_header(path)
    except StoreError:
        return False
    _refuse_other_spec(path, header.spec, spec)
    return list(header.identities.items()) == list(identities.items())


def headers(folder: str | Path) -> list[Header]:
    """Read the headers of all readable shards, in order."""
    readable = []
    for path in shard_paths(folder):
        with suppress(StoreError):
            readable.append(read_header(path))
    return readable


def usable(folder: str | Path, clips: Sequence[manifest.Clip]) -> list[manifest.Clip]:
    """List the clips that no feature lacks: methods on different features share their clips.

    `folder` holds a corpus's features, one store each.

    Raises:
        StoreError: a shard is damaged.
    """
    absent = set()
    for store in sorted(Path(folder).iterdir()):
        identities = manifest.identities(clips, store.name)
        for path in shard_paths(store):
            header = read_header(path)
            for name in header.left_out.keys() - set(header.changed(identities)):
                absent |= {name, windows.clip_name(name)}
    return [clip for clip in clips if clip.clip not in absent]


class Store:
    """Read access to the features of the clips in `folder`.

    Args:
        folder: folder of the shards.
        spec: expected spec of the feature; None accepts any.
        identities: expected {clip: identity}; None accepts any.

    Attributes:
        shape: (C, T, F) of one clip's feature.
        left_out: {clip: reason} of the clips that were deliberately left out.

    Raises:
        StoreError: there is no shard, one is damaged, or it was made with another spec or from
            other audio.
    """

    def __init__(
        self,
        folder: str | Path,
        spec: Mapping[str, Any] | None = None,
        identities: Mapping[str, str] | None = None,
    ):
        self.folder = Path(folder)
        self.left_out: dict[str, str] = {}
        self._places: dict[str, tuple[Path, int]] = {}  # shard and row of each clip
        self._checksums: dict[Path, list[int]] = {}
        self._files: dict[Path, h5py.File] = {}
        changed = []
        for path in shard_paths(self.folder):
            try:
                with h5py.File(path) as file:
                    header = _header(file)
                    self.shape = file["features"].shape[1:]
            except DAMAGED as error:
                raise _damaged(path, error) from error
            if spec is not None:
                _refuse_other_spec(path, header.spec, spec)
            self.left_out |= header.left_out
            self._checksums[path] = header.checksums
            for row, name in enumerate(header.rows):
                self._places[name] = (path, row)
            changed += header.changed(identities or {})
        if not self._places:
            raise StoreError(f"{self.folder}: no features; run the stage `extract` first")
        if changed:
            raise StoreError(
                f"{self.folder}: {len(changed)} clips have changed since their features were "
                f"computed ({changed[0]}, ...); run the stage `extract` again"
            )

    def read(self, names: Sequence[str]) -> np.ndarray:
        """Read the features of the named clips: float16 (len(names), C, T, F).

        Raises:
            StoreError: a clip is not in the store, or its values are damaged.
        """
        values = np.empty((len(names), *self.shape), np.float16)
        targets = {}  # {shard: [(row in it, row of `values`)]}
        for target, (path, row) in enumerate(self._places_of(names)):
            targets.setdefault(path, []).append((row, target))
        for path, rows in targets.items():
            try:
                self._read_rows(path, rows, values)
            except DAMAGED as error:
                raise _damaged(path, error) from error
        return values

    def _read_rows(self, path: Path, rows: list[tuple[int, int]], values: np.ndarray) -> None:
        """Fill values[target] for each (row, target) of one shard."""
        if path not in self._files:
            self._files[path] = h5py.File(path)
        features = self._files[path]["features"]
        if len(rows) > len(features) // 4:
            features = features[:]  # most of a shard: reading all of it is far faster
        for row, target in sorted(rows):
            values[target] = features[row]
            if zlib.crc32(values[target]) != self._checksums[path][row]:
                raise ValueError(f"the checksum of its clip {row} is wrong")

    def group_by_shard(self, names: Sequence[str]) -> list[list[int]]:
        """Group the indices 0, 1, ... of the names into runs of clips in the same shard.

        Raises:
            StoreError: a clip is not in the store.
        """
        places = self._places_of(names)
        groups = groupby(range(len(names)), lambda index: places[index][0])
        return [list(indices) for _, indices in groups]

    def _places_of(self, names: Iterable[str]) -> list[tuple[Path, int]]:
        absent = [name for name in names if name not in self._places]
        if absent:
            raise StoreError(
                f"{self.folder}: no features of {len(absent)} clips ({absent[0]}, ...); "
                "run the stage `extract` again"
            )
        return [self._places[name] for name in names]


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{path}: damaged, or of an older version ({' '.join(str(error).split())}); "
        "delete it and run the stage `extract` again"
    )


def _refuse_other_spec(path: Path, spec: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    differences = []
    for key in sorted(spec.keys() | expected.keys()):
        if spec.get(key) != expected.get(key):
            differences.append(f"{key} {spec.get(key)!r} (expected {expected.get(key)!r})")
    if differences:
        raise StoreError(
            f"{path}: made with other settings: {', '.join(differences)}; "
            f"delete {path.parent} and run the stage `extract` again"
        )
