"""BitFit (Ben Zaken et al. 2022): of the backbone only biases are trained."""

import torch
from torch import nn

from ..backbones.audio_transformer import AudioTransformer
from ..backbones.musicnn import Musicnn
from .layers import adapted_layers


class BitFit(nn.Module):
    """A trained change of the bias of every linear layer and LayerNorm of the blocks.

    Of musicnn those of the BatchNorms of front and middle layers. Changes start at zero. 101,376
    parameters for AST-base, 753 for musicnn.

    Args:
        backbone: frozen.
    """

    def __init__(self, backbone: AudioTransformer | Musicnn):
        super().__init__()
        self.layers = nn.ModuleList()
        for module, shape in adapted_layers(backbone, (nn.Linear, nn.LayerNorm)):
            layer = BiasChange(shape)
            module.register_forward_hook(layer)
            self.layers.append(layer)


class BiasChange(nn.Module):
    """Forward hook of a layer to whose output parameters of this shape broadcast."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.change = nn.Parameter(torch.zeros(shape))

    def forward(
        self, layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor:
        """Return the output with the change of the bias added."""
        return output + self.change
