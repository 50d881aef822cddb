"""Losses depend on observed cells alone; comparisons with a teacher agree with definitions."""

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
from ast_repr.losses import (
    align_frames,
    cosine_difference,
    cross_entropy,
    distance_correlation,
    masked_bce,
    soft_binary_kl,
)

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
def test_the_method_trains_on_soft_or_hard_targets(kind, target, junk, tiny_clips):
    logits = torch.tensor([[0.2, -1.0, 2.0, 5.0]])
    mask = torch.tensor([[True, True, True, False]])
    clips = tiny_clips(1).with_features(logits)
    clips = clips.with_labels(torch.tensor([[0.3, 0.5, 0.9, junk]]), mask)
    method = methods.build("supervised", model=torch.nn.Identity(), targets=kind)
    batch = method.start_epoch(0, clips, None, "cpu").whole()
    found = method.step(batch, 0)["loss"]
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
    parts = [batch.select(part) for part in torch.arange(10).split(size)]
    total = sum(method.step(part, 0, batch)["loss"] for part in parts)
    torch.testing.assert_close(total, whole)


def correlation_by_definition(x, y):
    """Squared distance correlation of (B, D) and (B, E), element by element, in float64."""
    centred = []
    for points in (x.double().tolist(), y.double().tolist()):
        distances = [[math.dist(p, q) for q in points] for p in points]
        count = len(points)
        rows = [sum(row) / count for row in distances]
        grand = sum(rows) / count
        values = []
        for i in range(count):
            for j in range(count):
                values.append(distances[i][j] - rows[i] - rows[j] + grand)
        centred.append(values)
    a, b = centred
    products = [sum(p * q for p, q in zip(*pair, strict=True)) for pair in ((a, b), (a, a), (b, b))]
    return products[0] / math.sqrt(products[1] * products[2])


def test_distance_correlation_is_that_of_its_definition():
    torch.manual_seed(0)
    x = torch.randn(6, 3, 2)
    y = torch.randn(6, 5, 2) + x.square().sum(dim=1, keepdim=True)
    result = distance_correlation(x, y)
    expected = [correlation_by_definition(x[..., t], y[..., t]) for t in range(2)]
    assert result.tolist() == pytest.approx(expected, abs=1e-5)
    # Of three points on a line, 0, 1, 3, and their mirror image at twice the scale: 1.
    line = torch.tensor([0.0, 1.0, 3.0])[:, None, None]
    assert distance_correlation(line, -2 * line).item() == pytest.approx(1, abs=1e-5)


def test_distance_correlation_of_one_clip_or_equal_clips_is_zero_with_finite_gradients():
    for count in (1, 4):
        x = torch.ones(count, 3, 2, requires_grad=True)
        result = distance_correlation(x, torch.randn(count, 5, 2))
        assert result.tolist() == [0, 0]
        result.sum().backward()
        assert x.grad.isfinite().all()


def test_cosine_difference_by_hand():
    """Cosines of the clips: 0 in x, 1 / sqrt(2) in y; on the diagonals all are 1."""
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0]])[..., None]
    y = torch.tensor([[1.0, 0.0, 0.0], [5.0, 5.0, 0.0]])[..., None]
    assert cosine_difference(x, y).item() == pytest.approx(2 * math.sqrt(0.5) / 4)
    assert cosine_difference(x, 7 * x).item() == 0


def test_soft_binary_kl_is_the_divergence_of_the_softened_probabilities():
    student, teacher, mask = case()
    p = torch.distributions.Bernoulli(logits=student / 2)
    q = torch.distributions.Bernoulli(logits=teacher / 2)
    expected = 4 * torch.distributions.kl_divergence(q, p)[mask].mean()
    result = soft_binary_kl(student, teacher, mask)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    assert soft_binary_kl(teacher, teacher, mask) == 0
    assert soft_binary_kl(student, teacher, torch.zeros_like(mask)) == 0
    # In parts that share the count of the whole, as micro-batches do.
    count = int(mask.sum())
    parts = [soft_binary_kl(student[i], teacher[i], mask[i], count=count) for i in range(6)]
    torch.testing.assert_close(sum(parts), expected, rtol=0, atol=1e-6)
    # Far logits stay finite: -log p = 5,000.
    far = soft_binary_kl(torch.tensor([-1e4]), torch.tensor([1e4]), torch.tensor([True]))
    assert far == 4 * 5_000


@pytest.mark.parametrize(
    ("student", "teacher", "frames"),
    [(62, 10, 60), (62, 11, 62), (15, 30, 30), (15, 31, 30), (15, 1, 15), (64, 16, 64)],
)
def test_frames_are_aligned_as_published(student, teacher, frames):
    """Of OpenMIC's student (62 frames) and MagnaTagATune's (15) with several teachers."""
    x = torch.arange(student).expand(2, 3, student)
    y = torch.arange(teacher).expand(2, 5, teacher)
    x_aligned, y_aligned = align_frames(x, y)
    assert x_aligned.shape == (2, 3, frames) and y_aligned.shape == (2, 5, frames)
    repeats = {(62, 10): (1, 6), (62, 11): (1, 6), (15, 30): (2, 1), (15, 31): (2, 1)}
    x_repeats, y_repeats = repeats.get((student, teacher), (1, student // teacher))
    assert x_aligned[0, 0].tolist() == [k // x_repeats for k in range(frames)]
    assert y_aligned[1, 4].tolist() == [k // y_repeats for k in range(frames)]
