"""Bottleneck adapters (Houlsby et al. 2019), one per block as in Pfeiffer et al. 2021."""

import torch
from torch import nn
from torch.nn import functional

from ..backbones.audio_transformer import AudioTransformer
from .layers import MOST


class Bottleneck(nn.Module):
    """y + up(gelu(down(h))) for the output y of the MLP of every block, before the residual sum.

    h is y (sequential), or the MLP's input (parallel, He et al. 2022). `up` starts at zero. 304,320
    parameters for width 16 and AST-base.

    Args:
        backbone: frozen.
        width: of the bottleneck.
        parallel: see above.

    Raises:
        ValueError: the width is out of range.
    """

    def __init__(self, backbone: AudioTransformer, width: int = 16, parallel: bool = False):
        super().__init__()
        if not 1 <= width <= MOST:
            raise ValueError(f"bottleneck: width {width}; expected from 1 to {MOST}")
        self.layers = nn.ModuleList()
        for block in backbone.blocks:
            layer = BottleneckLayer(block.mlp.fc2.out_features, width, parallel)
            block.mlp.register_forward_hook(layer)
            self.layers.append(layer)


class BottleneckLayer(nn.Module):
    """Forward hook of an MLP (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, width: int, parallel: bool):
        super().__init__()
        self.parallel = parallel
        self.down = nn.Linear(dim, width)
        self.up = nn.Linear(width, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(
        self, mlp: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor:
        """Return the output with the correction added."""
        hidden = self.down(inputs[0] if self.parallel else output)
        return output + self.up(functional.gelu(hidden))
