"""BitFit (Ben Zaken et al. 2022): of the backbone only biases are trained."""

import torch
from torch import nn

from ..backbones.audio_transformer import AudioTransformer


class BitFit(nn.Module):
    """A trained change of the bias of every linear layer and LayerNorm of the blocks.

    Changes start at zero. 101,376 parameters for AST-base.

    Args:
        backbone: frozen.
    """

    def __init__(self, backbone: AudioTransformer):
        super().__init__()
        self.layers = nn.ModuleList()
        for module in backbone.blocks.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                layer = BiasChange(module.bias.numel())
                module.register_forward_hook(layer)
                self.layers.append(layer)


class BiasChange(nn.Module):
    """Forward hook of a layer with an output (..., D)."""

    def __init__(self, dim: int):
        super().__init__()
        self.change = nn.Parameter(torch.zeros(dim))

    def forward(
        self, layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor:
        """Return the output with the change of the bias added."""
        return output + self.change
