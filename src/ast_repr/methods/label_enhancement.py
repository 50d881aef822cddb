"""Label enhancement (Gururani and Lerch 2021): two stages, a teacher that prunes negatives, and a student.

Stage 1 trains with every missing label as a negative. Its model then scores the training clips, and per class the
missing labels with the highest scores, a fraction `prune` of them, are taken out: they are the likeliest to be
positives that nobody labelled. Stage 2 starts afresh and trains with the rest as negatives.
"""

import copy

import torch

from ..classifier import probabilities
from .supervised import Supervised

SCORED = 32  # clips at a time


class LabelEnhancement(Supervised):
    """Works around any model. The authors take stage 1's epoch of lowest validation loss for the teacher; here it is the last.

    Only epochs of stage 2 may be chosen. The optimiser starts afresh with it; the learning rate's schedule does not, so
    a constant one suits.

    Args:
        model: teacher first, then student.
        epochs: of stage 1.
        prune: fraction of each class' missing labels that is taken out.
        targets: as for Supervised.

    Raises:
        ValueError: no epoch for stage 1, or a fraction outside 0..1.
    """

    def __init__(self, model, epochs: int = 1, prune: float = 0.9, targets: str = "hard"):
        super().__init__(model, targets)
        if epochs < 1 or not 0 <= prune <= 1:
            raise ValueError(
                f"label_enhancement: epochs {epochs}, prune {prune}; expected at least one epoch and a fraction from 0 to 1"
            )
        self.epochs, self.prune = epochs, prune
        self.first = copy.deepcopy(model.learned_state())  # where both stages start
        self.teacher = None  # learned state of stage 1's end
        self.enhanced = None  # the clips of stage 2

    def selectable(self, epoch):
        """Whether the epoch belongs to stage 2."""
        return epoch >= self.epochs

    def start_epoch(self, epoch, clips, optimizer, device):
        """The clips with their missing labels as negatives, all of them in stage 1, those that are left in stage 2."""
        targets = torch.where(clips.mask, clips.targets, 0.0)
        if epoch < self.epochs:
            return clips.with_labels(targets, torch.ones_like(clips.mask))
        if self.teacher is None:
            self.teacher = copy.deepcopy(self.model.learned_state())
            self.model.load_learned(self.first)
            optimizer.state.clear()
        if self.enhanced is None:
            self.enhanced = clips.with_labels(targets, clips.mask | ~self.pruned(clips, device))
        return self.enhanced

    def pruned(self, clips, device):
        """(N, K) bool: missing labels that the teacher scores highest, in each class a fraction `prune` of them."""
        now = copy.deepcopy(self.model.learned_state())
        self.model.load_learned(self.teacher)
        scores = torch.from_numpy(probabilities(self.model, clips.batches(SCORED), device))
        self.model.load_learned(now)
        out = torch.zeros_like(clips.mask)
        for k in range(scores.shape[1]):
            missing = (~clips.mask[:, k]).nonzero()[:, 0]
            highest = scores[missing, k].argsort(descending=True, stable=True)
            out[missing[highest[: round(self.prune * len(missing))]], k] = True
        return out

    def learned_state(self):
        """The model, where it started, and the teacher once there is one."""
        return {"model": self.model.learned_state(), "first": self.first, "teacher": self.teacher}

    def load_learned(self, state):
        """Go back to where `learned_state` was taken."""
        self.model.load_learned(state["model"])
        self.first, self.teacher, self.enhanced = state["first"], state["teacher"], None
