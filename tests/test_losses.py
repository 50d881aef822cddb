"""The masked loss depends on observed cells alone, and is zero for a batch without any."""

import math

import pytest
import torch
from torch.nn import functional

from ast_repr import methods
from ast_repr.data.dataset import Batch
from ast_repr.losses import masked_bce

JUNK = (0.0, 1.0, math.nan, 1e9, -1e9, math.inf, -math.inf)


def case(seed=0, shape=(6, 5)):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=generator)
    return (
        logits,
        torch.rand(shape, generator=generator),
        torch.rand(shape, generator=generator) < 0.4,
    )


def loss_and_gradient(logits, targets, mask):
    logits = logits.clone().requires_grad_()
    loss = masked_bce(logits, targets, mask)
    loss.backward()
    return loss.detach(), logits.grad


def test_it_is_the_mean_cross_entropy_of_the_observed_cells():
    logits, targets, mask = case()
    x, y = logits[mask].double(), targets[mask].double()
    expected = -(y * torch.sigmoid(x).log() + (1 - y) * torch.sigmoid(-x).log()).mean()
    assert 0 < mask.sum() < mask.numel()
    assert masked_bce(logits, targets, mask).item() == pytest.approx(expected.item(), abs=1e-6)


def test_with_everything_observed_it_is_torchs():
    logits, targets, mask = case()
    found = masked_bce(logits, targets, torch.ones_like(mask))
    torch.testing.assert_close(
        found, functional.binary_cross_entropy_with_logits(logits, targets), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("junk", JUNK)
def test_unobserved_targets_change_neither_loss_nor_gradient(junk):
    logits, targets, mask = case()
    loss, gradient = loss_and_gradient(logits, targets, mask)
    other = loss_and_gradient(logits, torch.where(mask, targets, junk), mask)
    assert torch.equal(loss, other[0])
    assert torch.equal(gradient, other[1])
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).all()


@pytest.mark.parametrize("junk", JUNK)
def test_a_batch_without_labels_gives_zero_loss_and_zero_gradients(junk):
    logits, targets, mask = case()
    loss, gradient = loss_and_gradient(
        logits, torch.full_like(targets, junk), torch.zeros_like(mask)
    )
    assert loss == 0
    assert (gradient == 0).all()


def test_far_logits_stay_finite():
    loss, gradient = loss_and_gradient(
        torch.tensor([[1e4, -1e4]]), torch.tensor([[0.0, 1.0]]), torch.ones(1, 2, dtype=bool)
    )
    assert loss == 1e4
    assert gradient.tolist() == [[0.5, -0.5]]


def test_inputs_are_not_modified():
    given = case()
    masked_bce(*given)
    assert all(torch.equal(a, b) for a, b in zip(given, case(), strict=True))


@pytest.mark.parametrize(("kind", "target"), [("soft", [0.3, 0.5, 0.9]), ("hard", [0.0, 1.0, 1.0])])
@pytest.mark.parametrize("junk", [0.0, math.nan, math.inf])
def test_the_method_trains_on_soft_or_hard_targets(kind, target, junk):
    logits = torch.tensor([[0.2, -1.0, 2.0, 5.0]])
    mask = torch.tensor([[True, True, True, False]])
    batch = Batch(logits, torch.tensor([[0.3, 0.5, 0.9, junk]]), mask)
    found = methods.build("supervised", model=torch.nn.Identity(), targets=kind).step(batch, 0)[
        "loss"
    ]
    expected = functional.binary_cross_entropy_with_logits(logits[0, :3], torch.tensor(target))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("supervized", {}, "unknown method 'supervized': did you mean 'supervised'"),
        ("supervised", {"targets": "sort"}, "unknown targets 'sort': did you mean 'soft'"),
        ("supervised", {"target": "soft"}, "'target': did you mean 'targets'"),
    ],
)
def test_an_unknown_method_or_option_lists_the_valid_ones(name, options, message):
    with pytest.raises(ValueError, match=message):
        methods.build(name, model=torch.nn.Identity(), **options)
