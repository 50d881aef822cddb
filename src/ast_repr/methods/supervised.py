"""Supervised training on the observed labels (Chen and Lerch 2023): masked binary cross-entropy."""

from torch import nn

from ..losses import masked_bce
from ..manifest import PRESENT
from ..rooms import unknown


class Supervised(nn.Module):
    """Masked BCE of the model's logits.

    Args:
        model: features -> logits (B, K).
        targets: "soft" (relevances, as the authors) or "hard" (present or absent, cut at 0.5).
    """

    def __init__(self, model, targets="soft"):
        super().__init__()
        if targets not in ("soft", "hard"):
            raise ValueError(unknown("targets of supervised", targets, ("soft", "hard")))
        self.model = model
        self.hard = targets == "hard"

    @property
    def model_for_eval(self):
        """The model that validation and prediction use."""
        return self.model

    def step(self, batch, epoch):
        """One batch's losses, the sum to be minimised under "loss"."""
        targets = (batch.targets >= PRESENT).float() if self.hard else batch.targets
        return {"loss": masked_bce(self.model(batch.features).float(), targets, batch.mask)}

    def after_step(self):
        """Called after each optimiser step; nothing to do here."""
