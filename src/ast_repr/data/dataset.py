"""Clips of one split as tensors, and the batches of an epoch.

Features stay float16, on the GPU or in memory if they fit (5.2 GB for OpenMIC). Otherwise each
shard is read from disk once per epoch while the batches before it are used, and clips are shuffled
within windows of a few shards, which are themselves in random order. The order of an epoch depends
only on (seed, epoch) and the storage, so a resumed run gets the same batches as an uninterrupted
one.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

from .. import manifest
from ..choices import FEATURE_STORAGE, unknown
from ..devices import memory_left
from .feature_store import Store

SHARES = {"device": 0.25, "memory": 0.5}  # of the free memory that "auto" may use
CONSTANT = 1e-4  # a deviation below it is rounding
WINDOW = 4  # shards; at most three windows are in memory (0.8 GB of log-mels)


class Batch(NamedTuple):
    """A batch of clips.

    Attributes:
        features: (B, C, T, F) float32, or (B, D) embeddings.
        targets: (B, K) relevances.
        mask: (B, K), True where observed; after mixup the weight of each cell.
        teacher_frames: (B, D, T), embeddings of a teacher over time; None without a teacher.
        teacher_logits: (B, K), of its classifier; None without one.
    """

    features: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor
    teacher_frames: torch.Tensor | None = None
    teacher_logits: torch.Tensor | None = None

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """Return the batch with `function` applied to each tensor."""
        return Batch(*(None if tensor is None else function(tensor) for tensor in self))

    def select(self, clips: slice | torch.Tensor) -> "Batch":
        """Return the clips of a slice, or of a tensor of indices or booleans."""
        return self.map(lambda tensor: tensor[clips])

    @classmethod
    def concatenate(cls, parts: Sequence["Batch"]) -> "Batch":
        """Return the clips of all parts, in order."""
        fields = zip(*parts, strict=True)
        return cls(*(None if field[0] is None else torch.cat(field) for field in fields))

    def to(self, device: torch.device | str) -> "Batch":
        """Return the same batch on `device`, its features converted to float32 there."""
        batch = self.map(lambda tensor: tensor.to(device, non_blocking=True))
        return batch._replace(features=batch.features.float())


class Clips:
    """Features and labels of the clips of one split.

    Args:
        clips: N clips.
        classes: names of the K classes.
        features: function from a tensor of indices (n,) to a float16 tensor (n, ...).
        shards: lists of indices that are best read together; None if features are in memory.

    Attributes:
        names, groups: of the clips.
        targets, mask: (N, K), see Batch.
        teacher: fields of Batch about a teacher, by name, (N, ...) each; empty without one.
    """

    def __init__(
        self,
        clips: Sequence[manifest.Clip],
        classes: Sequence[str],
        features: Callable[[torch.Tensor], torch.Tensor],
        shards: list[list[int]] | None = None,
    ):
        self.names = [clip.clip for clip in clips]
        self.groups = [clip.group for clip in clips]
        targets, mask = manifest.targets(clips, classes)
        self.targets = torch.from_numpy(targets)
        self.mask = torch.from_numpy(mask)
        self.teacher: dict[str, torch.Tensor] = {}
        self._features = features
        self._shards = shards

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, rows: torch.Tensor) -> Batch:
        """Return the Batch of the given indices, in their order."""
        teacher = {name: values[rows] for name, values in self.teacher.items()}
        return Batch(self._features(rows), self.targets[rows], self.mask[rows], **teacher)

    def whole(self) -> Batch:
        """Return all clips as one Batch."""
        return self.batch(torch.arange(len(self)))

    def batches(self, size: int) -> Iterator[Batch]:
        """Iterate over all clips in order, in batches of `size`; the last may be smaller."""
        if self._shards is None:
            return map(self.batch, torch.arange(len(self)).split(size))
        shards = map(torch.tensor, self._shards)
        return rebatch(prefetch(map(self.batch, shards)), size)

    def shuffled(self, size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """Iterate over all clips in the order of (seed, epoch), in batches of `size`.

        The last batch may be smaller.
        """
        random = generator(seed, epoch)
        if self._shards is None:
            return map(self.batch, torch.randperm(len(self), generator=random).split(size))
        shuffled = windows(self._shards, random)
        return rebatch(prefetch(map(self.batch, shuffled)), size)

    def mean_and_deviation(self, size: int = 64) -> list[float]:
        """Return [mean, standard deviation] of the features over all their cells."""
        count = 0
        total = 0.0
        squares = 0.0
        for batch in self.batches(size):
            values = batch.features.double()
            count += values.numel()
            total += values.sum().item()
            squares += values.square().sum().item()
        mean = total / count
        return [mean, (squares / count - mean**2) ** 0.5]

    def band_means_and_deviations(self, size: int = 64) -> list[list[float]]:
        """Return [means, standard deviations] of the features' bands.

        A constant band gets the deviation 1.
        """
        count = 0
        total = torch.tensor(0.0)
        squares = torch.tensor(0.0)
        for batch in self.batches(size):
            values = batch.features.double().flatten(0, 2)  # (cells, F)
            count += len(values)
            total = total + values.sum(dim=0)
            squares = squares + values.square().sum(dim=0)
        means = total / count
        deviations = (squares / count - means.square()).clamp_min(0.0).sqrt()
        constant = deviations < CONSTANT
        return [means.tolist(), deviations.masked_fill(constant, 1.0).tolist()]

    def with_features(self, tensor: torch.Tensor) -> "Clips":
        """Return the same clips with other features (N, ...), held in memory."""
        other = copy.copy(self)
        other._features = tensor.__getitem__
        other._shards = None
        return other

    def with_labels(self, targets: torch.Tensor, mask: torch.Tensor) -> "Clips":
        """Return the same clips with other targets (N, K) and mask (N, K)."""
        other = copy.copy(self)
        other.targets = targets
        other.mask = mask
        return other

    def with_teacher(self, **teacher: torch.Tensor) -> "Clips":
        """Return the same clips with these values of a teacher, see Clips.teacher."""
        other = copy.copy(self)
        other.teacher = teacher
        return other

    def subsample_clips(self, fraction: float, seed: int) -> "Clips":
        """Return whole groups in random order, until they have the fraction of the clips.

        The clips of a smaller fraction are a subset of those of a larger one.
        """
        rows_of: dict[str, list[int]] = {}
        for row, group in enumerate(self.groups):
            rows_of.setdefault(group, []).append(row)
        names = sorted(rows_of)
        kept: list[int] = []
        for index in torch.randperm(len(names), generator=generator(seed)):
            if len(kept) >= round(fraction * len(self)):
                break
            kept += rows_of[names[index]]
        return self._subset(torch.tensor(sorted(kept)))

    def _subset(self, rows: torch.Tensor) -> "Clips":
        """Return the clips of the given indices, in their order."""
        kept = rows.tolist()
        place = {row: index for index, row in enumerate(kept)}
        other = self.with_labels(self.targets[rows], self.mask[rows])
        other.names = [self.names[row] for row in kept]
        other.groups = [self.groups[row] for row in kept]
        other.teacher = {name: values[rows] for name, values in self.teacher.items()}
        other._features = lambda indices: self._features(rows[indices])
        if self._shards is not None:
            shards = [[place[row] for row in shard if row in place] for shard in self._shards]
            other._shards = [shard for shard in shards if shard]
        return other

    def subsample_labels(self, fraction: float, seed: int) -> "Clips":
        """Return the same clips with a random fraction of the observed labels, at least one.

        The labels of a smaller fraction are a subset of those of a larger one.
        """
        observed = self.mask.nonzero()
        order = torch.randperm(len(observed), generator=generator(seed))
        kept = observed[order[: max(1, round(fraction * len(observed)))]]
        mask = torch.zeros_like(self.mask)
        mask[kept[:, 0], kept[:, 1]] = True
        return self.with_labels(self.targets, mask)


def load(
    clips: Sequence[manifest.Clip],
    classes: Sequence[str],
    store: Store,
    storage: str = "auto",
    device: torch.device | str = "cpu",
) -> Clips:
    """Load clips from a feature store.

    Args:
        clips, classes: see Clips.
        store: feature store of the clips.
        storage: where features are kept: on the "device", in "memory", or on "disk"; "auto" takes
            the first in which they fit.
        device: device on which they will be used.

    Raises:
        ValueError: unknown storage.
    """
    if storage not in FEATURE_STORAGE:
        raise ValueError(unknown("storage of features", storage, FEATURE_STORAGE))
    device = torch.device(device)
    names = [clip.clip for clip in clips]
    shards = store.group_by_shard(names)

    def read(rows: Iterable[int]) -> torch.Tensor:
        return torch.from_numpy(store.read([names[row] for row in rows]))

    if storage == "auto":
        storage = choose_storage(len(names), store.shape, device)
    if storage == "disk":
        return Clips(clips, classes, read, shards)
    target = device if storage == "device" else "cpu"
    features = torch.empty((len(names), *store.shape), dtype=torch.float16, device=target)
    for rows in shards:
        features[rows[0] : rows[-1] + 1] = read(rows)
    return Clips(clips, classes, features.__getitem__)


def choose_storage(
    count: int, shape: Sequence[int], device: torch.device | str, processes: int = 1
) -> str:
    """Choose the first storage in which the features fit: "device", "memory" or "disk".

    Args:
        count: clips per process.
        shape: shape of a clip's features.
        device: device on which they will be used.
        processes: processes that share this machine's memory; each has its own GPU.
    """
    device = torch.device(device)
    needed = count * 2 * math.prod(shape)
    sizes = {"device": needed, "memory": needed * processes}
    for storage, share in SHARES.items():
        if sizes[storage] <= share * free_memory(storage, device):
            return storage
    return "disk"


def free_memory(storage: str, device: torch.device) -> int:
    """Return the free bytes of a GPU, 0 without one, or of the memory this process may use."""
    if storage == "memory":
        return memory_left()
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def windows(shards: list[list[int]], random: torch.Generator) -> Iterator[torch.Tensor]:
    """Iterate over all indices in random order, a few shards at a time: each is read once."""
    for window in torch.randperm(len(shards), generator=random).split(WINDOW):
        rows = torch.cat([torch.tensor(shards[shard]) for shard in window])
        yield rows[torch.randperm(len(rows), generator=random)]


def prefetch(items: Iterable[Batch]) -> Iterator[Batch]:
    """Iterate over the items; a thread computes each while the previous one is used."""
    items = iter(items)
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(next, items, None)
        item = future.result()
        while item is not None:
            future = thread.submit(next, items, None)
            yield item
            item = future.result()


def rebatch(blocks: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Iterate over batches of `size` made from blocks of any sizes; the last may be smaller."""
    parts = []
    missing = size
    for block in blocks:
        while len(block.mask):
            part = block.select(slice(missing))
            block = block.select(slice(missing, None))
            parts.append(part)
            missing -= len(part.mask)
            if not missing:
                yield Batch.concatenate(parts)
                parts = []
                missing = size
    if parts:
        yield Batch.concatenate(parts)


def generator(*numbers: int) -> torch.Generator:
    """Return a torch Generator seeded by several integers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + int(number) + 1) % (2**63)
    return torch.Generator().manual_seed(seed)
