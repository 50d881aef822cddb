"""SpecAugment's stripes: drawn from the generator alone, and no longer than asked for."""

import pytest
import torch

from ast_repr.data import dataset
from ast_repr.training import augment


def hidden(time, freq, seed=0, size=64):
    x = torch.randn(size, 1, 50, 20, generator=torch.Generator().manual_seed(1))
    out = augment.spec_augment(x.clone(), dataset.generator(seed), time=time, freq=freq, fill=9.0)
    assert torch.equal(out[out != 9.0], x[out != 9.0])
    return (out == 9.0)[:, 0]


@pytest.mark.parametrize(("time", "freq"), [(12, 0), (0, 6), (12, 6)])
def test_each_clip_has_at_most_one_stripe_of_each_kind_and_no_longer_than_asked_for(time, freq):
    mask = hidden(time, freq)
    for other, longest in ((2, time), (1, freq)):
        stripes = mask.all(dim=other).int()
        lengths = stripes.sum(dim=1)
        assert lengths.max() <= longest and (not longest or lengths.max() > longest // 2)
        assert (stripes.diff(dim=1).abs().sum(dim=1) <= 2).all()
    whole = mask.all(dim=2, keepdim=True) | mask.all(dim=1, keepdim=True)
    assert torch.equal(mask, mask & whole)


def test_nothing_is_hidden_where_nothing_is_asked_for():
    assert not hidden(0, 0).any()


def test_the_same_generator_hides_the_same_cells_and_another_one_others():
    assert torch.equal(hidden(12, 6, seed=3), hidden(12, 6, seed=3))
    assert not torch.equal(hidden(12, 6, seed=3), hidden(12, 6, seed=4))


def test_clips_of_a_batch_have_stripes_of_their_own():
    assert len({tuple(row.flatten().tolist()) for row in hidden(12, 6)}) > 50
