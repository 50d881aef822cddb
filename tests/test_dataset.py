"""Clips as tensors: the order of an epoch, the same values from memory and from disk."""

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from ast_repr.data import dataset, feature_store
from ast_repr.manifest import Clip, identities

CLASSES = ["a", "b"]
SPEC = {"feature": "test"}


@pytest.fixture
def corpus(tmp_path):
    clips = [
        Clip(f"c{i}", f"g{i}", "x.ogg", 0.0, "train", {"a": i / 20} if i % 2 else {"b": 1.0})
        for i in range(20)
    ]
    values = np.arange(20 * 6, dtype=np.float16).reshape(20, 1, 2, 3)
    for shard in range(2):
        rows = slice(shard * 10, shard * 10 + 10)
        made_from = identities(clips[rows], "logmel")
        feature_store.write_shard(tmp_path, shard, values[rows], made_from, SPEC)
    return clips, values, tmp_path


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_an_epoch_has_every_clip_once_with_its_own_features_and_labels(corpus, storage):
    clips, values, folder = corpus
    loaded = dataset.load(clips, CLASSES, feature_store.Store(folder, SPEC), storage)
    result = list(loaded.shuffled(8, seed=0, epoch=0))
    assert [len(batch.mask) for batch in result] == [8, 8, 4]
    order = (torch.cat([batch.features for batch in result])[:, 0, 0, 0] / 6).long()
    assert sorted(order.tolist()) == list(range(20))
    assert order.tolist() != list(range(20))
    assert torch.equal(torch.cat([batch.targets for batch in result]), loaded.targets[order])
    assert torch.equal(torch.cat([batch.mask for batch in result]), loaded.mask[order])
    assert torch.equal(
        torch.cat([batch.features for batch in loaded.batches(7)]), torch.from_numpy(values)
    )


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_the_order_depends_on_seed_and_epoch_alone(corpus, storage):
    clips, _, folder = corpus
    loaded = dataset.load(clips, CLASSES, feature_store.Store(folder, SPEC), storage)

    def order(seed, epoch):
        return torch.cat([batch.features for batch in loaded.shuffled(20, seed, epoch)])[
            :, 0, 0, 0
        ].tolist()

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(*pair)) for pair in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4


def test_the_order_in_memory_is_that_of_runs_made_before(corpus):
    clips, _, folder = corpus
    loaded = dataset.load(clips, CLASSES, feature_store.Store(folder, SPEC), "memory")
    result = (
        torch.cat([batch.features for batch in loaded.shuffled(8, seed=3, epoch=2)])[:, 0, 0, 0] / 6
    )
    expected = torch.randperm(
        20, generator=torch.Generator().manual_seed((4 * 1_000_003 + 3) % 2**63)
    )
    assert torch.equal(result.long(), expected)


@pytest.mark.parametrize(
    ("needed_of", "shares", "kept"),
    [(240, {"memory": 1.0}, True), (240, {"memory": 0.999}, False), (240, {"device": 1.0}, True)],
)
def test_features_are_kept_in_the_first_storage_that_is_large_enough(
    corpus, monkeypatch, needed_of, shares, kept
):
    """20 clips of 2 x 3 numbers are 240 bytes."""
    clips, _, folder = corpus
    monkeypatch.setattr(dataset, "SHARES", shares)
    monkeypatch.setattr(dataset, "free_memory", lambda place, device: needed_of)
    stored = feature_store.Store(folder, SPEC)
    loaded = dataset.load(clips, CLASSES, stored)
    for path in folder.glob("*.h5"):
        path.unlink()
    if kept:
        assert len(list(loaded.batches(20))) == 1
    else:
        with pytest.raises(feature_store.StoreError):
            list(loaded.batches(20))


def test_free_memory_is_a_part_of_the_memory():
    free = dataset.free_memory("memory", torch.device("cpu"))
    assert 10**7 < free < 10**14
    assert dataset.free_memory("device", torch.device("cpu")) == 0


def test_an_unknown_storage_lists_the_valid_ones(corpus):
    clips, _, folder = corpus
    with pytest.raises(
        ValueError, match="unknown storage of features 'ram'.*valid: auto, device, disk, memory"
    ):
        dataset.load(clips, CLASSES, feature_store.Store(folder, SPEC), "ram")


class Watched(feature_store.Store):
    """A store that remembers which shards each read has touched."""

    def read(self, names):
        self.reads = [*getattr(self, "reads", []), {self._places[name][0] for name in names}]
        return super().read(names)


@pytest.fixture
def many_shards(tmp_path):
    """Eleven shards of five clips, the second and third clip of each are not in the split."""
    clips = [Clip(f"c{i}", f"g{i}", "x.ogg", 0.0, "train", {"a": 1.0}) for i in range(55)]
    for shard in range(11):
        rows = range(shard * 5, shard * 5 + 5)
        feature_store.write_shard(
            tmp_path,
            shard,
            np.array(rows, np.float16).reshape(5, 1, 1, 1),
            identities([clips[row] for row in rows], "logmel"),
            SPEC,
        )
    kept = [clip for i, clip in enumerate(clips) if i % 5 not in (1, 2)]
    stored = Watched(tmp_path, SPEC)
    return (
        dataset.load(kept, CLASSES, stored, "disk"),
        stored,
        [i for i in range(55) if i % 5 not in (1, 2)],
    )


def numbers(result):
    return torch.cat([batch.features for batch in result]).flatten().int().tolist()


def test_from_disk_each_shard_is_read_once_an_epoch_a_few_at_a_time(many_shards):
    loaded, stored, expected = many_shards
    result = list(loaded.shuffled(4, seed=0, epoch=0))
    assert [len(batch.mask) for batch in result] == [4] * 8 + [1]
    assert sorted(numbers(result)) == expected
    assert [len(touched) for touched in stored.reads] == [4, 4, 3]
    assert len(set().union(*stored.reads)) == 11
    first = {number // 5 for number in numbers(result[:3])}
    assert len(first) == 4
    assert first != set(range(4))  # the shards of a window come from anywhere
    assert [number // 5 for number in numbers(result[:3])] != sorted(
        number // 5 for number in numbers(result[:3])
    )


def test_from_disk_in_order_each_shard_is_read_once_too(many_shards):
    loaded, stored, expected = many_shards
    assert numbers(loaded.batches(4)) == expected
    assert [len(touched) for touched in stored.reads] == [1] * 11


def test_from_disk_no_more_than_one_window_is_read_ahead(many_shards):
    loaded, stored, _ = many_shards
    epoch = loaded.shuffled(4, seed=0, epoch=0)
    next(epoch)
    deadline = time.monotonic() + 60
    while len(stored.reads) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)  # in which it would read more
    assert len(stored.reads) == 2


def test_features_given_to_clips_on_disk_are_in_memory(many_shards):
    loaded, stored, expected = many_shards
    given = loaded.with_features(torch.arange(33.0)[:, None])
    assert sorted(numbers(given.shuffled(4, seed=0, epoch=0))) == list(range(33))
    assert not hasattr(stored, "reads")


def test_an_error_while_prefetching_is_raised(many_shards):
    loaded, stored, _ = many_shards
    for path in stored.folder.glob("*.h5"):
        path.unlink()
    with pytest.raises(feature_store.StoreError):
        list(loaded.shuffled(4, seed=0, epoch=0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_features_on_the_gpu_are_those_in_memory(corpus):
    clips, _, folder = corpus
    there, here = (
        dataset.load(clips, CLASSES, feature_store.Store(folder, SPEC), storage, "cuda")
        for storage in ("auto", "memory")
    )
    for one, other in zip(there.shuffled(8, 0, 0), here.shuffled(8, 0, 0), strict=True):
        assert one.features.device.type == "cuda"
        assert torch.equal(one.features.cpu(), other.features)


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_fewer_clips_are_whole_groups_and_a_part_of_more(corpus, storage):
    clips, values, folder = corpus
    clips = [replace(clip, group=f"g{index // 2}") for index, clip in enumerate(clips)]
    loaded = dataset.load(clips, CLASSES, feature_store.Store(folder, SPEC), storage)
    parts = {n: loaded.subsample_clips(n / 20, seed=3) for n in (1, 5, 8, 20)}
    assert [len(part) for part in parts.values()] == [2, 6, 8, 20]  # groups are pairs
    for less, more in pairwise(parts.values()):
        assert set(less.names) < set(more.names)
    rows = [int(name[1:]) for name in parts[8].names]
    assert all(row ^ 1 in rows for row in rows)
    batches = list(parts[8].batches(3))
    assert [len(batch.mask) for batch in batches] == [3, 3, 2]
    features = torch.cat([batch.features for batch in batches])
    assert torch.equal(features, torch.from_numpy(values[rows]))
    assert torch.equal(torch.cat([batch.targets for batch in batches]), loaded.targets[rows])
    shuffled = torch.cat([batch.features for batch in parts[8].shuffled(3, seed=0, epoch=0)])
    assert sorted(shuffled[:, 0, 0, 0].tolist()) == sorted(features[:, 0, 0, 0].tolist())
    assert loaded.subsample_clips(0.4, seed=4).names != parts[8].names


def test_fewer_labels_are_a_part_of_more_and_their_number_is_the_fractions(tiny_clips):
    clips = tiny_clips(40)
    observed = int(clips.mask.sum())
    masks = {
        fraction: clips.subsample_labels(fraction, seed=3).mask
        for fraction in (0.001, 0.25, 0.5, 1.0)
    }
    assert [int(mask.sum()) for mask in masks.values()] == [
        1,
        round(observed / 4),
        round(observed / 2),
        observed,
    ]
    for less, more in pairwise(masks.values()):
        assert not (less & ~more).any()
    assert not torch.equal(clips.subsample_labels(0.25, seed=4).mask, masks[0.25])
    assert int(clips.mask.sum()) == observed  # the clips themselves stay as they are


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_bands_have_means_and_deviations_and_a_constant_one_the_deviation_1(tmp_path, storage):
    clips = [Clip(f"c{i}", "g", "x.ogg", 0.0, "train", {"a": 1.0}) for i in range(9)]
    values = np.random.default_rng(0).normal(-4, 2, (9, 2, 5, 3)).astype(np.float16)
    values[..., 1] = -11.5
    feature_store.write_shard(tmp_path, 0, values, identities(clips, "logmel"), SPEC)
    loaded = dataset.load(clips, CLASSES, feature_store.Store(tmp_path, SPEC), storage)
    means, deviations = loaded.band_means_and_deviations(size=4)
    cells = values.astype(float).reshape(-1, 3)
    np.testing.assert_allclose(means, cells.mean(axis=0))
    np.testing.assert_allclose(deviations, [cells[:, 0].std(), 1, cells[:, 2].std()])
