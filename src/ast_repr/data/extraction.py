"""Fills a feature store, shard by shard.

Processes compute the clips' features into shared memory, and this one writes them. What a feature
is computed from has to be what the manifest says, by its sha256.
"""

import math
import mmap
from collections import deque

import numpy as np
import torch
from tqdm import tqdm

from .. import audio, devices, features, identity, manifest, processes
from . import feature_store


class SourceChangedError(ValueError):
    """A file was replaced since the manifest was made; the message names it and the remedy."""


def fill(folder, data, feature, todo, nj, left_out, allowed):
    """Compute and write shards.

    Once more clips than allowed are left out, all are still tried, but no shard that lacks one is
    written.

    Args:
        folder: the store.
        data: the folder that the clips' paths start from.
        feature: what `features.build` returns, of shape (C, T, F).
        todo: {index: {name: manifest.Clip}}, of each shard.
        nj: processes.
        left_out: {name: reason}; the clips without usable audio are added to it.
        allowed: how many may be in `left_out`.

    Raises:
        SourceChangedError: a file is not the one that the manifest was made from.
        RuntimeError: a process was killed.
    """
    size = feature_store.SHARD_CLIPS * math.prod(feature.shape)
    count = sum(map(len, todo.values()))
    rooms = np.frombuffer(mmap.mmap(-1, 4 * size), np.float16).reshape(
        2, feature_store.SHARD_CLIPS, *feature.shape
    )  # shared with the workers
    each = max(1, feature_store.SHARD_CLIPS // (4 * nj))  # clips that a process is given at once
    with (
        # forked: torch is imported once, and has no threads yet
        processes.pool(nj, _start_worker, (data, folder.name, feature, rooms), "fork") as pool,
        tqdm(desc=f"extract {folder.name}", total=count, unit="clip") as bar,
    ):
        jobs = (
            [(turn % 2, row, clip) for row, clip in enumerate(shard.values())]
            for turn, shard in enumerate(todo.values())
        )
        computed = _one_ahead(pool.map(_compute, job, chunksize=each) for job in jobs)
        for turn, ((index, shard), reasons) in enumerate(zip(todo.items(), computed, strict=True)):
            lacking = {}
            for name, reason in zip(shard, reasons, strict=True):
                if reason:
                    lacking[name] = reason
                bar.update()
            left_out |= lacking
            if len(left_out) <= allowed or not lacking:
                rows = [row for row, name in enumerate(shard) if name not in lacking]
                values = rooms[turn % 2, rows] if lacking else rooms[turn % 2, : len(rows)]
                identities = manifest.identities(shard.values(), folder.name)
                feature_store.write_shard(
                    folder, index, values, identities, feature.spec(), lacking
                )


def _one_ahead(items):
    """The items, each given once the next one is made.

    So the workers compute a shard while one is written, and no more than that.
    """
    made = deque()
    for item in items:
        made.append(item)
        if len(made) == 2:
            yield made.popleft()
    yield from made


def _start_worker(*given):
    """One thread for each process, which keeps the memory that it frees.

    `_compute` gets what all its calls share.
    """
    torch.set_num_threads(1)
    devices.keep_freed_memory()
    # A job is pickled, which would copy the shared memory; a pool hands nothing to its calls.
    _compute.given = (*given, identity.FileHashes())


def _said_by_prepare(line):
    """Warnings of audio files were shown when the stage `prepare` checked them."""


def _compute(job):
    """Put one clip's feature (C, T, F) into its place in the shared memory.

    Returns:
        the reason if there is none, else None.

    Raises:
        SourceChangedError: its file is not the one that the manifest was made from.
    """
    data, name, feature, rooms, hashes = _compute.given
    room, row, clip = job
    path, sha256 = clip.source(data, name)
    try:
        before = _sha256(hashes, path)
        value = _feature(feature, data, clip)
        after = _sha256(hashes, path)
    except (audio.AudioError, features.VGGishError) as error:
        if path.is_file() and _sha256(hashes, path) != sha256:
            raise _changed(path) from error
        return str(error)
    if before != sha256 or after != sha256:
        raise _changed(path)
    rooms[room, row] = value.half().numpy()
    return None


def _feature(feature, data, clip):
    if hasattr(feature, "read"):  # it comes with the corpus
        return feature.read(data / clip.audio)
    waveform = audio.clip(data / clip.audio, clip.start_s, warn=_said_by_prepare)
    return feature(torch.from_numpy(waveform)[None])[0]


def _sha256(hashes, path):
    """Of a file, None where it cannot be read: decoding it then says why."""
    try:
        return hashes.of(path)
    except OSError:
        return None


def _changed(path):
    return SourceChangedError(
        f"{path}: changed since the stage `prepare`; run it again, then the stage `extract`"
    )
