"""What every method has: a model that learns, the one that is used, and what must be kept to go on."""

from torch import nn


class Method(nn.Module):
    """Teaches `model`, which maps features to logits (B, K): a Reprogrammed or a Probe. Subclasses say `step`."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    @property
    def model_for_eval(self):
        """The model that validation, selection and prediction use."""
        return self.model

    def start_epoch(self, epoch, clips, optimizer, device):
        """The training clips of this epoch: batches.Clips, the same ones or with other labels."""
        return clips

    def selectable(self, epoch):
        """Whether the model of this epoch may be chosen."""
        return True

    def step(self, batch, epoch, whole=None):
        """A batch's losses: {"loss": scalar to be minimised, parts}; without a gradient where nothing is to be learned from it.

        Args:
            whole: the batch that `batch` is a part of, where it is taken in parts: their losses add up to the whole's.
        """
        raise NotImplementedError

    def after_step(self):
        """Called after each optimiser step."""

    def learned_state(self):
        """Plain values and tensors from which `load_learned` goes on."""
        return {"model": self.model.learned_state()}

    def load_learned(self, state):
        """Go back to where `learned_state` was taken."""
        self.model.load_learned(state["model"])
