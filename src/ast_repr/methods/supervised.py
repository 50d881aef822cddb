"""Supervised training on the observed labels.

Masked binary cross-entropy (Chen and Lerch 2023), or the cross-entropy of a softmax if each clip
has one predominant class.
"""

import torch
from torch import nn

from ..losses import cross_entropy, masked_bce
from ..manifest import PRESENT
from ..registry import unknown
from .base import Method

TARGETS = ("soft", "hard")
LOSSES = ("bce", "cross_entropy")


class Supervised(Method):
    """A loss of the model's logits.

    Args:
        model: features -> logits (B, K).
        targets: "soft" (relevances, as the authors) or "hard" (present or absent, split at 0.5).
        loss: "bce", masked, or "cross_entropy", which needs a head with `softmax`.

    Raises:
        ValueError: other targets, another loss, or one that does not suit the head.
    """

    def __init__(self, model: nn.Module, targets: str = "hard", loss: str = "bce"):
        super().__init__(model)
        if targets not in TARGETS:
            raise ValueError(unknown("targets", targets, TARGETS))
        if loss not in LOSSES:
            raise ValueError(unknown("loss", loss, LOSSES))
        self.hard = targets == "hard"
        self.is_softmax = loss == "cross_entropy"
        if self.is_softmax and not getattr(model.head, "softmax", False):
            raise ValueError(
                "loss cross_entropy: the head has no softmax; "
                "expected head: {name: embedding, softmax: true}"
            )

    def start_epoch(self, epoch: int, clips, optimizer, device):
        """Return the clips, with targets of 0 or 1 if they are "hard"."""
        if not self.hard:
            return clips
        return clips.with_labels((clips.targets >= PRESENT).float(), clips.mask)

    def step(self, batch, epoch: int, whole=None) -> dict[str, torch.Tensor]:
        """Compute {"loss": masked BCE or cross-entropy}.

        Clips without an observed label are left out, of BatchNorm's statistics as well.
        """
        has_labels = batch.mask.any(dim=1)
        if not has_labels.any():
            return {"loss": torch.zeros((), device=has_labels.device)}
        labelled = batch.select(has_labels)
        return self.losses(self.model(labelled.features), labelled, whole or batch)

    def losses(self, logits: torch.Tensor, batch, whole) -> dict[str, torch.Tensor]:
        """Compute the losses of logits (B, K)."""
        compute = self.cross_entropy if self.is_softmax else self.bce
        return {"loss": compute(logits, batch, whole)}

    def cross_entropy(self, logits: torch.Tensor, batch, whole) -> torch.Tensor:
        """Compute the cross-entropy, averaged over the clips of `whole` with a present class."""
        is_present = whole.mask & (whole.targets >= PRESENT)
        count = int(is_present.any(dim=1).sum())
        return cross_entropy(logits, batch.targets, batch.mask, count)

    def bce(self, logits: torch.Tensor, batch, whole) -> torch.Tensor:
        """Compute the masked BCE of logits (B, K), averaged over the observed cells of `whole`."""
        count = whole.mask.sum().item()
        return masked_bce(logits.float(), batch.targets, batch.mask, count)
