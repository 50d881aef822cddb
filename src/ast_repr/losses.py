"""Losses over partly observed labels: pure functions.

Means divide by the number of observed cells; a batch without any gives zero and finite gradients;
the value of an unobserved target, NaN included, has no influence.
"""

import torch
from torch.nn import functional

from .manifest import PRESENT


def masked_bce(
    logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor, count: int | None = None
) -> torch.Tensor:
    """Compute the binary cross-entropy averaged over observed cells.

    Args:
        logits: (B, K), not probabilities.
        targets: (B, K), from 0 to 1; may be soft.
        mask: (B, K) bool, True where observed.
        count: divisor of the sum, for a micro-batch: the number of observed cells of the whole
            batch. Default: the number observed here.

    Returns:
        scalar; 0 if nothing is observed.
    """
    targets = torch.where(mask, targets, 0.0)
    cells = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if count is None:
        count = int(mask.sum())
    return torch.where(mask, cells, 0.0).sum() / max(count, 1)


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
