"""Backbones: the source model that is reprogrammed. (B, 1, T, F) in, `Output(embedding, source_logits)` out."""

from .. import rooms
from . import weights
from .audio_transformer import AUDIOSET_MEAN, AUDIOSET_STD, AudioTransformer
from .output import Output

BACKBONES = {"ast": AudioTransformer}

__all__ = ["AUDIOSET_MEAN", "AUDIOSET_STD", "BACKBONES", "Output", "build", "weights"]


def build(name, **dims):
    """Build the backbone `name` with random weights; `weights.load` fills them from a file.

    Raises:
        ValueError: an unknown name or keyword; the message lists what there is.
    """
    return rooms.build("backbone", BACKBONES, name, dims)
