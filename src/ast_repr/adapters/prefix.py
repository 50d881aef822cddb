"""Prefix tuning (Li and Liang 2021): trained keys and values in every attention."""

import torch
from torch import nn
from torch.nn import functional

from ..backbones.audio_transformer import AudioTransformer
from .layers import MOST


class Prefix(nn.Module):
    """Trained keys and values beside those of the tokens in the attention of every block.

    They are trained directly, without the published MLP that computes them. They take part in the
    attention at once, so training does not start at the frozen backbone. 589,824 parameters for 32
    of them, as in Ding and Lerch 2024, and AST-base.

    Args:
        backbone: frozen.
        tokens: number of keys and values per block.

    Raises:
        ValueError: the number is out of range.
    """

    def __init__(self, backbone: AudioTransformer, tokens: int = 32):
        super().__init__()
        if not 1 <= tokens <= MOST:
            raise ValueError(f"prefix: tokens {tokens}; expected from 1 to {MOST}")
        self.layers = nn.ModuleList()
        for block in backbone.blocks:
            replaces = len(self.layers) > 0
            layer = KeysAndValues(tokens, backbone.token_dim, replaces)
            block.register_forward_pre_hook(layer.reserve)
            block.attn.qkv.register_forward_hook(layer)
            self.layers.append(layer)


class KeysAndValues(nn.Module):
    """Two hooks of a block: one appends tokens, the other sets their keys and values.

    Args:
        count: number of appended tokens.
        dim: size D of a token.
        replaces: whether the block before has appended as many, which are removed.
    """

    def __init__(self, count: int, dim: int, replaces: bool):
        super().__init__()
        self.replaces = replaces
        self.keys_and_values = nn.Parameter(0.02 * torch.randn(count, 2 * dim))

    def reserve(self, block: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        """Return the block's input (B, N + count, D), with zeros in the new places."""
        (x,) = inputs
        count = len(self.keys_and_values)
        if self.replaces:
            x = x[:, :-count]
        return functional.pad(x, (0, 0, 0, count))

    def forward(
        self, layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor:
        """Return the output of qkv (B, N + count, 3 D) with the trained keys and values."""
        dim = output.shape[2] // 3
        prefix = functional.pad(self.keys_and_values, (dim, 0))  # their queries are not used
        prefix = prefix.to(output.dtype).expand(len(output), -1, -1)
        return torch.cat([output[:, : -len(self.keys_and_values)], prefix], dim=1)
