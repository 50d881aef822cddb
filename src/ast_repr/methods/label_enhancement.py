"""Label enhancement (Gururani and Lerch 2021): a teacher that prunes negatives, then a student.

Stage 1 trains with every missing label as a negative. Its model then scores the training clips, and
the fraction `prune` of each class's missing labels with the highest scores is removed: the
likeliest unlabelled positives. Stage 2 starts from the initial weights and trains with the others
as negatives.
"""

import copy

import torch
from torch import nn

from ..classifier import probabilities
from .supervised import Supervised

BATCH_SIZE = 32  # clips that the teacher scores at once


class LabelEnhancement(Supervised):
    """Label enhancement around any model; only epochs of stage 2 may be selected.

    The authors take stage 1's epoch of lowest validation loss for the teacher; here it is the last.
    The optimiser's state is cleared for stage 2; the learning rate's schedule continues, so a
    constant one suits.

    Args:
        model: teacher first, then student.
        epochs: of stage 1.
        prune: fraction of each class's missing labels that is removed.
        targets: as for Supervised.

    Raises:
        ValueError: no epoch for stage 1, or a fraction outside 0..1.
    """

    def __init__(
        self, model: nn.Module, epochs: int = 1, prune: float = 0.9, targets: str = "hard"
    ):
        super().__init__(model, targets)
        if epochs < 1 or not 0 <= prune <= 1:
            raise ValueError(
                f"label_enhancement: epochs {epochs}, prune {prune}; "
                "expected at least one epoch and a fraction from 0 to 1"
            )
        self.first_selectable = epochs  # of stage 2
        self.prune = prune
        self.first = copy.deepcopy(model.trainable_state_dict())  # the start of both stages
        self.teacher = None  # state at the end of stage 1
        self.enhanced = None  # the clips of stage 2

    def start_epoch(self, epoch: int, clips, optimizer, device):
        """Return the clips with missing labels as negatives, in stage 2 without the pruned ones."""
        clips = super().start_epoch(epoch, clips, optimizer, device)
        targets = torch.where(clips.mask, clips.targets, 0.0)
        if epoch < self.first_selectable:
            return clips.with_labels(targets, torch.ones_like(clips.mask))
        if self.teacher is None:
            self.teacher = copy.deepcopy(self.model.trainable_state_dict())
            self.model.load_trainable_state_dict(self.first)
            optimizer.state.clear()
        if self.enhanced is None:
            self.enhanced = clips.with_labels(targets, clips.mask | ~self.pruned(clips, device))
        return self.enhanced

    def pruned(self, clips, device) -> torch.Tensor:
        """Mark the missing labels to remove (N, K), those that the teacher scores highest."""
        current = copy.deepcopy(self.model.trainable_state_dict())
        self.model.load_trainable_state_dict(self.teacher)
        scores = torch.from_numpy(probabilities(self.model, clips.batches(BATCH_SIZE), device))
        self.model.load_trainable_state_dict(current)
        removed = torch.zeros_like(clips.mask)
        for k in range(scores.shape[1]):
            missing = (~clips.mask[:, k]).nonzero()[:, 0]
            highest = scores[missing, k].argsort(descending=True, stable=True)
            removed[missing[highest[: round(self.prune * len(missing))]], k] = True
        return removed

    def resumable_state(self) -> dict:
        """Return the states of the model, at present and initially, and of the teacher."""
        return super().resumable_state() | {"first": self.first, "teacher": self.teacher}

    def load_resumable_state(self, state: dict) -> None:
        """Load a `resumable_state`."""
        super().load_resumable_state(state)
        self.first = state["first"]
        self.teacher = state["teacher"]
        self.enhanced = None
