"""Backbones: the source model that is reprogrammed. (B, 1, T, F) in, `Output(embedding, source_logits)` out.

"ast" is pre-trained. The others stand in its place where a baseline has no source model: `pool` and `summary` learn
nothing, `frame_network` learns from scratch. They have no source classes.
"""

from .. import rooms
from . import weights
from .audio_transformer import AUDIOSET_MEAN, AUDIOSET_STD, AudioTransformer
from .frame_network import FrameNetwork
from .output import Output
from .pool import Pool
from .summary import Summary

BACKBONES = {
    "ast": AudioTransformer,
    "pool": Pool,
    "summary": Summary,
    "frame_network": FrameNetwork,
}

__all__ = ["AUDIOSET_MEAN", "AUDIOSET_STD", "BACKBONES", "Output", "build", "weights"]


def build(name, **dims):
    """Build the backbone `name` with random weights; `weights.load` fills them from a file.

    Raises:
        ValueError: an unknown name or keyword; the message lists what there is.
    """
    return rooms.build("backbone", BACKBONES, name, dims)
