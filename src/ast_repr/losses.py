"""Losses over partly observed labels, and comparisons of a student with a teacher: pure functions.

Means over labels divide by the number of observed cells, or by the sum of their weights; a batch
without any gives zero and finite gradients; the value of an unobserved target, NaN included, has no
influence.
"""

import torch
from torch.nn import functional

from .manifest import PRESENT

EPS = 1e-9  # added to a product of variances before it is a divisor


def masked_bce(
    logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor, count: float | None = None
) -> torch.Tensor:
    """Compute the binary cross-entropy averaged over observed cells.

    Args:
        logits: (B, K), not probabilities.
        targets: (B, K), from 0 to 1; may be soft.
        mask: (B, K) bool, True where observed, or the weight of each cell, 0 where unobserved.
        count: divisor of the sum, for a micro-batch: the sum of the whole batch's mask. Default:
            the sum of this one.

    Returns:
        scalar; 0 if nothing is observed.
    """
    targets = torch.where(mask > 0, targets, 0.0)
    cells = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return _masked_mean(cells, mask, count)


def _masked_mean(
    cells: torch.Tensor, mask: torch.Tensor, count: float | None = None
) -> torch.Tensor:
    """Average cells (B, K); for the arguments see masked_bce."""
    if count is None:
        count = mask.sum().item()
    return torch.where(mask > 0, mask * cells, 0.0).sum() / (count or 1)


def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor, count: int | None = None
) -> torch.Tensor:
    """Compute the cross-entropy of a softmax, averaged over the clips with a present class.

    The target is divided among the present classes of a clip, in proportion to their relevances.

    Args:
        logits: (B, K), whose sigmoids are the outputs of a softmax: `heads.embedding.EmbeddingHead`
            with `softmax`.
        targets, mask: see masked_bce.
        count: divisor of the sum, for a micro-batch: the clips with a present class in the whole
            batch. Default: those here.

    Returns:
        scalar; 0 if no clip has a present class.
    """
    relevance = torch.where(mask & (targets >= PRESENT), targets, 0.0)
    total = relevance.sum(dim=1, keepdim=True)
    share = relevance / total.where(total > 0, 1.0)
    if count is None:
        count = int((total > 0).sum())
    return -(share * functional.logsigmoid(logits)).sum() / max(count, 1)


def consistency(
    probabilities: torch.Tensor, target_probabilities: torch.Tensor, count: int | None = None
) -> torch.Tensor:
    """Compute the mean squared difference of two models' probabilities (B, K).

    The mean is over all cells, observed or not; `count`: see masked_bce.
    """
    difference = (probabilities - target_probabilities).square()
    return difference.sum() / (count or target_probabilities.numel())


def soft_binary_kl(
    logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    mask: torch.Tensor,
    temperature: float = 2.0,
    count: float | None = None,
) -> torch.Tensor:
    """Compute the divergence of softened probabilities from a teacher's, for distillation.

    With q and p the sigmoids of the teacher's and the student's logits divided by the temperature,
    it is temperature^2 * KL(q || p) of Bernoulli distributions, averaged over observed cells.

    Args:
        logits, teacher_logits: (B, K), not probabilities.
        mask, count: see masked_bce.

    Returns:
        scalar; 0 if nothing is observed.
    """
    student = logits / temperature
    teacher = teacher_logits / temperature
    cells = teacher.sigmoid() * (teacher - student)
    cells = cells + functional.softplus(student) - functional.softplus(teacher)
    return temperature**2 * _masked_mean(cells, mask, count)


def distance_correlation(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Compute the squared distance correlation (Szekely et al. 2007) over the batch, per frame.

    The two dimensions may differ.

    Args:
        x: (B, D, T); y: (B, E, T).

    Returns:
        (T,), from 0 to 1; 0 for a batch of one clip.
    """
    a = _centred_distances(x)
    b = _centred_distances(y)
    covariance = (a * b).mean(dim=(1, 2))
    variances = a.square().mean(dim=(1, 2)) * b.square().mean(dim=(1, 2))
    return covariance / (variances + EPS).sqrt()


def _centred_distances(x: torch.Tensor) -> torch.Tensor:
    """(B, D, T) -> (T, B, B), Euclidean distances between clips, double-centred."""
    frames = x.permute(2, 0, 1).float()
    distances = torch.cdist(frames, frames, compute_mode="donot_use_mm_for_euclid_dist")
    means = distances.mean(dim=2, keepdim=True)  # of rows, and by symmetry of columns
    return distances - means - means.transpose(1, 2) + means.mean(dim=1, keepdim=True)


def cosine_difference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Compute the mean absolute difference of two cosine similarities between clips, per frame.

    Args:
        x: (B, D, T); y: (B, E, T).

    Returns:
        (T,), from 0 to 2.
    """
    return (_cosines(x) - _cosines(y)).abs().mean(dim=(1, 2))


def _cosines(x: torch.Tensor) -> torch.Tensor:
    """(B, D, T) -> (T, B, B)."""
    frames = functional.normalize(x.permute(2, 0, 1).float(), dim=2)
    return frames @ frames.transpose(1, 2)


def align_frames(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give two sequences over the same time equally many frames.

    Each frame of the shorter one is repeated as often as the other has frames for it, rounded; then
    both are cut to the shorter, as in EAsT.

    Args:
        x: (B, D, T); y: (B, E, U).

    Returns:
        (B, D, V) and (B, E, V).
    """
    x_frames = x.shape[2]
    y_frames = y.shape[2]
    if x_frames > y_frames:
        y = y.repeat_interleave(round(x_frames / y_frames), dim=2)
    else:
        x = x.repeat_interleave(round(y_frames / x_frames), dim=2)
    frames = min(x.shape[2], y.shape[2])
    return x[..., :frames], y[..., :frames]
