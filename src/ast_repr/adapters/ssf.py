"""SSF (Lian et al. 2022): a trained scale and shift of the outputs of frozen layers."""

import torch
from torch import nn

from ..backbones.audio_transformer import AudioTransformer
from ..backbones.musicnn import Musicnn
from .layers import adapted_layers


class SSF(nn.Module):
    """scale * (W x + b) + shift in every linear layer of the blocks.

    Of musicnn scale * y + shift after the BatchNorm y of every front and middle layer. Scales start
    at 1 and shifts at 0, not beside them as published, so that training starts at the frozen
    backbone. 165,888 parameters for AST-base, 1,506 for musicnn.

    Args:
        backbone: frozen.
    """

    def __init__(self, backbone: AudioTransformer | Musicnn):
        super().__init__()
        self.layers = nn.ModuleList()
        for module, shape in adapted_layers(backbone, (nn.Linear,)):
            layer = ScaleAndShift(shape)
            module.register_forward_hook(layer)
            self.layers.append(layer)


class ScaleAndShift(nn.Module):
    """Forward hook of a layer to whose output parameters of this shape broadcast."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape))
        self.shift = nn.Parameter(torch.zeros(shape))

    def forward(
        self, layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor:
        """Return the output, scaled and shifted."""
        return output * self.scale + self.shift
