"""Methods: how a model is taught. `step(batch, epoch) -> {"loss": scalar, parts}`; the trainer does not know which it runs."""

from .. import rooms
from .label_enhancement import LabelEnhancement
from .mean_teacher import MeanTeacher
from .supervised import Supervised

METHODS = {
    "supervised": Supervised,
    "mean_teacher": MeanTeacher,
    "label_enhancement": LabelEnhancement,
}


def build(name, model, **kwargs):
    """Build the method `name` around a model that maps features to logits.

    Raises:
        ValueError: an unknown name or keyword; the message lists what there is.
    """
    return rooms.build("method", METHODS, name, {"model": model, **kwargs})
