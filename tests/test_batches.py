"""Clips as tensors: the order of an epoch, and the same values from memory as from disk."""

import numpy as np
import pytest
import torch

from ast_repr import batches, store
from ast_repr.manifest import Clip

CLASSES = ["a", "b"]
SPEC = {"feature": "test"}


@pytest.fixture
def corpus(tmp_path):
    clips = [Clip(f"c{i}", f"g{i}", "x.ogg", 0.0, "train", {"a": i / 20} if i % 2 else {"b": 1.0}) for i in range(20)]
    values = np.arange(20 * 6, dtype=np.float16).reshape(20, 1, 2, 3)
    for shard in range(2):
        rows = slice(shard * 10, shard * 10 + 10)
        store.write_shard(tmp_path, shard, values[rows], [clip.clip for clip in clips[rows]], SPEC)
    return clips, values, tmp_path


@pytest.mark.parametrize("free", [10**9, 0], ids=["in memory", "from disk"])
def test_an_epoch_has_every_clip_once_with_its_own_features_and_labels(corpus, monkeypatch, free):
    clips, values, folder = corpus
    monkeypatch.setattr(batches, "free_memory", lambda: free)
    loaded = batches.load(clips, CLASSES, store.Store(folder, SPEC))
    found = list(loaded.shuffled(8, seed=0, epoch=0))
    assert [len(batch.mask) for batch in found] == [8, 8, 4]
    order = (torch.cat([batch.features for batch in found])[:, 0, 0, 0] / 6).long()
    assert sorted(order.tolist()) == list(range(20)) and order.tolist() != list(range(20))
    assert torch.equal(torch.cat([batch.targets for batch in found]), loaded.targets[order])
    assert torch.equal(torch.cat([batch.mask for batch in found]), loaded.mask[order])
    assert torch.equal(torch.cat([batch.features for batch in loaded.batches(7)]), torch.from_numpy(values))


def test_the_order_depends_on_seed_and_epoch_alone(corpus):
    clips, _, folder = corpus
    loaded = batches.load(clips, CLASSES, store.Store(folder, SPEC))

    def order(seed, epoch):
        return torch.cat([batch.features for batch in loaded.shuffled(20, seed, epoch)])[:, 0, 0, 0].tolist()

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(*pair)) for pair in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4


def test_fewer_labels_are_a_part_of_more_and_their_number_is_the_fractions(tiny_clips):
    clips = tiny_clips(40)
    observed = int(clips.mask.sum())
    masks = {fraction: clips.thinned(fraction, seed=3).mask for fraction in (0.001, 0.25, 0.5, 1.0)}
    assert [int(mask.sum()) for mask in masks.values()] == [1, round(observed / 4), round(observed / 2), observed]
    for less, more in zip(list(masks.values()), list(masks.values())[1:]):
        assert not (less & ~more).any()
    assert not torch.equal(clips.thinned(0.25, seed=4).mask, masks[0.25])
    assert int(clips.mask.sum()) == observed  # the clips themselves stay as they are
