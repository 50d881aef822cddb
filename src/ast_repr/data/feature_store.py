"""The feature store: one feature of every clip of a manifest, float16, in HDF5 shards.

A file that is open for writing when its process dies is lost with HDF5, so a shard of 256 clips is
written under a temporary name, flushed and renamed: a shard is whole or not there, and an
interrupted extraction resumes with the next one. No file is written by two processes, so that
several machines can fill one store.

Each shard has a header: the feature's spec, the identity of each clip (what its feature was
computed from), which clips were left out and why, and a checksum of each clip's values. The header
carries its own sha256. So what was made with other settings or from other audio is refused, never
reused, and damage is noticed wherever it is.
"""

import io
import json
import zlib
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import h5py
import numpy as np

from .. import atomic, identity, manifest

SHARD_CLIPS = 256
FORMAT = ("v110", "v110")  # of HDF5: the first whose own structures have checksums
# What h5py and json raise for a damaged file.
DAMAGED = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError)


class StoreError(ValueError):
    """A feature store that does not fit; the message says found, expected and the remedy."""


@dataclass(frozen=True)
class Header:
    """What a shard says of itself.

    Attributes:
        spec: of the feature.
        identities: {clip: identity}, also of those that were left out.
        left_out: {clip: reason} of those that have no feature.
        checksums: CRC-32 of the values of each clip that has a feature, in the order of the rows.
    """

    spec: dict
    identities: dict[str, str]
    left_out: dict[str, str]
    checksums: list[int]

    @property
    def rows(self) -> list[str]:
        """The clips that have a feature, in order."""
        return [name for name in self.identities if name not in self.left_out]

    def changed(self, identities: dict[str, str]) -> list[str]:
        """Clips of this shard that are now to be computed from something else."""
        expected = ((name, identities.get(name, own)) for name, own in self.identities.items())
        return [name for name, now in expected if now != self.identities[name]]


def shard_path(folder, index):
    return Path(folder) / f"shard-{index:05d}.h5"


def write_shard(folder, index, features, identities, spec, left_out=None):
    """Write shard `index`.

    Args:
        features: float16 (n, C, T, F).
        identities: {clip: identity}, in order: of the n clips, and of those that were left out.
        spec: the feature's.
        left_out: {clip: reason}.
    """
    features = np.ascontiguousarray(features)
    checksums = [zlib.crc32(row) for row in features]
    header = Header(spec, identities, left_out or {}, checksums)
    atomic.write_bytes(shard_path(folder, index), _image(features, header))


def _image(features, header):
    """The bytes of a shard's file.

    They are made in memory, so that a full disk is an error of writing a file like any other. HDF5
    has let go of them before they are written: Ctrl-C would be lost in its callbacks.
    """
    image = io.BytesIO()
    with h5py.File(image, "w", libver=FORMAT) as file:
        file["features"] = features
        file["header"] = json.dumps(identity.seal(asdict(header)))
    return image.getvalue()


def read_header(path: Path) -> Header:
    """The header of a shard.

    Raises:
        StoreError: the file is damaged, or of an older version.
    """
    try:
        with h5py.File(path) as file:
            return _header(file)
    except DAMAGED as error:
        raise _damaged(path, error) from error


def _header(file):
    values = json.loads(file["header"][()])
    if not identity.is_sealed(values):
        raise ValueError("its header is not what was written")
    del values["sha256"]
    header = Header(**values)
    if len(file["features"]) != len(header.checksums):
        raise ValueError("it lacks clips")
    return header


def holds(folder, index, identities, spec):
    """Whether shard `index` is there, undamaged, and made from just these clips.

    Only the header is looked at; values are verified when they are read.

    Args:
        identities: {clip: identity}, in order.
        spec: the feature's.

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


def headers(folder):
    """The headers of all shards that can be read, in order."""
    readable = []
    for path in sorted(Path(folder).glob("shard-*.h5")):
        try:
            readable.append(read_header(path))
        except StoreError:
            continue
    return readable


def usable(folder, clips):
    """The clips that no feature of a corpus lacks: rows on different features share their clips.

    Args:
        folder: of the corpus' features, a store each.
        clips: list of manifest.Clip.

    Raises:
        StoreError: a shard is damaged.
    """
    absent = set()
    for store in sorted(Path(folder).iterdir()):
        identities = manifest.identities(clips, store.name)
        for path in sorted(store.glob("shard-*.h5")):
            header = read_header(path)
            absent |= header.left_out.keys() - set(header.changed(identities))
    return [clip for clip in clips if clip.clip not in absent]


class Store:
    """Read access to the features of the clips in `folder`.

    Args:
        folder: of the shards.
        spec: the feature's; None accepts whatever is there.
        identities: {clip: identity} of the manifest; None accepts whatever is there.

    Attributes:
        shape: (C, T, F) of one clip's feature.
        left_out: {clip: reason} of the clips that were deliberately left out.

    Raises:
        StoreError: there is no shard, one is damaged, or it was made with another spec or from
            other audio.
    """

    def __init__(self, folder, spec=None, identities=None):
        self.folder = Path(folder)
        self.left_out = {}
        self._place = {}
        self._identities = {}
        self._checksums = {}
        self._files = {}
        for path in sorted(self.folder.glob("shard-*.h5")):
            self._add(path, spec)
        if not self._place:
            raise StoreError(f"{self.folder}: no features; run the stage `extract` first")
        if identities is not None:
            self._refuse_other_clips(identities)

    def _add(self, path, spec):
        try:
            with h5py.File(path) as file:
                header = _header(file)
                self.shape = file["features"].shape[1:]
        except DAMAGED as error:
            raise _damaged(path, error) from error
        _refuse_other_spec(path, header.spec, header.spec if spec is None else spec)
        self.left_out |= header.left_out
        self._identities |= header.identities
        self._checksums[path] = header.checksums
        self._place |= {name: (path, row) for row, name in enumerate(header.rows)}

    def _refuse_other_clips(self, identities):
        changed = [
            name
            for name, expected in identities.items()
            if self._identities.get(name, expected) != expected
        ]
        if changed:
            raise StoreError(
                f"{self.folder}: {len(changed)} clips have changed since their features were "
                f"computed ({changed[0]}, ...); run the stage `extract` again"
            )

    def read(self, names):
        """Features of the named clips: float16 (len(names), C, T, F), each shard opened once.

        Raises:
            StoreError: a clip is not in the store, or its values are damaged.
        """
        out = np.empty((len(names), *self.shape), np.float16)
        wanted = {}
        for target, (path, row) in enumerate(self._places(names)):
            wanted.setdefault(path, []).append((row, target))
        for path, places in wanted.items():
            try:
                self._read_rows(path, places, out)
            except DAMAGED as error:
                raise _damaged(path, error) from error
        return out

    def _read_rows(self, path, places, out):
        """Fill out[target] for each (row, target) of one shard."""
        if path not in self._files:
            self._files[path] = h5py.File(path)
        features = self._files[path]["features"]
        if len(places) > len(features) // 4:
            features = features[:]  # most of a shard: reading it whole is far quicker
        for row, target in sorted(places):
            out[target] = features[row]
            if zlib.crc32(out[target]) != self._checksums[path][row]:
                raise ValueError(f"the values of its clip {row} are not what was written")

    def group_by_shard(self, names):
        """The numbers 0, 1, ... of the names as lists, cut where the clips' shard changes.

        Raises:
            StoreError: a clip is not in the store.
        """
        places = self._places(names)
        return [
            list(numbers)
            for _, numbers in groupby(range(len(names)), lambda number: places[number][0])
        ]

    def _places(self, names):
        if absent := [name for name in names if name not in self._place]:
            raise StoreError(
                f"{self.folder}: no features of {len(absent)} clips ({absent[0]}, ...); "
                "run the stage `extract` again"
            )
        return [self._place[name] for name in names]


def _damaged(path, error):
    return StoreError(
        f"{path}: damaged, or of an older version ({' '.join(str(error).split())}); "
        "delete it and run the stage `extract` again"
    )


def _refuse_other_spec(path, found, spec):
    differing = [
        key for key in sorted(found.keys() | spec.keys()) if found.get(key) != spec.get(key)
    ]
    if differing:
        listed = ", ".join(
            f"{key} {found.get(key)!r} (expected {spec.get(key)!r})" for key in differing
        )
        raise StoreError(
            f"{path}: made with other settings: {listed}; "
            f"delete {path.parent} and run the stage `extract` again"
        )
