"""SSF (Lian et al. 2022): a trained scale and shift of the outputs of frozen layers."""

import torch
from torch import nn

from ..backbones.audio_transformer import AudioTransformer


class SSF(nn.Module):
    """scale * (W x + b) + shift in every linear layer of the blocks.

    Scales start at 1 and shifts at 0, not beside them as published, so that training starts at the
    frozen backbone. 165,888 parameters for AST-base.

    Args:
        backbone: frozen.
    """

    def __init__(self, backbone: AudioTransformer):
        super().__init__()
        self.layers = nn.ModuleList()
        for module in backbone.blocks.modules():
            if isinstance(module, nn.Linear):
                layer = ScaleAndShift(module.out_features)
                module.register_forward_hook(layer)
                self.layers.append(layer)


class ScaleAndShift(nn.Module):
    """Forward hook of a layer with an output (..., D)."""

    def __init__(self, dim: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))
        self.shift = nn.Parameter(torch.zeros(dim))

    def forward(
        self, layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor:
        """Return the output, scaled and shifted."""
        return output * self.scale + self.shift
