"""Base class of methods: training model, evaluation model and resumable state."""

import torch
from torch import nn


class Method(nn.Module):
    """Training of `model`, which maps features to logits (B, K).

    Subclasses define `step`.

    Attributes:
        first_selectable: number, from 0, of the first epoch whose model may be selected.
        fits_head: whether the method fits a head that has `fit`.
        teacher_fields: the fields of a Batch about a teacher that `step` needs.
    """

    first_selectable = 0
    fits_head = False
    teacher_fields: tuple[str, ...] = ()

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    @property
    def model_for_eval(self) -> nn.Module:
        """Model for validation, selection and prediction."""
        return self.model

    def start_epoch(self, epoch: int, clips, optimizer, device):
        """Return the training clips of this epoch, a dataset.Clips."""
        return clips

    def step(self, batch, epoch: int, whole=None) -> dict[str, torch.Tensor]:
        """Compute the losses of a batch: {"loss": scalar to be minimised, and its parts}.

        The loss has no gradient if the batch has nothing to train on.

        Args:
            batch: a dataset.Batch.
            epoch: number of the epoch, counted from 0.
            whole: the batch of which `batch` is a part; the losses of the parts add up to its.
        """
        raise NotImplementedError

    def after_step(self) -> None:
        """Update state that follows the model; called after each optimiser step."""

    def resumable_state(self) -> dict:
        """Return the plain values and tensors that resuming needs."""
        return {"model": self.model.trainable_state_dict()}

    def load_resumable_state(self, state: dict) -> None:
        """Load a `resumable_state`."""
        self.model.load_trainable_state_dict(state["model"])
