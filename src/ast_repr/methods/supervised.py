"""Supervised training on the observed labels (Chen and Lerch 2023): masked binary cross-entropy."""

import torch
from torch import nn

from ..losses import masked_bce
from ..manifest import PRESENT
from ..registry import unknown
from .base import Method

TARGETS = ("soft", "hard")


class Supervised(Method):
    """Masked BCE of the model's logits.

    Args:
        model: features -> logits (B, K).
        targets: "soft" (relevances, as the authors) or "hard" (present or absent, split at 0.5).

    Raises:
        ValueError: other targets.
    """

    def __init__(self, model: nn.Module, targets: str = "soft"):
        super().__init__(model)
        if targets not in TARGETS:
            raise ValueError(unknown("targets", targets, TARGETS))
        self.hard = targets == "hard"

    def step(self, batch, epoch: int, whole=None) -> dict[str, torch.Tensor]:
        """Compute {"loss": masked BCE}.

        Clips without an observed label are left out, of BatchNorm's statistics as well.
        """
        has_labels = batch.mask.any(dim=1)
        if not has_labels.any():
            return {"loss": torch.zeros((), device=has_labels.device)}
        labelled = type(batch)(*(tensor[has_labels] for tensor in batch))
        return {"loss": self.bce(self.model(labelled.features), labelled, whole or batch)}

    def bce(self, logits: torch.Tensor, batch, whole) -> torch.Tensor:
        """Compute the masked BCE of logits (B, K), averaged over the observed cells of `whole`."""
        targets = (batch.targets >= PRESENT).float() if self.hard else batch.targets
        return masked_bce(logits.float(), targets, batch.mask, int(whole.mask.sum()))
