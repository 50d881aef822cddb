"""Losses over partly observed labels: pure functions.

Means divide by the number of observed cells; a batch with none gives zero and finite gradients; whatever an
unobserved target holds, NaN included, changes nothing.
"""

import torch
from torch.nn import functional


def masked_bce(logits, targets, mask, count=None):
    """Binary cross-entropy averaged over observed cells.

    Args:
        logits: (B, K), not probabilities.
        targets: (B, K), from 0 to 1; may be soft.
        mask: (B, K) bool, True where observed.
        count: what to divide the sum by, where these are a part of a batch: its observed cells; default: those here.

    Returns:
        scalar; 0 where nothing is observed.
    """
    targets = torch.where(mask, targets, 0.0)
    cells = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return torch.where(mask, cells, 0.0).sum() / max(int(mask.sum()) if count is None else count, 1)


def consistency(probabilities, aims, count=None):
    """Mean squared difference of two models' probabilities (B, K) over all cells, observed or not; `count`: see masked_bce."""
    return (probabilities - aims).square().sum() / (count or aims.numel())
