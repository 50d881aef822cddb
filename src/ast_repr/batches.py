"""Clips of one split as tensors, and the batches of an epoch.

Features stay float16, on the GPU or in memory where they fit (5.2 GB for OpenMIC); otherwise they are read from disk, each shard
once an epoch, as a whole, while the batches before it are used. The order of an epoch depends on (seed, epoch) alone, so a
resumed run sees what an uninterrupted one would have seen; from disk it is another order than in memory, since clips are
shuffled within windows of a few shards, themselves in random order.
"""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

from . import manifest
from .device import memory_left
from .rooms import unknown

PLACES = ("auto", "device", "memory", "disk")  # where features can be kept
SHARES = {"device": 0.25, "memory": 0.5}  # of what is free there that they may take by "auto"
WINDOW = 4  # shards; three windows are in memory at most, where one ends and the next begins: 0.8 GB of log-mels


class Batch(NamedTuple):
    """features (B, C, T, F) float32, or (B, D) embeddings; targets (B, K) relevances; mask (B, K), True where observed."""

    features: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor

    def to(self, device):
        """The same batch on `device`, its features widened to float32 there."""
        move = (t.to(device, non_blocking=True) for t in self)
        features, targets, mask = move
        return Batch(features.float(), targets, mask)


class Clips:
    """Features and labels of the clips of one split.

    Args:
        clips: list of manifest.Clip.
        classes: names of the K classes.
        features: anything that maps row numbers to a float16 tensor (n, ...).
        shards: row numbers as lists, those of a list best read together; None where the order of reading does not matter.
    """

    def __init__(self, clips, classes, features, shards=None):
        self.names = [clip.clip for clip in clips]
        targets, mask = manifest.targets(clips, classes)
        self.targets, self.mask = torch.from_numpy(targets), torch.from_numpy(mask)
        self._features, self._shards = features, shards

    def __len__(self):
        return len(self.names)

    def batch(self, rows):
        """The Batch of the given row numbers, in their order."""
        return Batch(self._features(rows), self.targets[rows], self.mask[rows])

    def batches(self, size):
        """All clips in order, in batches of `size`; the last may be smaller."""
        if self._shards is None:
            return (
                self.batch(torch.arange(start, min(start + size, len(self))))
                for start in range(0, len(self), size)
            )
        return cut(ahead(map(self.batch, map(torch.tensor, self._shards))), size)

    def shuffled(self, size, seed, epoch):
        """All clips in the order of (seed, epoch), in batches of `size`; the last may be smaller."""
        random = generator(seed, epoch)
        if self._shards is None:
            return map(self.batch, torch.randperm(len(self), generator=random).split(size))
        return cut(ahead(map(self.batch, windows(self._shards, random))), size)

    def with_features(self, tensor):
        """The same clips with other features (N, ...), held in memory."""
        other = copy.copy(self)
        other._features, other._shards = tensor.__getitem__, None
        return other

    def with_labels(self, targets, mask):
        """The same clips with other targets (N, K) and mask (N, K)."""
        other = copy.copy(self)
        other.targets, other.mask = targets, mask
        return other

    def thinned(self, fraction, seed):
        """The same clips with a fraction of the observed labels, at least one; less is always a part of more."""
        observed = self.mask.nonzero()
        kept = observed[
            torch.randperm(len(observed), generator=generator(seed))[
                : max(1, round(fraction * len(observed)))
            ]
        ]
        mask = torch.zeros_like(self.mask)
        mask[kept[:, 0], kept[:, 1]] = True
        return self.with_labels(self.targets, mask)


def load(clips, classes, store, keep="auto", device="cpu"):
    """Clips backed by a feature store.

    Args:
        clips, classes: as for Clips.
        store: store.Store.
        keep: where the features stay: on the "device", in "memory", or on "disk"; "auto" takes the first where they fit.
        device: the one on which they will be used.

    Raises:
        ValueError: `keep` is none of these.
    """
    if keep not in PLACES:
        raise ValueError(unknown("place of features", keep, PLACES))
    names, device = [clip.clip for clip in clips], torch.device(device)
    if keep == "auto":
        keep = fitting(len(names), store.shape, device)
    if keep == "disk":
        return Clips(
            clips,
            classes,
            lambda rows: torch.from_numpy(store.read([names[row] for row in rows])),
            store.together(names),
        )
    features = torch.empty(
        (len(names), *store.shape),
        dtype=torch.float16,
        device=device if keep == "device" else "cpu",
    )
    for rows in store.together(names):
        features[rows[0] : rows[-1] + 1] = torch.from_numpy(
            store.read([names[row] for row in rows])
        )
    return Clips(clips, classes, features.__getitem__)


def fitting(count, shape, device, processes=1):
    """The first of the places where features of `shape` fit, of `count` clips for each of the processes of one machine."""
    device, needed = torch.device(device), count * 2 * int(torch.tensor(shape).prod())
    sizes = {"device": needed, "memory": needed * processes}  # a GPU is one process's
    return next(
        (
            place
            for place, share in SHARES.items()
            if sizes[place] <= share * free_memory(place, device)
        ),
        "disk",
    )


def free_memory(place, device):
    """Bytes that are free on a GPU, 0 without one, or in the memory that this process may use."""
    if place == "device":
        return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    return memory_left()


def windows(shards, random):
    """All row numbers in random order, as one tensor for each few shards, so that each shard is read once."""
    order = torch.randperm(len(shards), generator=random).tolist()
    for start in range(0, len(order), WINDOW):
        rows = torch.tensor(
            [row for shard in order[start : start + WINDOW] for row in shards[shard]]
        )
        yield rows[torch.randperm(len(rows), generator=random)]


def ahead(items):
    """The items, each of which is made in a thread while the one before is used."""
    items = iter(items)
    with ThreadPoolExecutor(1) as thread:
        made = thread.submit(next, items, None)
        while (item := made.result()) is not None:
            made = thread.submit(next, items, None)
            yield item


def cut(blocks, size):
    """Batches of `size`, whatever the sizes of those that they are cut from; the last may be smaller."""
    parts, lacking = [], size
    for block in blocks:
        while len(block.mask):
            parts.append(Batch(*(tensor[:lacking] for tensor in block)))
            block = Batch(*(tensor[lacking:] for tensor in block))
            lacking -= len(parts[-1].mask)
            if not lacking:
                yield Batch(*map(torch.cat, zip(*parts)))
                parts, lacking = [], size
    if parts:
        yield Batch(*map(torch.cat, zip(*parts)))


def generator(*numbers):
    """A torch Generator seeded by a few integers together."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + int(number) + 1) % (2**63)
    return torch.Generator().manual_seed(seed)
