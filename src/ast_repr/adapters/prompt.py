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
        _, n_tokens, dim = backbone.pos_embed.shape
        self.layers = nn.ModuleList()
        for block in backbone.blocks if deep else backbone.blocks[:1]:
            layer = PromptTokens(tokens, dim, n_tokens)
            block.register_forward_pre_hook(layer)
            self.layers.append(layer)


class PromptTokens(nn.Module):
    """Forward pre-hook of a block: replaces all tokens after the first `n_tokens`."""

    def __init__(self, count: int, dim: int, n_tokens: int):
        super().__init__()
        self.n_tokens = n_tokens
        self.tokens = nn.Parameter(nn.init.xavier_uniform_(torch.empty(count, dim)))

    def forward(self, block: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        """Return the block's input (B, n_tokens + count, D)."""
        (x,) = inputs
        prompt = self.tokens.expand(x.shape[0], -1, -1)
        return torch.cat([x[:, : self.n_tokens], prompt], dim=1)
