"""The masked loss depends on observed cells alone, and is zero for a batch without any."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from ast_repr import heads, methods
from ast_repr.backbones import Output
from ast_repr.data.dataset import Batch
from ast_repr.heads.embedding import logits_of_softmax
from ast_repr.losses import cross_entropy, masked_bce

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


def test_the_cross_entropy_is_torchs_over_clips_with_one_present_class():
    torch.manual_seed(0)
    scores = 5 * torch.randn(7, 4, dtype=torch.float64)
    labels = torch.randint(4, (7,))
    targets = functional.one_hot(labels, 4).double()
    mask = torch.ones(7, 4, dtype=torch.bool)
    logits = logits_of_softmax(scores)
    torch.testing.assert_close(logits.sigmoid(), scores.softmax(dim=1))
    expected = functional.cross_entropy(scores, labels)
    torch.testing.assert_close(cross_entropy(logits, targets, mask), expected)
    shared = targets.maximum(targets.roll(1, 0))  # one or two present classes
    expected = functional.cross_entropy(scores, shared / shared.sum(dim=1, keepdim=True))
    torch.testing.assert_close(cross_entropy(logits, shared, mask), expected)


def test_the_cross_entropy_leaves_out_clips_without_a_present_class():
    logits, targets, mask = case()
    logits.requires_grad_()
    mask[0] = False
    targets[1] = 0.0
    for junk in JUNK:
        targets = torch.where(mask, targets, junk)
        loss = cross_entropy(logits, targets, mask)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite() and gradient.isfinite().all()
        assert (gradient[:2] == 0).all() and (gradient != 0).any()
    assert cross_entropy(logits, targets, torch.zeros_like(mask)) == 0


def test_the_logits_of_a_softmax_are_finite_for_certain_outputs():
    scores = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    logits = logits_of_softmax(scores)
    assert logits.tolist() == [[200.0, -200.0, -400.0]]
    logits.sum().backward()
    assert scores.grad.isfinite().all()


def test_a_cross_entropy_needs_a_softmax():
    plain = heads.build("embedding", 3, embed_dim=4)
    with pytest.raises(ValueError, match="softmax: true"):
        methods.build("supervised", model=SimpleNamespace(head=plain), loss="cross_entropy")
    with pytest.raises(ValueError, match="did you mean 'cross_entropy'"):
        methods.build("supervised", model=SimpleNamespace(head=plain), loss="crossentropy")
    with pytest.raises(ValueError, match="two or more"):
        heads.build("embedding", 1, embed_dim=4, softmax=True)


class Softmax(nn.Module):
    """A linear layer and the head of a softmax."""

    def __init__(self):
        super().__init__()
        self.head = heads.build("embedding", 3, embed_dim=5, norm=False, softmax=True)

    def forward(self, x):
        return self.head(Output(x, None))


@pytest.mark.parametrize("size", [1, 4])
def test_parts_of_a_batch_add_up_to_its_cross_entropy(size):
    torch.manual_seed(0)
    method = methods.build("supervised", model=Softmax(), loss="cross_entropy")
    mask = torch.ones(10, 3, dtype=torch.bool)
    mask[3] = False
    batch = Batch(torch.randn(10, 5), torch.eye(3).repeat(4, 1)[:10], mask)
    whole = method.step(batch, 0)["loss"]
    parts = [Batch(*part) for part in zip(*(x.split(size) for x in batch), strict=True)]
    total = sum(method.step(part, 0, batch)["loss"] for part in parts)
    torch.testing.assert_close(total, whole)
