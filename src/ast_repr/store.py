"""The feature store: one feature of every clip of a manifest, float16, in HDF5 shards.

A file that is open for writing when its process dies is lost with HDF5, so a shard of 256 clips is written to a
temporary name, flushed and renamed: what is there is whole, and an interrupted extraction goes on with the next shard.
Each shard carries the feature's spec; a store made with other settings is refused, never reused. It also says which of its
clips were left out, and why: no file is written by two processes, so that several machines can fill one store.
"""

import json
from itertools import groupby
from pathlib import Path

import h5py
import numpy as np

from . import files

SHARD_CLIPS = 256


class StoreError(ValueError):
    """A feature store that does not fit; the message says what was found, what was expected and the remedy."""


def shard_path(folder, index):
    return Path(folder) / f"shard-{index:05d}.h5"


def write_shard(folder, index, features, names, spec, left_out=None):
    """Write shard `index`: features float16 (n, C, T, F), clip names (n,), the feature's spec, {clip: reason} of those left out."""
    with (
        files.replacing(shard_path(folder, index)) as partial,
        h5py.File(partial, "w", locking=False) as file,
    ):
        file["features"] = features
        file["clips"] = [name.encode() for name in names]
        file["left_out"] = json.dumps(left_out or {})
        file.attrs["spec"] = json.dumps(spec, sort_keys=True)


def holds(folder, index, names, spec):
    """Whether shard `index` is there and has just these clips, but for those that it says were left out.

    Raises:
        StoreError: it was made with another spec.
    """
    path = shard_path(folder, index)
    if not path.is_file():
        return False
    try:
        with h5py.File(path) as file:
            found, clips, absent = (
                json.loads(file.attrs["spec"]),
                [name.decode() for name in file["clips"]],
                _left_out(file),
            )
    except (OSError, KeyError, ValueError):
        return False  # damaged from outside: it is made again
    _refuse_other_spec(path, found, spec)
    return clips == [name for name in names if name not in absent] and len(clips) + len(
        absent
    ) == len(names)


def left_out(folder):
    """Clips that were deliberately left out: {clip: reason}."""
    found = {}
    for path in sorted(Path(folder).glob("shard-*.h5")):
        try:
            with h5py.File(path) as file:
                found |= _left_out(file)
        except (OSError, ValueError):
            continue  # damaged from outside: `holds` and Store say so
    return found


def _left_out(file):
    return json.loads(file["left_out"][()]) if "left_out" in file else {}


def usable(folder, clips):
    """The clips that no feature of a corpus lacks, so that rows on different features are trained and scored on the same ones.

    Args:
        folder: of the corpus' features, a store each.
        clips: list of manifest.Clip.
    """
    absent = set().union(*(left_out(path) for path in Path(folder).iterdir()))
    return [clip for clip in clips if clip.clip not in absent]


class Store:
    """Read access to the features of the clips in `folder`.

    Args:
        folder: of the shards.
        spec: the feature's; None accepts whatever is there.

    Attributes:
        shape: (C, T, F) of one clip's feature.
        left_out: see the function of that name.

    Raises:
        StoreError: there is no shard, one is damaged, or it was made with another spec.
    """

    def __init__(self, folder, spec=None):
        self.folder = Path(folder)
        self.left_out = left_out(folder)
        self._place = {}
        self._files = {}
        paths = sorted(self.folder.glob("shard-*.h5"))
        for path in paths:
            try:
                with h5py.File(path) as file:
                    found, names, self.shape = (
                        json.loads(file.attrs["spec"]),
                        file["clips"][:],
                        file["features"].shape[1:],
                    )
            except (OSError, KeyError, ValueError) as error:
                raise StoreError(
                    f"{path}: damaged ({error}); delete it and run the stage `extract` again"
                ) from error
            _refuse_other_spec(path, found, spec if spec is not None else found)
            self._place.update({name.decode(): (path, row) for row, name in enumerate(names)})
        if not self._place:
            raise StoreError(f"{self.folder}: no features; run the stage `extract` first")

    def read(self, names):
        """Features of the named clips: float16 (len(names), C, T, F), each shard opened once and read in its own order.

        Raises:
            StoreError: a clip is not in the store.
        """
        out = np.empty((len(names), *self.shape), np.float16)
        wanted = {}
        for target, (path, row) in enumerate(self._places(names)):
            wanted.setdefault(path, []).append((row, target))
        for path, places in wanted.items():
            rows, targets = zip(*sorted(places))
            if path not in self._files:
                self._files[path] = h5py.File(path)
            features = self._files[path]["features"]
            if len(rows) > len(features) // 4:
                out[list(targets)] = features[:][
                    list(rows)
                ]  # most of a shard: reading it whole is far quicker
            else:
                for row, target in zip(rows, targets):
                    out[target] = features[row]
        return out

    def together(self, names):
        """The numbers 0, 1, ... of the names as lists, cut where the shard that the clips are in changes.

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
                f"{self.folder}: no features of {len(absent)} clips ({absent[0]}, ...); run the stage `extract` again"
            )
        return [self._place[name] for name in names]


def _refuse_other_spec(path, found, spec):
    differing = [
        key for key in sorted(found.keys() | spec.keys()) if found.get(key) != spec.get(key)
    ]
    if differing:
        listed = ", ".join(
            f"{key} {found.get(key)!r} (expected {spec.get(key)!r})" for key in differing
        )
        raise StoreError(
            f"{path}: made with other settings: {listed}; delete {path.parent} and run the stage `extract` again"
        )
