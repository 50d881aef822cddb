"""Layers of a frozen backbone whose outputs adapters change per channel."""

from collections.abc import Iterator

from torch import nn

from ..backbones.audio_transformer import AudioTransformer
from ..backbones.musicnn import Musicnn

MOST = 10_000  # of an adapter's rank, width or tokens, against model files that would fill memory


def adapted_layers(
    backbone: AudioTransformer | Musicnn, kinds: tuple[type, ...]
) -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
    """Yield layers, and the shape of parameters per channel that broadcasts to their output.

    Args:
        kinds: of layers of a transformer's blocks, with outputs (B, N, D). Of musicnn they are the
            BatchNorms after every front and middle convolution, with outputs (B, C, T).
    """
    if isinstance(backbone, Musicnn):
        for part in (*backbone.front, *backbone.middle):
            yield part.norm, (part.norm.bias.numel(), 1)
        return
    for module in backbone.blocks.modules():
        if isinstance(module, kinds):
            yield module, tuple(module.bias.shape)
