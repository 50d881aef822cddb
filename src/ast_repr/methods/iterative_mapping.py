"""Iterative label mapping, ILM (Chen et al. 2023): the label map follows the program."""

from torch import nn

from .supervised import Supervised

BATCH_SIZE = 32  # clips whose source logits are computed at once


class IterativeMapping(Supervised):
    """Supervised training of what precedes a label map that is fitted again before each epoch.

    Args:
        model: with a head that has `fit` and passes gradients on, such as statistical_labelmap.
        targets: as for Supervised.

    Raises:
        ValueError: the head has no `fit`.
    """

    fits_head = True

    def __init__(self, model: nn.Module, targets: str = "hard"):
        super().__init__(model, targets)
        if not hasattr(model.head, "fit"):
            raise ValueError(
                "iterative_mapping: the head is not fitted; expected head: "
                "{name: statistical_labelmap}"
            )

    def start_epoch(self, epoch: int, clips, optimizer, device):
        """Fit the head to the source logits under the current program; return the clips."""
        mode = self.model.training
        self.model.eval()
        parts = []
        for batch in clips.batches(BATCH_SIZE):
            batch = batch.to(device)
            parts.append(batch._replace(features=self.model.head_input(batch.features)))
        self.model.train(mode)
        whole = type(parts[0]).concatenate(parts)
        self.model.head.fit(whole, None, seed=0)
        return super().start_epoch(epoch, clips, optimizer, device)
