"""Fills a feature store: processes compute the clips' features into shared memory, and this one writes them, shard by shard."""

import math
import mmap
import signal
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context

import numpy as np
import torch
from tqdm import tqdm

from . import audio, device, features, launch, store


def fill(folder, data, feature, todo, nj, left_out, allowed):
    """Compute and write shards. Once more clips than allowed are left out, all are still tried, but no shard that lacks one is written.

    Args:
        folder: the store.
        data: the folder that the clips' paths start from.
        feature: what `features.build` returns, of shape (C, T, F).
        todo: {index: {name: manifest.Clip}}, of each shard.
        nj: processes.
        left_out: {name: reason}; the clips without usable audio are added to it.
        allowed: how many may be in `left_out`.

    Raises:
        RuntimeError: a process was killed.
    """
    size, count = store.SHARD_CLIPS * math.prod(feature.shape), sum(map(len, todo.values()))
    rooms = np.frombuffer(mmap.mmap(-1, 4 * size), np.float16).reshape(
        2, store.SHARD_CLIPS, *feature.shape
    )  # shared with the workers
    each = max(1, store.SHARD_CLIPS // (4 * nj))  # clips that a process is given at once
    with (
        _workers(nj, data, feature, rooms) as pool,
        tqdm(desc=f"extract {folder.name}", total=count, unit="clip") as bar,
    ):
        jobs = (
            [(turn % 2, row, clip) for row, clip in enumerate(shard.values())]
            for turn, shard in enumerate(todo.values())
        )
        computed = _one_ahead(pool.map(_compute, job, chunksize=each) for job in jobs)
        for turn, ((index, shard), reasons) in enumerate(zip(todo.items(), computed)):
            lacking = {}
            for name, reason in zip(shard, reasons):
                if reason:
                    lacking[name] = reason
                bar.update()
            left_out |= lacking
            if len(left_out) <= allowed or not lacking:
                rows = [row for row, name in enumerate(shard) if name not in lacking]
                values = rooms[turn % 2, rows] if lacking else rooms[turn % 2, : len(rows)]
                store.write_shard(
                    folder,
                    index,
                    values,
                    [name for name in shard if name not in lacking],
                    feature.spec(),
                    lacking,
                )


@contextmanager
def _workers(nj, *given):
    """A pool of `nj` processes, given what all calls of `_compute` share; it ends with what is at hand where the work is broken off."""
    pool = ProcessPoolExecutor(
        nj, get_context("fork"), _start_worker, given
    )  # torch is imported once, and has no threads yet
    try:
        yield pool
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a process was killed, most often for want of memory; what is done stays done, try a smaller --nj"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _one_ahead(items):
    """The items, each given once the next one is made: the workers compute a shard while one is written, and no more than that."""
    made = deque()
    for item in items:
        made.append(item)
        if len(made) == 2:
            yield made.popleft()
    yield from made


def _start_worker(*given):
    """One thread for each process, which keeps the memory that it frees; Ctrl-C is the parent's to handle, and `_compute` gets what all its calls share."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    launch.end_with_parent()
    torch.set_num_threads(1)
    device.keep_freed_memory()
    # A job is pickled, which would make a copy of the shared memory, and a pool hands nothing from here to its calls.
    _compute.given = given


def _said_by_prepare(line):
    """Warnings of audio files were shown when the stage `prepare` checked them."""


def _compute(job):
    """Put one clip's feature (C, T, F) into its place in the shared memory; returns the reason if there is none."""
    (data, feature, rooms), (room, row, clip) = _compute.given, job
    try:
        if hasattr(feature, "read"):  # it comes with the corpus
            value = feature.read(data / clip.audio)
        else:
            waveform = audio.clip(data / clip.audio, clip.start_s, warn=_said_by_prepare)
            value = feature(torch.from_numpy(waveform)[None])[0]
    except (audio.AudioError, features.VGGishError) as error:
        return str(error)
    rooms[room, row] = value.half().numpy()
    return None
