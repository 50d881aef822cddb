"""Methods: how a model is trained, `step(batch, epoch, whole) -> {"loss": scalar, and its parts}`.

The trainer does not know which method it runs.
"""

from torch import nn

from .. import registry
from .base import Method
from .east import KD, EastFinal, EastKD
from .iterative_mapping import IterativeMapping
from .label_enhancement import LabelEnhancement
from .mean_teacher import MeanTeacher
from .supervised import Supervised

METHODS = {
    "supervised": Supervised,
    "mean_teacher": MeanTeacher,
    "label_enhancement": LabelEnhancement,
    "iterative_mapping": IterativeMapping,
    "kd": KD,
    "east_final": EastFinal,
    "east_kd": EastKD,
}


def build(name: str, model: nn.Module, **kwargs) -> Method:
    """Build the method `name` around a model that maps features to logits.

    Raises:
        ValueError: an unknown name or keyword; the message lists the valid ones.
    """
    return registry.build("method", METHODS, name, {"model": model, **kwargs})
