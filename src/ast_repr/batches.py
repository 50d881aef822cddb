"""Clips of one split as tensors, and the batches of an epoch.

Features stay float16 in memory where they fit (5.2 GB for OpenMIC), and are read shard by shard from disk otherwise.
The order of an epoch depends on (seed, epoch) alone, so a resumed run sees what an uninterrupted one would have seen.
"""

import copy
import os
from typing import NamedTuple

import torch

from . import manifest

MEMORY_SHARE = 0.5  # of the machine's free memory that the features may take


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
        features: anything that maps a sorted list of row numbers to a float16 tensor (n, ...).
    """

    def __init__(self, clips, classes, features):
        self.names = [clip.clip for clip in clips]
        targets, mask = manifest.targets(clips, classes)
        self.targets, self.mask = torch.from_numpy(targets), torch.from_numpy(mask)
        self._features = features

    def __len__(self):
        return len(self.names)

    def batch(self, rows):
        """The Batch of the given row numbers, in their order."""
        return Batch(self._features(rows), self.targets[rows], self.mask[rows])

    def batches(self, size):
        """All clips in order, in batches of `size`; the last may be smaller."""
        for start in range(0, len(self), size):
            yield self.batch(torch.arange(start, min(start + size, len(self))))

    def shuffled(self, size, seed, epoch):
        """All clips in the order of (seed, epoch)."""
        order = torch.randperm(len(self), generator=generator(seed, epoch))
        for rows in order.split(size):
            yield self.batch(rows)

    def with_features(self, tensor):
        """The same clips with other features (N, ...), held in memory."""
        other = copy.copy(self)
        other._features = tensor.__getitem__
        return other

    def with_labels(self, targets, mask):
        """The same clips with other targets (N, K) and mask (N, K)."""
        other = copy.copy(self)
        other.targets, other.mask = targets, mask
        return other

    def thinned(self, fraction, seed):
        """The same clips with a fraction of the observed labels, at least one; less is always a part of more."""
        observed = self.mask.nonzero()
        kept = observed[torch.randperm(len(observed), generator=generator(seed))[: max(1, round(fraction * len(observed)))]]
        mask = torch.zeros_like(self.mask)
        mask[kept[:, 0], kept[:, 1]] = True
        return self.with_labels(self.targets, mask)


def load(clips, classes, store):
    """Clips backed by a feature store: read into memory if they fit, otherwise from disk at each use."""
    names = [clip.clip for clip in clips]
    needed = len(names) * 2 * int(torch.tensor(store.shape).prod())
    if needed <= MEMORY_SHARE * free_memory():
        return Clips(clips, classes, torch.from_numpy(store.read(names)).__getitem__)
    return Clips(clips, classes, lambda rows: torch.from_numpy(store.read([names[row] for row in rows])))


def free_memory():
    """Bytes of memory that are free on this machine."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def generator(*numbers):
    """A torch Generator seeded by a few integers together."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + int(number) + 1) % (2**63)
    return torch.Generator().manual_seed(seed)
