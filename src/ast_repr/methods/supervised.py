"""Supervised training on the observed labels (Chen and Lerch 2023): masked binary cross-entropy."""

import torch

from ..losses import masked_bce
from ..manifest import PRESENT
from ..rooms import unknown
from .base import Method


class Supervised(Method):
    """Masked BCE of the model's logits.

    Args:
        model: features -> logits (B, K).
        targets: "soft" (relevances, as the authors) or "hard" (present or absent, cut at 0.5).
    """

    def __init__(self, model, targets: str = "soft"):
        super().__init__(model)
        if targets not in ("soft", "hard"):
            raise ValueError(unknown("targets", targets, ("soft", "hard")))
        self.hard = targets == "hard"

    def step(self, batch, epoch, whole=None):
        """{"loss": masked BCE}. Clips without an observed label are left out, of BatchNorm's statistics as well."""
        rows = batch.mask.any(dim=1)
        if not rows.any():
            return {"loss": torch.zeros((), device=rows.device)}
        labelled = batch._make(part[rows] for part in batch)
        return {"loss": self.bce(self.model(labelled.features), labelled, whole or batch)}

    def bce(self, logits, batch, whole):
        """Masked BCE of logits (B, K) against the batch's labels, a share of the mean over all that `whole` has observed."""
        targets = (batch.targets >= PRESENT).float() if self.hard else batch.targets
        return masked_bce(logits.float(), targets, batch.mask, int(whole.mask.sum()))
