"""Backbones: the model that is reprogrammed, (B, C, T, F) -> Output(embedding, source_logits).

"ast", "passt" (the network of AST on another log-mel), "musicnn", "cnn14" and "vggish" are
pre-trained, the last without source classes. The others replace them in systems without a source
model and have no source classes: `pool` and `summary` have no parameters, the rest is trained from
scratch.

A backbone whose embedding or tokens are ordered in time has `segments`: the frames of the input
that each segment covers, as (first, last + 1).
"""

from typing import Any

from torch import nn

from .. import registry
from . import cpu_kernels, weights
from .audio_transformer import AUDIOSET_MEAN, AUDIOSET_STD, AudioTransformer
from .cnn14 import Cnn14
from .cp_resnet import CPResNet
from .dutta_convnet import DuttaConvNet
from .frame_network import FrameNetwork
from .han_convnet import HanConvNet
from .mobile_fcn import MobileFCN
from .multi_stft import MultiSTFT
from .musicnn import Musicnn
from .output import Output
from .pool import Pool
from .summary import Summary
from .vggish import VGGish
from .vggish_convnet import VGGishConvNet

BACKBONES = {
    "ast": AudioTransformer,
    "passt": AudioTransformer,
    "musicnn": Musicnn,
    "cnn14": Cnn14,
    "vggish": VGGish,
    "pool": Pool,
    "summary": Summary,
    "frame_network": FrameNetwork,
    "cp_resnet": CPResNet,
    "mobile_fcn": MobileFCN,
    "han_convnet": HanConvNet,
    "multi_stft": MultiSTFT,
    "vggish_convnet": VGGishConvNet,
    "dutta_convnet": DuttaConvNet,
}
# Their sizes and statistics are in the header of their weights, or follow from these.
PRETRAINED = ("ast", "passt", "musicnn", "cnn14", "vggish")

__all__ = [
    "AUDIOSET_MEAN",
    "AUDIOSET_STD",
    "BACKBONES",
    "PRETRAINED",
    "Musicnn",
    "Output",
    "build",
    "cpu_kernels",
    "weights",
]


def build(name: str | type, **dims: Any) -> nn.Module:
    """Build the backbone `name` with random weights; `weights.load` loads a file into it.

    Raises:
        ValueError: an unknown name or keyword; the message lists the valid ones.
    """
    return registry.build("backbone", BACKBONES, name, dims)
