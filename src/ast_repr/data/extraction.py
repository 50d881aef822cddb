"""Fill a feature store, shard by shard.

Worker processes compute the clips' features into shared memory, and the parent writes them. (Sent
through a pipe, a large result of a worker that is killed would block the parent forever.) The
sha256 of every source file must be that of the manifest.
"""

import math
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .. import audio, features, identity, manifest, processes
from . import feature_store


class SourceChangedError(ValueError):
    """A file was replaced since the manifest was made; the message names it and the remedy."""


@dataclass(frozen=True)
class _Worker:
    """State of a worker process: corpus folder, feature, and shared buffers (2, n, C, T, F)."""

    data: Path
    feature_name: str
    feature: Any
    buffers: np.ndarray
    hashes: identity.FileHashes


_worker: _Worker | None = None  # set by `_start_worker` in worker processes only


def fill(
    folder: Path,
    data: Path,
    feature: Any,
    todo: Mapping[int, Sequence[manifest.Clip]],
    nj: int,
    allowed: int,
) -> dict[str, str]:
    """Compute and write shards.

    If more clips than allowed are left out, all are still tried, but no shard that lacks one is
    written.

    Args:
        folder: the store.
        data: folder that the clips' paths are relative to.
        feature: feature of shape (C, T, F), as built by `features.build`.
        todo: {shard index: its clips}.
        nj: number of processes.
        allowed: number of clips that may be left out.

    Returns:
        {clip: reason} of the clips without usable audio.

    Raises:
        SourceChangedError: a file is not the one that the manifest was made from.
        RuntimeError: a process was killed.
    """
    shape = (2, feature_store.SHARD_CLIPS, *feature.shape)  # shards alternate between two buffers
    memory = mmap.mmap(-1, 2 * math.prod(shape))
    buffers = np.frombuffer(memory, np.float16).reshape(shape)
    chunk = max(1, feature_store.SHARD_CLIPS // (4 * nj))
    count = sum(map(len, todo.values()))
    left_out = {}
    with (
        # forked: torch is imported once, and has no threads yet
        processes.pool(nj, _start_worker, (data, folder.name, feature, buffers), "fork") as pool,
        tqdm(desc=f"extract {folder.name}", total=count, unit="clip", disable=None) as bar,
    ):
        jobs = []
        for turn, shard in enumerate(todo.values()):
            jobs.append([(turn % 2, row, clip) for row, clip in enumerate(shard)])
        computed = _one_ahead(pool.map(_compute, job, chunksize=chunk) for job in jobs)
        for turn, (index, reasons) in enumerate(zip(todo, computed, strict=True)):
            rows = []
            lacking = {}
            for row, reason in enumerate(reasons):
                bar.update()
                if reason is None:
                    rows.append(row)
                else:
                    lacking[todo[index][row].clip] = reason
            left_out |= lacking
            if len(left_out) <= allowed or not lacking:
                values = buffers[turn % 2][rows]
                identities = manifest.identities(todo[index], folder.name)
                feature_store.write_shard(
                    folder, index, values, identities, feature.spec(), lacking
                )
    return left_out


def _one_ahead(items: Iterable) -> Iterator:
    """Yield each item after the next one is made: a shard is computed while another is written."""
    previous = None
    for item in items:
        if previous is not None:
            yield previous
        previous = item
    if previous is not None:
        yield previous


def _start_worker(data: Path, feature_name: str, feature: Any, buffers: np.ndarray) -> None:
    global _worker
    torch.set_num_threads(1)
    processes.keep_freed_memory()
    _worker = _Worker(data, feature_name, feature, buffers, identity.FileHashes())


def _compute(job: tuple[int, int, manifest.Clip]) -> str | None:
    """Put the feature of a clip into the shared buffer; return the reason if there is none.

    `job` is (number of the buffer, row in it, clip).
    """
    number, row, clip = job
    path, sha256 = clip.source(_worker.data, _worker.feature_name)
    reason = None
    before = _sha256(path)
    try:
        value = _feature(clip)
    except (audio.AudioError, features.VGGishError) as error:
        reason = str(error)
    unchanged = before == sha256 == _sha256(path)
    if not unchanged and (reason is None or path.is_file()):
        raise SourceChangedError(
            f"{path}: changed since the stage `prepare`; run it again, then the stage `extract`"
        )
    if reason is None:
        _worker.buffers[number, row] = value.half().numpy()
    return reason


def _feature(clip: manifest.Clip) -> torch.Tensor:
    path = _worker.data / clip.audio
    if hasattr(_worker.feature, "read"):  # the corpus carries it
        return _worker.feature.read(path)
    # `prepare` has shown the warnings already.
    window = features.window(_worker.feature)
    waveform = audio.clip(
        path, clip.start_s, warn=lambda line: None, seconds=clip.seconds, rate=window.sample_rate
    )
    return _worker.feature(torch.from_numpy(audio.fit(waveform, window.samples))[None])[0]


def _sha256(path: Path) -> str | None:
    """Return the sha256 of a file, None if it is unreadable: decoding it then gives the reason."""
    try:
        return _worker.hashes.of(path)
    except OSError:
        return None
