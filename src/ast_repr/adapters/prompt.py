"""Visual prompt tuning (Jia et al. 2022): trained tokens beside those of the input."""

import torch
from torch import nn

from ..backbones.audio_transformer import AudioTransformer
from .layers import MOST


class Prompt(nn.Module):
    """Trained tokens after those of the input, without position embeddings.

    shallow: they enter the first block and pass through all. deep: every block has other ones, in
    place of the outputs of those before. Tokens take part in the attention at once, so training
    does not start at the frozen backbone. 19,200 parameters for 25 shallow tokens and AST-base,
    230,400 for deep ones.

    Args:
        backbone: frozen.
        tokens: number of trained tokens in a block.
        deep: see above.

    Raises:
        ValueError: the number of tokens is out of range.
    """

    def __init__(self, backbone: AudioTransformer, tokens: int = 25, deep: bool = False):
        super().__init__()
        if not 1 <= tokens <= MOST:
            raise ValueError(f"prompt: tokens {tokens}; expected from 1 to {MOST}")
        self.layers = nn.ModuleList()
        for block in backbone.blocks if deep else backbone.blocks[:1]:
            replaces = len(self.layers) > 0
            layer = PromptTokens(tokens, backbone.token_dim, replaces)
            block.register_forward_pre_hook(layer)
            self.layers.append(layer)


class PromptTokens(nn.Module):
    """Forward pre-hook of a block: appends `count` tokens, or replaces the last ones."""

    def __init__(self, count: int, dim: int, replaces: bool):
        super().__init__()
        self.replaces = replaces
        self.tokens = nn.Parameter(nn.init.xavier_uniform_(torch.empty(count, dim)))

    def forward(self, block: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        """Return the block's input (B, N, D) with the tokens at its end."""
        (x,) = inputs
        if self.replaces:
            x = x[:, : -len(self.tokens)]
        prompt = self.tokens.expand(x.shape[0], -1, -1)
        return torch.cat([x, prompt], dim=1)
